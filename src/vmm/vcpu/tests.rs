use super::super::memory::change_protection;
use super::super::state::ExtendedState;
use super::super::{
    Access, Entry, FRAME_SIZE, Frame, Frames, Hypervisor, LARGE_PAGE, PageTables, Vm, Xsave,
    wait_for_large_pages,
};
use super::*;

/// A VM with `code` at 0x40_0000 and a writable page at 0x50_0000; `None`, and a note, where there is no KVM.
pub(in super::super) fn machine(code: &[u8]) -> Option<(Vm, Frames, Vcpu)> {
    let hypervisor = match Hypervisor::get() {
        Ok(found) => found,
        Err(error) => {
            assert!(std::env::var_os("HYDRA_REQUIRE_KVM").is_none(), "{error}");
            eprintln!("skipped: {error}");
            return None;
        }
    };
    let vm = Vm::new(GuestMemory::new(10 << 20).expect("10 MiB")).expect("a VM");
    let mut frames = Frames::new(10 << 20);
    for (address, access) in
        [(0x40_0000, Access::READ | Access::EXECUTE), (0x50_0000, Access::READ | Access::WRITE)]
    {
        let (frame, _) = frames.allocate(1).expect("a frame");
        assert!(PageTables::new(vm.memory()).set(address, Entry { frame, access }, &mut frames));
        if access.contains(Access::EXECUTE) {
            vm.memory().write(frame.address(), code);
        }
    }
    let mut vcpu = vm.create_vcpu().expect("a vCPU");
    let state = ExtendedState { fs_base: 7, gs_base: 8, xsave: Xsave::initial(hypervisor.xsave()) };
    vcpu.load(&state).expect("initial state");
    assert_eq!(vcpu.save().expect("state").fs_base, 7);
    vcpu.load(&state).expect("initial state");
    Some((vm, frames, vcpu))
}

pub(in super::super) fn start() -> UserRegs {
    UserRegs { rip: 0x40_0000, rsp: 0x50_1000, rflags: 0x202, ..UserRegs::default() }
}

#[test]
fn system_calls_and_exceptions_come_back_with_their_registers() {
    // mov rbx, rax; syscall; mov [rdi], rbx; ud2
    let code = [0x48, 0x89, 0xc3, 0x0f, 0x05, 0x48, 0x89, 0x1f, 0x0f, 0x0b];
    let Some((vm, mut frames, mut vcpu)) = machine(&code) else { return };
    let mut regs = UserRegs { rax: 42, rdi: 0x60_0008, ..start() };
    assert_eq!(vcpu.enter(&mut regs).expect("entry"), Exit::Syscall);
    assert_eq!((regs.rip, regs.rbx, regs.rax, regs.rsp), (0x40_0005, 42, 42, 0x50_1000));
    regs.rax = 99;
    let fault = vcpu.enter(&mut regs).expect("entry");
    assert_eq!(fault, Exit::Exception { vector: 14, error: 6, address: 0x60_0008 });
    assert_eq!((regs.rip, regs.rax, regs.rsp), (0x40_0005, 99, 0x50_1000));
    let (frame, _) = frames.allocate(1).expect("a frame");
    let entry = Entry { frame, access: Access::READ | Access::WRITE };
    assert!(PageTables::new(vm.memory()).set(0x60_0000, entry, &mut frames));
    let exit = vcpu.enter(&mut regs).expect("entry");
    assert_eq!(exit, Exit::Exception { vector: 6, error: 0, address: 0 });
    assert_eq!((regs.rip, vm.memory().load(frame.address() + 8)), (0x40_0008, 42));
}

#[test]
fn a_page_that_was_taken_away_is_not_reached_any_more() {
    // again: mov [rdi], rax; syscall; jmp again
    let Some((vm, _, mut vcpu)) = machine(&[0x48, 0x89, 0x07, 0x0f, 0x05, 0xeb, 0xf9]) else { return };
    let tables = PageTables::new(vm.memory());
    let whole = tables.get(0x50_0000).expect("the data page");
    let (address, page) = (whole.frame.address(), FRAME_SIZE as usize);
    let flush = || vm.memory().flush(address, page).expect("flush");
    // What `flush` does where the kernel cannot announce a change.
    let change =
        || change_protection(&vm.memory().slice(address, page).expect("the page")).expect("a change");
    for forget in [&flush as &dyn Fn(), &change] {
        for narrowed in [None, Some(Entry { access: Access::READ, ..whole })] {
            let mut regs = UserRegs { rdi: 0x50_0000, ..start() };
            assert_eq!(vcpu.enter(&mut regs).expect("entry"), Exit::Syscall);
            tables.update(0x50_0000, 0x50_1000, |_, _| narrowed);
            forget();
            let error = if narrowed.is_some() { 7 } else { 6 };
            let fault = vcpu.enter(&mut regs).expect("entry");
            assert_eq!(fault, Exit::Exception { vector: 14, error, address: 0x50_0000 });
            let mut frames = Frames::new(8 << 20);
            assert!(tables.set(0x50_0000, whole, &mut frames));
        }
    }
}

