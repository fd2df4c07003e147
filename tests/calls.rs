//! Scripts of random memory and random system calls, played on the handlers themselves: none panics, and nothing of the host is left
//! behind. `tests/fuzz` plays such scripts for as long as one likes.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hydra::linux::{Direct, Mount, Source};
use proptest::prelude::*;

/// Guest RAM.
const MEMORY: u64 = 16 << 20;
/// Longest file that the process may make: a script may ask for any length.
const FILE: u64 = 64 << 20;

/// One test at a time: one of them counts the process's descriptors.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn limit_files() {
    rustix::process::setrlimit(
        rustix::process::Resource::Fsize,
        rustix::process::Rlimit { current: Some(FILE), maximum: Some(FILE) },
    )
    .expect("a limit can be lowered");
    // SAFETY: ignoring a signal runs no code; a longer file is then an error.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("our own descriptors").count()
}

fn play(script: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let (root, read_only) = (dir.path().join("root"), dir.path().join("ro"));
    for made in [&root, &read_only] {
        std::fs::create_dir(made).expect("a directory");
        std::fs::write(made.join("f"), "content").expect("a file");
    }
    let mount = |source: &Path, target: &str, read_only| Mount {
        source: Source::Host(source.into()),
        target: target.into(),
        read_only,
    };
    let mounts = [mount(&root, "/", false), mount(&read_only, "/ro", true)];
    Direct::new(MEMORY, &mounts).expect("a program").play(script);
    let in_guest = Mount { source: Source::tmpfs(MEMORY), target: "/".into(), read_only: false };
    Direct::new(MEMORY, &[in_guest]).expect("a program").play(script);
    assert_eq!(std::fs::read(read_only.join("f")).expect("the file"), b"content");
    assert_eq!(std::fs::read_dir(&read_only).expect("the mount").count(), 1, "something was made below /ro");
    assert_eq!(std::fs::read_dir(dir.path()).expect("our own").count(), 2, "something left the root");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_script_breaks_a_handler(script in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _alone = alone();
        limit_files();
        play(&script);
    }
}

#[test]
fn a_program_that_stops_itself_goes_on() {
    let _alone = alone();
    let mut direct = Direct::new(MEMORY, &[]).expect("a program");
    let process = direct.call(libc::SYS_getpid as u64, [0; 6]).expect("a number");
    for signal in [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU] {
        let sent = direct.call(libc::SYS_kill as u64, [process, signal as u64, 0, 0, 0, 0]);
        assert_eq!(sent, Some(0), "{signal}");
    }
}

#[test]
fn what_a_script_opens_is_closed_after_it() {
    let _alone = alone();
    limit_files();
    // openat, memfd_create, eventfd2, epoll_create1, pipe2, timerfd_create, socketpair: each call's number, then its arguments.
    let path = [[16, 0, 3].as_slice(), b"f\0\0"].concat();
    let mut script = path;
    for number in [257u16, 319, 290, 291, 293, 283, 53] {
        script.push(255);
        script.extend(number.to_le_bytes());
        script.extend([0, 80, 0, 0, 0, 0, 0, 0]);
    }
    let before = descriptors();
    for _ in 0..16 {
        play(&script);
    }
    // The thread that waits for events lets go of its own soon.
    let deadline = Instant::now() + Duration::from_secs(60);
    while descriptors() > before {
        assert!(Instant::now() < deadline, "{} descriptors, {before} before", descriptors());
        std::thread::yield_now();
    }
}

#[test]
fn what_is_held_for_sets_of_files_is_bounded_and_given_back() {
    let root = Mount { source: Source::tmpfs(MEMORY), target: "/".into(), read_only: false };
    let mut program = Direct::new(MEMORY, &[root]).expect("a program");
    let mut call = |number: i64, args: [u64; 4]| {
        let [one, two, three, four] = args;
        program.call(number as u64, [one, two, three, four, u64::MAX, 0]).expect("it lives") as i64
    };
    // Zero bytes: no events are wanted.
    let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let event = call(libc::SYS_mmap, [0, 4096, 3, anonymous]) as u64;
    let file = call(libc::SYS_eventfd2, [0, 0, 0, 0]) as u64;
    let files: Vec<u64> = (0..500).map(|_| call(libc::SYS_dup, [file, 0, 0, 0]) as u64).collect();
    let mut fill = || {
        let sets: Vec<u64> = (0..400).map(|_| call(libc::SYS_epoll_create1, [0, 0, 0, 0]) as u64).collect();
        let mut added = 0;
        let refused = sets.iter().flat_map(|set| files.iter().map(move |file| (*set, *file))).find_map(
            |(set, file)| {
                let result = call(libc::SYS_epoll_ctl, [set, libc::EPOLL_CTL_ADD as u64, file, event]);
                added += i32::from(result == 0);
                (result != 0).then_some(result)
            },
        );
        assert_eq!(refused, Some(-i64::from(libc::ENOSPC)));
        // What one set no longer holds another may.
        let swap = [
            (sets[0], libc::EPOLL_CTL_DEL),
            (sets[399], libc::EPOLL_CTL_ADD),
            (sets[0], libc::EPOLL_CTL_ADD),
        ];
        let results = swap.map(|(set, what)| call(libc::SYS_epoll_ctl, [set, what as u64, files[0], event]));
        assert_eq!(results, [0, 0, -i64::from(libc::ENOSPC)]);
        sets.iter().for_each(|set| assert_eq!(call(libc::SYS_close, [*set, 0, 0, 0]), 0));
        added
    };
    let first = fill();
    assert_eq!(fill(), first);
}
