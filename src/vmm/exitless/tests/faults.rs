//! Page faults.

use super::super::super::layout::FAULT_PORT;
use super::super::super::{Access, Entry, PageTables};
use super::*;

const RW: Access = Access::READ.union(Access::WRITE);

/// Gives the page at `address` a frame.
fn fill(memory: &GuestMemory, frames: &Mutex<Frames>, address: u64) {
    let mut frames = frames.lock().expect("no panic");
    let page = address & !0xfff;
    if PageTables::new(memory).get(page).is_none() {
        let (frame, _) = frames.allocate(1).expect("a frame");
        assert!(PageTables::new(memory).set(page, Entry { frame, access: RW }, &mut frames));
    }
}

#[test]
fn a_page_fault_is_answered_in_the_guest_and_changes_no_register() {
    // std; mov [rdi], rax; ud2
    let Some((vm, frames, mut vcpu, slot)) =
        answered_machine_and_frames(&[0xfd, 0x48, 0x89, 0x07, 0x0f, 0x0b])
    else {
        return;
    };
    let frames = Mutex::new(frames);
    let asked = Mutex::new(Vec::new());
    let serve = |what| {
        let Asked::Fault(fault) = what else { panic!("asked {what:?}") };
        asked.lock().expect("no panic").push(fault);
        fill(vm.memory(), &frames, fault.address);
        Reply::Done(5)
    };
    let mut regs = UserRegs { rax: 42, rcx: 1, rdx: 2, r11: 3, rdi: 0x60_0008, rflags: 0x2d7, ..start() };
    let before = regs;
    while_answering_all(&slot, serve, || {
        slot.offer(PATIENT);
        let exit = vcpu.enter(&mut regs).expect("entry");
        assert_eq!(exit, Exit::Exception { vector: 6, error: 0, address: 0 });
    });
    // The direction flag is the program's; KVM may have set the resume flag.
    let after = UserRegs { rip: 0x40_0004, rflags: before.rflags | 1 << 10, ..before };
    assert_eq!(UserRegs { rflags: regs.rflags & !(1 << 16), ..regs }, after);
    assert_eq!(asked.into_inner().expect("no panic"), [AskedFault { address: 0x60_0008, error: 6 }]);
    let entry = PageTables::new(vm.memory()).get(0x60_0000).expect("the page");
    assert_eq!(vm.memory().load(entry.frame.address() + 8), 42);
}

#[test]
fn a_page_fault_that_is_not_answered_leaves_as_any() {
    // mov [rdi], rax
    let Some((_vm, mut vcpu, slot)) = answered_machine(&[0x48, 0x89, 0x07]) else { return };
    let before = UserRegs { rax: 42, rdi: 0x60_0008, ..start() };
    let mut leaves = || {
        let mut regs = before;
        let exit = vcpu.enter(&mut regs).expect("entry");
        assert_eq!(exit, Exit::Exception { vector: 14, error: 6, address: 0x60_0008 });
        assert_eq!(UserRegs { rflags: regs.rflags & !(1 << 16), ..regs }, before);
    };
    leaves();
    slot.offer(10);
    leaves();
    slot.offer(PATIENT);
    while_answering_all(&slot, |_| Reply::Decline, &mut leaves);
    while_answering_all(&slot, |_| Reply::DoneAndLeave(5), &mut leaves);
    slot.retract();
    leaves();
}

#[test]
fn every_page_is_filled_whenever_the_vcpu_is_called_back() {
    /// A program may be over before the host has let the answering thread run.
    const PROGRAMS: u32 = 50;
    let (mut answered, mut left) = (0, 0);
    for _ in 0..PROGRAMS {
        let Some(counts) = fill_while_called_back() else { return };
        (answered, left) = (answered + counts.0, left + counts.1);
        if answered > 0 && left > 0 {
            return;
        }
    }
    panic!("{answered} page faults were answered in the guest, {left} left it");
}

