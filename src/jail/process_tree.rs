//! The processes below a jail's init, by `/proc`: their memory, and their end where no PID namespace brings it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::MemfdFlags;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

/// Rounds of [`kill_below`]: each ends all that the one before did not see being forked.
const ROUNDS: u32 = 200;

/// Descriptors that are looked at for files in memory at a time, at most: no common program has as many.
const DESCRIPTORS: usize = 16 << 10;

/// Bytes of memory that belong to `pid` and all processes below it: anonymous and shared-memory pages. Pages of
/// programs and libraries, which the kernel shares, do not count; a page shared after `fork` counts in each. Files in memory
/// (memfd_create(2)) count once, mapped or not; as what is mapped may be them, only the larger of both does.
pub fn memory(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let [mut anonymous, mut shared] = resident(&status);
    let processes = below(pid);
    for process in &processes {
        // One that ended meanwhile has no memory.
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let [more, more_shared] = resident(&status);
        (anonymous, shared) = (anonymous + more, shared + more_shared);
    }
    Ok(anonymous + shared.max(files_in_memory(&processes)))
}

/// Bytes of the files in memory that the processes have open.
fn files_in_memory(processes: &[u32]) -> u64 {
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    let look = || {
        let file = File::from(rustix::fs::memfd_create("", MemfdFlags::CLOEXEC).ok()?);
        Some(file.metadata().ok()?.dev())
    };
    // All of them lie on a file system of the kernel's own.
    let Some(device) = *DEVICE.get_or_init(look) else { return 0 };
    let folders = processes.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok());
    let files = folders.flatten().flatten().take(DESCRIPTORS).filter_map(|fd| fs::metadata(fd.path()).ok());
    let in_memory = files.filter(|file| file.dev() == device);
    // By inode, whoever has it open.
    let blocks: HashMap<u64, u64> = in_memory.map(|file| (file.ino(), file.blocks())).collect();
    // Of 512 bytes, says stat(2).
    blocks.into_values().sum::<u64>() * 512
}

/// Kills all processes below `pid` (not itself), which must be a subreaper, until there are none.
pub fn kill_below(pid: u32) {
    for _ in 0..ROUNDS {
        let processes: Vec<u32> = below(pid).into_iter().filter(|process| !is_zombie(*process)).collect();
        if processes.is_empty() {
            return;
        }
        for process in processes {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(process as i32), Signal::SIGKILL);
        }
        std::thread::yield_now();
    }
}

/// All processes below `pid`, parents first.
pub fn below(pid: u32) -> Vec<u32> {
    let mut found = children(pid);
    let mut next = 0;
    while next < found.len() {
        let more = children(found[next]);
        found.extend(more);
        next += 1;
    }
    found
}

/// The children of all threads of `pid`.
fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    found
}

fn is_zombie(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    field(&status, "State:").is_none_or(|state| state.starts_with('Z'))
}

/// `RssAnon` and `RssShmem` of proc_pid_status(5), in bytes.
fn resident(status: &str) -> [u64; 2] {
    ["RssAnon:", "RssShmem:"].map(|name| {
        let kib = field(status, name).and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    })
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::Command;

    #[test]
    fn a_child_is_below_and_has_memory() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep starts");
        assert!(below(std::process::id()).contains(&child.id()));
        // Between fork and exec the child still has this process's memory: there is some at any time.
        assert!(memory(child.id()).expect("its status") > 0);
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert!(memory(child.id()).is_err());
    }

    #[test]
    fn a_file_in_memory_counts_once_whoever_has_it_open() {
        const BYTES: u64 = 3 << 20;
        // Not close-on-exec: the children have it too.
        let file = rustix::fs::memfd_create("counted", MemfdFlags::empty()).expect("a file in memory");
        let mut file = File::from(file);
        file.write_all(&[1; BYTES as usize]).expect("room for it");
        let sleep = || Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let mut children = [sleep(), sleep()];
        let counted = files_in_memory(&children.each_ref().map(std::process::Child::id));
        for child in &mut children {
            child.kill().expect("killed");
            child.wait().expect("reaped");
        }
        // The kernel may give it large pages.
        assert!((BYTES..2 * BYTES).contains(&counted), "{counted}");
        assert_eq!(files_in_memory(&[children[0].id()]), 0);
    }

    #[test]
    fn resident_memory_of_a_status() {
        assert_eq!(
            resident("Name:\tx\nRssAnon:\t     100 kB\nRssFile:\t 7 kB\nRssShmem:\t       4 kB\n"),
            [100 * 1024, 4 * 1024]
        );
        assert_eq!(resident("Name:\tzombie\n"), [0, 0]);
    }
}
