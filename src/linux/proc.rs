//! The parts of `/proc` and `/dev` that programs look at. What is not here does not exist.

use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};

use super::directory::Directory;
use super::errno::Errno;
use super::file::{File, Kind};
use super::identity::{RELEASE, VERSION};
use super::kernel::{Kernel, PID, PPID};
use super::listing::Listing;
use super::mm::Backing;
use super::stat::Attributes;
use super::text::Text;
use super::thread::Tid;
use crate::vmm::Access;

/// What a path in `/proc` or `/dev` is.
pub enum Special {
    /// A file with this text.
    Text(Vec<u8>),
    /// A directory.
    Directory(Listing),
    /// A link to this path.
    Link(PathBuf),
    /// What this descriptor stands for.
    Descriptor(i32),
    /// A device of the host.
    Device(&'static str),
    /// It does not exist.
    Absent,
}

/// Devices that are the host's own, but for the terminal.
const DEVICES: [&str; 6] = ["full", "null", "random", TERMINAL, "urandom", "zero"];
/// The terminal of whoever opens it.
const TERMINAL: &str = "tty";

/// What is in `/dev`.
const DEV: &[(&str, u8)] = &[
    ("full", libc::DT_CHR),
    ("null", libc::DT_CHR),
    ("random", libc::DT_CHR),
    (TERMINAL, libc::DT_CHR),
    ("urandom", libc::DT_CHR),
    ("zero", libc::DT_CHR),
    ("fd", libc::DT_LNK),
    ("stdin", libc::DT_LNK),
    ("stdout", libc::DT_LNK),
    ("stderr", libc::DT_LNK),
    ("shm", libc::DT_DIR),
];
/// What is in `/proc`.
const PROC: &[(&str, u8)] = &[
    ("self", libc::DT_LNK),
    ("thread-self", libc::DT_LNK),
    (OWN, libc::DT_DIR),
    ("cpuinfo", libc::DT_REG),
    ("meminfo", libc::DT_REG),
    ("stat", libc::DT_REG),
    ("uptime", libc::DT_REG),
    ("version", libc::DT_REG),
    ("loadavg", libc::DT_REG),
    ("mounts", libc::DT_REG),
    ("filesystems", libc::DT_REG),
];
/// The name of the process's own directory.
const OWN: &str = "100";
const _: () = assert!(PID == 100);
/// What is in that directory.
const PROCESS: &[(&str, u8)] = &[
    ("exe", libc::DT_LNK),
    ("cwd", libc::DT_LNK),
    ("root", libc::DT_LNK),
    ("fd", libc::DT_DIR),
    ("task", libc::DT_DIR),
    ("maps", libc::DT_REG),
    ("stat", libc::DT_REG),
    ("statm", libc::DT_REG),
    ("status", libc::DT_REG),
    ("cmdline", libc::DT_REG),
    ("comm", libc::DT_REG),
    ("environ", libc::DT_REG),
];

/// Whether the path is one of these, and what it is. `None`: look in the mounts.
pub fn lookup(kernel: &Kernel, tid: Tid, path: &Path) -> Option<Special> {
    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(b"/").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).ok()?;
    if let Some(rest) = text.strip_prefix("/proc") {
        return Some(in_proc(kernel, tid, rest.strip_prefix('/').or(rest.is_empty().then_some(""))?));
    }
    let rest = text.strip_prefix("/dev")?;
    let name = rest.strip_prefix('/').or(rest.is_empty().then_some(""))?;
    Some(match name {
        "" => Special::Directory(Listing::Names(DEV)),
        "fd" => Special::Link("/proc/self/fd".into()),
        "stdin" => Special::Descriptor(0),
        "stdout" => Special::Descriptor(1),
        "stderr" => Special::Descriptor(2),
        name if name.starts_with("fd/") => descriptor(kernel, &name[3..]),
        // Shared memory objects are files of a directory.
        name if name == "shm" || name.starts_with("shm/") => return None,
        name => DEVICES.iter().find(|d| **d == name).map_or(Special::Absent, |d| Special::Device(d)),
    })
}

/// The number of a name that is just that: no zeros before it, which could be many.
fn numbered(name: &str) -> Option<i32> {
    name.parse().ok().filter(|number: &i32| number.to_string() == name)
}

