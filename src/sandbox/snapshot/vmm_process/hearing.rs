//! What Hydra hears from a VMM process, which may be hostile.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

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
    /// What its programs touch first, written by the process.
    pub touched: File,
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

    fn hear(&self, reply: Reply) {
        let (vm, answer) = match reply {
            Reply::Useless(reason) => {
                *lock(&self.useless) = Some(reason);
                return;
            }
            Reply::Assigned(outcome) => {
                if let Some(waiting) = lock(&self.assigned).take() {
                    // Who gave up waiting needs no answer.
                    let _ = waiting.send(outcome);
                }
                return;
            }
            Reply::Made { vm, time } => (vm, Answer::Made(time)),
            Reply::NotMade { vm, reason, snapshot_is_useless } => {
                (vm, Answer::NotMade { reason, snapshot_is_useless })
            }
            Reply::Copied { vm, copied, time } => (vm, Answer::Copied(copied, time)),
            Reply::NotCopied { vm, reason } => (vm, Answer::NotCopied(reason)),
            Reply::Ended { vm, out_of_memory } => {
                if let Some(health) = lock(&self.vms).remove(&vm) {
                    if out_of_memory {
                        health.ran_out_of_memory();
                    }
                    health.judge();
                }
                return;
            }
            Reply::Touched { snapshot } => return self.learn(snapshot),
            Reply::Counted(_) => return,
        };
        if let Some(waiting) = lock(&self.waiting).remove(&vm) {
            // Who gave up waiting needs no answer.
            let _ = waiting.send(answer);
        }
    }

    /// Takes over what programs touch first of a snapshot. Of a template that is not believed: other functions begin with that, too.
    fn learn(&self, number: u64) {
        let known = lock(&self.known);
        let Some(known) = known.iter().find(|known| known.number == number) else { return };
        let Some(snapshot) = known.snapshot.upgrade() else { return };
        if snapshot.has_working_set() || snapshot.manifest().function == template::NAME {
            return;
        }
        if let Ok(text) = content(&known.touched, MOST_TOUCHED) {
            snapshot.learn_working_set(&String::from_utf8_lossy(&text));
        }
    }
}

/// Hears what a process says until it ends.
pub async fn listen(process: Arc<Connection>, hearing: Arc<Hearing>) {
    let mut told = Counts::default();
    loop {
        match process.receive_alone::<Reply>().await {
            Ok(Some(Reply::Counted(counts))) => {
                lock(&hearing.counters).add(&counts.since(&told));
                told = counts;
            }
            Ok(Some(reply)) => hearing.hear(reply),
            Ok(None) => break,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => return hearing.give_up(&format!("it broke the protocol: {error}")),
        }
    }
    hearing.ended();
}
