//! The functions of `tests/functions`, compiled and packed once for all test programs.

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::world::Language;

/// The folder that the code server serves.
pub fn folder() -> &'static Path {
    &BUILT.folder
}

/// Whether a language's functions could be built.
pub fn require(language: &Language) -> Result<(), String> {
    match &BUILT.without_java {
        Some(reason) if language.name == "java" => Err(reason.clone()),
        _ => Ok(()),
    }
}

/// A file of `tests/functions`.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/functions").join(path)
}

/// A zip with these entries: a name and what it holds.
pub fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(*name, SimpleFileOptions::default()).expect("an entry");
        writer.write_all(content).expect("written to memory");
    }
    writer.finish().expect("a zip").into_inner()
}

struct Built {
    folder: PathBuf,
    without_java: Option<String>,
}

static BUILT: LazyLock<Built> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("functions");
    fs::create_dir_all(&folder).expect("a folder for the functions");
    // Test programs run beside each other and use the same folder.
    let lock = File::create(folder.with_extension("lock")).expect("a lock file");
    lock.lock().expect("the lock");
    build_plain(&folder);
    let without_java = build_java(&folder).err();
    Built { folder, without_java }
});

fn build_plain(folder: &Path) {
    let read = |path: &str| fs::read(source(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    for path in [
        "kit.py",
        "kit.js",
        "snapshots.py",
        "snapshots.js",
        "notes.py",
        "broken/syntax.py",
        "broken/syntax.js",
        "broken/raises.py",
        "broken/raises.js",
        "broken/endless.py",
        "broken/endless.js",
        "shapes/module.mjs",
        "shapes/script.js",
        "isolates/number.py",
        "isolates/number.js",
    ] {
        put(folder, path.rsplit('/').next().expect("a name"), &read(path));
    }
    let python = zip(&[
        ("main.py", &read("shapes/main.py")),
        ("package/__init__.py", b""),
        ("package/beside.py", &read("shapes/beside.py")),
    ]);
    put(folder, "tree-python.zip", &python);
    let package = zip(&[("greeting/__init__.py", &read("shapes/beside.py"))]);
    put(folder, "package-python.zip", &package);
    let javascript = zip(&[
        ("index.js", &read("shapes/index.js")),
        ("node_modules/greeting/index.js", &read("shapes/greeting.js")),
    ]);
    put(folder, "tree-javascript.zip", &javascript);
    let module = zip(&[
        ("package.json", br#"{"type": "module", "main": "lib/start.js"}"#),
        ("lib/start.js", &read("shapes/module.mjs")),
    ]);
    put(folder, "package-javascript.zip", &module);
    put(folder, "page.zip", b"<!DOCTYPE html><html><body>Sign in first</body></html>");
    put(folder, "cut.zip", &python[..python.len() / 2]);
    put(folder, "escapes.zip", &zip(&[("main.py", b"main = len"), ("../../outside.py", b"escaped = 1")]));
    put(folder, "garbled.jar", &zip(&[("Garbled.class", b"\xca\xfe\xba\xbe\0\0\0\x3d no class")]));
}

fn build_java(folder: &Path) -> Result<(), String> {
    let names = [
        "Kit.java",
        "Snapshots.java",
        "broken/Raises.java",
        "broken/Endless.java",
        "shapes/Mapped.java",
        "shapes/Texted.java",
    ];
    let sources = names.map(source);
    let stamp = folder.join("java.stamp");
    if modified(&stamp)
        .is_some_and(|built| sources.iter().all(|path| modified(path).is_some_and(|m| m < built)))
    {
        return Ok(());
    }
    let work = tempfile::tempdir().map_err(|error| error.to_string())?;
    let output = Command::new("javac")
        // The interface `org.crac` is the agent's: functions do not bring it along.
        .args(["--release", "17", "-proc:none", "-implicit:none", "-sourcepath"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-agent/java/src"))
        .arg("-d")
        .arg(work.path())
        .args(&sources)
        .output()
        .map_err(|error| format!("javac: {error}"))?;
    assert!(output.status.success(), "javac: {}", String::from_utf8_lossy(&output.stderr));
    for source in &sources {
        let stem = source.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        let class = |name: &str| fs::read(work.path().join(name)).expect("the class");
        let main = class(&format!("{stem}.class"));
        let mut entries = vec![(format!("{stem}.class"), main.clone())];
        if stem == "Snapshots" {
            entries.push(("Snapshots$1.class".into(), class("Snapshots$1.class")));
        }
        let entries: Vec<_> = entries.iter().map(|(name, class)| (name.as_str(), class.as_slice())).collect();
        put(folder, &format!("{stem}.jar"), &zip(&entries));
        put(folder, &format!("{stem}.class"), &main);
    }
    put(folder, "java.stamp", b"");
    Ok(())
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

/// Whoever reads the file meanwhile sees the old one or the new one.
fn put(folder: &Path, name: &str, content: &[u8]) {
    let new = folder.join(format!("{name}.new"));
    fs::write(&new, content).expect("written");
    fs::rename(new, folder.join(name)).expect("renamed");
}
