mod direct;
mod faults;

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use super::super::layout::{self, EXITLESS_AREAS_ALIAS, EXITLESS_CODE_ALIAS, EXITLESS_PORT};
use super::super::vcpu::tests::{machine, start};
use super::super::{Exit, Frames, Kick, UserRegs, Vcpu, Vm};
use super::*;

/// Looks that outlast any test: the call is answered or the vCPU called back.
const PATIENT: u32 = u32::MAX;

/// A VM as [`machine`] makes it, and the slot of its vCPU; `None`, and a note, where calls leave anyway.
fn answered_machine(code: &[u8]) -> Option<(Vm, Vcpu, Arc<CallSlot>)> {
    answered_machine_and_frames(code).map(|(vm, _, vcpu, slot)| (vm, vcpu, slot))
}

/// The same, and the frames that are left.
fn answered_machine_and_frames(code: &[u8]) -> Option<(Vm, Frames, Vcpu, Arc<CallSlot>)> {
    let (vm, frames, vcpu) = machine(code)?;
    let Some(slot) = vcpu.call_slot().map(Arc::clone) else {
        eprintln!("skipped: an exit costs little on this KVM, so all calls leave");
        return None;
    };
    Some((vm, frames, vcpu, slot))
}

/// Runs `test` while another thread answers calls with `serve`; page faults leave.
fn while_answering(slot: &CallSlot, mut serve: impl FnMut(AskedCall) -> Reply + Send, test: impl FnOnce()) {
    let serve = |asked| match asked {
        Asked::Call(call, _) => serve(call),
        Asked::Fault(_) => Reply::Decline,
    };
    while_answering_all(slot, serve, test);
}

/// The same with page faults.
fn while_answering_all(slot: &CallSlot, mut serve: impl FnMut(Asked) -> Reply + Send, test: impl FnOnce()) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                slot.answer(&mut serve);
            }
        });
        let _over = Over(&over);
        test();
    });
}

/// Runs `test` while another thread calls the vCPU back again and again, at moments that differ, and offers its calls an answer within so many looks.
fn while_kicking(kick: Kick, slot: &CallSlot, spins: u32, test: impl FnOnce()) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            /// Some entries of the slowest KVM: one that is called back before its first instruction each time would not get on.
            const LONGEST: u64 = 300;
            for round in (0u64..).take_while(|_| !over.load(Ordering::Relaxed)) {
                kick.kick();
                slot.offer(spins);
                let (begun, pause) = (Instant::now(), Duration::from_micros(round * 37 % LONGEST));
                while begun.elapsed() < pause {
                    thread::yield_now();
                }
            }
        });
        let _over = Over(&over);
        test();
    });
}

/// Tells another thread that a test is over, also when it fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_call_is_answered_in_the_guest_and_its_registers_are_as_after_any() {
    // mov rbx, rsi; syscall; ud2
    let Some((_vm, mut vcpu, slot)) = answered_machine(&[0x48, 0x89, 0xf3, 0x0f, 0x05, 0x0f, 0x0b]) else {
        return;
    };
    let asked = Mutex::new(Vec::new());
    let serve = |call| {
        asked.lock().expect("no panic").push(call);
        Reply::Done(77)
    };
    let mut regs = UserRegs { rax: 39, rdi: 1, rsi: 2, rdx: 3, r10: 4, r8: 5, r9: 6, ..start() };
    let before = regs;
    while_answering(&slot, serve, || {
        slot.offer(PATIENT);
        let exit = vcpu.enter(&mut regs).expect("entry");
        assert_eq!(exit, Exit::Exception { vector: 6, error: 0, address: 0 });
    });
    let after = UserRegs { rax: 77, rbx: 2, rip: 0x40_0005, rcx: 0x40_0005, r11: before.rflags, ..before };
    assert_eq!(UserRegs { rflags: 0, ..regs }, UserRegs { rflags: 0, ..after });
    let call = AskedCall { number: 39, args: [1, 2, 3, 4, 5, 6] };
    assert_eq!(asked.into_inner().expect("no panic"), [call]);
}

