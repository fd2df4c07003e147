//! What Hydra hears from a VMM process, which may be hostile.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::super::super::{Error, Health};
use super::super::template;
use super::failed;
use super::protocol::Reply;
use crate::jail::Killer;
use crate::linux::counters::{Counters, Counts};
use crate::messages::{Connection, content};
use crate::snapshot::{Copied, Snapshot};
use crate::sync::lock;

/// Most bytes of what is said of the pages that programs touch.
const MOST_TOUCHED: u64 = 256 << 10;
/// Messages of a second that nobody waits for, after which there are no more of the process: it counts ten times a second what programs did.
const MOST_UNASKED: u32 = 1000;

/// What is known of a process.
pub struct Hearing {
    killer: Killer,
    has_ended: AtomicBool,
    /// Why it is of no use.
    useless: Mutex<Option<String>>,
    /// Nobody needs it any more.
    is_let_go: AtomicBool,
    /// The name of its function, once it has one.
    pub function: OnceLock<String>,
    /// Where it is counted what its microVMs do.
    pub counters: Mutex<Arc<Counters>>,
    /// The snapshots that it knows.
    pub known: Mutex<Vec<Known>>,
    /// The microVMs that it has.
    pub vms: Mutex<HashMap<u64, Arc<Health>>>,
    /// Who waits for an answer, by microVM.
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    /// Who waits for the function to be there.
    assigned: Mutex<Option<oneshot::Sender<Result<(), String>>>>,
}

/// A snapshot that a process knows.
pub struct Known {
    /// By what number.
    pub number: u64,
    /// The snapshot.
    pub snapshot: Weak<Snapshot>,
    /// What its programs touch first, written by the process; until it says that it has.
    pub touched: Option<File>,
}

/// What a process answers to what it was asked of a microVM.
pub enum Answer {
    Made(Duration),
    NotMade { reason: String, snapshot_is_useless: bool },
    Copied(Copied, Duration),
    NotCopied(String),
}

impl Hearing {
    /// Nothing was heard yet of the process that `killer` ends.
    pub fn new(killer: Killer) -> Hearing {
        Hearing {
            killer,
            has_ended: AtomicBool::new(false),
            useless: Mutex::default(),
            is_let_go: AtomicBool::new(false),
            function: OnceLock::new(),
            counters: Mutex::default(),
            known: Mutex::default(),
            vms: Mutex::default(),
            waiting: Mutex::default(),
            assigned: Mutex::default(),
        }
    }

    /// Whether the process was there when last heard of.
    pub fn is_alive(&self) -> bool {
        !self.has_ended.load(Ordering::Acquire)
    }

    /// Nobody needs the process any more: its end is no news.
    pub fn let_go(&self) {
        self.is_let_go.store(true, Ordering::Release);
    }

    /// Ends the process, which is of no more use.
    pub fn give_up(&self, why: &str) {
        lock(&self.useless).get_or_insert_with(|| why.to_owned());
        self.killer.kill();
        self.ended();
    }

    /// What is said to whoever wanted something of a process that has ended.
    pub fn gone(&self) -> Error {
        failed(lock(&self.useless).as_deref().unwrap_or("it has ended"))
    }

    /// From now on somebody waits for an answer about the microVM.
    pub fn expect(&self, vm: u64) -> oneshot::Receiver<Answer> {
        let (sender, answer) = oneshot::channel();
        lock(&self.waiting).insert(vm, sender);
        if !self.is_alive() {
            lock(&self.waiting).remove(&vm);
        }
        answer
    }

    /// From now on somebody waits for the function to be there.
    pub fn expect_assignment(&self) -> oneshot::Receiver<Result<(), String>> {
        let (sender, answer) = oneshot::channel();
        *lock(&self.assigned) = Some(sender);
        if !self.is_alive() {
            *lock(&self.assigned) = None;
        }
        answer
    }

