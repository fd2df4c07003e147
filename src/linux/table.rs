//! The system-call table, made from `kernel-config/syscalls.toml` by `build.rs`.

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};

/// A function that serves a system call.
pub type Handler = fn(&mut Ctx<'_>, Args) -> SysResult;

/// One system call.
pub struct Call {
    /// Linux's name of it.
    pub name: &'static str,
    /// How to show its arguments.
    pub args: &'static [Kind],
    /// What is done with it.
    pub answer: Answer,
    /// It needs the caller's record or vCPU, or can take long: the caller's own worker serves it.
    pub own: bool,
}

/// What is done with a system call.
#[derive(Clone, Copy)]
pub enum Answer {
    /// This function serves it.
    Served(Handler),
    /// It fails so.
    Refused(Errno),
}

/// What an argument is, for a reader of the trace, and to tell large transfers from small ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Kind {
    Buf,
    Dirfd,
    Fd,
    Flags,
    Hex,
    Int,
    Oct,
    Off,
    Path,
    Prot,
    Ptr,
    Size,
    Uint,
}

/// The call with this number.
pub fn call(number: u64) -> Option<&'static Call> {
    CALLS.get(usize::try_from(number).ok()?)?.as_ref()
}

include!(concat!(env!("OUT_DIR"), "/syscalls.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_those_of_the_architecture() {
        for (number, name) in [
            (libc::SYS_read, "read"),
            (libc::SYS_mmap, "mmap"),
            (libc::SYS_rt_sigreturn, "rt_sigreturn"),
            (libc::SYS_futex, "futex"),
            (libc::SYS_epoll_pwait2, "epoll_pwait2"),
            (libc::SYS_clone3, "clone3"),
        ] {
            assert_eq!(call(number as u64).map(|c| c.name), Some(name));
        }
        assert!(call(335).is_none() && call(u64::MAX).is_none());
    }

    #[test]
    fn programs_cannot_be_started_in_a_microvm() {
        for number in [libc::SYS_fork, libc::SYS_vfork, libc::SYS_execve] {
            let answer = call(number as u64).expect("a known call").answer;
            assert!(matches!(answer, Answer::Refused(Errno::ENOSYS)));
        }
    }
}
