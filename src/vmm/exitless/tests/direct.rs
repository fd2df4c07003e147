//! Calls by way of a trampoline.

use super::super::super::{ExtendedState, FRAME_SIZE, Hypervisor, PageTables, Xsave};
use super::*;

const CODE: u64 = 0x40_0000;
/// `cmp rax, 0x7fffffff`
const COMPARE: [u8; CallSite::AFTER] = [0x48, 0x3d, 0xff, 0xff, 0xff, 0x7f];

/// A machine whose code at [`CODE`] is `code`, with the call that ends at `end` of it by way of a trampoline, which is returned. Its thread has `gs_base`.
fn rewritten_machine(mut code: Vec<u8>, end: usize, gs_base: u64) -> Option<(Vm, Vcpu, Arc<CallSlot>, u64)> {
    let before = *code[..end].last_chunk().expect("what comes before");
    let after = code[end..].first_chunk().copied();
    let site = CallSite::read(before, after, CODE + end as u64).expect("a call site");
    let trampoline = site.places(CODE + 0xf00).next().expect("a place");
    assert!(site.reaches(trampoline));
    let at = |address: u64| (address - CODE) as usize;
    code.resize(FRAME_SIZE as usize, 0);
    code[at(site.address())..][..CallSite::JUMP].copy_from_slice(&site.jump(trampoline));
    code[at(trampoline)..][..CallSite::TRAMPOLINE].copy_from_slice(&site.trampoline(trampoline));
    let (vm, mut vcpu, slot) = answered_machine(&code)?;
    let hypervisor = Hypervisor::get().expect("KVM");
    if !hypervisor.takes_direct_calls() {
        eprintln!("skipped: ring 3 does not find its vCPU's entry here");
        return None;
    }
    let state = ExtendedState { fs_base: 7, gs_base, xsave: Xsave::initial(hypervisor.xsave()) };
    vcpu.load(&state).expect("a state");
    assert_eq!(vcpu.save().expect("the state").gs_base, gs_base);
    vcpu.load(&state).expect("a state");
    Some((vm, vcpu, slot, trampoline))
}

#[test]
fn every_call_is_served_once_whenever_the_vcpu_is_called_back() {
    // nops; again: mov rax, rbx; syscall; cmp rax, 0x7fffffff; add rbp, rax; inc rbx; cmp rbx, r12; jne again; ud2
    let mut code = vec![0x90; 8];
    code.extend([0x48, 0x89, 0xd8, 0x0f, 0x05]);
    code.extend(COMPARE);
    code.extend([0x48, 0x01, 0xc5, 0x48, 0xff, 0xc3, 0x4c, 0x39, 0xe3, 0x75, 0xea, 0x0f, 0x0b]);
    // A thread that has a base of its own makes the same calls, by `syscall`.
    for gs_base in [0, 8] {
        let Some((_vm, vcpu, slot, _)) = rewritten_machine(code.clone(), 13, gs_base) else { return };
        call_while_called_back(vcpu, &slot);
    }
}

#[test]
fn a_call_is_answered_in_the_guest_and_changes_no_register_and_no_flag() {
    // nops; std; mov eax, 39; syscall; ud2
    let code = vec![0x90, 0x90, 0x90, 0xfd, 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x0f, 0x0b];
    let Some((_vm, mut vcpu, slot, _)) = rewritten_machine(code, 11, 0) else { return };
    let (before, call) = (
        UserRegs { rdi: 1, rsi: 2, rdx: 3, r10: 4, r8: 5, r9: 6, rflags: 0xad7, ..start() },
        AskedCall { number: 39, args: [1, 2, 3, 4, 5, 6] },
    );
    let after = UserRegs { rax: 77, rip: CODE + 11, rcx: 0, r11: 0, rflags: 0xed7, ..before };
    let essence = |regs: UserRegs| UserRegs { rcx: 0, r11: 0, rflags: regs.rflags & 0xfff, ..regs };
    let serve = |asked| {
        // It says that no `syscall` was executed.
        assert_eq!(asked, Asked::Call(call, None));
        Reply::Done(77)
    };
    let mut regs = before;
    while_answering_all(&slot, serve, || {
        slot.offer(PATIENT);
        let exit = vcpu.enter(&mut regs).expect("entry");
        assert_eq!(exit, Exit::Exception { vector: 6, error: 0, address: 0 });
    });
    assert_eq!(essence(regs), after);
    // One that leaves is as any other.
    slot.retract();
    regs = before;
    assert_eq!(vcpu.enter(&mut regs).expect("entry"), Exit::Syscall);
    assert_eq!((regs.rcx, regs.r11 & 0xfff), (CODE + 11, 0xed7));
    assert_eq!(essence(regs), UserRegs { rax: 39, ..after });
}

#[test]
fn who_comes_to_the_comparison_finds_a_trap_that_says_where_to_go_on() {
    // nops; syscall; cmp rax, 0x7fffffff; setg bl; ud2
    let mut code = vec![0x90; 8];
    code.extend([0x0f, 0x05]);
    code.extend(COMPARE);
    code.extend([0x0f, 0x9f, 0xc3, 0x0f, 0x0b]);
    let Some((vm, mut vcpu, _, trampoline)) = rewritten_machine(code, 10, 0) else { return };
    for (rax, greater) in [(0x8000_0000, 1), (5, 0)] {
        let mut regs = UserRegs { rip: CODE + 10, rax, ..start() };
        assert!(matches!(vcpu.enter(&mut regs).expect("entry"), Exit::Exception { vector: 6, .. }));
        assert_eq!(regs.rip, CODE + 10);
        let frame = PageTables::new(vm.memory()).get(CODE).expect("the code").frame;
        let jump = vm.memory().slice(frame.address() + 8, CallSite::JUMP).expect("the jump");
        let mut bytes = [0; CallSite::JUMP];
        jump.copy_to(&mut bytes);
        regs.rip = CallSite::after_trap(bytes, regs.rip).expect("a trampoline");
        assert!((trampoline..trampoline + CallSite::TRAMPOLINE as u64).contains(&regs.rip));
        assert!(matches!(vcpu.enter(&mut regs).expect("entry"), Exit::Exception { vector: 6, .. }));
        assert_eq!((regs.rip, regs.rbx), (CODE + 19, greater));
    }
}
