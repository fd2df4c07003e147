//! Where the programs of one function's microVMs write to their descriptors 1 and 2: pipes that all of them share.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::net::unix::pipe::{self, Receiver};

use crate::agent::LogSink;
use crate::agent::log::Stream;
use crate::agent::spawn::forward;
use crate::linux::Inherited;
use crate::messages::set_nonblocking;

/// The writing ends. What comes out is logged as the output of the function, as long as somebody holds one.
pub struct Output {
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Output {
    /// New pipes. Must be called in the async runtime.
    ///
    /// # Errors
    /// When the host gives no more descriptors.
    pub fn new(function: &str) -> io::Result<Output> {
        Ok(Output { stdout: logged(Stream::Stdout, function)?, stderr: logged(Stream::Stderr, function)? })
    }

    /// This process's own standard streams, which are pipes; writing to them waits no more.
    ///
    /// # Errors
    /// As [`Output::new`].
    pub fn own() -> io::Result<Output> {
        let own = |stream: BorrowedFd<'_>| {
            let stream = stream.try_clone_to_owned()?;
            set_nonblocking(&stream)?;
            Ok::<_, io::Error>(stream)
        };
        Ok(Output { stdout: own(io::stdout().as_fd())?, stderr: own(io::stderr().as_fd())? })
    }

    /// Descriptors 0 to 2 of a program; it reads nothing.
    ///
    /// # Errors
    /// As [`Output::new`].
    pub fn standard_streams(&self) -> io::Result<Vec<Inherited>> {
        let nothing = OpenOptions::new().read(true).open("/dev/null")?;
        let (read, write) = (nix::libc::O_RDONLY as u32, nix::libc::O_WRONLY as u32);
        let streams =
            [(nothing.into(), read), (self.stdout.try_clone()?, write), (self.stderr.try_clone()?, write)];
        Ok(streams.into_iter().map(|(fd, flags)| Inherited::Host(fd, flags)).collect())
    }
}

/// The reading ends of an [`Output`] whose function is not known yet.
pub struct Unnamed {
    stdout: Receiver,
    stderr: Receiver,
}

impl Unnamed {
    /// New pipes: the writing and the reading ends. Must be called in the async runtime.
    ///
    /// # Errors
    /// As [`Output::new`].
    pub fn new() -> io::Result<(Output, Unnamed)> {
        let (stdout, out) = pipe()?;
        let (stderr, err) = pipe()?;
        Ok((Output { stdout, stderr }, Unnamed { stdout: out, stderr: err }))
    }

    /// Of what comes out of a process, by its standard output and standard error. Must be called in the async runtime.
    ///
    /// # Errors
    /// They are no pipes.
    pub fn of((stdout, stderr): (OwnedFd, OwnedFd)) -> io::Result<Unnamed> {
        let receiver = Receiver::from_owned_fd;
        Ok(Unnamed { stdout: receiver(stdout)?, stderr: receiver(stderr)? })
    }

    /// From now on what comes out is logged as the output of `function`.
    pub fn forward(self, function: &str) {
        tokio::spawn(forward(self.stdout, Stream::Stdout, LogSink::new(function)));
        tokio::spawn(forward(self.stderr, Stream::Stderr, LogSink::new(function)));
    }
}

fn logged(stream: Stream, function: &str) -> io::Result<OwnedFd> {
    let (sender, receiver) = pipe()?;
    tokio::spawn(forward(receiver, stream, LogSink::new(function)));
    Ok(sender)
}

/// A pipe that the guest's writes never wait for.
fn pipe() -> io::Result<(OwnedFd, Receiver)> {
    let (sender, receiver) = pipe::pipe()?;
    Ok((sender.into_nonblocking_fd()?, receiver))
}
