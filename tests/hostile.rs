//! A program that tries everything (`tests/guests/hostile`) runs as a guest, a category at a time: the host process must
//! neither panic, hang nor grow, nothing outside of the guest's root may change, and the next guest must run.

use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest run of a category before it counts as a hang; the machine may be slow.
const DEADLINE: Duration = Duration::from_secs(120);
/// Guest RAM.
const RAM_MIB: u64 = 128;
/// Host memory beside the guest's RAM that a guest may make the host use.
const OVERHEAD_KIB: u64 = 256 << 10;
/// Exit statuses of a host process that panicked, or whose microVM failed. Any other is the guest's own: it may well die of what it does.
const HOST_FAILED: [i32; 2] = [101, 125];

/// Whether there is a KVM; if not, says so.
fn can_run(category: &str) -> bool {
    let there = Path::new("/dev/kvm").exists();
    if !there {
        assert!(std::env::var_os("HYDRA_REQUIRE_KVM").is_none(), "this test needs /dev/kvm");
        eprintln!("{category} skipped: there is no /dev/kvm");
    }
    there
}

/// The program, compiled unless that was done since it was changed.
fn program() -> PathBuf {
    // The threads of this process do it one after the other.
    static BUILD: Mutex<()> = Mutex::new(());
    let _build = BUILD.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/hostile");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile");
    let sources: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the sources")
        .map(|entry| entry.expect("a source").path())
        .collect();
    let changed = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    if changed(&target) < sources.iter().map(|path| changed(path)).max().flatten() {
        // Tests in other processes may do the same at the same time.
        let new = target.with_added_extension(std::process::id().to_string());
        let flags = ["-O1", "-static", "-pthread", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-o"];
        let files = sources.iter().filter(|path| path.extension().is_some_and(|e| e == "c"));
        let built = Command::new("cc").args(flags).arg(&new).args(files).status();
        assert!(built.expect("a C compiler").success());
        std::fs::rename(&new, &target).expect("the program is put in its place");
    }
    target
}

#[test]
fn the_program_compiles() {
    program();
}

/// What a run left.
struct Run {
    status: ExitStatus,
    output: String,
    errors: String,
    peak_kib: u64,
}

/// Peak resident memory of a process that still runs.
fn peak_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

/// Runs one category in a fresh root, with a read-only mount at `/ro`.
fn exec(root: &Path, read_only: &Path, arguments: &[&str]) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hydra"))
        .args(["exec", "--network", "closed", "--memory", &RAM_MIB.to_string(), "--root"])
        .arg(root)
        .arg("--mount")
        .arg(format!("{}:/ro:ro", read_only.display()))
        .arg("--")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("hydra starts");
    let drain = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = from.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let output = drain(Box::new(child.stdout.take().expect("a pipe")));
    let errors = drain(Box::new(child.stderr.take().expect("a pipe")));
    let (started, mut peak) = (Instant::now(), 0);
    let status = loop {
        peak = peak.max(peak_kib(child.id()).unwrap_or(0));
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            break status;
        }
        if started.elapsed() > DEADLINE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{arguments:?} did not end within {DEADLINE:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let (output, errors) = (output.join().expect("a reader"), errors.join().expect("a reader"));
    Run { status, output, errors, peak_kib: peak }
}

fn attributes(path: &Path) -> (u32, u32, u32, u64, i64) {
    let m = std::fs::metadata(path).expect("the file is there");
    (m.mode(), m.uid(), m.gid(), m.size(), m.mtime())
}

/// The seeds of a category's random numbers. `HYDRA_HOSTILE_SEED` is one to use instead.
fn seeds(category: &str) -> Vec<String> {
    /// Those that do little else than try random things, and so do something else with each seed.
    const RANDOM: [&str; 5] = ["calls", "frames", "instructions", "memory", "vectors"];
    match std::env::var("HYDRA_HOSTILE_SEED") {
        Ok(seed) => vec![seed],
        Err(_) if RANDOM.contains(&category) => (1..=3).map(|seed| seed.to_string()).collect(),
        Err(_) => vec!["1".into()],
    }
}

