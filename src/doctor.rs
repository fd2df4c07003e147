//! `hydra doctor`: what this host can run, and what would make it run more.

use std::process::ExitCode;

use crate::agent::{Agent, Runtimes};
use crate::cli::DoctorOptions;
use crate::config;
use crate::jail;
use crate::vmm::{Hypervisor, Sort};

/// Prints every finding, one a line. Fails when no language at all can run.
pub fn run(options: &DoctorOptions) -> ExitCode {
    let runtimes = Runtimes::discover(&config::agents_folder(options.agents.as_deref()));
    let mut languages = 0;
    println!("Languages");
    for agent in Agent::ALL {
        match runtimes.get(agent) {
            Ok(runtime) => {
                languages += 1;
                line(true, agent.name(), &format!("{} ({})", runtime.version, runtime.program.display()));
            }
            Err(reason) => line(false, agent.name(), reason),
        }
    }
    println!("\nMicroVMs, for snapshot sandboxes and hydra exec");
    match Hypervisor::get() {
        Ok(kvm) => {
            let how = match kvm.sort() {
                Sort::Hardware => "the CPU runs microVMs by itself",
                Sort::Emulated => {
                    "KVM emulates the part of a microVM that is not the program: it runs, a system call takes longer"
                }
            };
            line(true, "kvm", how);
        }
        Err(error) => line(false, "kvm", &error.to_string()),
    }
    println!("\nLayers of the process sandbox's jail");
    for finding in jail::report() {
        let name = format!("{:?}", finding.layer).to_lowercase();
        let how = match finding.available {
            true => finding.purpose.to_owned(),
            false => format!("{}: {}. {}", finding.purpose, finding.reason, finding.remedy),
        };
        line(finding.available, &name, &how);
    }
    if languages == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn line(available: bool, what: &str, how: &str) {
    println!("  {} {what:<12} {how}", if available { "yes" } else { "no " });
}
