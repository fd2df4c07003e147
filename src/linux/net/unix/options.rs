//! Options of Unix sockets.

use serde::{Deserialize, Serialize};

use super::super::super::errno::Errno;
use super::super::super::kernel::{Kernel, PID};
use super::super::Direction;
use super::table::{Kind, Phase, Record};

/// Bytes of a send buffer unless the program says otherwise, and the most that it may say: Linux's defaults.
const BUFFER: usize = 212_992;
/// Least bytes of a send buffer.
const SMALLEST: usize = 4608;

/// What `setsockopt` set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Options {
    /// Bound of what waits to be received from here.
    pub send_buffer: usize,
    /// Shown, and otherwise without effect, as on Linux.
    receive_buffer: usize,
    /// Received messages come with the sender's credentials.
    pub pass_credentials: bool,
    /// Seconds and microseconds after which a receive and a send give up; 0 is never.
    pub receive_timeout: [u64; 2],
    pub send_timeout: [u64; 2],
    /// Switches that mean nothing here, and the `struct linger`, by number: what was set is shown again.
    kept: Vec<(i32, Vec<u8>)>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            send_buffer: BUFFER,
            receive_buffer: BUFFER,
            pass_credentials: false,
            receive_timeout: [0; 2],
            send_timeout: [0; 2],
            kept: Vec::new(),
        }
    }
}

impl Options {
    /// Nanoseconds after which a call gives up, if it does.
    pub fn timeout(&self, direction: Direction) -> Option<u64> {
        let [seconds, micros] = match direction {
            Direction::Receive => self.receive_timeout,
            Direction::Send => self.send_timeout,
        };
        let nanos = seconds.saturating_mul(1_000_000_000).saturating_add(micros * 1000);
        (nanos > 0).then_some(nanos)
    }
}

/// Bytes of an option that is only kept; `None` for others.
fn kept_size(name: i32) -> Option<usize> {
    match name {
        libc::SO_REUSEADDR | libc::SO_REUSEPORT | libc::SO_KEEPALIVE | libc::SO_BROADCAST => Some(4),
        libc::SO_OOBINLINE | libc::SO_DONTROUTE | libc::SO_TIMESTAMP | libc::SO_PRIORITY => Some(4),
        libc::SO_RCVLOWAT => Some(4),
        libc::SO_LINGER => Some(8),
        _ => None,
    }
}

fn int(value: &[u8]) -> Result<i32, Errno> {
    value.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)).ok_or(Errno::EINVAL)
}

fn bytes(value: impl TryInto<i32>) -> Vec<u8> {
    value.try_into().unwrap_or(i32::MAX).to_ne_bytes().to_vec()
}

impl Record {
    /// The value of an option, whole.
    pub fn option(&mut self, kernel: &Kernel, level: i32, name: i32) -> Result<Vec<u8>, Errno> {
        if level != libc::SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(match name {
            libc::SO_TYPE => bytes(match self.kind {
                Kind::Stream => libc::SOCK_STREAM,
                Kind::Datagram => libc::SOCK_DGRAM,
                Kind::Seqpacket => libc::SOCK_SEQPACKET,
            }),
            libc::SO_DOMAIN => bytes(libc::AF_UNIX),
            libc::SO_PROTOCOL => bytes(0),
            libc::SO_ACCEPTCONN => bytes(i32::from(matches!(self.phase, Phase::Listening { .. }))),
            libc::SO_ERROR => bytes(self.error.take().unwrap_or(0)),
            libc::SO_SNDBUF => bytes(self.options.send_buffer),
            libc::SO_RCVBUF => bytes(self.options.receive_buffer),
            libc::SO_PASSCRED => bytes(i32::from(self.options.pass_credentials)),
            libc::SO_RCVTIMEO => self.options.receive_timeout.map(u64::to_ne_bytes).concat(),
            libc::SO_SNDTIMEO => self.options.send_timeout.map(u64::to_ne_bytes).concat(),
            libc::SO_PEERCRED => {
                let own = [PID as u32, kernel.identity.uid, kernel.identity.gid];
                let known = self.phase != Phase::Idle || self.peer.is_some();
                (if known { own } else { [0, u32::MAX, u32::MAX] }).map(u32::to_ne_bytes).concat()
            }
            name => {
                let size = kept_size(name).ok_or(Errno::ENOPROTOOPT)?;
                let set = self.options.kept.iter().find(|(n, _)| *n == name);
                let initial = if name == libc::SO_RCVLOWAT { bytes(1) } else { vec![0; size] };
                set.map_or(initial, |(_, value)| value.clone())
            }
        })
    }

    /// Sets an option.
    pub fn set_option(&mut self, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        if level != libc::SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        let options = &mut self.options;
        match name {
            // Linux doubles what is asked for, to count its own records in.
            libc::SO_SNDBUF | libc::SO_RCVBUF => {
                let asked = int(value)? as u32 as usize;
                let size = asked.min(BUFFER).saturating_mul(2).max(SMALLEST);
                match name {
                    libc::SO_SNDBUF => options.send_buffer = size,
                    _ => options.receive_buffer = size,
                }
            }
            libc::SO_PASSCRED => options.pass_credentials = int(value)? != 0,
            libc::SO_RCVTIMEO | libc::SO_SNDTIMEO => {
                let word = |at: usize| Some(i64::from_ne_bytes(*value.get(at..)?.first_chunk()?));
                let (Some(seconds), Some(micros)) = (word(0), word(8)) else { return Err(Errno::EINVAL) };
                if !(0..1_000_000).contains(&micros) {
                    return Err(Errno::EDOM);
                }
                // Linux takes a negative time for none at all: such a call does not wait.
                let time = if seconds < 0 { [0, 1] } else { [seconds as u64, micros as u64] };
                match name {
                    libc::SO_RCVTIMEO => options.receive_timeout = time,
                    _ => options.send_timeout = time,
                }
            }
            name => {
                let size = kept_size(name).ok_or(Errno::ENOPROTOOPT)?;
                let value = value.get(..size).ok_or(Errno::EINVAL)?;
                let switch = !matches!(name, libc::SO_LINGER | libc::SO_PRIORITY | libc::SO_RCVLOWAT);
                let value = if switch { bytes(i32::from(int(value)? != 0)) } else { value.to_vec() };
                options.kept.retain(|(n, _)| *n != name);
                options.kept.push((name, value));
            }
        }
        Ok(())
    }
}
