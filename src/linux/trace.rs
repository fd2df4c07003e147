//! Prints system calls in the form of `strace`.

use std::fmt::Write as _;
use std::io::Write as _;

use super::errno::SysResult;
use super::kernel::Kernel;
use super::mm::Fault;
use super::signal::SigInfo;
use super::table::{self, Kind};
use super::thread::{Thread, Tid};
use crate::vmm::UserRegs;

/// Longest part of a string that is shown.
const SHOWN: usize = 64;

/// A tracer that writes to standard error.
#[derive(Default)]
pub struct Trace;

impl Trace {
    /// A call that is over. `entered`: the registers with which it was made, which `rt_sigreturn` replaces.
    pub fn call(&self, kernel: &Kernel, thread: &Thread, entered: &UserRegs, outcome: SysResult) {
        let r = entered;
        let args = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
        let mut line = format!("[{}] ", thread.tid);
        match table::call(r.rax) {
            Some(call) => {
                let shown: Vec<String> =
                    call.args.iter().zip(args).map(|(kind, arg)| show(kernel, *kind, arg, &args)).collect();
                let _ = write!(line, "{}({})", call.name, shown.join(", "));
            }
            None => {
                let _ = write!(line, "syscall_{}({args:x?})", r.rax);
            }
        }
        let _ = match outcome {
            Ok(value) if value > 0xffff => write!(line, " = {value:#x}"),
            Ok(value) => write!(line, " = {value}"),
            Err(errno) => write!(line, " = -1 {}", errno.name()),
        };
        print(&line);
    }

    /// A signal that a handler runs for.
    pub fn signal(&self, tid: Tid, info: &SigInfo) {
        print(&format!("[{tid}] --- signal {} code {} {:#x} ---", info.signal, info.code, info.fields[0]));
    }

    /// A page fault that becomes a signal.
    pub fn fault(&self, tid: Tid, address: u64, error: u64, rip: u64, fault: Fault) {
        print(&format!("[{tid}] page fault at {address:#x} (error {error:#x}) from {rip:#x}: {fault:?}"));
    }
}

/// Nothing can be done about a standard error that is closed.
fn print(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn show(kernel: &Kernel, kind: Kind, arg: u64, all: &[u64; 6]) -> String {
    match kind {
        Kind::Dirfd if arg as i32 == libc::AT_FDCWD => "AT_FDCWD".into(),
        Kind::Fd | Kind::Dirfd | Kind::Int => (arg as i32).to_string(),
        Kind::Uint => (arg as u32).to_string(),
        Kind::Size => arg.to_string(),
        Kind::Off => (arg as i64).to_string(),
        Kind::Oct => format!("{:#o}", arg as u32),
        Kind::Ptr if arg == 0 => "NULL".into(),
        Kind::Ptr | Kind::Hex | Kind::Flags => format!("{arg:#x}"),
        Kind::Prot => {
            let parts = ["PROT_READ", "PROT_WRITE", "PROT_EXEC"];
            let set: Vec<&str> =
                parts.into_iter().enumerate().filter(|(i, _)| arg >> i & 1 != 0).map(|(_, p)| p).collect();
            if set.is_empty() { "PROT_NONE".into() } else { set.join("|") }
        }
        Kind::Path => match kernel.read_path(arg) {
            Ok(bytes) => quote(&bytes),
            Err(_) => format!("{arg:#x}"),
        },
        Kind::Buf => {
            let mut bytes = vec![0; (all[2] as usize).min(SHOWN)];
            match kernel.read_bytes(arg, &mut bytes) {
                Ok(()) => quote(&bytes) + if all[2] as usize > SHOWN { "..." } else { "" },
                Err(_) => format!("{arg:#x}"),
            }
        }
    }
}

fn quote(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}
