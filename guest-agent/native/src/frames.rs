//! Frames of the agent protocol: a header of 8 bytes (length, kind, three zero bytes) and a payload.

use std::io::{self, IoSlice, Read, Write};

use thiserror::Error;

/// Bytes of a frame's header.
pub const HEADER: usize = 8;
/// Most bytes of a payload.
pub const MAX_PAYLOAD: usize = 64 << 20;
/// Bytes of the read buffer that are kept between frames; a larger frame's memory is given back.
const KEPT_BUFFER: usize = 64 << 10;

/// Frames that Hydra sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Load a function.
    Load = 0x81,
    /// Invoke it.
    Invoke = 0x82,
    /// The program goes on from a snapshot.
    Restored = 0x83,
    /// A checkpoint is about to be taken.
    Checkpoint = 0x84,
    /// Control channel: make an isolate.
    Open = 0x91,
    /// Control channel: end an isolate.
    Close = 0x92,
}

impl Received {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Load, Self::Invoke, Self::Restored, Self::Checkpoint, Self::Open, Self::Close]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Frames that the agent sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Who the agent is.
    Hello = 0x01,
    /// The entry point was found.
    Loaded = 0x02,
    /// The code cannot be loaded.
    LoadFailed = 0x03,
    /// What the function returned.
    Result = 0x04,
    /// The function gave no valid result.
    Raised = 0x05,
    /// The agent is ready to be checkpointed.
    Ready = 0x07,
    /// Control channel: an isolate ended.
    Closed = 0x11,
}

/// Why no further frame can be read or written.
#[derive(Debug, Error)]
pub enum FrameError {
    /// A header names more than [`MAX_PAYLOAD`].
    #[error("a frame of {0} bytes was announced: at most {MAX_PAYLOAD} are allowed")]
    TooLong(u32),
    /// A kind that Hydra does not send.
    #[error("a frame of the unknown kind {0:#04x} was received")]
    UnknownKind(u8),
    /// The header's reserved bytes must be zero.
    #[error("a frame with non-zero reserved bytes was received")]
    Reserved,
    /// The channel ended inside a frame.
    #[error("the channel ended in the middle of a frame")]
    Truncated,
    /// The channel itself failed.
    #[error("the channel failed: {0}")]
    Io(#[from] io::Error),
}

/// Reads frames. A small frame takes one `read`.
pub struct FrameReader<R> {
    inner: R,
    buffer: Vec<u8>,
    filled: usize,
    consumed: usize,
}

impl<R: Read> FrameReader<R> {
    /// Reads from `inner`, which needs no buffer of its own.
    pub fn new(inner: R) -> Self {
        FrameReader { inner, buffer: vec![0; KEPT_BUFFER], filled: 0, consumed: 0 }
    }

    /// The next frame's kind and payload, or `None` once the channel ended between frames.
    pub fn next(&mut self) -> Result<Option<(Received, &[u8])>, FrameError> {
        self.forget_consumed();
        while self.filled < HEADER {
            if self.read_more()? == 0 {
                return if self.filled == 0 { Ok(None) } else { Err(FrameError::Truncated) };
            }
        }
        let (kind, length) = parse_header(&self.buffer)?;
        let end = HEADER + length;
        while self.filled < end {
            if self.filled == self.buffer.len() {
                // Doubling, so that an announced length costs no memory before its bytes come.
                self.buffer.resize(end.min(2 * self.filled), 0);
            }
            if self.read_more()? == 0 {
                return Err(FrameError::Truncated);
            }
        }
        self.consumed = end;
        Ok(Some((kind, &self.buffer[HEADER..end])))
    }

    fn forget_consumed(&mut self) {
        self.buffer.copy_within(self.consumed..self.filled, 0);
        self.filled -= self.consumed;
        self.consumed = 0;
        if self.buffer.len() > KEPT_BUFFER && self.filled <= KEPT_BUFFER {
            self.buffer.truncate(KEPT_BUFFER);
            self.buffer.shrink_to_fit();
        }
    }

