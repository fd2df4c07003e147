//! Frames of the agent protocol: a header of 8 bytes (length, kind, three zero bytes) and a payload.

use bytes::{Buf, BufMut, BytesMut};

/// Bytes of a frame's header.
pub const HEADER: usize = 8;

/// Most bytes of a payload that the protocol allows.
pub const MAX_PAYLOAD: usize = 64 << 20;

/// Most bytes of a `LOG` frame: the byte that names the stream, and 64 KiB of text.
pub const MAX_LOG: usize = 1 + (64 << 10);

/// What a frame is; the numbers are those of `guest-agent/PROTOCOL.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// First frame of an agent: who it is (JSON).
    Hello = 0x01,
    /// The entry point was found.
    Loaded = 0x02,
    /// The code cannot be loaded (JSON).
    LoadFailed = 0x03,
    /// What the function returned (UTF-8).
    Result = 0x04,
    /// The function raised (JSON).
    Raised = 0x05,
    /// What the function printed: stream number and UTF-8 text.
    Log = 0x06,
    /// The agent is ready to be checkpointed.
    Ready = 0x07,
    /// Control channel: an isolate ended (JSON).
    Closed = 0x11,
    /// Load a function (JSON).
    Load = 0x81,
    /// Invoke the function with these arguments (UTF-8).
    Invoke = 0x82,
    /// The program goes on from a snapshot (JSON).
    Restored = 0x83,
    /// A checkpoint is about to be taken.
    Checkpoint = 0x84,
    /// Control channel: make an isolate (JSON).
    Open = 0x91,
    /// Control channel: end an isolate (JSON).
    Close = 0x92,
}

impl Kind {
    const ALL: [Kind; 14] = [
        Kind::Hello,
        Kind::Loaded,
        Kind::LoadFailed,
        Kind::Result,
        Kind::Raised,
        Kind::Log,
        Kind::Ready,
        Kind::Closed,
        Kind::Load,
        Kind::Invoke,
        Kind::Restored,
        Kind::Checkpoint,
        Kind::Open,
        Kind::Close,
    ];

    fn from_byte(byte: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A frame that is whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Its payload.
    pub payload: BytesMut,
}

/// Bytes that are no frame: the peer has broken the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The kind's byte is none that the protocol has.
    #[error("a frame of unknown kind {0:#04x}")]
    Kind(u8),
    /// The reserved bytes are not zero.
    #[error("a frame with non-zero reserved bytes")]
    Reserved,
    /// The payload is longer than the limit that is in force.
    #[error("a frame of {length} bytes, over the limit of {limit}")]
    Length {
        /// Its length, in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
}

/// Appends a frame to `out`.
///
/// # Panics
/// If `payload` is over [`MAX_PAYLOAD`]: callers bound what they send.
pub fn encode(kind: Kind, payload: &[u8], out: &mut impl BufMut) {
    assert!(payload.len() <= MAX_PAYLOAD, "a frame's payload is bounded by its maker");
    out.put_slice(&(payload.len() as u32).to_le_bytes());
    out.put_slice(&[kind as u8, 0, 0, 0]);
    out.put_slice(payload);
}

/// Takes the first frame off `buffer`, if it is there as a whole. Otherwise reserves the space that the rest of it needs,
/// never more than `limit` (bytes of payload).
///
/// # Errors
/// [`FrameError`] as soon as the header shows that the peer has broken the protocol.
pub fn decode(buffer: &mut BytesMut, limit: usize) -> Result<Option<Frame>, FrameError> {
    let Some(header) = buffer.first_chunk::<HEADER>() else {
        buffer.reserve(HEADER);
        return Ok(None);
    };
    let [l0, l1, l2, l3, kind, reserved @ ..] = *header;
    let kind = Kind::from_byte(kind).ok_or(FrameError::Kind(kind))?;
    if reserved != [0; 3] {
        return Err(FrameError::Reserved);
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > limit {
        return Err(FrameError::Length { length, limit });
    }
    if buffer.len() < HEADER + length {
        buffer.reserve(HEADER + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEADER);
    Ok(Some(Frame { kind, payload: buffer.split_to(length) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rejects_what_is_no_frame() {
        let decode = |bytes: &[u8]| decode(&mut BytesMut::from(bytes), 10);
        assert_eq!(decode(&[0, 0, 0, 0, 0x7f, 0, 0, 0]), Err(FrameError::Kind(0x7f)));
        assert_eq!(decode(&[0, 0, 0, 0, 4, 0, 1, 0]), Err(FrameError::Reserved));
        assert_eq!(decode(&[11, 0, 0, 0, 4, 0, 0, 0]), Err(FrameError::Length { length: 11, limit: 10 }));
        assert_eq!(
            decode(&[255, 255, 255, 255, 4, 0, 0, 0]),
            Err(FrameError::Length { length: u32::MAX as usize, limit: 10 })
        );
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8), cut in 1usize..64) {
            let mut wire = Vec::new();
            for (index, payload) in payloads.iter().enumerate() {
                encode(Kind::ALL[index % Kind::ALL.len()], payload, &mut wire);
            }
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = decode(&mut buffer, 200).unwrap() {
                    prop_assert_eq!(frame.kind, Kind::ALL[seen.len() % Kind::ALL.len()]);
                    seen.push(frame.payload.to_vec());
                }
            }
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(seen, payloads);
        }

        #[test]
        fn no_bytes_panic_or_reserve_much(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut buffer, 1000) {}
            prop_assert!(buffer.capacity() < 8192);
        }
    }
}
