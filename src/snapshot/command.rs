//! `hydra snapshot`: what snapshots there are, what is in them, and away with them. It needs no KVM, and works while a server runs.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};

use super::bytes::readable;
use super::error::Refusal;
use super::manifest::Manifest;
use super::shelf::Shelf;

/// Options of `hydra snapshot`.
#[derive(Args, Debug)]
pub struct Snapshots {
    /// Folder of the functions' code and temporary files, as `serve` has it; its snapshots lie in the folder `snapshots` in it
    #[arg(long, global = true, env = "app_dir", default_value = "/tmp/apps/")]
    app_dir: PathBuf,
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand, Debug)]
enum Act {
    /// Print a line on each snapshot
    List {
        /// Print their manifests as one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Print what a snapshot is of, and read all of it to see whether it is undamaged
    Show {
        /// The snapshot's number
        svmid: u64,
        /// Print its manifest as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a snapshot. Functions that run from it go on; the next new sandbox makes one anew
    Remove {
        /// The snapshot's number
        svmid: u64,
    },
}

/// Why `hydra snapshot` failed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotsError {
    /// The folder cannot be read.
    #[error("cannot read the folder `{}`: {source}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// There is no such snapshot.
    #[error("there is no snapshot with svmid {svmid} in `{}`; `hydra snapshot list` prints those that are there", folder.display())]
    NotFound {
        /// The number that was given.
        svmid: u64,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// It is there, and is not usable.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It cannot be removed.
    #[error("cannot remove the snapshot with svmid {svmid}: {source}")]
    Remove {
        /// Its number.
        svmid: u64,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The manifest cannot be printed.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

impl Snapshots {
    /// Does what was asked, and prints to `out`.
    ///
    /// # Errors
    /// A snapshot that is not there or not usable, or files that cannot be read, removed or written.
    pub fn run(self, out: &mut impl io::Write) -> Result<(), SnapshotsError> {
        let shelf = Shelf::new(self.app_dir.join("snapshots"));
        let not_found = |svmid| SnapshotsError::NotFound { svmid, folder: shelf.folder().to_owned() };
        match self.act {
            Act::List { json } => {
                let folder = |source| SnapshotsError::Folder { folder: shelf.folder().to_owned(), source };
                let svmids = shelf.svmids().map_err(folder)?;
                // One may be removed while we look.
                let found: Vec<_> = svmids
                    .into_iter()
                    .filter_map(|svmid| Some((svmid, shelf.manifest(svmid).transpose()?)))
                    .collect();
                if json { print_json(out, &found)? } else { print_table(out, &found)? }
            }
            Act::Show { svmid, json } => {
                let manifest = shelf.manifest(svmid)?.ok_or_else(|| not_found(svmid))?;
                if json {
                    writeln!(out, "{}", to_json(&manifest)?)?
                } else {
                    print_details(out, &manifest)?
                }
                shelf.verify(svmid)?.ok_or_else(|| not_found(svmid))?;
                if !json {
                    writeln!(out, "checksums  match")?;
                }
            }
            Act::Remove { svmid } => {
                let failed = |source| SnapshotsError::Remove { svmid, source };
                if !shelf.remove(svmid).map_err(failed)? {
                    return Err(not_found(svmid));
                }
            }
        }
        Ok(())
    }
}

type Found = (u64, Result<Manifest, Refusal>);

/// Those that cannot be used have their reason instead of a manifest.
fn print_json(out: &mut impl io::Write, found: &[Found]) -> io::Result<()> {
    let values: io::Result<Vec<_>> = found
        .iter()
        .map(|(svmid, manifest)| match manifest {
            Ok(manifest) => Ok(serde_json::to_value(manifest)?),
            Err(refusal) => Ok(serde_json::json!({"svmid": svmid, "refused": refusal.reason.to_string()})),
        })
        .collect();
    writeln!(out, "{}", to_json(&values?)?)
}

fn to_json(value: &impl serde::Serialize) -> io::Result<String> {
    Ok(serde_json::to_string_pretty(value)?)
}

fn print_table(out: &mut impl io::Write, found: &[Found]) -> io::Result<()> {
    const TITLES: [&str; 6] = ["SVMID", "FUNCTION", "LANGUAGE", "RAM", "ON DISK", "AGE"];
    let mut rows = vec![(TITLES.map(str::to_owned), None)];
    for (svmid, manifest) in found {
        rows.push(match manifest {
            Ok(m) => {
                let stored = readable(m.memory.stored + m.state.bytes);
                let cells = [
                    svmid.to_string(),
                    plain(&m.function),
                    plain(&m.language),
                    readable(m.memory.bytes),
                    stored,
                    age(m.created),
                ];
                (cells, None)
            }
            Err(refusal) => {
                let mut cells = [const { String::new() }; TITLES.len()];
                cells[0] = svmid.to_string();
                (cells, Some(format!("not usable: {}", refusal.reason)))
            }
        });
    }
    let mut widths = [0; TITLES.len()];
    for (cells, _) in &rows {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = cell.chars().count().max(*width);
        }
    }
    for (cells, reason) in rows {
        let shown = if reason.is_some() { 1 } else { cells.len() };
        let mut line: Vec<String> =
            cells.iter().zip(widths).take(shown).map(|(cell, width)| format!("{cell:width$}")).collect();
        line.extend(reason);
        writeln!(out, "{}", line.join("  ").trim_end())?;
    }
    Ok(())
}

fn print_details(out: &mut impl io::Write, m: &Manifest) -> io::Result<()> {
    writeln!(out, "svmid      {}", m.svmid)?;
    writeln!(out, "function   {}", plain(&m.function))?;
    writeln!(out, "language   {}", plain(&m.language))?;
    for (name, value) in &m.settings {
        writeln!(out, "setting    {}: {}", plain(name), plain(value))?;
    }
    writeln!(out, "code       {}", plain(&m.code_digest))?;
    writeln!(out, "runtime    {}", plain(&m.runtime_digest))?;
    writeln!(out, "made by    Hydra {}, format {}", plain(&m.hydra), m.format)?;
    writeln!(out, "made at    {} ({} ago)", humantime::format_rfc3339_seconds(m.created), age(m.created))?;
    writeln!(out, "pause      {:.1} ms", m.pause.as_secs_f64() * 1e3)?;
    let memory = [m.memory.bytes, m.memory.in_use, m.memory.stored].map(readable);
    writeln!(out, "memory     {}, {} of it in use, {} on the disk", memory[0], memory[1], memory[2])?;
    if let Some(parent) = &m.parent {
        let ranges = parent.pages.ranges();
        let bytes = readable(ranges.iter().map(|run| run.end - run.start).sum());
        writeln!(
            out,
            "builds on  {}: {bytes} of the memory, in {} pieces, are its own",
            parent.svmid,
            ranges.len()
        )?;
    }
    writeln!(out, "state      {}", readable(m.state.bytes))?;
    let features: Vec<String> = m.cpu.features.iter().map(|name| plain(name)).collect();
    writeln!(out, "CPU        {}: {}", plain(&m.cpu.vendor), features.join(" "))
}

/// Text that came from somebody else, without what a terminal would act upon.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Time since then, in its largest unit.
fn age(then: SystemTime) -> String {
    let age = SystemTime::now().duration_since(then).unwrap_or(Duration::ZERO).as_secs();
    for (unit, seconds) in [("d", 86_400), ("h", 3_600), ("min", 60)] {
        if age >= seconds {
            return format!("{} {unit}", age / seconds);
        }
    }
    format!("{age} s")
}