    /// There is no such process any more.
    fn ended(&self) {
        if self.has_ended.swap(true, Ordering::AcqRel) {
            return;
        }
        lock(&self.waiting).clear();
        *lock(&self.assigned) = None;
        lock(&self.vms).drain().for_each(|(_, health)| health.judge());
        if !self.is_let_go.load(Ordering::Acquire) {
            let (function, why) = (self.function.get(), lock(&self.useless).clone());
            tracing::warn!(function, why, "a VMM process has ended, and all microVMs in it");
        }
    }

    /// Takes note of what the process said, and says whether that was waited for.
    fn hear(&self, reply: Reply) -> bool {
        let (vm, answer) = match reply {
            Reply::Useless(reason) => {
                *lock(&self.useless) = Some(reason);
                return false;
            }
            Reply::Assigned(outcome) => {
                let waiting = lock(&self.assigned).take();
                // Who gave up waiting needs no answer.
                return waiting.map(|waiting| waiting.send(outcome)).is_some();
            }
            Reply::Made { vm, time } => (vm, Answer::Made(time)),
            Reply::NotMade { vm, reason, snapshot_is_useless } => {
                (vm, Answer::NotMade { reason, snapshot_is_useless })
            }
            Reply::Copied { vm, copied, time } => (vm, Answer::Copied(copied, time)),
            Reply::NotCopied { vm, reason } => (vm, Answer::NotCopied(reason)),
            Reply::Ended { vm, out_of_memory } => {
                let Some(health) = lock(&self.vms).remove(&vm) else { return false };
                if out_of_memory {
                    health.ran_out_of_memory();
                }
                health.judge();
                return true;
            }
            Reply::Touched { snapshot } => return self.learn(snapshot),
            Reply::Counted(_) => return false,
        };
        let waiting = lock(&self.waiting).remove(&vm);
        // Who gave up waiting needs no answer.
        waiting.map(|waiting| waiting.send(answer)).is_some()
    }

    /// Takes over what programs touch first of a snapshot, once; whether it was not known yet. Of a template that is not believed: other functions
    /// begin with that, too.
    fn learn(&self, number: u64) -> bool {
        let mut known = lock(&self.known);
        let Some(known) = known.iter_mut().find(|known| known.number == number) else { return false };
        let Some(touched) = known.touched.take() else { return false };
        let Some(snapshot) = known.snapshot.upgrade() else { return true };
        if !snapshot.has_working_set()
            && snapshot.manifest().function != template::NAME
            && let Ok(text) = content(&touched, MOST_TOUCHED)
        {
            snapshot.learn_working_set(&String::from_utf8_lossy(&text));
        }
        true
    }
}

/// Hears what a process says until it ends, or says too much.
pub async fn listen(process: Arc<Connection>, hearing: Arc<Hearing>) {
    let mut told = Counts::default();
    let (mut since, mut unasked) = (Instant::now(), 0);
    loop {
        let is_asked = match process.receive_alone::<Reply>().await {
            Ok(Some(Reply::Counted(counts))) => {
                lock(&hearing.counters).add(&counts.since(&told));
                told = counts;
                false
            }
            Ok(Some(reply)) => hearing.hear(reply),
            Ok(None) => break,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => return hearing.give_up(&format!("it broke the protocol: {error}")),
        };
        if is_asked {
            continue;
        }
        if since.elapsed() >= Duration::from_secs(1) {
            (since, unasked) = (Instant::now(), 0);
        }
        unasked += 1;
        if unasked > MOST_UNASKED {
            return hearing.give_up("it says what nobody has asked");
        }
    }
    hearing.ended();
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::messages::{pair, send};

    #[tokio::test]
    async fn a_process_that_never_stops_talking_is_given_up() {
        let (ours, theirs) = pair().expect("a socket pair");
        let talking = std::thread::spawn(move || {
            let talk = || send(theirs.as_fd(), &Reply::Touched { snapshot: 7 }, &[]);
            while talk().is_ok() {}
        });
        let hearing = Arc::new(Hearing::new(Killer::of_nothing()));
        listen(Arc::new(Connection::new(ours).expect("watched")), hearing.clone()).await;
        assert!(!hearing.is_alive());
        assert!(hearing.gone().to_string().contains("nobody has asked"), "{}", hearing.gone());
        talking.join().expect("it has no more to talk to");
    }
}
