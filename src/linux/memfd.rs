//! Files without a path: in guest RAM, like those of a tmpfs.

use rustix::fs::MemfdFlags;

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::file::Kind;
use super::tmpfs::OpenFile;

pub fn memfd_create(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const LONGEST: usize = 249;
    const LARGEFILE: i32 = 0o100_000;
    let flags = MemfdFlags::from_bits(args.u32(1)).ok_or(Errno::EINVAL)?;
    if flags.contains(MemfdFlags::HUGETLB) {
        return Err(Errno::ENOMEM);
    }
    let name = ctx.kernel.read_string(args.u64(0), LONGEST + 1).map_err(|e| match e {
        Errno::ENAMETOOLONG => Errno::EINVAL,
        other => other,
    })?;
    let path = format!("/memfd:{} (deleted)", String::from_utf8_lossy(&name));
    const MODE: u32 = 0o777;
    let open = OpenFile::unnamed(&ctx.kernel.namespace.memory_files, MODE, false)?;
    open.allow_seals(flags.contains(MemfdFlags::ALLOW_SEALING))?;
    let file = ctx.kernel.new_file_at(Kind::Tmpfs(open), path.into(), (libc::O_RDWR | LARGEFILE) as u32)?;
    let install = if flags.contains(MemfdFlags::CLOEXEC) { libc::O_CLOEXEC as u32 } else { 0 };
    ctx.kernel.install(file, install)
}
