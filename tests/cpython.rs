//! CPython's own test suite as the judge of the guest's Linux: a case that passes natively must pass in a microVM, unless
//! `tests/cpython/exclusions.toml` says why it cannot.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

const PYTHON: &str = "/usr/bin/python3.11";
/// Seconds after which a single case counts as hanging.
const CASE_LIMIT: u32 = 300;
/// Longest time for a module, natively or in the guest.
const MODULE_LIMIT: Duration = Duration::from_secs(600);
/// Most cases that are given a second chance.
const MOST_AGAIN: usize = 20;

/// Cases that need not pass in a microVM.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exclusions {
    exclusion: Vec<Exclusion>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exclusion {
    reason: String,
    /// They may pass all the same.
    #[serde(default)]
    may_pass: bool,
    /// They are not even begun, because they hang.
    #[serde(default)]
    hangs: bool,
    cases: Vec<String>,
}

impl Exclusions {
    fn read() -> Exclusions {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cpython/exclusions.toml");
        toml::from_str(&std::fs::read_to_string(path).expect("the list")).expect("a list of exclusions")
    }

    fn of(&self, case: &str) -> Option<&Exclusion> {
        self.exclusion.iter().find(|e| e.cases.iter().any(|c| c == case))
    }

    fn hanging(&self) -> impl Iterator<Item = &str> {
        self.exclusion.iter().filter(|e| e.hangs).flat_map(|e| e.cases.iter().map(String::as_str))
    }
}

/// What became of a case.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
    /// It was begun, and that is the last that was heard of it.
    Unfinished,
    /// It was not begun.
    Missing,
}

type Outcomes = BTreeMap<String, Outcome>;

/// Reads what `record.py` wrote.
fn parse(record: &str) -> Outcomes {
    let mut outcomes = Outcomes::new();
    for line in record.lines() {
        let Some((event, rest)) = line.split_once(' ') else { continue };
        let (case, detail) = rest.split_once('\t').unwrap_or((rest, ""));
        let known = outcomes.entry(case.to_owned()).or_insert(Outcome::Unfinished);
        // A case whose clean-up fails has failed, whatever came before.
        if !matches!(known, Outcome::Failed(_)) {
            *known = match event {
                "pass" => Outcome::Passed,
                "fail" => Outcome::Failed(detail.to_owned()),
                "skip" => Outcome::Skipped(detail.to_owned()),
                _ => Outcome::Unfinished,
            };
        }
    }
    outcomes
}

/// Where a module is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Natively,
    InGuest,
}