fn withstand(category: &str, survives: bool) {
    if can_run(category) {
        for seed in seeds(category) {
            eprintln!("category {category}, seed {seed} (HYDRA_HOSTILE_SEED)");
            withstand_seed(category, &seed, survives);
        }
    }
}

/// Runs a category and checks the host. `survives`: the program itself must come to its end too.
fn withstand_seed(category: &str, seed: &str, survives: bool) {
    let dir = tempfile::tempdir().expect("a directory");
    let (root, read_only, secret) =
        (dir.path().join("root"), dir.path().join("ro"), dir.path().join("secret"));
    for made in [&root, &read_only, &root.join("ro")] {
        std::fs::create_dir(made).expect("a directory");
    }
    std::fs::write(&secret, "the secret").expect("a file");
    let kept = read_only.join("kept");
    std::fs::write(&kept, "kept").expect("a file");
    std::fs::set_permissions(&kept, std::fs::Permissions::from_mode(0o640)).expect("a mode");
    std::os::unix::fs::symlink("kept", read_only.join("link")).expect("a link");
    let _listener = UnixListener::bind(read_only.join("socket")).expect("a socket");
    // Another category's run may have it.
    let name = SocketAddr::from_abstract_name("hydra-hostile").expect("an address");
    let _abstract_listener = UnixListener::bind_addr(&name);
    std::fs::copy(program(), root.join("hostile")).expect("a copy");
    let before = [&kept, &secret].map(|path| attributes(path));

    let run = exec(&root, &read_only, &["/hostile", category, seed]);
    let (code, errors) = (run.status.code(), &run.errors);
    assert_eq!(run.status.signal(), None, "the host process was ended by a signal: {errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    assert!(!code.is_some_and(|c| HOST_FAILED.contains(&c)), "the host failed: {errors}");
    assert!(!run.output.contains("escaped"), "{}", run.output);
    assert!(run.peak_kib < (RAM_MIB << 10) + OVERHEAD_KIB, "the host process grew to {} KiB", run.peak_kib);
    assert_eq!(
        [&kept, &secret].map(|path| attributes(path)),
        before,
        "a file outside of the root was changed"
    );
    assert_eq!(std::fs::read_dir(&read_only).expect("the mount").count(), 3, "something was made below /ro");
    if survives {
        assert!(
            run.output.ends_with("survived\n"),
            "{category} ended with {code:?}: {} {errors}",
            run.output
        );
    }
    let after = exec(&root, &read_only, &["/hostile", "self-modifying", "1"]);
    assert_eq!((after.status.code(), after.output.as_str()), (Some(0), "survived\n"), "{}", after.errors);
}

macro_rules! categories {
    ($($test:ident: $name:literal, $survives:literal;)*) => {
        $(#[test]
        fn $test() {
            withstand($name, $survives);
        })*
    };
}

categories! {
    every_call_with_random_arguments: "calls", false;
    privileged_and_random_instructions: "instructions", false;
    kernel_calls_of_32_bit_code: "32-bit", true;
    calls_that_are_forged_where_others_are_answered: "forged-calls", true;
    page_faults_that_are_forged_where_others_are_answered: "forged-faults", false;
    the_window_of_ring_0: "window", true;
    code_that_changes_itself: "self-modifying", true;
    stacks_that_overflow: "stack", false;
    signal_frames_of_garbage: "frames", false;
    mappings_of_every_sort: "memory", false;
    as_many_regions_as_there_can_be: "regions", true;
    buffers_that_are_unmapped_during_a_call: "unmapped-buffers", true;
    more_descriptors_than_there_are: "descriptors", true;
    nested_epoll_sets: "nested-epoll", true;
    paths_as_long_as_can_be: "long-paths", true;
    what_is_closed_is_freed: "leaks", true;
    more_threads_than_there_can_be: "threads", false;
    futexes_at_bad_addresses: "futexes", false;
    ways_out_of_the_root: "paths", true;
    vectored_transfers: "vectors", true;
    waits_for_very_many_files: "waits", true;
}
