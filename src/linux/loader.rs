//! Loading a program: its segments, its interpreter's, and the stack that it starts with.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object::LittleEndian;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

use super::errno::Errno;
use super::identity::Identity;
use super::limits;
use super::mm::{AddressSpace, Backing, MappedFile, Placement, Region};
use super::namespace::Namespace;
use super::vdso;
use crate::vmm::{Access, FRAME_SIZE, layout};

/// Bytes of a file in which its headers must lie.
const HEADERS: usize = 64 << 10;
/// Most segments that are looked at.
const MOST_SEGMENTS: usize = 128;
/// Where a position-independent program is put, less a random part.
const PROGRAM_BASE: u64 = 0x5555_5555_4000;
/// Most bytes of arguments and environment.
const MOST_STRINGS: usize = 2 << 20;

/// Why a program cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be opened or read.
    #[error("cannot open {path}: {errno:?}")]
    Open {
        /// In the guest.
        path: PathBuf,
        /// Linux's reason.
        errno: Errno,
    },
    /// It is no program of the right sort.
    #[error("{path} is not an x86-64 Linux program: {reason}")]
    Format {
        /// In the guest.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It does not fit into memory.
    #[error("cannot map {path}: {errno:?}; it may need more memory than the microVM has")]
    Map {
        /// In the guest.
        path: PathBuf,
        /// Linux's reason.
        errno: Errno,
    },
    /// Arguments and environment are too long.
    #[error(
        "arguments and environment have {0} bytes, more than the {MOST_STRINGS} that a program can be given"
    )]
    Strings(usize),
}

/// Where a program begins.
pub struct Start {
    /// First instruction.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
}

/// What is given to a program.
pub struct Image<'a> {
    /// Path of the executable in the guest.
    pub path: &'a Path,
    /// Arguments, the program's name first.
    pub arguments: &'a [Vec<u8>],
    /// Environment.
    pub environment: &'a [Vec<u8>],
    /// User and group.
    pub identity: &'a Identity,
    /// Bytes of a signal frame at most.
    pub signal_frame: u64,
}

struct Loaded {
    base: u64,
    entry: u64,
    headers: u64,
    header_count: u64,
    end: u64,
    interpreter: Option<PathBuf>,
}

/// Loads the program into an empty address space.
pub fn load(space: &mut AddressSpace, files: &Namespace, image: &Image<'_>) -> Result<Start, LoadError> {
    let random = random_words();
    // Offsets of up to 256 MiB for the stack and 1 TiB for the program, in pages.
    let stack_top = 0x7fff_f000_0000 - (random[0] & 0xffff) * FRAME_SIZE;
    let program = load_file(space, files, image.path, PROGRAM_BASE + (random[1] & 0xfff_ffff) * FRAME_SIZE)?;
    let interpreter = match &program.interpreter {
        Some(path) => Some(load_file(space, files, path, 0)?),
        None => None,
    };
    let fail = |errno| LoadError::Map { path: image.path.into(), errno };
    space.set_heap(program.end + (random[2] & 0x1fff) * FRAME_SIZE);
    let vdso = vdso::map(space).map_err(fail)?;
    let access = Access::READ | Access::WRITE;
    let make = |end| Region::zero(end, access, "[stack]");
    space.map(Placement::FixedFree(stack_top - limits::STACK), limits::STACK, make).map_err(fail)?;

    let mut stack = Stack { space, sp: stack_top - 16 };
    let total: usize = image.arguments.iter().chain(image.environment).map(|s| s.len() + 9).sum();
    if total > MOST_STRINGS {
        return Err(LoadError::Strings(total));
    }
    let environment = stack.push_strings(image.environment).map_err(fail)?;
    let arguments = stack.push_strings(image.arguments).map_err(fail)?;
    let name = stack.push_string(image.path.as_os_str().as_encoded_bytes()).map_err(fail)?;
    let platform = stack.push_string(b"x86_64").map_err(fail)?;
    let seed: Vec<u8> = random[3..5].iter().flat_map(|w| w.to_le_bytes()).collect();
    let seed = stack.push(&seed).map_err(fail)?;
    let (uid, gid) = (u64::from(image.identity.uid), u64::from(image.identity.gid));
    let features = u64::from(std::arch::x86_64::__cpuid(1).edx);
    const FSGSBASE: u64 = 2;
    const MIN_SIGNAL_STACK: u64 = 51;
    let auxiliary = [
        (libc::AT_SYSINFO_EHDR, vdso),
        (libc::AT_HWCAP, features),
        (libc::AT_PAGESZ, FRAME_SIZE),
        (libc::AT_CLKTCK, 100),
        (libc::AT_PHDR, program.headers),
        (libc::AT_PHENT, size_of::<ProgramHeader64<LittleEndian>>() as u64),
        (libc::AT_PHNUM, program.header_count),
        (libc::AT_BASE, interpreter.as_ref().map_or(0, |i| i.base)),
        (libc::AT_FLAGS, 0),
        (libc::AT_ENTRY, program.entry),
        (libc::AT_UID, uid),
        (libc::AT_EUID, uid),
        (libc::AT_GID, gid),
        (libc::AT_EGID, gid),
        (libc::AT_SECURE, 0),
        (libc::AT_RANDOM, seed),
        (libc::AT_HWCAP2, FSGSBASE),
        (libc::AT_EXECFN, name),
        (libc::AT_PLATFORM, platform),
        (MIN_SIGNAL_STACK, image.signal_frame),
        (libc::AT_NULL, 0),
    ];
    let mut words = vec![arguments.len() as u64];
    words.extend(arguments.iter().chain([&0]).chain(&environment).chain([&0]));
    words.extend(auxiliary.iter().flat_map(|(key, value)| [*key, *value]));
    // The stack pointer is a multiple of 16 at the first instruction.
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    stack.sp = ((stack.sp - bytes.len() as u64) & !15) + bytes.len() as u64;
    let rsp = stack.push(&bytes).map_err(fail)?;
    Ok(Start { rip: interpreter.map_or(program.entry, |i| i.entry), rsp })
}

