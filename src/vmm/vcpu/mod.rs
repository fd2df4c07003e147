//! One virtual CPU: entering ring 3 and coming back.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | entering and leaving |
//! | `create.rs` | what is set once: segments, system-call registers, the time stamp counter |
//! | `registers.rs` | loading and saving a thread's state |
//! | `kick.rs` | making a vCPU leave, from any host thread |

mod create;
mod kick;
mod registers;
#[cfg(test)]
pub(super) mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_bindings::kvm_regs;
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};

use super::error::VmmError;
use super::exitless::{self, CallSlot, Standing};
use super::kvm::Sort;
use super::layout;
use super::memory::GuestMemory;
use super::ring0;
use super::state::{UserRegs, XsaveLayout};
pub use kick::Kick;
use kick::KickState;
use registers::{from_kvm, to_kvm};

/// Why a vCPU came back from ring 3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The program made a system call. Its registers are as Linux's entry sees them, with `rip` after the instruction.
    Syscall,
    /// The same, after it has asked for an answer without an exit and nobody took the call in time.
    MissedSyscall,
    /// The program raised an exception.
    Exception {
        /// The CPU's number of the exception: 14 is a page fault.
        vector: u8,
        /// The CPU's error code, 0 where there is none.
        error: u64,
        /// The address of a page fault, else 0.
        address: u64,
    },
    /// [`Kick::kick`] was called, a host signal arrived, or who answered a call without an exit wanted one.
    Kicked,
}

/// Times that a spurious "bad address" of `KVM_RUN` is tried again: another thread may be changing the host mapping.
const RETRIES: u32 = 1000;

/// In which ring the vCPU stands between two entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ring {
    Kernel,
    User,
}

/// A virtual CPU. Used by one host thread at a time.
pub struct Vcpu {
    fd: VcpuFd,
    index: usize,
    sort: Sort,
    xsave: XsaveLayout,
    cr4: u64,
    ring: Ring,
    memory: Arc<GuestMemory>,
    kick: Arc<KickState>,
    calls: Option<Arc<CallSlot>>,
}

impl Vcpu {
    /// Runs ring 3 from `regs` until something happens, and leaves its registers there.
    pub fn enter(&mut self, regs: &mut UserRegs) -> Result<Exit, VmmError> {
        if !is_canonical(regs.rip) || !is_canonical(regs.rsp) {
            return Ok(Exit::Exception { vector: 13, error: 0, address: 0 });
        }
        // SAFETY: gettid has no preconditions.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) } as u64;
        self.kick.thread.store(thread, Ordering::SeqCst);
        self.put(regs);
        let exit = self.run(regs);
        self.kick.thread.store(0, Ordering::Release);
        // A kick of this entry has been seen by now, or will be by whoever looks for its reason after this return.
        self.fd.set_kvm_immediate_exit(0);
        exit
    }

    /// Where its system calls can be answered without an exit, if they can.
    pub fn call_slot(&self) -> Option<&Arc<CallSlot>> {
        self.calls.as_ref()
    }

    /// Sets the registers with which the next entry starts.
    fn put(&mut self, user: &UserRegs) {
        let mut regs = to_kvm(user);
        regs.rflags = user.user_flags();
        if self.ring == Ring::Kernel {
            regs.rsp = ring0::write_return_frame(&self.memory, self.index, user.rip, regs.rflags, user.rsp);
            regs.rip = ring0::return_address();
            regs.rflags = 2;
        }
        self.fd.sync_regs_mut().regs = regs;
        self.fd.set_sync_dirty_reg(SyncReg::Register);
    }

