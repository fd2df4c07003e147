//! The closed-loop client: the same for every server, on one thread, with as few system calls as there can be.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::response::{self, NotHttp};
use crate::statistics::Summary;

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most connections that a server may close in one round; each is opened anew.
const MAX_RECONNECTS: u32 = 1000;

/// A request to one server, again and again.
#[derive(Debug, Clone)]
pub struct Target {
    /// The server.
    pub address: SocketAddr,
    /// The path, for those who make the request themselves.
    pub path: String,
    /// The body, which is JSON.
    pub body: String,
    request: Vec<u8>,
}

/// A server that does not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The connection failed, or the server was silent for too long.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// It does not speak HTTP.
    #[error(transparent)]
    NotHttp(#[from] NotHttp),
    /// It answered with an error. One is enough: the speed of failing is of no interest.
    #[error("it answered {status}: {body}")]
    Status {
        /// The status.
        status: u16,
        /// The body's beginning.
        body: String,
    },
    /// It closed connections that were to be kept.
    #[error("it closed the connection again and again")]
    Closes,
}

impl Target {
    /// `POST` of the JSON `body` to `path` of the server at `address`.
    pub fn new(address: SocketAddr, path: &str, body: &str) -> Target {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        Target { address, path: path.to_owned(), body: body.to_owned(), request: request.into_bytes() }
    }

    /// Sends the request once, on a connection of its own, and returns the body of the answer.
    pub fn call(&self) -> Result<String, LoadError> {
        Ok(Connection::open(self)?.exchange(self)?.body)
    }

    /// Keeps `connections` busy for `time`: each sends the next request when the last was answered.
    pub fn round(&self, connections: usize, time: Duration) -> Result<Summary, LoadError> {
        round(&vec![self; connections], time)
    }
}

/// Keeps one connection to each of `targets` busy for `time`: it sends the next request when the last was answered.
pub fn round(targets: &[&Target], time: Duration) -> Result<Summary, LoadError> {
    let mut latencies = Vec::with_capacity(1 << 16);
    let mut open: Vec<Connection> =
        targets.iter().map(|target| Connection::open(target)).collect::<Result<_, _>>()?;
    let begun = Instant::now();
    if let ([target], [only]) = (targets, &mut open[..]) {
        alone(target, only, begun + time, &mut latencies)?;
    } else {
        together(targets, &mut open, begun + time, &mut latencies)?;
    }
    Ok(Summary::of_round(&mut latencies, begun.elapsed()))
}

/// One connection needs nobody to say which is ready.
fn alone(
    target: &Target,
    connection: &mut Connection,
    end: Instant,
    latencies: &mut Vec<u32>,
) -> Result<(), LoadError> {
    let mut left = MAX_RECONNECTS;
    connection.send(target)?;
    loop {
        match connection.progress(latencies)? {
            Progress::Answered if connection.sent_at >= end => return Ok(()),
            Progress::Answered => connection.send(target)?,
            Progress::Waits => {}
            Progress::Closed => {
                *connection = reopened(target, &mut left)?;
                connection.send(target)?;
            }
        }
    }
}

fn together(
    targets: &[&Target],
    open: &mut [Connection],
    end: Instant,
    latencies: &mut Vec<u32>,
) -> Result<(), LoadError> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(io::Error::from)?;
    let watch = |connection: &Connection, index: usize| {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        epoll.add(&connection.stream, event).map_err(io::Error::from)
    };
    for (index, connection) in open.iter_mut().enumerate() {
        watch(connection, index)?;
        connection.send(targets[index])?;
    }
    let mut left = MAX_RECONNECTS;
    let mut running = open.len();
    let mut events = vec![EpollEvent::empty(); open.len()];
    let patience = EpollTimeout::try_from(PATIENCE).map_err(io::Error::other)?;
    while running > 0 {
        let ready = match epoll.wait(&mut events, patience) {
            Ok(0) => return Err(io::Error::from(ErrorKind::TimedOut).into()),
            Err(nix::Error::EINTR) => 0,
            ready => ready.map_err(io::Error::from)?,
        };
        for event in &events[..ready] {
            let index = event.data() as usize;
            match open[index].progress(latencies)? {
                Progress::Waits => {}
                // The others are answered before the round ends, so that none is cut off.
                Progress::Answered if open[index].sent_at >= end => running -= 1,
                Progress::Answered => open[index].send(targets[index])?,
                Progress::Closed => {
                    open[index] = reopened(targets[index], &mut left)?;
                    watch(&open[index], index)?;
                    open[index].send(targets[index])?;
                }
            }
        }
    }
    Ok(())
}