fn random_words() -> [u64; 5] {
    let mut bytes = [0u8; 40];
    // The host's generator is seeded when a server runs; without it the layout is only predictable.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    std::array::from_fn(|i| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[8 * i..8 * i + 8]);
        u64::from_le_bytes(word)
    })
}

/// Maps the segments of one file; a position-independent one near `hint`.
fn load_file(
    space: &mut AddressSpace,
    files: &Namespace,
    path: &Path,
    hint: u64,
) -> Result<Loaded, LoadError> {
    let open = |errno| LoadError::Open { path: path.into(), errno };
    let format = |reason| LoadError::Format { path: path.into(), reason };
    let (fd, _) = files.open_to_read(path).map_err(open)?;
    let headers = read_headers(&fd).map_err(open)?;
    let data = headers.as_slice();
    let header =
        FileHeader64::<LittleEndian>::parse(data).map_err(|_| format("it has no 64-bit ELF header"))?;
    let little = header.endian().map_err(|_| format("it is not little-endian"))?;
    if header.e_machine(little) != elf::EM_X86_64 {
        return Err(format("it is for another processor"));
    }
    let segments =
        header.program_headers(little, data).map_err(|_| format("its program headers are damaged"))?;
    if segments.len() > MOST_SEGMENTS {
        return Err(format("it has too many segments"));
    }
    let loads = || segments.iter().filter(|s| s.p_type(little) == elf::PT_LOAD);
    let page = |address: u64| address & !(FRAME_SIZE - 1);
    let mut low = u64::MAX;
    let mut high = 0;
    for s in loads() {
        let end = s.p_vaddr(little).checked_add(s.p_memsz(little)).filter(|end| *end < layout::USER_END);
        let sane = s.p_filesz(little) <= s.p_memsz(little)
            && s.p_vaddr(little) % FRAME_SIZE == s.p_offset(little) % FRAME_SIZE
            && s.p_offset(little).checked_add(s.p_filesz(little)).is_some();
        high = high.max(end.filter(|_| sane).ok_or_else(|| format("a segment is damaged"))?);
        low = low.min(page(s.p_vaddr(little)));
    }
    if low >= high {
        return Err(format("it has nothing to load"));
    }
    let map_error = |errno| LoadError::Map { path: path.into(), errno };
    let span = (high - low).next_multiple_of(FRAME_SIZE);
    let base = match header.e_type(little) {
        elf::ET_EXEC => 0,
        elf::ET_DYN => space.place(Placement::Hint(hint), span).map_err(map_error)?.wrapping_sub(low),
        _ => return Err(format("it is neither an executable nor position-independent")),
    };
    let file =
        space.mapped_file(fd.as_fd(), path.to_string_lossy().into_owned(), false).map_err(map_error)?;
    for segment in loads() {
        map_segment(space, &file, segment, base).map_err(map_error)?;
    }
    let table = header.e_phoff(little);
    let headers = segments
        .iter()
        .find(|s| s.p_type(little) == elf::PT_PHDR)
        .map(|s| s.p_vaddr(little))
        .or_else(|| {
            let holds = |s: &&ProgramHeader64<LittleEndian>| {
                let (from, len) = (s.p_offset(little), s.p_filesz(little));
                from <= table && table - from < len
            };
            loads().find(holds).map(|s| s.p_vaddr(little) + (table - s.p_offset(little)))
        })
        .map_or(0, |address| address.wrapping_add(base));
    let interpreter = match segments.iter().find(|s| s.p_type(little) == elf::PT_INTERP) {
        Some(s) => {
            Some(read_interpreter(data, s).ok_or_else(|| format("the name of its interpreter is damaged"))?)
        }
        None => None,
    };
    Ok(Loaded {
        base,
        entry: header.e_entry(little).wrapping_add(base),
        headers,
        header_count: segments.len() as u64,
        end: high.wrapping_add(base).next_multiple_of(FRAME_SIZE),
        interpreter,
    })
}

