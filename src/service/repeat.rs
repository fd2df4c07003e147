//! Invoking a function many times: `/warmup` and `/stress`.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::{join_all, try_join_all};

use super::{Registered, Service, ServiceError};
use crate::function::Isolation;
use crate::sandbox::{self, Invocation, Pool, Snapshots};

/// Most invocations and callers that one `/warmup` or `/stress` may ask for.
pub const MAX_REQUESTS: u32 = 1_000_000;
/// See [`MAX_REQUESTS`].
pub const MAX_CALLERS: u32 = 1_000;

impl Service {
    /// Invokes a function `requests` times for each of `callers` concurrent callers, and returns the last result.
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
        let left = AtomicU64::new(u64::from(callers) * u64::from(requests));
        let last = try_join_all((0..at_once(&function, callers)).map(|_| async {
            let mut last = None;
            while take(&left) {
                last = Some(self.invoke_on(&function, arguments, false).await?.returned()?);
            }
            Ok::<_, ServiceError>(last)
        }))
        .await?;
        let invocation = match last.into_iter().flatten().next_back() {
            Some(invocation) => invocation,
            None => self.invoke_on(&function, arguments, false).await?.returned()?,
        };
        warm_up.complete();
        function.pool.rest_one().await;
        Ok(invocation)
    }

    /// Invokes a function `requests` times in all, on at most `callers` sandboxes at a time.
    ///
    /// # Errors
    /// An error of an invocation; the others run to their end all the same.
    pub async fn stress(
        &self,
        name: &str,
        arguments: &[u8],
        callers: u32,
        requests: u32,
    ) -> Result<(), ServiceError> {
        let function = self.find(name)?;
        let fresh = function.spec().isolation == Isolation::Request;
        let invoke = async || Ok(self.invoke_on(&function, arguments, fresh).await?.returned()?);
        repeat(at_once(&function, callers), requests, invoke).await
    }
}

/// How many of so many callers invoke at a time: the others would wait for the sandboxes of those, and be refused if they are too many.
fn at_once(function: &Registered, callers: u32) -> u32 {
    callers.min(function.spec().concurrency)
}

/// Has `callers` call `invoke` at a time, `requests` times in all. One for whom there is no more to be had calls no more.
async fn repeat<T, F>(callers: u32, requests: u32, invoke: impl Fn() -> F) -> Result<(), ServiceError>
where
    F: Future<Output = Result<T, ServiceError>>,
{
    let left = AtomicU64::new(requests.into());
    let results = join_all((0..callers).map(|_| async {
        let mut result = Ok(());
        while take(&left) {
            let Err(error) = invoke().await else { continue };
            let is_over = matches!(error, ServiceError::Sandbox(sandbox::Error::Unavailable(_)));
            result = Err(error);
            if is_over {
                break;
            }
            // It may have come at once, as all the next will.
            tokio::task::yield_now().await;
        }
        result
    }))
    .await;
    results.into_iter().collect()
}

/// Takes one of those that are left.
fn take(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[tokio::test]
    async fn a_caller_goes_on_after_an_error_but_not_when_the_function_is_gone() {
        let calls = AtomicU32::new(0);
        let failing = async |error: sandbox::Error| {
            calls.fetch_add(1, Ordering::Relaxed);
            Err::<(), _>(error.into())
        };
        let result = repeat(3, 10, || failing(sandbox::Error::NoCapacity)).await;
        assert!(matches!(result, Err(ServiceError::Sandbox(sandbox::Error::NoCapacity))));
        assert_eq!(calls.swap(0, Ordering::Relaxed), 10);
        let result = repeat(3, 10, || failing(sandbox::Error::Unavailable("it is gone".into()))).await;
        assert!(matches!(result, Err(ServiceError::Sandbox(sandbox::Error::Unavailable(_)))));
        assert_eq!(calls.swap(0, Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn others_run_while_every_call_fails_at_once() {
        let calls = Arc::new(AtomicU32::new(0));
        let counting = calls.clone();
        tokio::spawn(async move {
            let failing = || {
                counting.fetch_add(1, Ordering::Relaxed);
                std::future::ready(Err::<(), _>(sandbox::Error::NoCapacity.into()))
            };
            repeat(1, 1000, failing).await
        });
        tokio::task::yield_now().await;
        assert!(calls.load(Ordering::Relaxed) < 1000);
    }
}
