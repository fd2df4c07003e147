//! `hydra doctor`: what this host can run, and what would make it run more.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use crate::agent::{Agent, Runtimes};
use crate::cli::DoctorOptions;
use crate::config;
use crate::jail;
use crate::vmm::{Costs, Hypervisor, Sort};

/// What was found, as `--json` prints it.
#[derive(Serialize)]
struct Report {
    languages: Vec<Finding>,
    /// Whether microVMs run, and how.
    kvm: Finding,
    /// Whether CRIU can checkpoint processes, where microVMs cannot run.
    criu: Finding,
    /// What a program in one pays for; null where that cannot be measured.
    costs: Option<Microseconds>,
    /// Layers of the process sandbox's jail.
    jail: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    name: String,
    available: bool,
    detail: String,
}

/// See [`Costs`].
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Microseconds {
    system_call: f64,
    page: f64,
}

/// Prints every finding. Fails when no language at all can run.
pub fn run(options: &DoctorOptions) -> ExitCode {
    let runtimes = Runtimes::discover(&config::agents_folder(options.agents.as_deref()));
    let (kvm, costs) = kvm();
    let report = Report {
        languages: Agent::ALL.map(|agent| language(&runtimes, agent)).into(),
        kvm,
        criu: criu(),
        costs,
        jail: jail::report().into_iter().map(layer).collect(),
    };
    let out = &mut io::stdout().lock();
    let printed = match options.json {
        true => writeln!(out, "{:#}", serde_json::json!(report)),
        false => report.print(out),
    };
    if let Err(error) = printed {
        eprintln!("hydra: cannot print: {error}");
        return ExitCode::FAILURE;
    }
    let any = report.languages.iter().any(|language| language.available);
    if any { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Report {
    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "Languages")?;
        self.languages.iter().try_for_each(|finding| finding.print(out))?;
        writeln!(out, "\nMicroVMs, for snapshot sandboxes and hydra exec")?;
        self.kvm.print(out)?;
        if let Some(Microseconds { system_call, page }) = self.costs {
            let calls = format!("a system call that leaves a microVM {system_call:.1} µs");
            writeln!(out, "      {:<12} {calls}, the first touch of a page {page:.1} µs", "costs")?;
        }
        writeln!(out, "\nCheckpoints of processes, for snapshot-process sandboxes without microVMs")?;
        self.criu.print(out)?;
        writeln!(out, "\nLayers of the process sandbox's jail")?;
        self.jail.iter().try_for_each(|finding| finding.print(out))
    }
}

impl Finding {
    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let available = if self.available { "yes" } else { "no " };
        writeln!(out, "  {available} {:<12} {}", self.name, self.detail)
    }
}

fn language(runtimes: &Runtimes, agent: Agent) -> Finding {
    let found = runtimes.get(agent);
    let available = found.is_ok();
    let detail = match found {
        Ok(runtime) => format!("{} ({})", runtime.version, runtime.program.display()),
        Err(reason) => reason.to_string(),
    };
    Finding { name: agent.name().to_owned(), available, detail }
}

fn kvm() -> (Finding, Option<Microseconds>) {
    let found = Hypervisor::get();
    let available = found.is_ok();
    let detail = match found.map(Hypervisor::sort) {
        Ok(Sort::Hardware) => "the CPU runs microVMs by itself".to_owned(),
        Ok(Sort::Emulated) => {
            "KVM emulates the part of a microVM that is not the program: it runs, a system call takes longer"
                .to_owned()
        }
        Err(error) => error.to_string(),
    };
    let microseconds = |time: Duration| (time.as_secs_f64() * 1e7).round() / 10.0;
    let costs = Costs::measure().ok().map(|costs| Microseconds {
        system_call: microseconds(costs.system_call),
        page: microseconds(costs.page),
    });
    (Finding { name: "kvm".to_owned(), available, detail }, costs)
}

fn criu() -> Finding {
    let tried = || {
        let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(jail::criu::probe(scratch.path()))
    };
    let found = tried();
    let version = jail::criu::version().unwrap_or_default();
    let (available, detail) = match found {
        Ok(()) => (true, format!("CRIU {version} checkpoints and restores them")),
        Err(reason) => (false, reason),
    };
    Finding { name: "criu".to_owned(), available, detail }
}

fn layer(finding: jail::Finding) -> Finding {
    let detail = match finding.available {
        true => finding.purpose.to_owned(),
        false => format!("{}: {}. {}", finding.purpose, finding.reason, finding.remedy),
    };
    Finding { name: format!("{:?}", finding.layer).to_lowercase(), available: finding.available, detail }
}