fn read_headers(fd: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; HEADERS];
    let mut got = 0;
    while got < bytes.len() {
        match rustix::io::pread(fd.as_fd(), &mut bytes[got..], got as u64)? {
            0 => break,
            n => got += n,
        }
    }
    bytes.truncate(got);
    Ok(bytes)
}

fn read_interpreter(data: &[u8], segment: &ProgramHeader64<LittleEndian>) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let start = usize::try_from(segment.p_offset(LittleEndian)).ok()?;
    let len = usize::try_from(segment.p_filesz(LittleEndian)).ok()?;
    let bytes = data.get(start..start.checked_add(len)?)?.strip_suffix(&[0])?;
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
    path.is_absolute().then_some(path)
}

/// Maps one segment: its part of the file, then zeros to its end.
fn map_segment(
    space: &mut AddressSpace,
    file: &Arc<MappedFile>,
    segment: &ProgramHeader64<LittleEndian>,
    base: u64,
) -> Result<(), Errno> {
    let little = LittleEndian;
    let mut access = Access::empty();
    let flags = segment.p_flags(little);
    let has = |flag: elf::ProgramFlags| flags.0 & flag.0 != 0;
    access.set(Access::READ, has(elf::PF_R) || has(elf::PF_W) || has(elf::PF_X));
    access.set(Access::WRITE, has(elf::PF_W));
    access.set(Access::EXECUTE, has(elf::PF_X));
    let start = base.wrapping_add(segment.p_vaddr(little));
    let within = start % FRAME_SIZE;
    let page = start - within;
    let file_end = start + segment.p_filesz(little);
    let file_pages_end = file_end.next_multiple_of(FRAME_SIZE);
    let end = (start + segment.p_memsz(little)).next_multiple_of(FRAME_SIZE);
    if segment.p_filesz(little) > 0 {
        let backing = Backing::File { file: Arc::clone(file), offset: segment.p_offset(little) - within };
        let make = |end| Region { end, access, backing, shared: false, may_write: true, label: "" };
        space.map(Placement::Fixed(page), file_pages_end - page, make)?;
        if segment.p_memsz(little) > segment.p_filesz(little) && file_end < file_pages_end {
            space.zero_within_page(file_end, file_pages_end)?;
        }
    }
    let zero_start = if segment.p_filesz(little) > 0 { file_pages_end } else { page };
    if end > zero_start {
        space.map(Placement::Fixed(zero_start), end - zero_start, |end| Region::zero(end, access, ""))?;
    }
    Ok(())
}

/// The first stack, filled downwards.
struct Stack<'a> {
    space: &'a mut AddressSpace,
    sp: u64,
}

impl Stack<'_> {
    fn push(&mut self, bytes: &[u8]) -> Result<u64, Errno> {
        self.sp -= bytes.len() as u64;
        self.space.poke(self.sp, bytes)?;
        Ok(self.sp)
    }

    fn push_string(&mut self, string: &[u8]) -> Result<u64, Errno> {
        let mut bytes = string.to_vec();
        bytes.push(0);
        self.push(&bytes)
    }

    /// Pushes strings so that the first lies lowest, as Linux does; some programs write over them as one area.
    fn push_strings(&mut self, strings: &[Vec<u8>]) -> Result<Vec<u64>, Errno> {
        let mut addresses = Vec::with_capacity(strings.len());
        for string in strings.iter().rev() {
            addresses.push(self.push_string(string)?);
        }
        addresses.reverse();
        Ok(addresses)
    }
}
