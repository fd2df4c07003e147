//! Node and the JVM: programs that lean on what these ask of Linux (threads, signals, compiled code, sockets, files, limits).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{can_run, installed, is_all_required, same_with};

macro_rules! node {
    ($($test:ident: $file:literal;)*) => {$(
        #[test]
        fn $test() {
            let Some(node) = installed("node") else {
                return eprintln!("{} skipped: node is not installed", stringify!($test));
            };
            if can_run(stringify!($test)) {
                let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/javascript/", $file);
                same_with(&["--memory", "2048"], $file, &node, &[program]);
            }
        }
    )*};
}

node! {
    node_compute: "compute.mjs";
    node_files: "files.mjs";
    node_library: "library.mjs";
    node_network: "network.mjs";
    node_workers: "workers.mjs";
}

/// Installs the packages of `tests/guests/javascript/packages`, unless that was done since the list was changed; `None` if they cannot be had.
fn packages() -> Option<PathBuf> {
    let lists = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/javascript/packages");
    let lock = fs::read(lists.join("package-lock.json")).expect("the list");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
    if fs::read(folder.join("package-lock.json")).is_ok_and(|installed| installed == lock) {
        return Some(folder);
    }
    let new = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    fs::copy(lists.join("package.json"), new.path().join("package.json")).expect("a copy");
    fs::write(new.path().join("package-lock.json"), lock).expect("a copy");
    let mut npm = Command::new(installed("npm")?);
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(new.path());
    if !npm.status().is_ok_and(|status| status.success()) {
        assert!(!is_all_required(), "the packages cannot be installed");
        return None;
    }
    // What an earlier list left.
    let _ = fs::remove_dir_all(&folder);
    fs::rename(new.keep(), &folder).expect("the packages are put in their place");
    Some(folder)
}

/// lodash, mustache, sharp and uuid.
#[test]
fn node_packages() {
    let Some(node) = installed("node") else {
        return eprintln!("node_packages skipped: node is not installed");
    };
    if !can_run("node_packages") {
        return;
    }
    let Some(folder) = packages() else {
        return eprintln!("node_packages skipped: npm cannot install the packages");
    };
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/javascript/packages.mjs");
    let folder = folder.to_str().expect("UTF-8");
    same_with(&["--memory", "2048"], "packages.mjs", &node, &[program, folder]);
}

/// Compiles a class of `tests/guests/java` and runs it natively and in the guest with this collector.
fn java(test: &str, class: &str, collector: &str) {
    let (Some(java), Some(javac)) = (installed("java"), installed("javac")) else {
        return eprintln!("{test} skipped: a JDK is not installed");
    };
    if !can_run(test) {
        return;
    }
    let classes = tempfile::tempdir().expect("a directory");
    let classes = classes.path().to_str().expect("UTF-8");
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/java").join(class).with_extension("java");
    assert!(Command::new(javac).args(["-d", classes]).arg(source).status().expect("javac runs").success());
    let collector = format!("-XX:+Use{collector}GC");
    // Without the file of its counters, whose name is the process's number: guests that share `/tmp` all have the same.
    let args = ["-Xmx256m", "-XX:-UsePerfData", &collector, "-cp", classes, class];
    same_with(&["--memory", "2048"], &format!("{class} {collector}"), &java, &args);
}

macro_rules! java {
    ($($test:ident: $class:literal $collector:literal;)*) => {$(
        #[test]
        fn $test() {
            java(stringify!($test), $class, $collector);
        }
    )*};
}

java! {
    java_compute_serial: "Compute" "Serial";
    java_compute_g1: "Compute" "G1";
    java_faults_serial: "Faults" "Serial";
    java_faults_g1: "Faults" "G1";
    java_library_serial: "Library" "Serial";
    java_library_g1: "Library" "G1";
    java_library_parallel: "Library" "Parallel";
    java_compute_parallel: "Compute" "Parallel";
    java_faults_parallel: "Faults" "Parallel";
    java_network_g1: "Network" "G1";
    java_network_serial: "Network" "Serial";
    java_threads_serial: "Threads" "Serial";
    java_threads_g1: "Threads" "G1";
    java_threads_parallel: "Threads" "Parallel";
}