/// What a server answered to one request.
#[derive(Debug)]
pub struct Answer {
    /// From the sending of the request until all of the answer was here.
    pub time: Duration,
    /// Its headers.
    pub head: String,
    /// Its body.
    pub body: String,
}

/// A connection that is kept for one request after another, however long the pause between them.
pub struct Kept(Option<Connection>);

impl Kept {
    /// None yet; it is opened when it is needed.
    pub fn new() -> Kept {
        Kept(None)
    }

    /// Sends a request and waits for its answer. The connection is there before the time begins.
    pub fn ask(&mut self, target: &Target) -> Result<Answer, LoadError> {
        if let Some(connection) = &mut self.0 {
            match connection.exchange(target) {
                // The server closed it meanwhile.
                Err(LoadError::Io(error))
                    if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {}
                result => return result,
            }
        }
        let mut fresh = Connection::open(target)?;
        let answer = fresh.exchange(target);
        self.0 = Some(fresh);
        answer
    }
}

fn reopened(target: &Target, left: &mut u32) -> Result<Connection, LoadError> {
    *left = left.checked_sub(1).ok_or(LoadError::Closes)?;
    Ok(Connection::open(target)?)
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// How much of `received` holds something.
    filled: usize,
    /// When the request was sent; once it is answered, when it was answered.
    sent_at: Instant,
}

enum Progress {
    Waits,
    Answered,
    /// The server closed it, before it answered or with its answer.
    Closed,
}

impl Connection {
    fn open(target: &Target) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&target.address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection { stream, received: vec![0; 16 << 10], filled: 0, sent_at: Instant::now() })
    }

    fn send(&mut self, target: &Target) -> io::Result<()> {
        self.sent_at = Instant::now();
        match self.stream.write_all(&target.request) {
            // The server closed it while it was idle: the read sees that too, and it is opened anew.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Ok(())
            }
            result => result,
        }
    }

    /// Sends a request and waits for its answer.
    fn exchange(&mut self, target: &Target) -> Result<Answer, LoadError> {
        self.filled = 0;
        self.send(target)?;
        let answer = loop {
            if let Some(answer) = self.receive()? {
                break answer;
            }
        };
        let time = self.sent_at.elapsed();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = (&self.received[..answer.body], &self.received[answer.body..answer.length]);
        Ok(Answer { time, head: text(head), body: text(body) })
    }

    /// Reads once, and notes the latency of an answer that is whole.
    fn progress(&mut self, latencies: &mut Vec<u32>) -> Result<Progress, LoadError> {
        let answer = match self.receive() {
            Ok(None) => return Ok(Progress::Waits),
            Ok(Some(answer)) => answer,
            Err(LoadError::Io(error))
                if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) =>
            {
                return Ok(Progress::Closed);
            }
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        latencies.push(u32::try_from((now - self.sent_at).as_nanos()).unwrap_or(u32::MAX));
        self.sent_at = now;
        self.filled = 0;
        Ok(if answer.closes { Progress::Closed } else { Progress::Answered })
    }

    /// Reads once; the answer when it is whole and a success.
    fn receive(&mut self) -> Result<Option<response::Response>, LoadError> {
        if self.filled == self.received.len() {
            self.received.resize(self.filled * 2, 0);
        }
        match self.stream.read(&mut self.received[self.filled..]) {
            Ok(0) => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
            Ok(size) => self.filled += size,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let Some(answer) = response::parse(&self.received[..self.filled])? else { return Ok(None) };
        if answer.status == 200 {
            return Ok(Some(answer));
        }
        let body = &self.received[answer.body..answer.length.min(answer.body + 500)];
        Err(LoadError::Status { status: answer.status, body: String::from_utf8_lossy(body).into_owned() })
    }
}
