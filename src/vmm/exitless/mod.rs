//! System calls and page faults without an exit: the program asks in memory, a host thread that polls answers there.
//!
//! An exit from a KVM that emulates ring 0 costs more than most calls take to serve. There the system-call entry is ring 3's own code, so
//! it can do more than leave: where somebody polls it stores the call's registers in its vCPU's *area*, marks it [`ASKED`] and spins. Whoever
//! polls the vCPU's [`CallSlot`] takes the call, serves it, and the entry returns to the program with the result. The vCPU
//! leaves after all, by a port of its own, if nobody takes the call in time, if it is declined, or if something else waits for the thread.
//! A page fault comes to ring 3 by way of a few instructions of ring 0, and is asked in the same manner, as [`FAULTED`]. One that has left the guest
//! is as good as new: to serve it twice does no harm.
//!
//! `syscall` is such an exit itself, before the entry begins. Code that leads to the entry without one is in `call_site.rs` and `direct.rs`.
//!
//! The area is the program's to write: what it asks there is worth no more than a system call or an access, and what it damages is its own.
//! What the host must know (whether the vCPU is in the guest, whether a call was served) is kept in the slot.

mod call_site;
mod direct;
mod entry;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use kvm_bindings::kvm_regs;

use super::layout::{EXITLESS_AREAS, EXITLESS_AREAS_ALIAS, EXITLESS_SIZE, SYSCALL_CLEARS};
use super::memory::GuestMemory;
use crate::sync::lock;
pub use call_site::CallSite;
pub(super) use direct::back_to_call;
use entry::{Position, Stage, has_address_in_rax};
pub(super) use entry::{address, fault_entry, is_in_fault};

/// Nothing is asked; also: the answer is there.
const ANSWERED: u32 = 0;
/// The registers are those of a call.
const ASKED: u32 = 1;
/// The call is being served.
const TAKEN: u32 = 2;
/// The vCPU is to leave, or has given up.
const LEAVE: u32 = 3;
/// The address and the end of the area are those of a page fault.
const FAULTED: u32 = 4;

/// Offset in an area of what the entry of a page fault has pushed: `rax`, then what the CPU has.
pub(super) const FAULT_FRAME: u64 = offset::FAULT_FRAME;

/// Writes the entries of all vCPUs that have some.
pub(super) fn install(memory: &GuestMemory) {
    entry::install(memory);
    direct::install(memory);
}

/// The flags that the program had when it made the call in whose entry the vCPU is. Sets `r11` to them, as `syscall` does.
pub(super) fn flags_of_caller(regs: &mut kvm_regs) -> u64 {
    if regs.r11 == direct::UNTOUCHED {
        regs.r11 = regs.rflags;
    }
    regs.r11
}

/// Guest-physical address of the area of the vCPU with this number.
pub(super) fn area(index: usize) -> u64 {
    EXITLESS_AREAS + index as u64 * EXITLESS_SIZE
}

/// Offsets in an area. The first line is what both sides poll, the call's registers follow on their own.
mod offset {
    pub const STATE: u64 = 0;
    pub const SPINS: u64 = 4;
    /// Address of the vCPU's entry, for those who come from a trampoline.
    pub const ENTRY: u64 = 8;
    pub const RIP: u64 = 64;
    pub const RFLAGS: u64 = 72;
    pub const RAX: u64 = 80;
    pub const RDI: u64 = 88;
    pub const RSI: u64 = 96;
    pub const RDX: u64 = 104;
    pub const R10: u64 = 112;
    pub const R8: u64 = 120;
    pub const R9: u64 = 128;
    /// Where a page fault was.
    pub const ADDRESS: u64 = 136;
    /// Seven words: `rax`, the error code, `rip`, `cs`, the flags, `rsp`, `ss`.
    pub const FAULT_FRAME: u64 = super::EXITLESS_SIZE - 7 * 8;
}

/// The registers of a call that was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AskedCall {
    /// Its number.
    pub number: u64,
    /// Its six arguments.
    pub args: [u64; 6],
}

/// A page fault that was taken, or has left the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AskedFault {
    /// Where it was.
    pub address: u64,
    /// The CPU's error code.
    pub error: u64,
}

/// What is asked of whoever polls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// A system call to serve, and the address after the `syscall` that made it, unless it came from a trampoline.
    Call(AskedCall, Option<u64>),
    /// A page to fill.
    Fault(AskedFault),
}

