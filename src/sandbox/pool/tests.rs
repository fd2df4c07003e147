use futures_util::FutureExt;

use super::*;
use crate::sandbox::test_agent;

/// A pool of one sandbox at most, whose function answers when `release` is notified.
fn pool() -> (Arc<Pool>, Arc<tokio::sync::Semaphore>) {
    let answers = Arc::new(tokio::sync::Semaphore::new(0));
    let settings = PoolSettings { max_waiting: 8, idle_time: Duration::from_secs(60), parallel_starts: 1 };
    let starter = test_agent::Starter { answers: answers.clone() };
    (Pool::new(test_agent::function(), Arc::new(starter), settings), answers)
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not come about");
}

#[tokio::test]
async fn a_client_that_goes_away_takes_no_sandbox_with_it() {
    let (pool, answers) = pool();
    let mut first = Box::pin(pool.invoke(b"{}", false));
    let mut second = Box::pin(pool.invoke(b"{}", false));
    until("one that runs and one that waits", || {
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        (pool.status().busy, pool.status().waiting) == (1, 1)
    })
    .await;
    answers.add_permits(2);
    first.await.unwrap();
    // The sandbox is on its way to the second client, which goes without having looked.
    drop(second);
    let status = pool.status();
    assert_eq!((status.idle, status.busy, status.waiting), (1, 0, 0));
    assert_eq!(pool.invoke(b"{}", false).await.unwrap().start, Start::Warm);
}

#[tokio::test]
async fn an_invocation_runs_to_its_end_when_its_client_goes_away() {
    let (pool, answers) = pool();
    let mut client = Box::pin(pool.invoke(b"{}", false));
    until("one that runs", || {
        assert!((&mut client).now_or_never().is_none());
        pool.status().busy == 1
    })
    .await;
    drop(client);
    answers.add_permits(2);
    until("an idle sandbox", || pool.status().idle == 1).await;
    assert_eq!(pool.invoke(b"{}", false).await.unwrap().start, Start::Warm);
}

#[tokio::test]
async fn too_many_that_wait_are_told_so_and_those_that_left_do_not_count() {
    let (pool, answers) = pool();
    let wait = || {
        let pool = pool.clone();
        tokio::spawn(async move { pool.invoke(b"{}", false).await.map(|done| done.result) })
    };
    let clients: Vec<_> = (0..9).map(|_| wait()).collect();
    until("a full queue", || pool.status().waiting == 8).await;
    assert!(matches!(pool.invoke(b"{}", false).await, Err(Error::NoCapacity)));
    clients.iter().for_each(|client| client.abort());
    until("an empty queue", || pool.status().waiting == 0).await;
    let later = wait();
    answers.add_permits(20);
    assert_eq!(later.await.unwrap().unwrap(), "{}");
}

#[tokio::test]
async fn a_fresh_sandbox_takes_the_place_of_an_idle_one() {
    let (pool, answers) = pool();
    answers.add_permits(3);
    assert_eq!(pool.invoke(b"{}", false).await.unwrap().start, Start::Cold);
    assert_eq!(pool.invoke(b"{}", false).await.unwrap().start, Start::Warm);
    assert_eq!(pool.invoke(b"{}", true).await.unwrap().start, Start::Cold);
    let status = pool.status();
    assert_eq!((status.idle, status.busy, status.starting), (0, 0, 0));
}
