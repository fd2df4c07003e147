//! The C interface of a GraalVM native-image shared library, and the isolates made through it. One of the
//! crate's modules with `unsafe`: foreign code is loaded and called here.
//!
//! The declarations are those of `graal_isolate.h`, which native-image writes beside every shared library.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use libc::{c_char, c_int, c_ulong, c_void};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use thiserror::Error;

use crate::result_buffer::ResultBuffer;

/// The symbol that is called where the registration names none.
const DEFAULT_ENTRY_POINT: &str = "entrypoint";

/// The symbols of a function's hooks for when it is about to be checkpointed, and for when it goes on from that.
const BEFORE_CHECKPOINT: &str = "before_checkpoint";
const AFTER_RESTORE: &str = "after_restore";

/// `graal_create_isolate_params_t` of version 1; later versions only append fields.
#[repr(C)]
struct CreateIsolateParams {
    version: c_int,
    /// 0: as large as the library was built for.
    reserved_address_space_size: c_ulong,
}

type CreateIsolate =
    unsafe extern "C" fn(*mut CreateIsolateParams, *mut *mut c_void, *mut *mut c_void) -> c_int;
type TearDownIsolate = unsafe extern "C" fn(*mut c_void) -> c_int;
type Hook = unsafe extern "C" fn(*mut c_void);
type EntryPoint = unsafe extern "C" fn(*mut c_void, *const c_char, *mut c_char, c_ulong);

/// Why a shared object cannot serve as a function.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The shared object.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is no shared object that this machine runs.
    #[error(
        "{path} is not a function for this machine: {problem}; an ELF shared object for x86-64 Linux is needed"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        problem: String,
    },
    /// Other code was loaded from this path before, and cannot be unloaded.
    #[error(
        "{0} has changed since this process loaded it: a shared object's code cannot be replaced in a running process"
    )]
    Changed(PathBuf),
    /// The dynamic linker refused.
    #[error("{0}")]
    Link(String),
    /// The interface is incomplete.
    #[error(
        "{path} does not export {missing}: a GraalVM native-image shared library with \
         void {entry_point}(graal_isolatethread_t*, const char* arguments, char* result, unsigned long result_len) is needed"
    )]
    Symbols {
        /// The shared object.
        path: PathBuf,
        /// What is missing, by name.
        missing: String,
        /// The entry point's name.
        entry_point: String,
    },
    /// The library could not make an isolate.
    #[error("graal_create_isolate failed with code {0}")]
    Create(c_int),
}

/// The isolate was not torn down cleanly.
#[derive(Debug, Error)]
#[error("graal_tear_down_isolate failed with code {0}")]
pub struct TearDownError(c_int);

/// A GraalVM isolate and the thread that made it, which alone may call into it (the raw pointer keeps this type
/// on that thread). Its library stays loaded for the life of the process: GraalVM's cannot be unloaded.
pub struct Isolate {
    thread: *mut c_void,
    entry_point: EntryPoint,
    before_checkpoint: Option<Hook>,
    after_restore: Option<Hook>,
    tear_down: TearDownIsolate,
}

impl Isolate {
    /// Loads the shared object at `path`, unless it is loaded, and makes an isolate on the current thread.
    pub fn create(path: &Path, entry_point: Option<&str>) -> Result<Self, LoadError> {
        let entry_point = entry_point.unwrap_or(DEFAULT_ENTRY_POINT);
        check_format(path)?;
        let library = open_library(path)?;
        let mut missing = Vec::new();
        let create = find(&library, "graal_create_isolate", &mut missing);
        let tear_down = find(&library, "graal_tear_down_isolate", &mut missing);
        let entry = find(&library, entry_point, &mut missing);
        let (Some(create), Some(tear_down), Some(entry)) = (create, tear_down, entry) else {
            // Dropping the library unloads it: it is not GraalVM's, and none of its functions was called.
            return Err(LoadError::Symbols {
                path: path.into(),
                missing: missing.join(", "),
                entry_point: entry_point.into(),
            });
        };
        let hooks = [BEFORE_CHECKPOINT, AFTER_RESTORE].map(|name| find(&library, name, &mut missing));
        std::mem::forget(library);
        // SAFETY: `graal_isolate.h` and the contract of Hydra's functions declare these symbols with these types; the
        // library is never unloaded, so that the pointers stay valid.
        let (create, tear_down, entry_point, [before_checkpoint, after_restore]) = unsafe {
            (
                std::mem::transmute::<*mut c_void, CreateIsolate>(create),
                std::mem::transmute::<*mut c_void, TearDownIsolate>(tear_down),
                std::mem::transmute::<*mut c_void, EntryPoint>(entry),
                hooks.map(|hook| hook.map(|hook| std::mem::transmute::<*mut c_void, Hook>(hook))),
            )
        };
        let mut params = CreateIsolateParams { version: 1, reserved_address_space_size: 0 };
        let (mut isolate, mut thread) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the three pointers are valid for the call, which is all that the interface asks for.
        match unsafe { create(&raw mut params, &raw mut isolate, &raw mut thread) } {
            0 => Ok(Isolate { thread, entry_point, before_checkpoint, after_restore, tear_down }),
            code => Err(LoadError::Create(code)),
        }
    }