/// What became of a call that was taken, or of a page fault, which has no result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// It is served; this is what the program finds in `rax`.
    Done(u64),
    /// The same, and the vCPU is to leave the guest before the program goes on.
    DoneAndLeave(u64),
    /// The vCPU is to leave with the call.
    Decline,
}

/// How a call stands whose vCPU left in the middle of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It is to be served.
    Open,
    /// The same: nobody took it in time.
    Missed,
    /// It is served, with this result.
    Served(u64),
}

/// The meeting point of a vCPU and whoever polls for its calls.
pub struct CallSlot {
    memory: Arc<GuestMemory>,
    /// Guest-physical address of the area.
    area: u64,
    /// Guest-virtual address of the vCPU's system-call entry.
    entry: u64,
    /// Looks at the state before the vCPU gives up; 0: nobody polls.
    spins: AtomicU32,
    /// Held while a call is served.
    inner: Mutex<Inner>,
}

struct Inner {
    /// The vCPU is in the guest, and may ask.
    open: bool,
    /// How the last call stands that was taken and whose answer the entry did not see.
    standing: Option<Standing>,
}

impl CallSlot {
    /// The slot of the vCPU with this number; `None` if its calls all leave.
    pub(super) fn new(memory: &Arc<GuestMemory>, index: usize) -> Option<Arc<CallSlot>> {
        address(index).map(|entry| {
            Arc::new(CallSlot {
                memory: Arc::clone(memory),
                area: area(index),
                entry,
                spins: AtomicU32::new(0),
                inner: Mutex::new(Inner { open: false, standing: None }),
            })
        })
    }

    /// One whose vCPU is in the guest.
    #[cfg(test)]
    pub fn opened(memory: &Arc<GuestMemory>) -> Arc<CallSlot> {
        let inner = Mutex::new(Inner { open: true, standing: None });
        Arc::new(CallSlot {
            memory: Arc::clone(memory),
            area: area(0),
            entry: 0,
            spins: AtomicU32::new(0),
            inner,
        })
    }

    /// Guest-virtual address of the area, which ring 3 finds as the base of `gs`.
    pub(super) fn base(&self) -> u64 {
        EXITLESS_AREAS_ALIAS + (self.area - EXITLESS_AREAS)
    }

    /// Somebody polls from now on: calls ask first, and wait `spins` looks to be taken.
    pub fn offer(&self, spins: u32) {
        self.spins.store(spins, Ordering::Release);
        self.set(offset::SPINS, spins);
    }

    /// Nobody polls any more: calls leave at once.
    pub fn retract(&self) {
        self.offer(0);
    }

    /// Whether somebody polls.
    pub fn is_offered(&self) -> bool {
        self.spins.load(Ordering::Acquire) > 0
    }

    /// Whether a call or a page fault waits. For a look now and then; what it says is the program's word.
    pub fn is_asked(&self) -> bool {
        self.word(offset::STATE).is_some_and(|state| matches!(state.load(Ordering::Relaxed), ASKED | FAULTED))
    }

