//! A microVM with an agent in it, from its start to its end.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::{io, thread};

use super::super::Health;
use crate::linux::Guest;

/// The number of the channel's descriptor in the guest, behind the three standard streams.
pub const CHANNEL: usize = 3;

/// Host stack of the thread that waits for the end.
const STACK: usize = 128 << 10;

/// A running microVM. Its program is killed when this is dropped.
pub struct Machine {
    guest: Arc<Guest>,
    health: Arc<Health>,
    /// Waits for the program's end.
    end: Option<JoinHandle<()>>,
}

impl Machine {
    /// Takes charge of a guest that was just started for `function`.
    ///
    /// # Errors
    /// When there is no thread to be had that waits for its end.
    pub fn new(guest: Guest, function: &str) -> io::Result<Machine> {
        let mut machine = Machine { guest: Arc::new(guest), health: Arc::default(), end: None };
        let (guest, health, function) = (machine.guest.clone(), machine.health.clone(), function.to_owned());
        let end = thread::Builder::new().name("guest-end".into()).stack_size(STACK).spawn(move || {
            let ended = guest.wait();
            if guest.ran_out_of_memory() {
                health.ran_out_of_memory();
            }
            if let Err(error) = ended {
                tracing::error!(function, %error, "a microVM failed");
            }
            // What it holds is let go here: by the time of the verdict there is no VM.
            drop(guest);
            health.judge();
        })?;
        machine.end = Some(end);
        Ok(machine)
    }

    /// The guest.
    pub fn guest(&self) -> &Arc<Guest> {
        &self.guest
    }

    /// What is known of its end.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Ends the program, waits until nothing of it runs any more, and gives its remains.
    pub fn end(mut self) -> Arc<Guest> {
        self.kill();
        if let Some(end) = self.end.take() {
            // It has nothing to say that the log does not have.
            let _ = end.join();
        }
        self.guest.clone()
    }

    /// Ends the program now.
    pub fn kill(&self) {
        self.guest.kill();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.guest.kill();
    }
}