/// Runs a module, or only some of its cases; the second value is what it printed.
fn run(place: Place, module: &str, only: &[&str], exclusions: &Exclusions) -> (Outcomes, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let (record, log) = (dir.path().join("record"), dir.path().join("log"));
    let work = dir.path().join("work");
    std::fs::create_dir(&work).expect("a directory");
    let output = std::fs::File::create(&log).expect("a file");
    let mut command = match place {
        Place::Natively => Command::new(PYTHON),
        Place::InGuest => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_hydra"));
            command.args(["exec", "--", PYTHON]);
            command
        }
    };
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cpython/record.py"))
        .arg(&record)
        .args(["-v", "--timeout", &CASE_LIMIT.to_string(), "--tempdir"])
        .arg(&work);
    for case in exclusions.hanging() {
        command.args(["--ignore", case]);
    }
    for case in only {
        command.args(["--match", case]);
    }
    command
        .arg(module)
        .current_dir(&work)
        .env_clear()
        .envs([("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("PYTHONDONTWRITEBYTECODE", "1")])
        .envs([("HOME", &work), ("TMPDIR", &work)])
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a descriptor"))
        .stderr(output);
    let mut child = command.spawn().expect("the command starts");
    let started = Instant::now();
    while child.try_wait().expect("the child can be waited for").is_none() {
        if started.elapsed() > MODULE_LIMIT {
            child.kill().expect("the child can be ended");
            child.wait().expect("the child can be waited for");
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // The suite's own encoding errors are a subject of the suite.
    let text = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    (parse(&text(&record)), text(&log))
}

/// Whether CPython's suite and KVM are here; if not, says what is missing.
fn can_run(module: &str) -> bool {
    let required = |variable| std::env::var_os(variable).is_some_and(|value| value == "1");
    if let Err(error) = hydra::vmm::Hypervisor::get() {
        assert!(!required("HYDRA_REQUIRE_KVM"), "{error}");
        eprintln!("{module} skipped: {error}");
        return false;
    }
    let mut probe = Command::new(PYTHON);
    // A module of the suite: Debian has what runs it in the standard library.
    probe.args(["-c", "import test.test_struct"]).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        assert!(!required("HYDRA_REQUIRE_ALL"), "CPython 3.11's test suite is missing");
        eprintln!(
            "{module} skipped: CPython 3.11's test suite is missing (apt-get install libpython3.11-testsuite)"
        );
        return false;
    }
    true
}

/// Holds a module's outcomes in the guest against the native ones.
fn judge(module: &str) {
    if !can_run(module) {
        return;
    }
    let exclusions = Exclusions::read();
    let (native, log) = run(Place::Natively, module, &[], &exclusions);
    let expected: Vec<&str> =
        native.iter().filter(|(_, o)| **o == Outcome::Passed).map(|(case, _)| case.as_str()).collect();
    assert!(!expected.is_empty(), "{module}: no case passes natively:\n{log}");

    let (mut guest, log) = run(Place::InGuest, module, &[], &exclusions);
    let failed = |guest: &Outcomes| -> Vec<String> {
        let fails = |case: &&str| guest.get(*case) != Some(&Outcome::Passed) && exclusions.of(case).is_none();
        expected.iter().copied().filter(fails).map(str::to_owned).collect()
    };
    // Some cases measure times, which another program on this machine can spoil.
    let again = failed(&guest);
    if (1..=MOST_AGAIN).contains(&again.len()) {
        let only: Vec<&str> = again.iter().map(String::as_str).collect();
        for (case, outcome) in run(Place::InGuest, module, &only, &exclusions).0 {
            if outcome == Outcome::Passed && again.contains(&case) {
                eprintln!("{module}: {case} passes at its second run only");
                guest.insert(case, outcome);
            }
        }
    }

    let mut report = String::new();
    for case in failed(&guest) {
        let outcome = guest.get(&case).unwrap_or(&Outcome::Missing);
        let _ = writeln!(report, "  \"{case}\", # {outcome:?}");
    }
    let cut_short = guest.values().any(|o| *o == Outcome::Unfinished);
    assert!(
        report.is_empty(),
        "{module}: these cases pass natively, but not in the guest:\n{report}{}",
        if cut_short { &log } else { "" }
    );
    for (case, outcome) in &guest {
        let excluded = exclusions.of(case).filter(|e| !e.may_pass);
        if let (Outcome::Passed, Some(exclusion)) = (outcome, excluded) {
            let _ = writeln!(report, "  \"{case}\", # {}", exclusion.reason);
        }
    }
    assert!(report.is_empty(), "{module}: these cases are excluded, but pass:\n{report}");
    eprintln!("{module}: {} cases pass natively", expected.len());
}

/// A test for each module, and the list of them.
macro_rules! modules {
    ($($test:ident: $module:literal $(#[$attribute:meta])?;)*) => {
        const MODULES: &[&str] = &[$($module),*];
        $(
            #[test]
            $(#[$attribute])?
            fn $test() {
                judge($module);
            }
        )*
    };
}

// Those that take a minute or more are left to `./hydra test cpython`. Debian's package has no test_sqlite3.
modules! {
    asyncio_events: "test_asyncio.test_events";
    decimal: "test_decimal";
    faulthandler: "test_faulthandler" #[ignore = "it is slow"];
    fileio: "test_fileio";
    gc: "test_gc";
    hashlib: "test_hashlib";
    io: "test_io" #[ignore = "it is slow"];
    json: "test_json";
    mmap: "test_mmap";
    os: "test_os";
    posix: "test_posix";
    queue: "test_queue";
    random: "test_random";
    re: "test_re";
    select: "test_select";
    selectors: "test_selectors" #[ignore = "it is slow"];
    shutil: "test_shutil";
    signal: "test_signal" #[ignore = "it is slow"];
    socket: "test_socket" #[ignore = "it is slow"];
    structs: "test_struct";
    tempfile: "test_tempfile";
    thread: "test_thread";
    threading: "test_threading";
    time: "test_time";
    zlib: "test_zlib";
}

#[test]
fn every_exclusion_has_a_reason_and_names_cases_of_these_modules_once() {
    let mut seen = std::collections::BTreeSet::new();
    for Exclusion { reason, cases, .. } in &Exclusions::read().exclusion {
        assert!(!reason.is_empty() && !cases.is_empty());
        for case in cases {
            assert!(seen.insert(case.clone()), "{case} is listed twice");
            let known = |m: &&str| case.starts_with(&format!("test.{m}."));
            assert!(MODULES.iter().any(known), "{case} belongs to no module");
        }
    }
}

#[test]
fn records_are_read() {
    let record = "start a\t\npass a\t\nstart b\t\nfail b\tOSError: 1\npass b\t\nstart c\t\nskip d\twhy\n";
    let outcomes = parse(record);
    assert_eq!(outcomes["a"], Outcome::Passed);
    assert_eq!(outcomes["b"], Outcome::Failed("OSError: 1".into()));
    assert_eq!(outcomes["c"], Outcome::Unfinished);
    assert_eq!(outcomes["d"], Outcome::Skipped("why".into()));
}
