//! The results of a run as files.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::environment::Machine;

/// One number.
#[derive(Debug, Clone, Serialize)]
pub struct Number {
    /// What was measured, e.g. `hydra python isolate`.
    pub subject: String,
    /// What it did, e.g. `hello`.
    pub work: String,
    /// What the number is, e.g. `p50 at 1 connection`.
    pub metric: String,
    /// It.
    pub value: f64,
    /// Its unit, e.g. `ms`.
    pub unit: &'static str,
}

#[derive(Serialize)]
struct Run<'a> {
    bench: &'a str,
    /// Seconds since 1970.
    time: u64,
    machine: &'a Machine,
    numbers: &'a [Number],
}

/// Writes `BENCH-TIME.csv` and `.json` into `folder`, and returns their paths.
///
/// # Errors
/// Where they cannot be written.
pub fn save(
    folder: &Path,
    bench: &str,
    machine: &Machine,
    numbers: &[Number],
) -> std::io::Result<[PathBuf; 2]> {
    std::fs::create_dir_all(folder)?;
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let [csv, json] = ["csv", "json"].map(|extension| folder.join(format!("{bench}-{time}.{extension}")));
    std::fs::write(&csv, as_csv(numbers))?;
    std::fs::write(&json, serde_json::to_vec_pretty(&Run { bench, time, machine, numbers })?)?;
    Ok([csv, json])
}

/// Comma-separated values, as RFC 4180 has them. No text here holds a comma or a quote but by mistake; it is quoted then.
fn as_csv(numbers: &[Number]) -> String {
    let quoted = |text: &str| match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    };
    let mut out = String::from("subject,work,metric,value,unit\n");
    for Number { subject, work, metric, value, unit } in numbers {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{},{},{},{value},{unit}", quoted(subject), quoted(work), quoted(metric));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_hold_every_number() {
        let folder = tempfile::tempdir().unwrap();
        let number = Number {
            subject: "a, b".into(),
            work: "hello".into(),
            metric: "p50".into(),
            value: 0.125,
            unit: "ms",
        };
        let [csv, json] = save(folder.path(), "http", &Machine::look(), &[number]).unwrap();
        let text = std::fs::read_to_string(csv).unwrap();
        assert_eq!(text, "subject,work,metric,value,unit\n\"a, b\",hello,p50,0.125,ms\n");
        let run: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        assert_eq!(run["numbers"][0]["value"], 0.125);
    }
}
