//! Host mode: the control channel, and a thread for every isolate.

use std::collections::HashMap;
use std::fs::File;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use thiserror::Error;

use crate::frames::{FrameReader, Received, Sent};
use crate::messages::{Close, Closed, Hello, Open};
use crate::process;
use crate::session::{self, SessionError, parse, regular_end, send_json};

/// Bytes of an isolate's stack: what a main thread gets. It is committed as it is used.
const STACK: usize = 8 << 20;

/// Serves the control channel until Hydra closes it, and ends the process with all isolates.
pub fn serve(control: File) -> Result<(), SessionError> {
    let control = Arc::new(control);
    let host =
        Arc::new(Host { control: Arc::clone(&control), sending: Mutex::new(()), isolates: Mutex::default() });
    let ended = regular_end(exchange(&control, &host));
    if ended.is_ok() {
        process::flush_stdout();
        // Not `exit`: the libraries' exit handlers must not run under isolates that are still busy.
        process::exit_now();
    }
    ended
}

/// What the isolates' threads share.
struct Host {
    control: Arc<File>,
    /// Held while a frame goes out, so that frames stay whole.
    sending: Mutex<()>,
    isolates: Mutex<HashMap<u64, Entry>>,
}

/// An isolate that has not ended.
enum Entry {
    /// Its thread is connecting.
    Connecting,
    /// It serves this function channel.
    Serving(UnixStream),
    /// It was closed while its thread was connecting.
    Closing,
}

fn exchange(control: &File, host: &Arc<Host>) -> Result<(), SessionError> {
    send_json(control, Sent::Hello, &Hello::new(None))?;
    let mut reader = FrameReader::new(control);
    while let Some((kind, payload)) = reader.next()? {
        match kind {
            Received::Open => open(host, parse(kind, payload)?)?,
            Received::Close => close(host, &parse(kind, payload)?),
            Received::Load | Received::Invoke | Received::Restored | Received::Checkpoint => {
                return Err(SessionError::OutOfOrder(kind));
            }
        }
    }
    Ok(())
}

fn open(host: &Arc<Host>, open: Open) -> Result<(), SessionError> {
    let isolate = open.isolate;
    if host.isolates().insert(isolate, Entry::Connecting).is_some() {
        let problem = format!("isolate {isolate} is open already");
        return Err(SessionError::Payload { kind: Received::Open, problem });
    }
    let of_thread = Arc::clone(host);
    let started =
        thread::Builder::new().name(format!("isolate-{isolate}")).stack_size(STACK).spawn(move || {
            let reason = run(&of_thread, &open).err().map(|error| error.to_string());
            // A control channel that failed ends the process from its own reader.
            let _ = of_thread.closed(isolate, reason);
        });
    match started {
        Ok(_) => Ok(()),
        Err(error) => host.closed(isolate, Some(format!("cannot start a thread for the isolate: {error}"))),
    }
}

/// Ends an idle isolate, and a busy one once its invocation returns: GraalVM has no means to stop a native thread.
fn close(host: &Host, close: &Close) {
    match host.isolates().get_mut(&close.isolate) {
        // Only its reading end: an answer under way still reaches Hydra.
        Some(Entry::Serving(stream)) => drop(stream.shutdown(Shutdown::Read)),
        Some(entry @ Entry::Connecting) => *entry = Entry::Closing,
        // It ended of itself, and CLOSED is on its way.
        Some(Entry::Closing) | None => {}
    }
}

#[derive(Debug, Error)]
enum IsolateError {
    #[error("cannot connect the isolate to its socket: {0}")]
    Connect(std::io::Error),
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// One isolate's life, on its own thread.
fn run(host: &Host, open: &Open) -> Result<(), IsolateError> {
    let stream = UnixStream::connect(&open.socket).map_err(IsolateError::Connect)?;
    // A `File`, so that both modes use plain reads and writes.
    let channel = File::from(OwnedFd::from(stream.try_clone().map_err(IsolateError::Connect)?));
    match host.isolates().get_mut(&open.isolate) {
        Some(entry @ Entry::Connecting) => *entry = Entry::Serving(stream),
        _ => return Ok(()),
    }
    let served = session::serve(&channel, Some(&open.token));
    // The channel closes here, before CLOSED is sent.
    host.isolates().insert(open.isolate, Entry::Closing);
    Ok(served?)
}

impl Host {
    fn isolates(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.isolates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets an isolate whose channel is closed, and says so.
    fn closed(&self, isolate: u64, problem: Option<String>) -> Result<(), SessionError> {
        self.isolates().remove(&isolate);
        let reason = problem.unwrap_or_else(|| "closed".into());
        let _sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        send_json(&self.control, Sent::Closed, &Closed { isolate, reason, out_of_memory: false })
    }
}
