//! Makes the guest's system-call table from `kernel-config/syscalls.toml`, and names the build by what it is made of.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

use serde::Deserialize;

const SOURCE: &str = "kernel-config/syscalls.toml";

#[derive(Deserialize)]
struct Table {
    calls: Vec<Call>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    n: usize,
    name: String,
    by: Option<String>,
    args: Option<String>,
    errno: Option<String>,
    #[serde(default)]
    own: bool,
    #[allow(dead_code)] // For people.
    note: Option<String>,
}

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    if let Err(error) = generate() {
        println!("cargo::error={SOURCE}: {error}");
    }
    match name_of_build() {
        Ok(name) => println!("cargo::rustc-env=HYDRA_BUILD={name}"),
        Err(error) => println!("cargo::error=naming the build: {error}"),
    }
}

/// A number that differs when anything in Hydra's own sources or in the versions of its crates does: what one build saved of a
/// program's state, another cannot read.
fn name_of_build() -> std::io::Result<String> {
    let mut files = BTreeSet::new();
    for part in ["src", "kernel-config", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={part}");
        collect(Path::new(part), &mut files)?;
    }
    let mut hasher = DefaultHasher::new();
    for file in files {
        let content = std::fs::read(&file)?;
        hasher.write(file.as_os_str().as_encoded_bytes());
        hasher.write_usize(content.len());
        hasher.write(&content);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

fn collect(path: &Path, files: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            collect(&entry?.path(), files)?;
        }
    } else if path.exists() {
        files.insert(path.to_owned());
    }
    Ok(())
}

fn generate() -> Result<(), Box<dyn std::error::Error>> {
    let table: Table = toml::from_str(&std::fs::read_to_string(SOURCE)?)?;
    let mut slots: Vec<Option<String>> = Vec::new();
    for call in &table.calls {
        let answer = match (&call.by, &call.errno) {
            (Some(by), None) => format!("Answer::Served(crate::linux::{by})"),
            (None, Some(errno)) => format!("Answer::Refused(crate::linux::Errno::{errno})"),
            _ => return Err(format!("{}: give either `by` or `errno`", call.name).into()),
        };
        let kinds: Vec<String> = call
            .args
            .as_deref()
            .unwrap_or("")
            .split_whitespace()
            .map(|k| format!("Kind::{}", title(k)))
            .collect();
        slots.resize(slots.len().max(call.n + 1), None);
        if slots[call.n].is_some() {
            return Err(format!("number {} is given twice", call.n).into());
        }
        slots[call.n] = Some(format!(
            "Some(Call {{ name: {:?}, args: &[{}], answer: {answer}, own: {} }})",
            call.name,
            kinds.join(", "),
            call.own
        ));
    }
    let mut code = format!("static CALLS: [Option<Call>; {}] = [\n", slots.len());
    for slot in slots {
        writeln!(code, "    {},", slot.as_deref().unwrap_or("None"))?;
    }
    code.push_str("];\n");
    std::fs::write(std::path::Path::new(&std::env::var("OUT_DIR")?).join("syscalls.rs"), code)?;
    Ok(())
}

/// `fd` to `Fd`: the name of the variant.
fn title(kind: &str) -> String {
    let mut letters = kind.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