    /// Serves what waits, and whether something did. The vCPU does not come back from the guest meanwhile.
    pub fn answer(&self, serve: impl FnOnce(Asked) -> Reply) -> bool {
        let mut inner = self.lock();
        let Some(state) = self.word(offset::STATE) else { return false };
        // Where one is decided on the vCPU is to leave before it asks again, whatever the program writes.
        if !inner.open || inner.standing.is_some() {
            return false;
        }
        let take = |asked| state.compare_exchange(asked, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let answered =
            || state.compare_exchange(TAKEN, ANSWERED, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if take(FAULTED) {
            inner.standing = match serve(Asked::Fault(self.asked_fault())) {
                Reply::Done(_) => {
                    // Given up while it was served: it is served again.
                    answered();
                    None
                }
                Reply::DoneAndLeave(_) | Reply::Decline => Some(Standing::Open),
            };
        } else if take(ASKED) {
            let call = AskedCall {
                number: self.load(offset::RAX),
                args: [offset::RDI, offset::RSI, offset::RDX, offset::R10, offset::R8, offset::R9]
                    .map(|register| self.load(register)),
            };
            let flags = self.load(offset::RFLAGS);
            let from = (flags != direct::UNTOUCHED).then(|| self.load(offset::RIP));
            // Flags that `syscall` has cleared the entry does not give back.
            let gives_back_all = flags & SYSCALL_CLEARS == 0;
            let reply = if gives_back_all { serve(Asked::Call(call, from)) } else { Reply::Decline };
            inner.standing = match reply {
                Reply::Done(result) => {
                    self.memory.store(self.area + offset::RAX, result);
                    // Given up while it was served: the result is told to the vCPU's thread.
                    (!answered()).then_some(Standing::Served(result))
                }
                Reply::DoneAndLeave(result) => Some(Standing::Served(result)),
                Reply::Decline => Some(Standing::Open),
            };
        } else {
            return false;
        }
        if inner.standing.is_some() {
            state.store(LEAVE, Ordering::Release);
        }
        true
    }

    /// Does something while the vCPU is in the guest, and does not come back; nothing if it is not there.
    pub fn meanwhile<T>(&self, what: impl FnOnce() -> T) -> Option<T> {
        let inner = self.lock();
        inner.open.then(what)
    }

    /// The vCPU is about to enter the guest, where the program goes on.
    pub(super) fn open(&self) {
        let mut inner = self.lock();
        self.set(offset::STATE, ANSWERED);
        // What was offered to an earlier content of the RAM.
        self.set(offset::SPINS, self.spins.load(Ordering::Acquire));
        self.memory.store(self.area + offset::ENTRY, self.entry);
        *inner = Inner { open: true, standing: None };
    }

    /// The vCPU is about to go on where it left the guest, perhaps in the middle of a call.
    pub(super) fn open_again(&self) {
        self.lock().open = true;
    }

    /// The vCPU is about to go on to its next exit: nothing that it asks on the way is answered.
    pub(super) fn keep_closed(&self) {
        self.set(offset::SPINS, 0);
    }

    /// The vCPU has left the guest. Waits for the end of a call that is being served.
    pub(super) fn close(&self) {
        self.lock().open = false;
    }

    /// How the call stands in which the vCPU left the guest, by [`EXITLESS_PORT`](super::layout::EXITLESS_PORT) or else because it was
    /// interrupted; `None` if it was in no call. `regs` become those that the program has at the end of the call, but for `rax`.
    pub(super) fn standing(&self, regs: &mut kvm_regs, by_port: bool) -> Option<Standing> {
        let position = if by_port { Position::unanswered() } else { Position::of(regs.rip)? };
        let standing = match position.stage(regs.rcx) {
            Stage::Before => Standing::Open,
            Stage::After => Standing::Served(self.load(offset::RAX)),
            Stage::Waiting => {
                let state = self.word(offset::STATE).map(|state| state.swap(LEAVE, Ordering::AcqRel));
                match self.lock().standing.take() {
                    Some(standing) => standing,
                    None if by_port => Standing::Missed,
                    None if state == Some(ANSWERED) => Standing::Served(self.load(offset::RAX)),
                    None => Standing::Open,
                }
            }
        };
        if position.has_stored_rcx() {
            regs.rcx = self.load(offset::RIP);
        }
        if position.has_lost_r11() {
            regs.r11 = self.load(offset::RFLAGS);
        }
        (regs.rip, regs.rflags) = (regs.rcx, flags_of_caller(regs));
        Some(standing)
    }

    /// The page fault in whose entry the vCPU left the guest, by [`FAULT_PORT`](super::layout::FAULT_PORT) or because it was interrupted, and the code segment in
    /// which it was. `regs` become those that the program had.
    pub(super) fn fault(&self, regs: &mut kvm_regs) -> (AskedFault, u64) {
        let word = |i: u64| self.load(offset::FAULT_FRAME + 8 * i);
        let mut fault = self.asked_fault();
        if has_address_in_rax(regs.rip) {
            // What the area says is of an earlier page fault.
            fault.address = regs.rax;
        }
        (regs.rax, regs.rip, regs.rflags, regs.rsp) = (word(0), word(2), word(4), word(5));
        (fault, word(3))
    }

    fn asked_fault(&self) -> AskedFault {
        AskedFault { address: self.load(offset::ADDRESS), error: self.load(offset::FAULT_FRAME + 8) }
    }

    fn load(&self, offset: u64) -> u64 {
        self.memory.load(self.area + offset)
    }

    fn set(&self, offset: u64, value: u32) {
        if let Some(word) = self.word(offset) {
            word.store(value, Ordering::Release);
        }
    }

    fn word(&self, offset: u64) -> Option<&AtomicU32> {
        self.memory.atomic(self.area + offset)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}
