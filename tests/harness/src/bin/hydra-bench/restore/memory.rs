//! What one more idle instance occupies.

use crate::fleet::{Fleet, Occupied};
use crate::{Failure, say};

/// One language in one sandbox.
pub struct Instance {
    pub language: &'static str,
    pub sandbox: &'static str,
    /// Proportional set size, what of it was written to, and page tables that KVM keeps, in bytes.
    pub each: [f64; 3],
}

/// Measures all languages and sandboxes, with a Hydra of its own for each; what fails is left out with a word.
pub async fn measure(languages: &[&'static str], code: &str, count: u32) -> Vec<Instance> {
    let mut all = Vec::new();
    for &language in languages {
        for sandbox in ["snapshot", "snapshot-process", "process", "isolate"] {
            say(&format!("memory of {language} instances in {sandbox} sandboxes"));
            match each(language, sandbox, code, count).await {
                Ok(each) => all.push(Instance { language, sandbox, each }),
                Err(error) => say(&format!("memory of {language}, {sandbox}: {error}")),
            }
        }
    }
    all
}

async fn each(language: &'static str, sandbox: &str, code: &str, count: u32) -> Result<[f64; 3], Failure> {
    let fleet = Fleet::start(language, sandbox, "hello", code, count + 2).await?;
    // What only the second of them has made is not in the mean: a process kept ready, say.
    let before = fleet.grow(2).await?;
    let small = idle(&fleet).await?;
    let after = fleet.grow(count + 2).await?;
    let large = idle(&fleet).await?;
    fleet.stop().await?;
    if after <= before {
        return Err("there were no more instances".into());
    }
    Ok(large.each(small, after - before))
}

async fn idle(fleet: &Fleet) -> Result<Occupied, Failure> {
    fleet.idle().await.ok_or_else(|| "it cannot be read".into())
}
