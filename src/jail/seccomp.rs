//! Compiles [`super::calls`] into seccomp filters, and installs them.

use super::calls;
use crate::messages;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

/// The compiled filters in an anonymous file, which a jail's init inherits and [`install`]s. Compiled once.
pub fn filters() -> io::Result<&'static OwnedFd> {
    static FILTERS: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(filters) = FILTERS.get() {
        return Ok(filters);
    }
    let made = write(&compile().map_err(io::Error::other)?)?;
    Ok(FILTERS.get_or_init(|| made))
}

/// Installs the filters that `file` holds on the calling thread, for good. Needs `no_new_privs`.
pub fn install(file: &File) -> io::Result<()> {
    for program in read(file)? {
        seccompiler::apply_filter(&program).map_err(io::Error::other)?;
    }
    Ok(())
}

/// The filters in the order in which they are installed: what is answered with `ENOSYS`, then the allowlist. The
/// allowlist lets through what the other one answers: of two filters that both refuse, the kernel would take the
/// errno of the one installed last. It is the last because it does not allow `seccomp`.
pub fn compile() -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let passed = calls::ALLOWED.iter().chain(calls::ALLOWED_OLD).chain(calls::UNKNOWN);
    for number in passed.flat_map(|(calls, _)| *calls) {
        allowed.insert(*number, vec![]);
    }
    let no_namespaces = SeccompCmpOp::MaskedEq(calls::NAMESPACES as u32 as u64);
    allowed.insert(libc::SYS_clone, vec![rule(vec![argument(0, no_namespaces, 0)?])?]);
    allowed.insert(libc::SYS_socket, families()?);
    allowed.insert(libc::SYS_socketpair, vec![rule(vec![equals(0, libc::AF_UNIX as u64)?])?]);
    let refused = calls::REFUSED_IOCTLS.iter().map(|(request, _)| argument(1, SeccompCmpOp::Ne, *request));
    allowed.insert(libc::SYS_ioctl, vec![rule(refused.collect::<Result<_, _>>()?)?]);
    let options = calls::PRCTL.iter().map(|(option, _)| rule(vec![equals(0, *option as u32 as u64)?]));
    allowed.insert(libc::SYS_prctl, options.collect::<Result<_, _>>()?);
    let personalities = calls::PERSONALITIES.iter().map(|(value, _)| rule(vec![equals(0, *value)?]));
    allowed.insert(libc::SYS_personality, personalities.collect::<Result<_, _>>()?);

    if !messages::can_refuse_descriptors() {
        // Who closes such a socket waits, and Hydra would have to: see `refuse_descriptors`.
        let not_socket = argument(1, SeccompCmpOp::Ne, libc::SOL_SOCKET as u64)?;
        let not_linger = argument(2, SeccompCmpOp::Ne, libc::SO_LINGER as u64)?;
        allowed.insert(libc::SYS_setsockopt, vec![rule(vec![not_socket])?, rule(vec![not_linger])?]);
    }

    let unknown =
        calls::UNKNOWN.iter().flat_map(|(calls, _)| *calls).map(|number| (*number, vec![])).collect();
    let errno = |errno: i32| SeccompAction::Errno(errno as u32);
    Ok([
        SeccompFilter::new(unknown, SeccompAction::Allow, errno(libc::ENOSYS), arch)?.try_into()?,
        SeccompFilter::new(allowed, errno(libc::EPERM), SeccompAction::Allow, arch)?.try_into()?,
    ])
}

/// `socket`: the families of the table, and of netlink only routing (`getifaddrs`).
fn families() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let mut rules = Vec::new();
    for (family, _) in calls::FAMILIES {
        rules.push(rule(vec![equals(0, *family as u64)?])?);
    }
    rules.push(rule(vec![equals(0, libc::AF_NETLINK as u64)?, equals(2, libc::NETLINK_ROUTE as u64)?])?);
    Ok(rules)
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(conditions)
}

fn equals(index: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    argument(index, SeccompCmpOp::Eq, value)
}

/// The kernel looks at the lower half of these arguments only, so the filter does as well.
fn argument(index: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)
}

/// Bytes of one instruction: `struct sock_filter`, include/uapi/linux/filter.h.
const INSTRUCTION: usize = 8;

fn write(programs: &[BpfProgram]) -> io::Result<OwnedFd> {
    let name = nix::sys::memfd::memfd_create(c"seccomp", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(name);
    for program in programs {
        let mut bytes = (program.len() as u32).to_le_bytes().to_vec();
        for instruction in program {
            bytes.extend(instruction.code.to_le_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_le_bytes());
        }
        file.write_all(&bytes)?;
    }
    file.rewind()?;
    Ok(file.into())
}

/// Reads without moving the file's offset, which every jail shares.
fn read(file: &File) -> io::Result<Vec<BpfProgram>> {
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut bytes, 0)?;
    let mut rest = bytes.as_slice();
    let mut programs = Vec::new();
    while !rest.is_empty() {
        let mut length = [0; 4];
        rest.read_exact(&mut length)?;
        let mut program = Vec::new();
        for _ in 0..u32::from_le_bytes(length) {
            let mut bytes = [0; INSTRUCTION];
            rest.read_exact(&mut bytes)?;
            let [c0, c1, jt, jf, k0, k1, k2, k3] = bytes;
            let (code, k) = (u16::from_le_bytes([c0, c1]), u32::from_le_bytes([k0, k1, k2, k3]));
            program.push(sock_filter { code, jt, jf, k });
        }
        programs.push(program);
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn filters_survive_their_file() {
        let compiled = compile().expect("the table compiles");
        let file = File::from(write(&compiled).expect("an anonymous file"));
        let again = read(&file).expect("what was written");
        let words =
            |program: &BpfProgram| program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect::<Vec<_>>();
        assert_eq!(
            again.iter().map(words).collect::<Vec<_>>(),
            compiled.iter().map(words).collect::<Vec<_>>()
        );
        // BPF_MAXINSNS of the kernel.
        assert!(compiled.iter().all(|program| program.len() < 4096));
    }

    #[test]
    fn no_call_is_named_twice() {
        let mut seen = BTreeSet::new();
        let tables = calls::ALLOWED.iter().chain(calls::ALLOWED_OLD).chain(calls::UNKNOWN);
        for (number, reason) in tables.flat_map(|(calls, reason)| calls.iter().map(move |c| (c, reason))) {
            assert!(seen.insert(number), "call {number} is named a second time in: {reason}");
        }
    }

    #[test]
    fn dangerous_calls_are_not_allowed() {
        let allowed: BTreeSet<_> =
            calls::ALLOWED.iter().chain(calls::ALLOWED_OLD).flat_map(|(calls, _)| *calls).collect();
        for number in [
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_kcmp,
            libc::SYS_mount,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_kexec_load,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_open_by_handle_at,
            libc::SYS_setuid,
            libc::SYS_reboot,
        ] {
            assert!(!allowed.contains(&number), "call {number} must not be allowed");
        }
    }
}