    /// Calls the entry point, which leaves its result in `result`.
    pub fn call(&mut self, arguments: &CStr, result: &mut ResultBuffer) {
        let (start, length) = result.for_function();
        // SAFETY: the current thread is attached to the isolate, `arguments` ends with a NUL, and `length` bytes
        // from `start` are writable; a function that writes elsewhere is out of anyone's hands.
        unsafe { (self.entry_point)(self.thread, arguments.as_ptr(), start, length) };
    }

    /// Calls the function's hook for when it is about to be checkpointed, if it has one.
    pub fn before_checkpoint(&mut self) {
        self.call_hook(self.before_checkpoint);
    }

    /// Calls the function's hook for when it goes on from a checkpoint, if it has one.
    pub fn after_restore(&mut self) {
        self.call_hook(self.after_restore);
    }

    fn call_hook(&mut self, hook: Option<Hook>) {
        if let Some(hook) = hook {
            // SAFETY: the contract of Hydra's functions declares the symbol with this type; the current thread is
            // attached to the isolate.
            unsafe { hook(self.thread) };
        }
    }

    /// Ends the isolate and frees its memory. Waits for threads that the function attached.
    pub fn tear_down(self) -> Result<(), TearDownError> {
        // SAFETY: the current thread made the isolate and is attached to it; `self` is used up.
        match unsafe { (self.tear_down)(self.thread) } {
            0 => Ok(()),
            code => Err(TearDownError(code)),
        }
    }
}

/// Finds what the dynamic linker would refuse in its own, terser words, or die of: it maps a truncated file, and
/// then writes behind its end.
fn check_format(path: &Path) -> Result<(), LoadError> {
    let read_error = |source| LoadError::Read { path: path.into(), source };
    let format_error = |problem: String| LoadError::Format { path: path.into(), problem };
    let file = File::open(path).map_err(read_error)?;
    let length = file.metadata().map_err(read_error)?.len();
    let file = ReadCache::new(file);
    let not_elf = |_| format_error("it is not a 64-bit ELF file".into());
    let header = FileHeader64::<LittleEndian>::parse(&file).map_err(not_elf)?;
    let endian = header.endian().map_err(not_elf)?;
    let (machine, kind) = (header.e_machine(endian), header.e_type(endian));
    if machine != elf::EM_X86_64 {
        return Err(format_error(format!("it is for the ELF machine {}, not x86-64 (62)", machine.0)));
    }
    if kind != elf::ET_DYN {
        return Err(format_error(format!("it is an ELF file of type {}, not a shared object (3)", kind.0)));
    }
    let truncated = || format_error("it is truncated".into());
    for segment in header.program_headers(endian, &file).map_err(|_| truncated())? {
        let (offset, size) = segment.file_range(endian);
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(truncated());
        }
    }
    Ok(())
}

/// A file's device, inode and time of change, which tell replaced code from code already loaded.
type Identity = (u64, u64, i64, i64);

/// Loads a library. The dynamic linker loads a path once, however many isolates use it, and would hand out
/// the old code for a new file of the same path: that is refused here.
fn open_library(path: &Path) -> Result<Library, LoadError> {
    static LOADED: Mutex<Option<HashMap<PathBuf, Identity>>> = Mutex::new(None);
    let metadata = path.metadata().map_err(|source| LoadError::Read { path: path.into(), source })?;
    let identity = (metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = loaded.get_or_insert_default();
    if loaded.get(path).is_some_and(|known| *known != identity) {
        return Err(LoadError::Changed(path.into()));
    }
    // SAFETY: the library's initialisers run here. Running the function's code is this process's purpose.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|error| LoadError::Link(error.to_string()))?;
    loaded.insert(path.into(), identity);
    Ok(library)
}

/// The address of a symbol; a missing one is noted in `missing`.
fn find(library: &Library, name: &str, missing: &mut Vec<String>) -> Option<*mut c_void> {
    // SAFETY: only the address is taken here; whoever calls it gives it its type.
    let address = unsafe { library.get::<*mut c_void>(name.as_bytes()) }.ok().map(|symbol| symbol.into_raw());
    let address = address.filter(|address| !address.is_null());
    if address.is_none() {
        missing.push(name.to_owned());
    }
    address
}