fn descriptor(kernel: &Kernel, number: &str) -> Special {
    let Some((fd, file)) = numbered(number).and_then(|fd| Some((fd, kernel.file(fd).ok()?))) else {
        return Special::Absent;
    };
    match &file.kind {
        // A directory is found where it is now.
        Kind::Directory(directory) => match directory.path(&kernel.namespace, &file.path) {
            Ok(path) => Special::Link(path),
            Err(_) => Special::Descriptor(fd),
        },
        _ => Special::Descriptor(fd),
    }
}

fn in_proc(kernel: &Kernel, tid: Tid, rest: &str) -> Special {
    let (first, below) = rest.split_once('/').unwrap_or((rest, ""));
    match first {
        "" => Special::Directory(Listing::Names(PROC)),
        "self" if below.is_empty() => Special::Link(format!("/proc/{PID}").into()),
        "thread-self" if below.is_empty() => Special::Link(format!("/proc/{PID}/task/{tid}").into()),
        "self" => process(kernel, PID, below),
        "thread-self" => process(kernel, tid, below),
        OWN => process(kernel, PID, below),
        "sys" => system(kernel, below),
        "net" => network(kernel, below),
        _ if !below.is_empty() => Special::Absent,
        "meminfo" => {
            let (total, free) = kernel.mm().ram();
            let (total, free) = (total / 1024, free / 1024);
            text(format!(
                "MemTotal: {total:>14} kB\nMemFree: {free:>15} kB\nMemAvailable: {free:>10} kB\nBuffers: 0 kB\nCached: 0 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
            ))
        }
        "cpuinfo" => text(cpuinfo(kernel.cpus)),
        "stat" => {
            let mut out = String::from("cpu  0 0 0 0 0 0 0 0 0 0\n");
            for cpu in 0..kernel.cpus {
                let _ = writeln!(out, "cpu{cpu} 0 0 0 0 0 0 0 0 0 0");
            }
            let boot = (kernel.clock.realtime() - kernel.clock.monotonic()) / super::time::SECOND;
            let _ = writeln!(out, "ctxt 0\nbtime {boot}\nprocesses 1\nprocs_running 1\nprocs_blocked 0");
            text(out)
        }
        "uptime" => {
            let up = kernel.clock.monotonic() as f64 / super::time::SECOND as f64;
            text(format!("{up:.2} 0.00\n"))
        }
        "version" => text(format!("Linux version {RELEASE} {VERSION}\n")),
        "loadavg" => text(format!("0.00 0.00 0.00 1/1 {PID}\n")),
        "filesystems" => text("nodev\tproc\nnodev\ttmpfs\n".into()),
        "mounts" => text("root / rootfs rw 0 0\nproc /proc proc rw 0 0\n".into()),
        _ => Special::Absent,
    }
}

/// Tables of the program's network: what the JVM learns its addresses of the sixth version from.
fn network(kernel: &Kernel, name: &str) -> Special {
    match name {
        "" => Special::Directory(Listing::Names(&[("if_inet6", libc::DT_REG)])),
        "if_inet6" => kernel.network.table("if_inet6").map_or(Special::Absent, Special::Text),
        _ => Special::Absent,
    }
}

fn text(text: String) -> Special {
    Special::Text(text.into_bytes())
}

/// A file of `/proc/PID` or `/proc/PID/task/TID`.
fn process(kernel: &Kernel, tid: Tid, name: &str) -> Special {
    match name {
        "" => Special::Directory(Listing::Names(PROCESS)),
        "exe" => Special::Link(kernel.program.path.clone()),
        "cwd" => Special::Link(kernel.working_directory()),
        "root" => Special::Link("/".into()),
        "cmdline" => Special::Text(joined(&kernel.program.arguments)),
        "environ" => Special::Text(joined(&kernel.program.environment)),
        "comm" => text(format!("{}\n", comm(kernel))),
        "maps" => text(maps(kernel)),
        "statm" => {
            let (total, free) = kernel.mm().ram();
            let resident = (total - free) / 4096;
            text(format!("{resident} {resident} 0 0 0 0 0\n"))
        }
        "stat" => {
            let threads = kernel.sched.lock().threads.len();
            let (total, free) = kernel.mm().ram();
            text(format!(
                "{tid} ({}) R {PPID} {PID} {PID} 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 0 {} {} 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
                comm(kernel),
                total - free,
                (total - free) / 4096
            ))
        }
        "status" => text(status(kernel, tid)),
        "mounts" | "mountinfo" | "cgroup" => Special::Text(Vec::new()),
        "oom_score_adj" => text("0\n".into()),
        "fd" => Special::Directory(Listing::Descriptors),
        "task" => Special::Directory(Listing::Threads),
        name => {
            if let Some(number) = name.strip_prefix("fd/") {
                return descriptor(kernel, number);
            }
            let Some(rest) = name.strip_prefix("task/") else { return Special::Absent };
            let (number, below) = rest.split_once('/').unwrap_or((rest, ""));
            match numbered(number) {
                Some(tid) if !kernel.sched.is_gone(tid) && !below.starts_with("task") => {
                    process(kernel, tid, below)
                }
                _ => Special::Absent,
            }
        }
    }
}

