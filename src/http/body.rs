//! Bodies of requests: whole, soon enough, and all together within a bound.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;

/// How long a request's body may take to come.
const TIME: Duration = Duration::from_secs(30);
/// Bytes that the bodies of all requests of a kind may occupy, of those that come and those that are served; at least so many of the largest.
const ALL: usize = 256 << 20;
const LARGEST: usize = 4;
/// What memory is counted in.
const UNIT: usize = 1 << 10;

/// Memory for bodies.
pub struct Bodies {
    room: Arc<Semaphore>,
    /// Most bytes of one.
    most: usize,
}

/// A body, which keeps its room.
pub struct Held {
    pub bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    /// For bodies of at most so many bytes each.
    pub fn new(most: usize) -> Bodies {
        let units = ALL.max(most.saturating_mul(LARGEST)) / UNIT;
        Bodies { room: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))), most }
    }

    /// Reads a body. Room is taken as it comes: one that does not come takes none.
    ///
    /// # Errors
    /// What the client is to be told of one that is too large, too slow, broken, or too much with all the others.
    pub async fn read(&self, body: Body) -> Result<Held, ApiError> {
        if body.size_hint().lower() > self.most as u64 {
            return Err(ApiError::large_body(self.most));
        }
        tokio::time::timeout(TIME, self.collect(body))
            .await
            .unwrap_or_else(|_| Err(ApiError::slow_body(TIME)))
    }

    async fn collect(&self, mut body: Body) -> Result<Held, ApiError> {
        let (mut first, mut more) = (Bytes::new(), BytesMut::new());
        let mut room: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| ApiError::broken_body(&error))?.into_data() else {
                continue;
            };
            let len = first.len() + more.len() + data.len();
            if len > self.most {
                return Err(ApiError::large_body(self.most));
            }
            let held = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let lacking = len.div_ceil(UNIT).saturating_sub(held);
            if let Ok(lacking) = u32::try_from(lacking)
                && lacking > 0
            {
                let more = self.room.clone().try_acquire_many_owned(lacking).map_err(|_| {
                    ApiError::busy("the bodies of the requests at hand occupy as much memory as they may; try again later")
                })?;
                match &mut room {
                    Some(room) => room.merge(more),
                    None => room = Some(more),
                }
            }
            // Most come at once, and need no copy.
            if first.is_empty() && more.is_empty() {
                first = data;
            } else {
                if more.is_empty() {
                    more.extend_from_slice(&std::mem::take(&mut first));
                }
                more.extend_from_slice(&data);
            }
        }
        let bytes = if more.is_empty() { first } else { more.freeze() };
        Ok(Held { bytes, _room: room })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn parts(parts: Vec<&'static [u8]>) -> Body {
        Body::from_stream(stream::iter(parts.into_iter().map(Ok::<_, std::io::Error>)))
    }

    #[tokio::test]
    async fn parts_are_put_together() {
        let bodies = Bodies::new(100);
        for split in [vec![], vec![&b"abc"[..]], vec![b"", b"a", b"", b"bc", b"def"]] {
            let whole = split.concat();
            assert_eq!(bodies.read(parts(split)).await.expect("a body").bytes, whole);
        }
    }

    #[tokio::test]
    async fn what_is_too_large_is_refused_before_it_comes() {
        let bodies = Bodies::new(10);
        for body in [Body::from("12345678901"), parts(vec![b"123456", b"78901"])] {
            let refused = bodies.read(body).await.err().expect("it is refused");
            assert!(format!("{refused:?}").contains("10 bytes"), "{refused:?}");
        }
        // All of the room is there again.
        assert_eq!(bodies.room.available_permits(), ALL / UNIT);
    }

    #[tokio::test]
    async fn all_together_have_a_bound() {
        let most = ALL / LARGEST;
        let bodies = Bodies::new(most);
        let large = || Body::from(vec![0; most]);
        let mut held = Vec::new();
        for _ in 0..LARGEST {
            held.push(bodies.read(large()).await.expect("there is room"));
        }
        let refused = bodies.read(Body::from("1")).await.err().expect("there is no more room");
        assert!(format!("{refused:?}").contains("503"), "{refused:?}");
        held.pop();
        assert!(bodies.read(large()).await.is_ok());
    }
}