/// Has a program touch pages while its vCPU is called back: how many page faults were answered in the guest, and how many left it.
fn fill_while_called_back() -> Option<(u64, u64)> {
    const FIRST: u64 = 0x60_0000;
    const PAGES: u64 = 1000;
    // again: mov [rdi], rdi; add rdi, 4096; cmp rdi, r12; jne again; ud2
    let code = [0x48, 0x89, 0x3f, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0x4c, 0x39, 0xe7, 0x75, 0xf1, 0x0f, 0x0b];
    let (vm, frames, mut vcpu, slot) = answered_machine_and_frames(&code)?;
    let frames = Mutex::new(frames);
    let (mut answered, mut left) = (0u64, 0u64);
    let serve = |what| {
        let Asked::Fault(fault) = what else { panic!("asked {what:?}") };
        answered += 1;
        if answered.is_multiple_of(7) {
            return Reply::Decline;
        }
        fill(vm.memory(), &frames, fault.address);
        if answered.is_multiple_of(5) { Reply::DoneAndLeave(0) } else { Reply::Done(0) }
    };
    let kick = vcpu.kicker();
    let mut regs = UserRegs { rdi: FIRST, r12: FIRST + PAGES * 0x1000, ..start() };
    while_kicking(kick, &slot, 400, || {
        while_answering_all(&slot, serve, || {
            loop {
                match vcpu.enter(&mut regs).expect("entry") {
                    Exit::Exception { vector: 14, address, .. } => {
                        assert_eq!(address, regs.rdi, "the page fault is another");
                        left += 1;
                        fill(vm.memory(), &frames, address);
                    }
                    Exit::Kicked => {}
                    exit => break assert_eq!(exit, Exit::Exception { vector: 6, error: 0, address: 0 }),
                }
            }
        });
    });
    for page in (FIRST..FIRST + PAGES * 0x1000).step_by(0x1000) {
        let entry = PageTables::new(vm.memory()).get(page).expect("the page");
        assert_eq!(vm.memory().load(entry.frame.address()), page);
    }
    Some((answered, left))
}

#[test]
fn page_faults_that_a_program_makes_up_harm_none_but_itself() {
    // out port, al: nothing was ever asked.
    let Some((_vm, mut vcpu, _)) = answered_machine(&[0xe6, FAULT_PORT as u8]) else { return };
    let exit = vcpu.enter(&mut start()).expect("entry");
    assert_eq!(exit, Exit::Exception { vector: 13, error: 0, address: 0 });

    // A frame that ring 3 has written: whatever it says, the program goes on in ring 3, or not at all.
    // again: mov [rdi], rsi; mov [rdi+8], rsi; … 7 words; mov dword ptr [rdx], 4; out port, al; jmp again
    let mut code = Vec::new();
    for word in 0..7u8 {
        code.extend([0x48, 0x89, 0x77, 8 * word]);
    }
    code.extend([0xc7, 0x02, 4, 0, 0, 0, 0xe6, FAULT_PORT as u8]);
    for forged in [0, u64::MAX, 0x8000_0000_0000, 0x33, 0x10, layout::WINDOW, EXITLESS_CODE_ALIAS] {
        let Some((_vm, mut vcpu, slot)) = answered_machine(&code) else { return };
        let serve = |what| match what {
            Asked::Fault(fault) => {
                assert_eq!(fault.error, forged);
                Reply::Done(0)
            }
            Asked::Call(call, _) => panic!("asked {call:?}"),
        };
        while_answering_all(&slot, serve, || {
            let area = EXITLESS_AREAS_ALIAS;
            let mut regs = UserRegs { rdi: area + FAULT_FRAME, rdx: area, rsi: forged, ..start() };
            for _ in 0..3 {
                let exit = vcpu.enter(&mut regs).expect("entry");
                assert!(matches!(exit, Exit::Exception { .. }), "{forged:#x}: {exit:?}");
            }
        });
    }
}