    fn read_more(&mut self) -> io::Result<usize> {
        loop {
            match self.inner.read(&mut self.buffer[self.filled..]) {
                Ok(count) => {
                    self.filled += count;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn parse_header(buffer: &[u8]) -> Result<(Received, usize), FrameError> {
    let length = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
    if length as usize > MAX_PAYLOAD {
        return Err(FrameError::TooLong(length));
    }
    let kind = Received::from_byte(buffer[4]).ok_or(FrameError::UnknownKind(buffer[4]))?;
    if buffer[5..HEADER] != [0; 3] {
        return Err(FrameError::Reserved);
    }
    Ok((kind, length as usize))
}

/// Writes one frame, with one `writev` where the channel takes it whole.
pub fn write_frame(mut channel: impl Write, kind: Sent, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).ok().filter(|length| *length as usize <= MAX_PAYLOAD);
    let length =
        length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the frame is too long"))?;
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = kind as u8;
    let mut slices = [IoSlice::new(&header), IoSlice::new(payload)];
    let mut left = &mut slices[..];
    while !left.is_empty() {
        match channel.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut left, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A reader that hands out at most `step` bytes a time.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let step = self.1.min(buffer.len());
            self.0.read(&mut buffer[..step])
        }
    }

    fn frame(kind: Received, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
        bytes.extend([kind as u8, 0, 0, 0]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn rejects_what_the_protocol_does_not_allow() {
        let next = |bytes: &[u8]| FrameReader::new(bytes).next().map(|frame| frame.is_some());
        assert!(matches!(next(&[1, 0, 0, 4, 0x82, 0, 0, 0]), Err(FrameError::TooLong(0x0400_0001))));
        assert!(matches!(next(&[0, 0, 0, 0, 0x04, 0, 0, 0]), Err(FrameError::UnknownKind(4))));
        assert!(matches!(next(&[0, 0, 0, 0, 0x82, 0, 1, 0]), Err(FrameError::Reserved)));
        assert!(matches!(next(&[0, 0, 0]), Err(FrameError::Truncated)));
        assert!(matches!(next(&[2, 0, 0, 0, 0x82, 0, 0, 0, b'x']), Err(FrameError::Truncated)));
        assert!(matches!(next(&[]), Ok(false)));
    }

    #[test]
    fn gives_the_memory_of_a_large_frame_back() {
        let mut bytes = frame(Received::Invoke, &vec![b'x'; 1 << 20]);
        bytes.extend(frame(Received::Invoke, b"small"));
        let mut reader = FrameReader::new(&bytes[..]);
        assert_eq!(reader.next().unwrap().unwrap().1.len(), 1 << 20);
        assert_eq!(reader.next().unwrap().unwrap(), (Received::Invoke, &b"small"[..]));
        assert!(reader.buffer.capacity() <= 2 * KEPT_BUFFER);
    }

    #[test]
    fn writes_a_header_and_the_payload() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, Sent::Result, b"ok").unwrap();
        write_frame(&mut bytes, Sent::Loaded, b"").unwrap();
        assert_eq!(bytes, b"\x02\0\0\0\x04\0\0\0ok\0\0\0\0\x02\0\0\0");
    }

    proptest! {
        #[test]
        fn reads_what_was_framed(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
            step in 1..400usize,
        ) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|payload| frame(Received::Invoke, payload)).collect();
            let mut reader = FrameReader::new(Dribble(&bytes, step));
            for payload in &payloads {
                prop_assert_eq!(reader.next().unwrap(), Some((Received::Invoke, &payload[..])));
            }
            prop_assert!(reader.next().unwrap().is_none());
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), step in 1..64usize) {
            let mut reader = FrameReader::new(Dribble(&bytes, step));
            while let Ok(Some(_)) = reader.next() {}
        }
    }
}