#[test]
fn a_call_that_is_not_answered_leaves_as_any() {
    // syscall
    let Some((_vm, mut vcpu, slot)) = answered_machine(&[0x0f, 0x05]) else { return };
    let before =
        UserRegs { rax: 39, rdi: 1, rsi: 2, rdx: 3, r10: 4, r8: 5, r9: 6, rcx: 8, r11: 9, ..start() };
    let left = UserRegs { rip: 0x40_0002, rcx: 0x40_0002, r11: before.rflags, ..before };
    let mut leaves = |expected: Exit, left: UserRegs| {
        let mut regs = before;
        assert_eq!(vcpu.enter(&mut regs).expect("entry"), expected);
        assert_eq!(regs, left);
    };
    leaves(Exit::Syscall, left);
    slot.offer(10);
    leaves(Exit::MissedSyscall, left);
    slot.offer(PATIENT);
    while_answering(&slot, |_| Reply::Decline, || leaves(Exit::Syscall, left));
    while_answering(&slot, |_| Reply::DoneAndLeave(5), || leaves(Exit::Kicked, UserRegs { rax: 5, ..left }));
    slot.retract();
    leaves(Exit::Syscall, left);
}

#[test]
fn a_call_that_was_taken_is_waited_for() {
    // syscall; ud2
    let Some((_vm, mut vcpu, slot)) = answered_machine(&[0x0f, 0x05, 0x0f, 0x0b]) else { return };
    let serve = |_| {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(5) {}
        Reply::Done(7)
    };
    while_answering(&slot, serve, || {
        // The other thread may have no processor just now.
        loop {
            slot.offer(400);
            let mut regs = start();
            match vcpu.enter(&mut regs).expect("entry") {
                Exit::MissedSyscall => thread::yield_now(),
                exit => {
                    assert_eq!(exit, Exit::Exception { vector: 6, error: 0, address: 0 });
                    break assert_eq!(regs.rax, 7);
                }
            }
        }
    });
}

#[test]
fn a_call_with_flags_that_the_entry_would_lose_leaves() {
    // std; syscall; cld
    let Some((_vm, mut vcpu, slot)) = answered_machine(&[0xfd, 0x0f, 0x05]) else { return };
    while_answering(
        &slot,
        |call| panic!("answered {call:?}"),
        || {
            slot.offer(PATIENT);
            let mut regs = start();
            assert_eq!(vcpu.enter(&mut regs).expect("entry"), Exit::Syscall);
            assert_eq!((regs.rip, regs.rflags), (0x40_0003, start().rflags | 1 << 10));
        },
    );
}

#[test]
fn every_call_is_served_once_whenever_the_vcpu_is_called_back() {
    // again: mov rax, rbx; syscall; add rbp, rax; inc rbx; cmp rbx, r12; jne again; ud2
    let code = [
        0x48, 0x89, 0xd8, 0x0f, 0x05, 0x48, 0x01, 0xc5, 0x48, 0xff, 0xc3, 0x4c, 0x39, 0xe3, 0x75, 0xf0, 0x0f,
        0x0b,
    ];
    let Some((_vm, vcpu, slot)) = answered_machine(&code) else { return };
    call_while_called_back(vcpu, &slot);
}

/// Has a program make calls 0, 1, 2, … in `rbx` until that is `r12`, and add what they answer to `rbp`, while its vCPU is called back.
fn call_while_called_back(mut vcpu: Vcpu, slot: &CallSlot) {
    const CALLS: u64 = 20_000;
    let next = AtomicU64::new(0);
    let served = |number: u64| {
        assert_eq!(next.fetch_add(1, Ordering::Relaxed), number, "a call was lost, or served twice");
        number * 3
    };
    let (mut answered, mut left) = (0, 0);
    let serve = |call: AskedCall| {
        answered += 1;
        match call.number % 7 {
            0 => Reply::Decline,
            1 => Reply::DoneAndLeave(served(call.number)),
            _ => Reply::Done(served(call.number)),
        }
    };
    let kick = vcpu.kicker();
    let mut regs = UserRegs { r12: CALLS, ..start() };
    while_kicking(kick, slot, 400, || {
        while_answering(slot, serve, || {
            loop {
                match vcpu.enter(&mut regs).expect("entry") {
                    Exit::Syscall | Exit::MissedSyscall => {
                        left += 1;
                        regs.rax = served(regs.rax);
                    }
                    Exit::Kicked => {}
                    Exit::Exception { vector, .. } => break assert_eq!(vector, 6),
                }
            }
        });
    });
    assert_eq!((regs.rbx, regs.rbp), (CALLS, 3 * (0..CALLS).sum::<u64>()));
    assert!(answered > 0 && left > 0, "{answered} calls were answered in the guest, {left} left it");
}

