//! What a pipe holds: bytes, and where packets end.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use vm_memory::VolatileSlice;

use super::super::budget::Budget;
use super::super::errno::Errno;
use super::super::user::gather;

/// Writes of up to this size are not split. Each packet takes the room of one such.
pub const ATOMIC: usize = 4096;
/// Bytes that a pipe can hold, unless it is told otherwise.
const USUAL: usize = 64 << 10;
/// Most bytes that it can be told to hold.
const MOST: usize = 1 << 20;

/// Bytes that were written together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Piece {
    len: usize,
    /// A read takes one packet, and drops what it has no room for. Other bytes are joined.
    packet: bool,
}

/// The content of a pipe.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Buffer {
    bytes: VecDeque<u8>,
    pieces: VecDeque<Piece>,
    capacity: usize,
    /// Nobody can read any more, or write.
    pub reader_gone: bool,
    pub writer_gone: bool,
}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer {
            bytes: VecDeque::new(),
            pieces: VecDeque::new(),
            capacity: USUAL,
            reader_gone: false,
            writer_gone: false,
        }
    }
}

impl Buffer {
    /// Bytes that wait to be read.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing waits to be read.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes that it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Changes that to `wanted` or a little more; returns what it is then.
    pub fn set_capacity(&mut self, wanted: usize) -> Result<usize, Errno> {
        let capacity = wanted.max(ATOMIC).checked_next_power_of_two().ok_or(Errno::EINVAL)?;
        if capacity > MOST {
            return Err(Errno::EPERM);
        }
        if capacity < self.len() || capacity / ATOMIC < self.pieces.len() {
            return Err(Errno::EBUSY);
        }
        self.capacity = capacity;
        Ok(capacity)
    }

    /// Bytes that can be written now.
    pub fn room(&self, packets: bool) -> usize {
        let room = self.capacity.saturating_sub(self.len());
        // Packets of a byte each would hold more in records than in bytes.
        let slots = (self.capacity / ATOMIC).saturating_sub(self.pieces.len());
        if packets || self.pieces.back().is_some_and(|last| last.packet) {
            room.min(slots * ATOMIC)
        } else {
            room
        }
    }

    /// Takes as much of `from` as there is room for; `EAGAIN` if that is nothing.
    pub fn write(
        &mut self,
        budget: &Budget,
        from: &[VolatileSlice<'_>],
        packets: bool,
    ) -> Result<usize, Errno> {
        let total: usize = from.iter().map(VolatileSlice::len).sum();
        let room = self.room(packets);
        if total == 0 {
            return Ok(0);
        }
        if room == 0 || total <= ATOMIC && room < total {
            return Err(Errno::EAGAIN);
        }
        let bytes = gather(from, room);
        budget.take(bytes.len()).map_err(|_| Errno::ENOMEM)?;
        self.bytes.extend(&bytes);
        match self.pieces.back_mut().filter(|last| !packets && !last.packet) {
            Some(last) => last.len += bytes.len(),
            None if packets => {
                let pieces = bytes.chunks(ATOMIC).map(|chunk| Piece { len: chunk.len(), packet: true });
                self.pieces.extend(pieces);
            }
            None => self.pieces.push_back(Piece { len: bytes.len(), packet: false }),
        }
        Ok(bytes.len())
    }

    /// Takes up to `room` bytes out, or one packet.
    pub fn read(&mut self, budget: &Budget, room: usize) -> Vec<u8> {
        let Some(first) = self.pieces.front_mut() else { return Vec::new() };
        let n = room.min(first.len);
        let gone = if first.packet { first.len } else { n };
        first.len -= gone;
        if first.len == 0 {
            self.pieces.pop_front();
        }
        let mut bytes: Vec<u8> = self.bytes.drain(..gone.min(self.bytes.len())).collect();
        bytes.truncate(n);
        budget.give(gone);
        bytes
    }

    /// Drops all that waits.
    pub fn clear(&mut self, budget: &Budget) {
        budget.give(self.len());
        self.bytes = VecDeque::new();
        self.pieces = VecDeque::new();
    }

    /// Whether the parts fit together, as they do unless what was read back is damaged.
    pub fn is_consistent(&self) -> bool {
        let counted = self.pieces.iter().try_fold(0usize, |sum, piece| sum.checked_add(piece.len));
        counted == Some(self.len())
            && self.pieces.iter().all(|piece| piece.len > 0)
            && (ATOMIC..=MOST).contains(&self.capacity)
            && self.capacity.is_power_of_two()
            && self.len() <= self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(buffer: &mut Buffer, budget: &Budget, len: usize, packets: bool) -> Result<usize, Errno> {
        let mut bytes = vec![7; len];
        buffer.write(budget, &[VolatileSlice::from(bytes.as_mut_slice())], packets)
    }

    #[test]
    fn packets_are_read_one_by_one_and_other_bytes_together() {
        let (mut buffer, budget) = (Buffer::default(), Budget::for_memory(0));
        for (len, packets) in [(3, false), (4, false), (5, true), (6, true), (1, false)] {
            assert_eq!(write(&mut buffer, &budget, len, packets), Ok(len));
        }
        let sizes: Vec<usize> = (0..5).map(|_| buffer.read(&budget, 5).len()).collect();
        // The last byte of the second packet is dropped.
        assert_eq!(sizes, [5, 2, 5, 5, 1]);
        assert!(buffer.is_empty() && budget.held() == 0);
    }

    #[test]
    fn a_pipe_holds_no_more_than_it_can() {
        let (mut buffer, budget) = (Buffer::default(), Budget::for_memory(0));
        assert_eq!(write(&mut buffer, &budget, 100_000, false), Ok(USUAL));
        assert_eq!(write(&mut buffer, &budget, 1, false), Err(Errno::EAGAIN));
        assert_eq!(buffer.set_capacity(USUAL / 2), Err(Errno::EBUSY));
        assert_eq!(buffer.set_capacity(MOST + 1), Err(Errno::EPERM));
        assert_eq!(buffer.set_capacity(USUAL + 1), Ok(2 * USUAL));
        buffer.clear(&budget);
        let packets = (0..100).take_while(|_| write(&mut buffer, &budget, 1, true).is_ok()).count();
        assert_eq!(packets, 2 * USUAL / ATOMIC);
        assert!(buffer.is_consistent());
        buffer.clear(&budget);
        assert_eq!(budget.held(), 0);
    }
}
