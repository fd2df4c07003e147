//! Socket addresses between the guest's memory and its sockets.

use super::super::context::Ctx;
use super::super::errno::{Errno, SysResult};

/// Bytes of `struct sockaddr_storage`, the largest address.
const LARGEST: usize = 128;

/// Reads an address that the program passed.
pub fn read(ctx: &Ctx<'_>, pointer: u64, len: u32) -> Result<Vec<u8>, Errno> {
    let len = len as usize;
    if !(2..=LARGEST).contains(&len) {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; len];
    ctx.kernel.read_bytes(pointer, &mut bytes)?;
    Ok(bytes)
}

/// The same where a null pointer, or no length, means no address.
pub fn read_optional(ctx: &Ctx<'_>, pointer: u64, len: u32) -> Result<Option<Vec<u8>>, Errno> {
    if pointer == 0 || len == 0 { Ok(None) } else { read(ctx, pointer, len).map(Some) }
}

/// Gives an address to the guest: as much as its buffer holds, and the true length.
pub fn write(ctx: &Ctx<'_>, address: &[u8], pointer: u64, len_pointer: u64) -> SysResult {
    if pointer == 0 {
        return Ok(0);
    }
    let room = ctx.kernel.read::<i32>(len_pointer)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    ctx.kernel.write_bytes(pointer, &address[..address.len().min(room)])?;
    ctx.kernel.write(len_pointer, &(address.len() as u32))?;
    Ok(0)
}
