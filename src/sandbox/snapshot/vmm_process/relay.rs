//! Passes on what an agent in a microVM and Hydra say to each other: between the stream into the guest and a socket.

use std::future::poll_fn;
use std::io;

use bytes::{Buf, BytesMut};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::agent::frame::{self, Kind, MAX_PAYLOAD};
use crate::linux::HostStream;

/// Bytes that wait in each direction before no more are taken.
const ROOM: usize = 256 << 10;
/// Bytes that are taken from Hydra at a time, or more.
const PIECE: usize = 16 << 10;

/// Passes on until one of both ends is gone, and says in `active` when Hydra has said something. When the agent said that it is ready for a checkpoint, nothing more is taken from it until Hydra
/// says something: what it says meanwhile belongs to the checkpoint.
pub async fn relay(guest: &HostStream, hydra: UnixStream, active: &Notify) -> io::Result<()> {
    let (mut from_guest, mut to_hydra, mut to_guest) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
    let (mut is_ready, mut has_ended) = (false, false);
    while !has_ended || !to_hydra.is_empty() {
        // An agent that never stops sending would else keep the other microVMs waiting.
        tokio::task::coop::consume_budget().await;
        tokio::select! {
            came = poll_fn(|cx| guest.poll_read(cx, &mut from_guest)),
                if !has_ended && !is_ready && to_hydra.len() < ROOM => has_ended = came? == 0,
            went = poll_fn(|cx| guest.poll_write(cx, &to_guest)), if !has_ended && !to_guest.is_empty() => {
                to_guest.advance(went?);
            }
            writable = hydra.writable(), if !to_hydra.is_empty() => {
                writable?;
                to_hydra.advance(now(hydra.try_write(&to_hydra))?.unwrap_or(0));
            }
            readable = hydra.readable(), if to_guest.len() < ROOM => {
                readable?;
                to_guest.reserve(PIECE);
                match now(hydra.try_read_buf(&mut to_guest))? {
                    Some(0) => return Ok(()),
                    Some(_) => {
                        is_ready = false;
                        active.notify_one();
                    }
                    None => {}
                }
            }
        }
        while !is_ready
            && let Some(frame) = frame::decode(&mut from_guest, MAX_PAYLOAD).map_err(io::Error::other)?
        {
            is_ready = frame.kind == Kind::Ready;
            frame::encode(frame.kind, &frame.payload, &mut to_hydra);
        }
        if is_ready {
            guest.give_back(&mut from_guest);
        }
    }
    Ok(())
}

/// What was done; `None` if that was not possible now.
fn now(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        done => done.map(Some),
    }
}
