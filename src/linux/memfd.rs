//! Files without a path.

use rustix::fs::MemfdFlags;

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};

pub fn memfd_create(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const LONGEST: usize = 249;
    let flags = MemfdFlags::from_bits(args.u32(1)).ok_or(Errno::EINVAL)?;
    if flags.contains(MemfdFlags::HUGETLB) {
        return Err(Errno::ENOMEM);
    }
    let name = ctx.kernel.read_string(args.u64(0), LONGEST + 1).map_err(|e| match e {
        Errno::ENAMETOOLONG => Errno::EINVAL,
        other => other,
    })?;
    let fd = rustix::fs::memfd_create("guest", flags | MemfdFlags::CLOEXEC)?;
    let path = format!("/memfd:{} (deleted)", String::from_utf8_lossy(&name));
    let file = ctx.kernel.new_host_file(fd, path.into(), libc::O_RDWR as u32, true)?;
    let install = if flags.contains(MemfdFlags::CLOEXEC) { libc::O_CLOEXEC as u32 } else { 0 };
    ctx.kernel.install(file, install)
}
