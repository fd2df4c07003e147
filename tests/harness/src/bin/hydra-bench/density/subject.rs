//! What is measured: Hydra with a language and a sandbox, or another server of which there is one for each concurrent request.

use super::{CONNECTIONS, Found, Plan};
use crate::Failure;
use crate::fleet::{Fleet, Occupied};
use crate::http::peers::{ALL, Places, Role, Spec};
use crate::http::{subject, work};
use crate::load::{self, Target};
use crate::memory;
use crate::peer::Peer;
use crate::statistics::median;

const LANGUAGES: [&str; 3] = ["python", "javascript", "java"];
const SANDBOXES: [&str; 4] = ["snapshot", "snapshot-process", "process", "isolate"];
/// Instances before the first that is counted: what only they have made is not in the mean.
const FIRST: u32 = 4;
/// Instances are multiplied by so much at a time.
const STEP: u32 = 4;

/// One of them.
#[derive(Clone, Copy)]
pub enum Subject {
    Hydra { language: &'static str, sandbox: &'static str },
    Peer(&'static Spec),
}

/// All of them. Where a language has no functions-framework here, a bare server is what there is.
pub fn subjects() -> Vec<Subject> {
    let mut all = Vec::new();
    for language in LANGUAGES {
        all.extend(SANDBOXES.map(|sandbox| Subject::Hydra { language, sandbox }));
        let of_language = || ALL.iter().filter(move |spec| spec.language == language);
        let framework = of_language().find(|spec| spec.role == Role::Framework);
        all.extend(
            framework.or_else(|| of_language().find(|spec| spec.role == Role::Bare)).map(Subject::Peer),
        );
    }
    all
}

impl Subject {
    /// Its name.
    pub fn name(&self) -> String {
        match self {
            Subject::Hydra { language, sandbox } => format!("hydra {language} {sandbox}"),
            Subject::Peer(spec) => spec.name.to_owned(),
        }
    }

    /// Its functions' language.
    pub fn language(&self) -> &'static str {
        match self {
            Subject::Hydra { language, .. } => language,
            Subject::Peer(spec) => spec.language,
        }
    }

    pub(super) async fn measure(
        self,
        work: &'static str,
        plan: &Plan,
        places: &Places,
        code: &str,
    ) -> Result<Found, Failure> {
        match self {
            Subject::Hydra { language, sandbox } => self.hydra(language, sandbox, work, plan, code).await,
            Subject::Peer(spec) => self.peer(spec, work, plan, places).await,
        }
    }

    async fn hydra(
        self,
        language: &'static str,
        sandbox: &str,
        work: &'static str,
        plan: &Plan,
        code: &str,
    ) -> Result<Found, Failure> {
        let before = memory::guest_page_tables();
        let bytes = |occupied: Occupied| {
            let tables = occupied.page_tables.saturating_sub(before);
            (occupied.size.proportional + tables) as f64
        };
        let fleet = Fleet::start(language, sandbox, work, code, CONNECTIONS).await?;
        fleet.grow(CONNECTIONS).await?;
        let target = fleet.target();
        let per_second = per_second(&vec![target; CONNECTIONS as usize], plan)?;
        let under_load = bytes(fleet.occupied().await.ok_or(UNREADABLE)?);
        fleet.stop().await?;

        let fleet = Fleet::start(language, sandbox, work, code, plan.most).await?;
        let first = fleet.grow(FIRST).await?;
        let small = bytes(fleet.idle().await.ok_or(UNREADABLE)?);
        let (mut instances, mut used, mut each) = (first, small, 0.0);
        while used < plan.memory && instances < plan.most {
            let wanted = instances.saturating_mul(STEP);
            let fitting = f64::from(instances) + (plan.memory - used) / f64::max(each, 1e4) + 1.0;
            let grown = fleet.grow(wanted.min(fitting as u32).min(plan.most)).await?;
            let stuck = grown <= instances;
            instances = instances.max(grown);
            used = bytes(fleet.occupied().await.ok_or(UNREADABLE)?);
            if stuck || used >= plan.memory || instances == plan.most {
                used = bytes(fleet.idle().await.ok_or(UNREADABLE)?);
            }
            each = (used - small) / f64::from((instances - first).max(1));
            if stuck {
                break;
            }
        }
        fleet.stop().await?;
        Ok(Found { subject: self, work, instances, used, each, per_second, under_load })
    }

    async fn peer(
        self,
        spec: &'static Spec,
        work: &'static str,
        plan: &Plan,
        places: &Places,
    ) -> Result<Found, Failure> {
        let mut running: Vec<(Peer, Target)> = Vec::new();
        let add = async |running: &mut Vec<(Peer, Target)>| {
            let (peer, address) = subject::start(spec, places).await?;
            let target = subject::peer_target(address, work);
            work::check(work, &subject::call(target.clone()).await?)?;
            running.push((peer, target));
            Ok::<_, Failure>(())
        };
        for _ in 0..CONNECTIONS {
            add(&mut running).await?;
        }
        let targets: Vec<_> = running.iter().map(|(_, target)| target.clone()).collect();
        let per_second = per_second(&targets, plan)?;
        let under_load = all(&running).await?;
        let (mut used, mut each) = (0.0, 0.0);
        // One that has answered little is what more of them are like: those under load are left behind.
        running.clear();
        while used < plan.memory && (running.len() as u32) < plan.most || each == 0.0 {
            let more = ((plan.memory - used) / f64::max(each, 25e6)).clamp(f64::from(FIRST), 32.0);
            for _ in 0..more as u32 {
                add(&mut running).await?;
            }
            used = all(&running).await?;
            if used >= plan.memory || running.len() as u32 >= plan.most {
                memory::idle(running[0].0.pid(), spec.language).await;
                used = all(&running).await?;
            }
            each = used / running.len() as f64;
        }
        let instances = running.len() as u32;
        Ok(Found { subject: self, work, instances, used, each, per_second, under_load })
    }
}

const UNREADABLE: &str = "its memory cannot be read";

/// Requests per second, each connection to a target of its own.
fn per_second(targets: &[Target], plan: &Plan) -> Result<f64, Failure> {
    let targets: Vec<_> = targets.iter().collect();
    tokio::task::block_in_place(|| {
        load::round(&targets, plan.warm_up)?;
        let rounds: Result<Vec<_>, _> = (0..plan.rounds).map(|_| load::round(&targets, plan.round)).collect();
        Ok(median(rounds?.iter().map(|round| round.per_second)))
    })
}

/// What all of them occupy, in bytes.
async fn all(running: &[(Peer, Target)]) -> Result<f64, Failure> {
    if let Some((last, _)) = running.last() {
        memory::at_rest(last.pid()).await;
    }
    let sizes = running.iter().map(|(peer, _)| memory::proportional(peer.pid()));
    let sum: u64 = sizes.sum::<Option<u64>>().ok_or(UNREADABLE)?;
    Ok(sum as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_has_its_peer() {
        for language in LANGUAGES {
            let peers =
                subjects().into_iter().filter(|s| matches!(s, Subject::Peer(p) if p.language == language));
            assert_eq!(peers.count(), 1, "{language}");
        }
    }
}