#[test]
fn what_a_program_forges_harms_none_but_itself() {
    // again: mov dword ptr [rdi], 1; jmp again
    let forge = [0xc7, 0x07, 1, 0, 0, 0, 0xeb, 0xf8];
    let Some((_vm, mut vcpu, slot)) = answered_machine(&forge) else { return };
    let kick = vcpu.kicker();
    let serve = |call: AskedCall| {
        assert_eq!(call, AskedCall { number: 0, args: [0; 6] });
        kick.kick();
        Reply::Done(1)
    };
    while_answering(&slot, serve, || {
        let mut regs = UserRegs { rdi: EXITLESS_AREAS_ALIAS, ..start() };
        assert_eq!(vcpu.enter(&mut regs).expect("entry"), Exit::Kicked);
        assert_eq!(regs.rax, 0);
    });
    // A program that does not leave when it is to gets no further answers.
    let declined = AtomicU64::new(0);
    let kick = vcpu.kicker();
    let serve = |_| {
        declined.fetch_add(1, Ordering::Relaxed);
        Reply::Decline
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            while slot.lock().standing.is_none() {
                thread::yield_now();
            }
            // It has forged more since, and whoever polls has looked.
            for _ in 0..1000 {
                assert!(!slot.answer(|call| panic!("answered {call:?}")));
            }
            kick.kick();
        });
        while_answering(&slot, serve, || {
            let mut regs = UserRegs { rdi: EXITLESS_AREAS_ALIAS, ..start() };
            assert_eq!(vcpu.enter(&mut regs).expect("entry"), Exit::Kicked);
        });
    });
    assert_eq!(declined.into_inner(), 1);
    // While its vCPU is not in the guest, what an area says is nothing.
    slot.set(offset::STATE, ASKED);
    assert!(!slot.answer(|call| panic!("answered {call:?}")));

    // out port, al: a call that was never asked is one of whatever the area says.
    let Some((_vm, mut vcpu, _)) = answered_machine(&[0xe6, EXITLESS_PORT as u8]) else { return };
    let mut regs = start();
    assert_eq!(vcpu.enter(&mut regs).expect("entry"), Exit::MissedSyscall);
    assert_eq!((regs.rip, regs.rsp), (0, start().rsp));
}

#[test]
fn a_jump_to_anywhere_in_an_entry_ends() {
    let Some((_vm, mut vcpu, slot)) = answered_machine(&[]) else { return };
    let kick = vcpu.kicker();
    let own = EXITLESS_CODE_ALIAS;
    let another = EXITLESS_CODE_ALIAS + EXITLESS_SIZE;
    while_kicking(kick, &slot, PATIENT, || {
        while_answering(
            &slot,
            |_| Reply::Done(0),
            || {
                slot.offer(PATIENT);
                let entries = (own..own + EXITLESS_SIZE).chain(another..another + EXITLESS_SIZE);
                for rip in entries.chain(super::direct::ENTRY..super::direct::ENTRY + EXITLESS_SIZE) {
                    // A second time, it may not be called back before the first instruction.
                    for _ in 0..2 {
                        let mut regs = UserRegs { rip, rcx: 0x40_0000, ..start() };
                        vcpu.enter(&mut regs).expect("entry");
                    }
                }
            },
        );
    });
}