#[test]
fn a_part_of_a_large_page_can_be_narrowed_and_taken_away() {
    if !wait_for_large_pages() {
        return;
    }
    // What the host has for it makes a difference to KVM.
    cut_a_large_page(|_| {});
    cut_a_large_page(GuestMemory::keep_pages_small);
}

fn cut_a_large_page(prepare: fn(&GuestMemory)) {
    // mov [rdi], rax; syscall
    let Some((vm, mut frames, mut vcpu)) = machine(&[0x48, 0x89, 0x07, 0x0f, 0x05]) else { return };
    let (memory, tables) = (vm.memory(), PageTables::new(vm.memory()));
    prepare(memory);
    let start = 0x80_0000u64;
    let runs = [(); 2].map(|()| frames.allocate_large().expect("frames"));
    memory.slice(runs[0].address(), 2 * LARGE_PAGE as usize).expect("both").copy_from(&[1u8; 2 << 21]);
    // The second time other frames are at the same place.
    for first in runs {
        let entry = |i: u64| Entry { frame: Frame(first.0 + i as u32), access: Access::READ | Access::WRITE };
        assert!(tables.set_large(start, entry(0), &mut frames));
        let mut store = |i: u64, entry: Entry| {
            let mut regs = UserRegs { rax: i + 7, rdi: start + i * FRAME_SIZE, ..self::start() };
            let exit = vcpu.enter(&mut regs).expect("entry");
            assert!(exit != Exit::Syscall || memory.load(entry.frame.address()) == i + 7, "page {i}");
            exit
        };
        for i in [0, 5, 511, 256, 6] {
            assert_eq!(store(i, entry(i)), Exit::Syscall, "page {i}");
        }
        // Two neighbours change, and the second is used first: what is brought in with it must not be the first as it was.
        let change = |page: u64, new: Option<Entry>| {
            let address = start + page * FRAME_SIZE;
            tables.update(address, address + FRAME_SIZE, |_, _| new);
            memory.flush(entry(page).frame.address(), FRAME_SIZE as usize).expect("flush");
        };
        let (narrowed, other) = (Entry { access: Access::READ, ..entry(5) }, entry(300));
        for (page, new, error) in [(5, Some(narrowed), 7), (256, None, 6)] {
            change(page, new);
            change(page + 1, Some(other));
            assert_eq!(store(page + 1, other), Exit::Syscall);
            let address = start + page * FRAME_SIZE;
            assert_eq!(store(page, entry(page)), Exit::Exception { vector: 14, error, address });
            for neighbour in [page - 1, page + 2, 0, 511] {
                assert_eq!(store(neighbour, entry(neighbour)), Exit::Syscall, "page {neighbour}");
            }
        }
        tables.update(start, start + LARGE_PAGE, |_, _| None);
        memory.flush(first.address(), LARGE_PAGE as usize).expect("flush");
    }
}

#[test]
fn a_kick_ends_an_endless_loop() {
    let Some((_vm, _, mut vcpu)) = machine(&[0xeb, 0xfe]) else { return };
    let kick = vcpu.kicker();
    kick.kick();
    let mut regs = start();
    assert_eq!(vcpu.enter(&mut regs).expect("entry"), Exit::Kicked);
    let (entered, seen) = std::sync::mpsc::channel();
    let kicker = std::thread::spawn(move || {
        seen.recv().expect("the entry is announced");
        kick.kick();
    });
    entered.send(()).expect("the kicker waits");
    assert_eq!(vcpu.enter(&mut regs).expect("entry"), Exit::Kicked);
    assert_eq!(regs.rip, 0x40_0000);
    kicker.join().expect("the kicker ended");
}

