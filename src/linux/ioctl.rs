//! `ioctl`: the few that programs use on terminals, streams and descriptors.

use std::os::fd::AsRawFd;

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::file::Kind;

pub fn ioctl(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const FIONREAD: u32 = libc::FIONREAD as u32;
    const FIONBIO: u32 = libc::FIONBIO as u32;
    const FIOCLEX: u32 = libc::FIOCLEX as u32;
    const FIONCLEX: u32 = libc::FIONCLEX as u32;
    const TCGETS: u32 = libc::TCGETS as u32;
    const TIOCGWINSZ: u32 = libc::TIOCGWINSZ as u32;
    let (fd, request, pointer) = (args.i32(0), args.u32(1), args.u64(2));
    let file = ctx.kernel.file(fd)?;
    match request {
        FIONBIO => {
            let on = ctx.kernel.read::<i32>(pointer)? != 0;
            let flags = file.flags();
            let bit = libc::O_NONBLOCK as u32;
            file.set_flags(if on { flags | bit } else { flags & !bit });
            Ok(0)
        }
        FIOCLEX | FIONCLEX => {
            let set = Args([fd as u64, libc::F_SETFD as u64, u64::from(request == FIOCLEX), 0, 0, 0]);
            super::descriptor::fcntl(ctx, set)
        }
        FIONREAD => {
            let count = match &file.kind {
                Kind::Pipe(pipe) => pipe.waiting() as i32,
                Kind::Host(host) => rustix::io::ioctl_fionread(host.fd())? as i32,
                _ => return super::net::ioctl(ctx, &file, request, pointer),
            };
            ctx.kernel.write(pointer, &count).map(|()| 0)
        }
        TCGETS | TIOCGWINSZ => {
            let Kind::Host(host) = &file.kind else { return Err(Errno::ENOTTY) };
            // `struct termios` of the kernel has 36 bytes, `struct winsize` 8.
            let mut bytes = [0u8; 64];
            // SAFETY: both requests write less than the buffer holds.
            let done =
                unsafe { libc::ioctl(host.fd().as_raw_fd(), libc::Ioctl::from(request), bytes.as_mut_ptr()) };
            if done != 0 {
                return Err(Errno::last());
            }
            let len = if request == TCGETS { 36 } else { 8 };
            ctx.kernel.write_bytes(pointer, &bytes[..len]).map(|()| 0)
        }
        _ => super::net::ioctl(ctx, &file, request, pointer),
    }
}
