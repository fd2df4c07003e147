//! Making a vCPU leave ring 3.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use kvm_ioctls::VcpuFd;

pub(super) struct KickState {
    /// Address of `immediate_exit` in the mapped `kvm_run`, 0 once the vCPU is gone.
    pub(super) immediate_exit: AtomicU64,
    /// Host thread that runs the vCPU, 0 while none does.
    pub(super) thread: AtomicU64,
}

impl KickState {
    /// The state of a vCPU that no thread runs.
    pub(super) fn of(fd: &mut VcpuFd) -> Arc<KickState> {
        let flag = &raw mut fd.get_kvm_run().immediate_exit as u64;
        Arc::new(KickState { immediate_exit: AtomicU64::new(flag), thread: AtomicU64::new(0) })
    }
}

/// Makes a vCPU leave ring 3 soon, from any host thread.
#[derive(Clone)]
pub struct Kick(pub(super) Arc<KickState>);

impl Kick {
    /// The next or current [`Vcpu::enter`](super::Vcpu::enter) returns [`Exit::Kicked`](super::Exit::Kicked) soon, or another exit that happened before.
    pub fn kick(&self) {
        let flag = self.0.immediate_exit.load(Ordering::Acquire);
        if flag == 0 {
            return;
        }
        // SAFETY: the address is that of a byte in the vCPU's `kvm_run` mapping; the drop of the vCPU sets it to 0 before it
        // unmaps, and a `Kick` is only used while its VM's vCPUs live (the scheduler drops them last).
        let flag = unsafe { AtomicU8::from_ptr(flag as *mut u8) };
        // Either the vCPU's thread sees the flag when it enters, or this sees the thread: neither store may pass the load after it.
        flag.store(1, Ordering::SeqCst);
        let thread = self.0.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: plain system call; a thread that ended in between makes it fail, which is harmless.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread as libc::pid_t, signal()) };
        }
    }
}

/// The host signal that interrupts `KVM_RUN`. Its handler does nothing: the flag in `kvm_run` does the work.
fn signal() -> i32 {
    libc::SIGRTMIN()
}

/// Installs the handler of [`signal`] for the process.
pub(super) fn install_signal() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    extern "C" fn nothing(_: libc::c_int) {}
    ONCE.call_once(|| {
        // SAFETY: a zeroed sigaction is valid; the handler touches nothing. No SA_RESTART: KVM_RUN must return.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            libc::sigaction(signal(), &action, std::ptr::null_mut());
        }
    });
}