fn system(kernel: &Kernel, name: &str) -> Special {
    match name {
        "kernel/osrelease" => text(format!("{RELEASE}\n")),
        "kernel/ostype" => text("Linux\n".into()),
        "kernel/version" => text(format!("{VERSION}\n")),
        "kernel/hostname" => text(format!("{}\n", kernel.identity.host_name)),
        "kernel/pid_max" => text("4194304\n".into()),
        "kernel/threads-max" => text(format!("{}\n", super::sched::MAX_THREADS)),
        "kernel/cap_last_cap" => text("40\n".into()),
        "kernel/ngroups_max" => text("65536\n".into()),
        "vm/overcommit_memory" => text("1\n".into()),
        "vm/max_map_count" => text("65530\n".into()),
        "vm/mmap_min_addr" => text("65536\n".into()),
        "net/core/somaxconn" => text("4096\n".into()),
        _ => Special::Absent,
    }
}

fn joined(strings: &[Vec<u8>]) -> Vec<u8> {
    strings.iter().flat_map(|s| s.iter().copied().chain([0])).collect()
}

fn comm(kernel: &Kernel) -> String {
    let name = kernel.program.path.file_name().unwrap_or_default().to_string_lossy();
    name.chars().take(15).collect()
}

fn status(kernel: &Kernel, tid: Tid) -> String {
    let (total, free) = kernel.mm().ram();
    let resident = (total - free) / 1024;
    let threads = kernel.sched.lock().threads.len();
    let (uid, gid) = (kernel.identity.uid, kernel.identity.gid);
    format!(
        "Name:\t{}\nUmask:\t{:04o}\nState:\tR (running)\nTgid:\t{PID}\nNgid:\t0\nPid:\t{tid}\nPPid:\t{PPID}\nTracerPid:\t0\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{gid}\t{gid}\t{gid}\t{gid}\nVmPeak:\t{resident} kB\nVmSize:\t{resident} kB\nVmHWM:\t{resident} kB\nVmRSS:\t{resident} kB\nThreads:\t{threads}\nSeccomp:\t0\nCpus_allowed_list:\t0-{}\nMems_allowed_list:\t0\n",
        comm(kernel),
        kernel.umask(),
        kernel.cpus - 1,
    )
}

fn maps(kernel: &Kernel) -> String {
    let mut out = String::new();
    for (start, region) in kernel.mm().regions() {
        let letter = |access, letter| if region.access.contains(access) { letter } else { '-' };
        let (offset, (device, inode), name) = match &region.backing {
            Backing::Zero => (0, (0, 0), region.label),
            Backing::Object { offset, .. } => (*offset, (0, 0), region.label),
            Backing::File { file, offset } => (*offset, file.identity, file.path.as_str()),
        };
        let line = format!(
            "{start:08x}-{:08x} {}{}{}{} {offset:08x} {:02x}:{:02x} {inode} ",
            region.end,
            letter(Access::READ, 'r'),
            letter(Access::WRITE, 'w'),
            letter(Access::EXECUTE, 'x'),
            if region.shared { 's' } else { 'p' },
            rustix::fs::major(device),
            rustix::fs::minor(device),
        );
        // Writing to a string cannot fail.
        let _ = if name.is_empty() { writeln!(out, "{line}") } else { writeln!(out, "{line:<73}{name}") };
    }
    out
}