    fn run(&mut self, user: &mut UserRegs) -> Result<Exit, VmmError> {
        let mut retries = 0;
        if let Some(calls) = &self.calls {
            calls.open();
        }
        loop {
            let exit = self.fd.run();
            if let Some(calls) = &self.calls {
                calls.close();
            }
            match exit {
                // The I/O bitmap that lets ring 3 leave by these ports does not tell input from output; ring 0 has no input.
                Ok(VcpuExit::IoIn(layout::SYSCALL_PORT | layout::EXITLESS_PORT | layout::FAULT_PORT, _)) => {
                    return Ok(self.forbidden_port(user));
                }
                Ok(VcpuExit::IoOut(port, _)) => return self.left_by(port, user),
                Ok(exit) => {
                    let what = format!("{exit:?}");
                    let regs = self.fd.sync_regs().regs;
                    return Err(VmmError::Stopped(format!("{what} at {:#x}", regs.rip)));
                }
                Err(error) => match error.errno() {
                    libc::EINTR | libc::EAGAIN => {
                        if let Some(exit) = self.interrupted(user) {
                            return Ok(exit);
                        }
                        if let Some(calls) = &self.calls {
                            calls.keep_closed();
                        }
                        continue;
                    }
                    libc::EFAULT if retries < RETRIES => {
                        retries += 1;
                    }
                    errno => {
                        return Err(VmmError::Kvm {
                            doing: "run a vCPU",
                            source: io::Error::from_raw_os_error(errno),
                        });
                    }
                },
            }
            if let Some(calls) = &self.calls {
                calls.open_again();
            }
        }
    }

    /// A use of a port that only the I/O bitmap allows.
    fn forbidden_port(&mut self, user: &mut UserRegs) -> Exit {
        const GENERAL_PROTECTION: u8 = 13;
        *user = from_kvm(&self.fd.sync_regs().regs);
        self.ring = Ring::User;
        self.settle();
        Exit::Exception { vector: GENERAL_PROTECTION, error: 0, address: 0 }
    }

    /// Reads the registers after an exit by `out` to `port`.
    fn left_by(&mut self, port: u16, user: &mut UserRegs) -> Result<Exit, VmmError> {
        let mut regs = self.fd.sync_regs().regs;
        if port == layout::EXITLESS_PORT {
            // Only a vCPU with such an entry of its own has a use for the port.
            return Ok(self.in_call(&mut regs, true, user).unwrap_or_else(|| self.forbidden_port(user)));
        }
        if port == layout::FAULT_PORT {
            return Ok(self.in_fault(&mut regs, user).unwrap_or_else(|| self.forbidden_port(user)));
        }
        if port == layout::SYSCALL_PORT {
            self.ring = if self.sort == Sort::Hardware { Ring::Kernel } else { Ring::User };
            // `syscall` has put these there. Where ring 3 executes the entry a program may have jumped to it:
            // the registers are then what it likes, as they are its own.
            (regs.rip, regs.rflags) = (regs.rcx, exitless::flags_of_caller(&mut regs));
            *user = from_kvm(&regs);
            return Ok(Exit::Syscall);
        }
        if port == layout::COMPAT_PORT && ring0::is_ring0(regs.rip) {
            self.ring = Ring::Kernel;
            return Ok(invalid_call(&regs, regs.rsp, user));
        }
        let vector = port.wrapping_sub(layout::EXCEPTION_PORT);
        if vector >= 32 || !ring0::is_ring0(regs.rip) {
            return Err(VmmError::Stopped(format!("output to port {port:#x} at {:#x}", regs.rip)));
        }
        let vector = vector as u8;
        let frame = ring0::read_frame(&self.memory, self.index, vector, regs.rax, regs.rsp);
        let stopped = || VmmError::Stopped(format!("exception {vector} in ring 0 (stack {:#x})", regs.rsp));
        let frame = frame.ok_or_else(stopped)?;
        regs.rax = frame.rax;
        let exit = if frame.cs & 3 == 3 {
            *user = from_kvm(&regs);
            (user.rip, user.rflags, user.rsp) = (frame.rip, frame.rflags, frame.rsp);
            Exit::Exception { vector, error: frame.error, address: frame.address }
        } else if self.sort == Sort::Emulated && frame.address == cut_compat_entry() {
            invalid_call(&regs, frame.rsp, user)
        } else {
            return Err(stopped());
        };
        self.ring = Ring::Kernel;
        Ok(exit)
    }

