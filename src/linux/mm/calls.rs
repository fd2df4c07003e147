//! Memory system calls: mmap, munmap, mprotect, mremap, brk, madvise, mincore, msync, mlock.

use super::super::context::{Args, Ctx};
use super::super::errno::{Errno, SysResult};
use super::super::file::{File, Kind};
use super::{Backing, Placement, Region};
use crate::vmm::{Access, FRAME_SIZE, layout};

const MAP_SHARED: u32 = 0x01;
const MAP_PRIVATE: u32 = 0x02;
const MAP_SHARED_VALIDATE: u32 = 0x03;
const MAP_FIXED: u32 = 0x10;
const MAP_ANONYMOUS: u32 = 0x20;
const MAP_32BIT: u32 = 0x40;
const MAP_NORESERVE: u32 = 0x4000;
const MAP_HUGETLB: u32 = 0x4_0000;
const MAP_FIXED_NOREPLACE: u32 = 0x10_0000;

/// Linux's protection bits. A readable page is all that x86 offers for any of them.
fn access(prot: u64) -> Result<Access, Errno> {
    const GROWS: u64 = 0x0300_0000;
    if prot & !(7 | GROWS) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut access = Access::from_bits_truncate((prot & 7) as u8);
    if !access.is_empty() {
        access |= Access::READ;
    }
    Ok(access)
}

/// `len` rounded up to whole pages.
fn whole_pages(len: u64) -> Result<u64, Errno> {
    len.checked_add(FRAME_SIZE - 1).map(|l| l & !(FRAME_SIZE - 1)).ok_or(Errno::ENOMEM)
}

/// A page-aligned range of user addresses.
fn range(start: u64, len: u64) -> Result<(u64, u64), Errno> {
    if !start.is_multiple_of(FRAME_SIZE) {
        return Err(Errno::EINVAL);
    }
    let end = start.checked_add(whole_pages(len)?).ok_or(Errno::EINVAL)?;
    if end > layout::USER_END { Err(Errno::ENOMEM) } else { Ok((start, end)) }
}

pub fn mmap(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (hint, len, flags, offset) = (args.u64(0), args.u64(1), args.u32(3), args.u64(5));
    let access = access(args.u64(2))?;
    if len == 0 || offset % FRAME_SIZE != 0 {
        return Err(Errno::EINVAL);
    }
    let len = whole_pages(len)?;
    offset.checked_add(len).ok_or(Errno::EOVERFLOW)?;
    let shared = match flags & MAP_SHARED_VALIDATE {
        MAP_PRIVATE => false,
        MAP_SHARED | MAP_SHARED_VALIDATE => true,
        _ => return Err(Errno::EINVAL),
    };
    if flags & MAP_HUGETLB != 0 {
        return Err(Errno::ENOMEM);
    }
    // Held until the region is there: with the file might go what it shows.
    let file = if flags & MAP_ANONYMOUS == 0 { Some(ctx.kernel.file(args.i32(4))?) } else { None };
    let (content, may_write) = match &file {
        Some(file) => content(file, access, shared, offset)?,
        None => (Content::Ram(Backing::Zero), true),
    };
    let placement = if flags & MAP_FIXED_NOREPLACE != 0 {
        Placement::FixedFree(hint)
    } else if flags & MAP_FIXED != 0 {
        Placement::Fixed(hint)
    } else if flags & MAP_32BIT != 0 {
        Placement::Low
    } else {
        Placement::Hint(hint)
    };
    // One lock for both: nobody forgets the file before the region is there.
    let mut space = ctx.kernel.mm();
    let backing = match &content {
        Content::Ram(backing) => backing.clone(),
        Content::Host(file) => {
            let path = file.path.to_string_lossy().into_owned();
            Backing::File { file: space.mapped_file(file.mappable()?, path, shared && may_write)?, offset }
        }
    };
    let make = |end| Region { end, access, backing, shared, may_write, label: "" };
    let start = space.map(placement, len, make)?;
    if flags & MAP_NORESERVE == 0 {
        space.fill_writable(start, start + len);
    }
    Ok(start)
}

/// What a mapping shows.
enum Content<'a> {
    /// Something in guest RAM.
    Ram(Backing),
    /// A file of the host's.
    Host(&'a File),
}

/// What a mapping of a file shows from `offset` on, and whether it may ever be written to.
fn content(file: &File, access: Access, shared: bool, offset: u64) -> Result<(Content<'_>, bool), Errno> {
    let (readable, writable) = file.access_mode();
    if !readable || (shared && access.contains(Access::WRITE) && !writable) {
        return Err(Errno::EACCES);
    }
    let Kind::Tmpfs(open) = &file.kind else { return Ok((Content::Host(file), !shared || writable)) };
    let object = open.object().map_err(|_| Errno::ENODEV)?;
    let sealed = open.seals()? as i32 & (libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE) != 0;
    if shared && sealed && access.contains(Access::WRITE) {
        return Err(Errno::EPERM);
    }
    Ok((Content::Ram(Backing::Object { object, offset }), !shared || writable && !sealed))
}

pub fn munmap(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    if args.u64(1) == 0 {
        return Err(Errno::EINVAL);
    }
    let (start, end) = range(args.u64(0), args.u64(1)).map_err(|_| Errno::EINVAL)?;
    let mut space = ctx.kernel.mm();
    // Linux too lets nothing be cut at its limit, but whole regions go.
    let cuts = [start, end].iter().any(|at| space.find(*at).is_some_and(|(first, _)| first != *at));
    if cuts {
        space.check_room()?;
    }
    space.unmap(start, end)?;
    Ok(0)
}