#[test]
fn a_system_call_of_32_bit_code_is_an_exception() {
    // A far return to the code segment of 32 bits at 0x40_0010, which makes the call; or `int 0x80`, or `sysenter`.
    // push 0x23; push 0x400010; retfq
    let far = [0x6a, 0x23, 0x68, 0x10, 0x00, 0x40, 0x00, 0x48, 0xcb, 0, 0, 0, 0, 0, 0, 0];
    for call in [[0x0f, 0x05], [0xcd, 0x80], [0x0f, 0x34]] {
        let code = [&far[..], &call].concat();
        let Some((_vm, _, mut vcpu)) = machine(&code) else { return };
        let mut regs = UserRegs { rsp: 0x50_0800, ..start() };
        let exit = vcpu.enter(&mut regs).expect("entry");
        if regs.rip == 0x40_0007 && exit == (Exit::Exception { vector: 14, error: 1, address: 0x50_07f0 }) {
            // QEMU's emulation reads the stack of a far return as ring 0 does, which SMAP forbids.
            return eprintln!("skipped: this processor's emulation cannot get to 32-bit code");
        }
        assert!(matches!(exit, Exit::Exception { vector: 6 | 13, .. }), "{call:x?} gave {exit:?}");
        assert_eq!(regs.rip, 0x40_0010, "{call:x?}");
        // The vCPU goes on as one of 64-bit code.
        regs = UserRegs { rip: 0x40_0000, ..regs };
        assert!(matches!(vcpu.enter(&mut regs).expect("entry"), Exit::Exception { vector: 6 | 13, .. }));
    }
}

#[test]
fn a_fault_in_ring_0_writes_nothing_where_the_programs_stack_is() {
    let Some((vm, _, first)) = machine(&[]) else { return };
    // One whose page faults leave by ring 0.
    let mut vcpu = first;
    while vcpu.call_slot().is_some() {
        vcpu = vm.create_vcpu().expect("a vCPU");
    }
    if vcpu.sort == Sort::Hardware {
        return eprintln!("skipped: this KVM enters ring 0 where it should");
    }
    // What it does with a `syscall` of 32-bit code, on processors that have one: it goes to ring 0 at a cut address, with the program's stack.
    let mut sregs = vcpu.fd.get_sregs().expect("segments");
    (sregs.cs.selector, sregs.cs.dpl) = (layout::selector::KERNEL_CODE, 0);
    (sregs.ss.selector, sregs.ss.dpl) = (layout::selector::KERNEL_DATA, 0);
    vcpu.fd.set_sregs(&sregs).expect("segments");
    // In the middle of a task state segment, which ring 3 cannot reach.
    let target = layout::VCPU_PAGES + 0x40;
    let task = || [0, 8, 16, 24, 32, 40, 48, 56].map(|at| vm.memory().load(layout::VCPU_PAGES + at));
    let before = task();
    let call = UserRegs { rip: cut_compat_entry(), rcx: 0x40_0012, r11: 0x202, ..start() };
    let mut regs = UserRegs { rax: 42, rsp: layout::WINDOW + target, ..call };
    let exit = vcpu.enter(&mut regs).expect("entry");
    assert_eq!(task(), before);
    assert_eq!(exit, Exit::Exception { vector: 6, error: 0, address: 0 });
    assert_eq!((regs.rip, regs.rax, regs.rsp), (0x40_0010, 42, layout::WINDOW + target));
}

#[test]
fn ring_3_cannot_use_ports_or_halt_or_see_ring_0() {
    // out 0x2e, al | hlt | mov rax, [rdi] | jmp rdi
    for code in [&[0xe6, 0x2e][..], &[0xf4], &[0xe6, 0x80]] {
        let Some((_vm, _, mut vcpu)) = machine(code) else { return };
        let exit = vcpu.enter(&mut start()).expect("entry");
        assert!(matches!(exit, Exit::Exception { vector: 13, .. }), "{code:x?} gave {exit:?}");
    }
    for code in [&[0x48, 0x8b, 0x07][..], &[0xff, 0xe7], &[0x48, 0x89, 0x07]] {
        for target in [layout::WINDOW + layout::RING0_CODE, layout::WINDOW + layout::GDT] {
            let Some((_vm, _, mut vcpu)) = machine(code) else { return };
            let mut regs = UserRegs { rdi: target, ..start() };
            let exit = vcpu.enter(&mut regs).expect("entry");
            assert!(matches!(exit, Exit::Exception { vector: 14, .. }), "{code:x?} gave {exit:?}");
        }
    }
}
