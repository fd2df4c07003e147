//! Any bytes as a script of changes of a program's memory and of its system calls: no panic, and nothing outside of the program's
//! root is changed.
#![no_main]
use hydra::linux::{Direct, Mount, Source};
use libfuzzer_sys::fuzz_target;
use std::{fs, sync::Once};

/// Guest RAM.
const MEMORY: u64 = 16 << 20;
/// Longest file that the process may make: a script may ask for any length.
const FILE: u64 = 64 << 20;

fuzz_target!(|script: &[u8]| {
    limit_files();
    let dir = tempfile::tempdir().expect("a folder to work in");
    let (root, read_only) = (dir.path().join("root"), dir.path().join("ro"));
    for made in [&root, &read_only] {
        fs::create_dir(made).expect("a new folder");
        fs::write(made.join("f"), "content").expect("a new file");
    }
    let mounts = [
        Mount { source: Source::Host(root), target: "/".into(), read_only: false },
        Mount { source: Source::Host(read_only.clone()), target: "/ro".into(), read_only: true },
    ];
    Direct::new(MEMORY, &mounts).expect("a program").play(script);
    assert_eq!(fs::read(read_only.join("f")).expect("the file"), b"content");
    assert_eq!(fs::read_dir(&read_only).expect("the mount").count(), 1, "something was made below /ro");
    assert_eq!(fs::read_dir(dir.path()).expect("our own folder").count(), 2, "something left the root");
});

fn limit_files() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let limit = libc::rlimit { rlim_cur: FILE, rlim_max: FILE };
        // SAFETY: plain system calls; ignoring a signal runs no code, and a longer file is then an error.
        unsafe {
            libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit);
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        }
    });
}
