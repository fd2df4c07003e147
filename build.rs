//! Makes the guest's system-call table from `kernel-config/syscalls.toml`.

use std::fmt::Write;

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
    #[allow(dead_code)] // For people.
    note: Option<String>,
}

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    if let Err(error) = generate() {
        println!("cargo::error={SOURCE}: {error}");
    }
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
            "Some(Call {{ name: {:?}, args: &[{}], answer: {answer} }})",
            call.name,
            kinds.join(", ")
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
