//! Copying between files.

use vm_memory::VolatileSlice;

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};
use super::file::Kind;
use super::io::{after_write, before_read, wait_until_ready};
use super::net::Direction;
use super::user::MAX_TRANSFER;

/// Copies between files through a buffer of this size.
const COPY: usize = 64 << 10;

/// `sendfile`: from a file with positions to any other.
pub fn sendfile(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (to, from, pointer) = (ctx.kernel.file(args.i32(0))?, ctx.kernel.file(args.i32(1))?, args.u64(2));
    to.check_writable()?;
    from.check_readable()?;
    let start = match pointer {
        0 => from.object().seek(0, libc::SEEK_CUR).map_err(|_| Errno::EINVAL)?,
        pointer => ctx.kernel.read::<u64>(pointer)?,
    };
    let mut buffer = vec![0u8; COPY.min(args.size(3))];
    let buffer = VolatileSlice::from(buffer.as_mut_slice());
    let mut done = 0;
    while done < args.size(3).min(MAX_TRANSFER) {
        let part = buffer.subslice(0, buffer.len().min(args.size(3) - done)).map_err(|_| Errno::EFAULT)?;
        before_read(ctx.kernel, &from, Some(start + done as u64), &[part]);
        let got = from.object().read_at(&[part], start + done as u64)?;
        if got == 0 {
            break;
        }
        let part = buffer.subslice(0, got).map_err(|_| Errno::EFAULT)?;
        let wrote = to.object().write(ctx.kernel, &to, &[part]);
        after_write(ctx.kernel, &to, None, &wrote);
        match wrote {
            Ok(n) => {
                done += n;
                if n < got {
                    break;
                }
            }
            Err(_) if done > 0 => break,
            Err(Errno::EAGAIN) if !to.is_nonblocking() => {
                return Err(wait_until_ready(ctx, &to, Direction::Send));
            }
            Err(error) => return Err(error),
        }
    }
    match pointer {
        0 => from.object().seek((start + done as u64) as i64, libc::SEEK_SET).map(|_| ())?,
        pointer => ctx.kernel.write(pointer, &(start + done as u64))?,
    }
    Ok(done as u64)
}

pub fn copy_file_range(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (from, to) = (ctx.kernel.file(args.i32(0))?, ctx.kernel.file(args.i32(2))?);
    from.check_readable()?;
    to.check_writable()?;
    let (source, target) = match (&from.kind, &to.kind) {
        (Kind::Host(source), Kind::Host(target)) => (source, target),
        // Programs then copy by reading and writing.
        (Kind::Tmpfs(_) | Kind::Host(_), Kind::Tmpfs(_) | Kind::Host(_)) => return Err(Errno::EXDEV),
        _ => return Err(Errno::EINVAL),
    };
    let position = |pointer: u64| match pointer {
        0 => Ok(None),
        pointer => ctx.kernel.read::<u64>(pointer).map(Some),
    };
    let (mut read_at, mut write_at) = (position(args.u64(1))?, position(args.u64(3))?);
    if args.u32(5) != 0 {
        return Err(Errno::EINVAL);
    }
    let len = args.size(4).min(MAX_TRANSFER);
    ctx.kernel.mm().before_read(source.fd(), read_at, len);
    let begin = write_at;
    let n = rustix::fs::copy_file_range(source.fd(), read_at.as_mut(), target.fd(), write_at.as_mut(), len)?;
    ctx.kernel.mm().after_write(target.fd(), begin, n);
    for (pointer, position) in [(args.u64(1), read_at), (args.u64(3), write_at)] {
        if let Some(position) = position {
            ctx.kernel.write(pointer, &position)?;
        }
    }
    Ok(n as u64)
}