    /// What an interrupted `KVM_RUN` means; `None` to run on.
    fn interrupted(&mut self, user: &mut UserRegs) -> Option<Exit> {
        self.fd.set_kvm_immediate_exit(0);
        let mut regs = self.fd.sync_regs().regs;
        if regs.rip == ring0::return_address() {
            // On the way to ring 3: `user` is still what it was.
            return Some(Exit::Kicked);
        }
        if ring0::is_ring0(regs.rip) || self.is_raising() {
            // Inside an entry, a few instructions from an `out`, of its own or in ring 3, which will be the exit; or about to be. An exception
            // that KVM has in hand would else be another thread's, if that is the next to run here.
            return None;
        }
        if exitless::is_in_fault(regs.rip)
            && let Some(exit) = self.in_fault(&mut regs, user)
        {
            return Some(exit);
        }
        if let Some(exit) = self.in_call(&mut regs, false, user) {
            return Some(exit);
        }
        exitless::back_to_call(&mut regs);
        self.ring = Ring::User;
        *user = from_kvm(&regs);
        Some(Exit::Kicked)
    }

    /// Whether the program has raised an exception whose entry has not begun.
    fn is_raising(&self) -> bool {
        self.fd.get_vcpu_events().is_ok_and(|events| {
            let exception = events.exception;
            exception.injected != 0 || exception.pending != 0
        })
    }

    /// What the exit means if the vCPU left in the entry of a page fault; `None` if it has no such entry, or the program made the fault up.
    fn in_fault(&mut self, regs: &mut kvm_regs, user: &mut UserRegs) -> Option<Exit> {
        const PAGE_FAULT: u8 = 14;
        let mut before = *regs;
        let (fault, segment) = self.calls.as_ref()?.fault(&mut before);
        let exit = if segment & 3 == 3 {
            *user = from_kvm(&before);
            Exit::Exception { vector: PAGE_FAULT, error: fault.error, address: fault.address }
        } else if fault.address == cut_compat_entry() {
            invalid_call(&before, before.rsp, user)
        } else {
            return None;
        };
        self.ring = Ring::User;
        Some(exit)
    }

    /// What the exit means if the vCPU left in the middle of a system call that it asked for, or was about to.
    fn in_call(&mut self, regs: &mut kvm_regs, by_port: bool, user: &mut UserRegs) -> Option<Exit> {
        let standing = self.calls.as_ref()?.standing(regs, by_port)?;
        self.ring = Ring::User;
        *user = from_kvm(regs);
        Some(match standing {
            Standing::Open => Exit::Syscall,
            Standing::Missed => Exit::MissedSyscall,
            Standing::Served(result) => {
                user.rax = result;
                Exit::Kicked
            }
        })
    }

    /// In which ring the last system call arrived; for the probe.
    pub(super) fn arrival(&self) -> Result<Sort, VmmError> {
        let sregs = self.fd.get_sregs().map_err(VmmError::kvm("read a vCPU's segments"))?;
        Ok(if sregs.cs.dpl == 3 { Sort::Emulated } else { Sort::Hardware })
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.kick.immediate_exit.store(0, Ordering::Release);
    }
}

/// The exit of a `syscall` of 32-bit code: to this guest's Linux it is an invalid instruction.
fn invalid_call(regs: &kvm_regs, rsp: u64, user: &mut UserRegs) -> Exit {
    const INVALID_OPCODE: u8 = 6;
    *user = from_kvm(regs);
    // The instruction, two bytes before where it would have come back to.
    (user.rip, user.rflags, user.rsp) = (regs.rcx.wrapping_sub(2), regs.r11, rsp);
    Exit::Exception { vector: INVALID_OPCODE, error: 0, address: 0 }
}

/// Where a KVM that emulates ring 0 enters it with a `syscall` of 32-bit code: it cuts the entry's address to 32 bits. Nothing is mapped there.
fn cut_compat_entry() -> u64 {
    ring0::compat_entry() & u64::from(u32::MAX)
}

/// Whether bits 63 to 47 are equal, without which the CPU refuses an address.
fn is_canonical(address: u64) -> bool {
    matches!((address as i64) >> 47, 0 | -1)
}
