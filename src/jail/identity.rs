//! Host users for jails: as root, each jail gets an ID that owns nothing on the host and that no other jail has.

use std::sync::atomic::{AtomicU32, Ordering};

use caps::{CapSet, Capability};

/// The user and group ID of an agent inside a user namespace. Not 0, so that executing a program gives no
/// capabilities.
pub const INSIDE: u32 = 1000;

/// The first ID of a range that systemd's table of user IDs leaves unassigned (1,879,048,192 to 2,147,352,575).
const FIRST: u32 = 0x7000_0000;
/// How many IDs are used in turn.
const COUNT: u32 = 0x1_0000;
/// IDs of jails that are checkpointed, whose copies have it too, in the same range.
const KEPT: u32 = 0x7100_0000;
const KEPT_COUNT: u32 = 0x0e00_0000;
/// `nobody`: used where the range is not mapped, as in a container with a user namespace of its own.
const NOBODY: u32 = 65534;

/// A host ID for one more jail; `None` if Hydra is not root, and so cannot give another.
pub fn unprivileged() -> Option<u32> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    within(FIRST, COUNT, || NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The same for what runs of sandboxes outside of jails; `None` if Hydra cannot act as another user either.
pub fn sandbox_user() -> Option<u32> {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    unprivileged().filter(|_| has(Capability::CAP_SETUID) && has(Capability::CAP_SETGID))
}

/// As [`unprivileged`], for the jails of one function, of those that are checkpointed: it is in the checkpoint.
pub fn kept(function: u64) -> Option<u32> {
    within(KEPT, KEPT_COUNT, || (function % u64::from(KEPT_COUNT)) as u32)
}

/// Whether a host ID is one that sandboxes have, and nobody else.
pub fn is_sandbox_user(id: u32) -> bool {
    (FIRST..FIRST + COUNT).contains(&id)
        || (KEPT..KEPT + KEPT_COUNT).contains(&id)
        || (id == NOBODY && unprivileged() == Some(NOBODY))
}

fn within(first: u32, count: u32, choose: impl FnOnce() -> u32) -> Option<u32> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let maps = ["/proc/self/uid_map", "/proc/self/gid_map"]
        .map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let mapped = |first, last| maps.iter().all(|map| covers(map, first, last));
    if mapped(first, first + count - 1) {
        Some(first + choose() % count)
    } else {
        mapped(NOBODY, NOBODY).then_some(NOBODY)
    }
}

/// Whether one line of an ID map (`inside outside count`) covers the IDs from `first` to `last`.
fn covers(map: &str, first: u32, last: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(inside)), Some(Ok(_)), Some(Ok(count))) => {
                inside <= first.into() && u64::from(last) < inside + count
            }
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_maps() {
        let host = "         0          0 4294967295\n";
        assert!(covers(host, FIRST, FIRST + COUNT - 1));
        let rootless = "         0       1000          1\n         1     100000      65536\n";
        assert!(covers(rootless, NOBODY, NOBODY));
        assert!(!covers(rootless, FIRST, FIRST));
        assert!(!covers(rootless, 0, 1));
        assert!(!covers("", 0, 0));
    }

    #[test]
    fn sandboxes_users_are_told_from_others() {
        assert!([unprivileged(), kept(7)].into_iter().flatten().all(is_sandbox_user));
        for other in [0, 1000, nix::unistd::geteuid().as_raw(), FIRST - 1, FIRST + COUNT, u32::MAX] {
            assert!(!is_sandbox_user(other), "{other}");
        }
    }
}