/// What programs look for in `cpuinfo`: how many processors, and which features.
fn cpuinfo(cpus: usize) -> String {
    let host = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let one = host.split("\n\n").next().unwrap_or("");
    (0..cpus).fold(String::new(), |mut out, cpu| {
        for line in one.lines() {
            let _ = match line.split_once(':') {
                Some((key, _)) if key.trim() == "processor" => writeln!(out, "processor\t: {cpu}"),
                _ => writeln!(out, "{line}"),
            };
        }
        out.push('\n');
        out
    })
}

impl Special {
    /// What `stat` shows of it.
    pub fn attributes(&self) -> Result<Attributes, Errno> {
        match self {
            Special::Text(_) => Ok(Attributes::synthetic(libc::S_IFREG | 0o444)),
            Special::Directory(_) => Ok(Attributes::synthetic(libc::S_IFDIR | 0o555)),
            Special::Link(_) | Special::Descriptor(_) => Ok(Attributes::synthetic(libc::S_IFLNK | 0o777)),
            Special::Device(name) => Ok(Attributes::from_host(&rustix::fs::stat(format!("/dev/{name}"))?)),
            Special::Absent => Err(Errno::ENOENT),
        }
    }

    /// Opens a text, directory or device.
    pub fn open(self, kernel: &Kernel, path: PathBuf, flags: u32, kept: u32) -> Result<Arc<File>, Errno> {
        let writes = flags as i32 & libc::O_ACCMODE != libc::O_RDONLY;
        let exclusive = flags as i32 & (libc::O_CREAT | libc::O_EXCL) == libc::O_CREAT | libc::O_EXCL;
        match self {
            Special::Absent if flags as i32 & libc::O_CREAT != 0 => Err(Errno::EACCES),
            Special::Absent => Err(Errno::ENOENT),
            _ if exclusive => Err(Errno::EEXIST),
            Special::Directory(_) if writes => Err(Errno::EISDIR),
            Special::Text(_) if writes => Err(Errno::EACCES),
            Special::Text(_) | Special::Device(_) if flags as i32 & libc::O_DIRECTORY != 0 => {
                Err(Errno::ENOTDIR)
            }
            Special::Directory(listing) => {
                let kind = Kind::Directory(Directory::Listed(listing, Default::default()));
                Ok(kernel.new_file(kind, path, kept))
            }
            Special::Text(bytes) => {
                Ok(kernel.new_file(Kind::Text(Text::new(&kernel.budget, bytes)?), path, kept))
            }
            Special::Device(TERMINAL) => kernel.terminal().ok_or(Errno::ENXIO),
            Special::Device(name) => kernel.new_host_file(host_device(name, flags)?, path, kept, false),
            Special::Link(_) | Special::Descriptor(_) => Err(Errno::ELOOP),
        }
    }
}

impl Kernel {
    /// The program's terminal: one that it inherited. Hydra's own is none of its business.
    fn terminal(&self) -> Option<Arc<File>> {
        let files: Vec<_> = self.descriptors().iter().map(|(_, entry)| Arc::clone(&entry.file)).collect();
        files.into_iter().find(|file| match &file.kind {
            Kind::Host(host) => host.is_stream() && rustix::termios::isatty(host.fd()),
            _ => false,
        })
    }
}

fn host_device(name: &str, flags: u32) -> Result<OwnedFd, Errno> {
    if name == TERMINAL {
        return Err(Errno::ENXIO);
    }
    let mode = OFlags::from_bits_truncate(flags & libc::O_ACCMODE as u32);
    let flags = mode | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::openat(CWD, format!("/dev/{name}"), flags, Mode::empty())?)
}

/// The name of the device that the guest knows by this path.
fn device_name(path: &Path) -> Option<&'static str> {
    let name = path.strip_prefix("/dev").ok()?;
    DEVICES.into_iter().find(|device| Path::new(device) == name)
}

/// Whether the path is that of a device of the host.
pub fn is_device(path: &Path) -> bool {
    device_name(path).is_some()
}

/// Opens a device of the host that the guest knows by this path; for a restored program.
pub fn open_device(path: &Path, flags: u32) -> Result<OwnedFd, Errno> {
    host_device(device_name(path).ok_or(Errno::ENOENT)?, flags)
}
