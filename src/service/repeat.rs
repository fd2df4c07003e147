//! Invoking a function many times: `/warmup` and `/stress`.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::{join_all, try_join_all};

use super::{Service, ServiceError};
use crate::function::Isolation;
use crate::sandbox::{Invocation, Pool, Snapshots};

/// Most invocations and callers that one `/warmup` or `/stress` may ask for.
pub const MAX_REQUESTS: u32 = 1_000_000;
/// See [`MAX_REQUESTS`].
pub const MAX_CALLERS: u32 = 1_000;

impl Service {
    /// Invokes a function `requests` times on each of `callers` concurrent callers, and once more for the result.
    ///
    /// # Errors
    /// The first error of an invocation.
    pub async fn warm_up(
        &self,
        name: &str,
        arguments: &[u8],
        callers: u32,
        requests: u32,
    ) -> Result<Invocation, ServiceError> {
        let function = self.find(name)?;
        let warm_up = WarmUp::of(&function.pool);
        let last = try_join_all((0..callers).map(|_| async {
            let mut last = None;
            for _ in 0..requests {
                last = Some(self.invoke_on(&function, arguments, false).await?);
            }
            Ok::<_, ServiceError>(last)
        }))
        .await?;
        let invocation = match last.into_iter().flatten().next_back() {
            Some(invocation) => invocation,
            None => self.invoke_on(&function, arguments, false).await?,
        };
        warm_up.complete();
        function.pool.rest_one().await;
        Ok(invocation)
    }

    /// Invokes a function `requests` times in all, on at most `callers` sandboxes at a time.
    ///
    /// # Errors
    /// The first error of an invocation; the others run to their end all the same.
    pub async fn stress(
        &self,
        name: &str,
        arguments: &[u8],
        callers: u32,
        requests: u32,
    ) -> Result<(), ServiceError> {
        let function = self.find(name)?;
        let fresh = function.spec().isolation == Isolation::Request;
        let left = AtomicU64::new(requests.into());
        let take =
            || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        let results = join_all((0..callers).map(|_| async {
            let mut result = Ok(());
            while take() {
                if let Err(error) = self.invoke_on(&function, arguments, fresh).await {
                    result = Err(error);
                }
            }
            result
        }))
        .await;
        results.into_iter().collect()
    }
}

/// A warm-up that is under way: nothing is checkpointed until it is over.
struct WarmUp<'a> {
    snapshots: Option<&'a dyn Snapshots>,
    complete: bool,
}

impl WarmUp<'_> {
    fn of(pool: &Pool) -> WarmUp<'_> {
        let snapshots = pool.snapshots();
        if let Some(snapshots) = snapshots {
            snapshots.begin_warm_up();
        }
        WarmUp { snapshots, complete: false }
    }

    /// Has its effect kept.
    fn complete(mut self) {
        self.complete = true;
    }
}

impl Drop for WarmUp<'_> {
    fn drop(&mut self) {
        if let Some(snapshots) = self.snapshots {
            snapshots.end_warm_up(self.complete);
        }
    }
}
