//! Any bytes as what an agent sends, in pieces: no panic, every frame is made of the bytes that came, and no more is
//! reserved than a frame may have.
#![no_main]
use bytes::BytesMut;
use hydra::agent::frame;
use libfuzzer_sys::fuzz_target;

/// Most bytes of a payload here.
const LIMIT: usize = 4096;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let mut buffer = BytesMut::new();
    let mut framed = 0;
    for piece in bytes.chunks(usize::from(piece).max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match frame::decode(&mut buffer, LIMIT) {
                Ok(Some(frame)) => {
                    assert!(frame.payload.len() <= LIMIT);
                    framed += frame::HEADER + frame.payload.len();
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(buffer.capacity() <= 4 * (LIMIT + frame::HEADER) + bytes.len());
    }
    assert_eq!(framed + buffer.len(), bytes.len());
});