pub fn mprotect(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let access = access(args.u64(2))?;
    let (start, end) = range(args.u64(0), args.u64(1))?;
    ctx.kernel.mm().protect(start, end, access)?;
    Ok(0)
}

pub fn mremap(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    const MAYMOVE: u64 = 1;
    const FIXED: u64 = 2;
    let (flags, target) = (args.u64(3), args.u64(4));
    let (old, old_end) = range(args.u64(0), args.u64(1)).map_err(|_| Errno::EINVAL)?;
    let new_len = whole_pages(args.u64(2))?;
    if flags & !(MAYMOVE | FIXED) != 0 || new_len == 0 || old_end == old || flags & 3 == FIXED {
        return Err(Errno::EINVAL);
    }
    let mut space = ctx.kernel.mm();
    let old_len = old_end - old;
    if flags & FIXED != 0 {
        return space.remap(old, old_len, new_len, Some(Placement::Fixed(target)));
    }
    match space.remap(old, old_len, new_len, None) {
        Err(Errno::ENOMEM) if flags & MAYMOVE != 0 => {
            space.remap(old, old_len, new_len, Some(Placement::Hint(0)))
        }
        outcome => outcome,
    }
}

pub fn brk(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let wanted = args.u64(0);
    let mut space = ctx.kernel.mm();
    if wanted < space.heap_start {
        return Ok(space.heap_end);
    }
    let Ok(new) = whole_pages(wanted) else { return Ok(space.heap_end) };
    let old = whole_pages(space.heap_end)?;
    let changed = if new > old {
        let make = |end| Region::zero(end, Access::READ | Access::WRITE, "[heap]");
        let mapped = space.map(Placement::FixedFree(old), new - old, make);
        mapped.map(|start| space.fill_writable(start, new))
    } else {
        space.unmap(new, old)
    };
    if changed.is_ok() {
        space.heap_end = wanted;
    }
    Ok(space.heap_end)
}

pub fn madvise(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (start, end) = range(args.u64(0), args.u64(1)).map_err(|_| Errno::EINVAL)?;
    let mut space = ctx.kernel.mm();
    match args.i32(2) {
        libc::MADV_NORMAL | libc::MADV_RANDOM | libc::MADV_SEQUENTIAL | libc::MADV_WILLNEED => {}
        libc::MADV_HUGEPAGE | libc::MADV_NOHUGEPAGE | libc::MADV_DONTDUMP | libc::MADV_DODUMP => {}
        libc::MADV_DONTFORK | libc::MADV_DOFORK | libc::MADV_MERGEABLE | libc::MADV_UNMERGEABLE => {}
        libc::MADV_COLD | libc::MADV_PAGEOUT => {}
        libc::MADV_DONTNEED | libc::MADV_FREE => space.drop_pages(start, end)?,
        libc::MADV_POPULATE_READ | libc::MADV_POPULATE_WRITE => {
            let needed = if args.i32(2) == libc::MADV_POPULATE_READ { Access::READ } else { Access::WRITE };
            for page in (start..end).step_by(FRAME_SIZE as usize) {
                space.resolve(page, needed).ok_or(Errno::ENOMEM)?;
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    if space.is_mapped(start, end) { Ok(0) } else { Err(Errno::ENOMEM) }
}

pub fn mincore(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (start, end) = range(args.u64(0), args.u64(1))?;
    let space = ctx.kernel.mm();
    if !space.is_mapped(start, end) {
        return Err(Errno::ENOMEM);
    }
    let pages = ((end - start) / FRAME_SIZE) as usize;
    // Large ranges are answered in parts, so that the answer's size is bounded.
    const PART: usize = 1 << 16;
    drop(space);
    for first in (0..pages).step_by(PART) {
        let low = start + first as u64 * FRAME_SIZE;
        let count = PART.min(pages - first);
        let mut answer = vec![0u8; count];
        ctx.kernel.mm().tables().update(low, low + count as u64 * FRAME_SIZE, |address, entry| {
            answer[((address - low) / FRAME_SIZE) as usize] = 1;
            Some(entry)
        });
        ctx.kernel.write_bytes(args.u64(2) + first as u64, &answer)?;
    }
    Ok(0)
}

pub fn msync(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (start, end) = range(args.u64(0), args.u64(1))?;
    let flags = args.i32(2);
    if flags & !(libc::MS_ASYNC | libc::MS_INVALIDATE | libc::MS_SYNC) != 0
        || flags & libc::MS_ASYNC != 0 && flags & libc::MS_SYNC != 0
    {
        return Err(Errno::EINVAL);
    }
    let space = ctx.kernel.mm();
    if !space.is_mapped(start, end) {
        return Err(Errno::ENOMEM);
    }
    for (first, region) in space.regions().filter(|(first, r)| *first < end && r.end > start) {
        space.write_back(first.max(start), region.end.min(end), first, region);
    }
    Ok(0)
}

/// Guest RAM is never swapped from the guest's point of view: all of it is locked.
pub fn mlock(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let start = args.u64(0) & !(FRAME_SIZE - 1);
    let (start, end) = range(start, args.u64(1).saturating_add(args.u64(0) - start))?;
    if ctx.kernel.mm().is_mapped(start, end) { Ok(0) } else { Err(Errno::ENOMEM) }
}

pub fn mlockall(_: &mut Ctx<'_>, args: Args) -> SysResult {
    if args.u32(0) & !7 != 0 || args.u32(0) == 0 { Err(Errno::EINVAL) } else { Ok(0) }
}

pub fn munlockall(_: &mut Ctx<'_>, _: Args) -> SysResult {
    Ok(0)
}
