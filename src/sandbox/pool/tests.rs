use std::sync::atomic::Ordering;
use std::sync::mpsc;

use futures_util::FutureExt;

use super::*;
use crate::sandbox::test_agent;

const SETTINGS: PoolSettings = PoolSettings {
    max_waiting: 8,
    idle_time: Duration::from_secs(60),
    start_time: Duration::from_secs(60),
    parallel_starts: 1,
};

/// A pool of one sandbox at most, whose function answers once for each permit.
fn pool() -> (Arc<Pool>, Arc<tokio::sync::Semaphore>) {
    let (pool, starter) = pool_of(1);
    (pool, starter.answers)
}

/// A pool of `concurrency` sandboxes at most, and what starts them.
fn pool_of(concurrency: u32) -> (Arc<Pool>, test_agent::Starter) {
    let starter = test_agent::Starter::default();
    let function = test_agent::function_with(|spec| spec.concurrency = concurrency);
    (Pool::new(function, Arc::new(starter.clone()), SETTINGS, Box::new(|_| ())), starter)
}

/// A pool of one sandbox for invocations of such a time, what starts it, and how invocations end.
fn noting_pool(timeout: Duration) -> (Arc<Pool>, test_agent::Starter, mpsc::Receiver<Result<String, Error>>) {
    let starter = test_agent::Starter::default();
    let function = test_agent::function_with(|spec| spec.timeout = timeout);
    let (sender, ends) = mpsc::channel();
    let note: Ended = Box::new(move |end| {
        let _ = sender.send(end.as_ref().map_err(Error::clone).and_then(|done| done.result.clone()));
    });
    (Pool::new(function, Arc::new(starter.clone()), SETTINGS, note), starter, ends)
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not come about");
}

/// Polls `clients`, none of which is to be done, until so many run and so many wait.
async fn until_they_wait(pool: &Pool, clients: &mut [impl Future + Unpin], wanted: (u32, u32)) {
    until("so many to run, and the others to wait", || {
        assert!(clients.iter_mut().all(|client| client.now_or_never().is_none()));
        (pool.status().busy, pool.status().waiting) == wanted
    })
    .await;
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
        tokio::spawn(async move { pool.invoke(b"{}", false).await.and_then(|done| done.result) })
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

#[tokio::test]
async fn who_waits_for_a_fresh_sandbox_gets_a_place_in_turn_and_starts_but_one() {
    let (pool, starter) = pool_of(1);
    let mut clients: Vec<_> = (0..3).map(|_| Box::pin(pool.invoke(b"{}", true))).collect();
    until_they_wait(&pool, &mut clients, (1, 2)).await;
    for answered in 1..=3 {
        starter.answers.add_permits(1);
        assert_eq!(clients.remove(0).await.unwrap().start, Start::Cold);
        // The place is the next one's now, however long that takes to notice.
        let newcomer = Box::pin(pool.invoke(b"{}", true));
        clients.push(newcomer);
        assert!(clients.last_mut().is_some_and(|client| client.now_or_never().is_none()));
        let status = pool.status();
        assert_eq!((status.busy, status.starting, status.waiting), (1, 0, 2));
        until("the next to run", || {
            assert!(clients.iter_mut().all(|client| client.now_or_never().is_none()));
            starter.started.load(Ordering::Relaxed) == answered + 1
        })
        .await;
    }
}

#[tokio::test]
async fn a_sandbox_that_has_served_nobody_is_fresh_enough() {
    let (pool, starter) = pool_of(1);
    starter.starts.forget_permits(1000);
    let mut first = Box::pin(pool.invoke(b"{}", false));
    let mut fresh = Box::pin(pool.invoke(b"{}", true));
    assert!((&mut first).now_or_never().is_none() && (&mut fresh).now_or_never().is_none());
    assert_eq!((pool.status().starting, pool.status().waiting), (1, 2));
    drop(first);
    starter.starts.add_permits(2);
    starter.answers.add_permits(1);
    fresh.await.unwrap();
    assert_eq!(starter.started.load(Ordering::Relaxed), 1);
    assert_eq!((pool.status().idle, pool.status().busy), (0, 0));
}

#[tokio::test]
async fn a_place_that_is_given_up_is_the_next_ones() {
    let (pool, starter) = pool_of(1);
    let mut clients: Vec<_> = (0..3).map(|_| Box::pin(pool.invoke(b"{}", true))).collect();
    until_they_wait(&pool, &mut clients, (1, 2)).await;
    starter.answers.add_permits(2);
    clients.remove(0).await.unwrap();
    // The second has been given the place, and goes without having looked.
    drop(clients.remove(0));
    clients.remove(0).await.unwrap();
    assert_eq!((pool.status().busy, pool.status().waiting), (0, 0));
}

#[tokio::test]
async fn a_pool_grows_while_requests_wait_and_no_further_than_it_may() {
    let (pool, starter) = pool_of(3);
    let mut clients: Vec<_> = (0..6).map(|_| Box::pin(pool.invoke(b"{}", false))).collect();
    until_they_wait(&pool, &mut clients, (3, 3)).await;
    until("nobody to look after those that wait", || !pool.state().tended).await;
    starter.answers.add_permits(6);
    futures_util::future::try_join_all(clients).await.unwrap();
    assert_eq!(starter.started.load(Ordering::Relaxed), 3);
    assert_eq!((pool.status().idle, pool.status().busy), (3, 0));
}

#[tokio::test]
async fn who_waits_for_a_full_pool_is_left_alone() {
    let (pool, starter) = pool_of(1);
    let mut running = Box::pin(pool.invoke(b"{}", false));
    until("one that runs", || {
        assert!((&mut running).now_or_never().is_none());
        pool.status().busy == 1
    })
    .await;
    let mut waiting = Box::pin(pool.invoke(b"{}", false));
    let mut looks = 0;
    let watched = std::future::poll_fn(|context| {
        looks += 1;
        waiting.poll_unpin(context).map(drop)
    });
    // Long enough for each that looks by itself to do so many times.
    let _ = tokio::time::timeout(Duration::from_millis(100), watched).await;
    assert!(looks <= 2, "{looks} looks");
    starter.answers.add_permits(2);
    assert!(tokio::try_join!(running, waiting).is_ok());
}

#[tokio::test]
async fn sandboxes_are_not_looked_at_under_the_pools_lock() {
    let (pool, starter) = pool_of(1);
    starter.answers.add_permits(2);
    pool.invoke(b"{}", false).await.unwrap();
    let (looks, of) = (Arc::new(std::sync::atomic::AtomicU32::new(0)), Arc::downgrade(&pool));
    let counting = looks.clone();
    let look = move || {
        let Some(pool) = of.upgrade() else { return };
        assert!(pool.state.try_lock().is_ok(), "the pool is locked");
        assert_eq!(pool.status().idle + pool.status().busy, 1);
        counting.fetch_add(1, Ordering::Relaxed);
    };
    assert!(starter.on_channel.set(Box::new(look)).is_ok());
    pool.sweep(false);
    assert_eq!(looks.load(Ordering::Relaxed), 1);
    assert_eq!((pool.status().idle, pool.status().busy), (1, 0));
    assert_eq!(pool.invoke(b"{}", false).await.unwrap().start, Start::Warm);
    assert!(looks.load(Ordering::Relaxed) > 1);
}

#[tokio::test]
async fn a_start_that_takes_for_ever_is_given_up() {
    let starter = test_agent::Starter::default();
    starter.starts.forget_permits(1000);
    let settings = PoolSettings { start_time: Duration::from_millis(20), ..SETTINGS };
    let pool = Pool::new(test_agent::function(), Arc::new(starter.clone()), settings, Box::new(|_| ()));
    for fresh in [false, true] {
        let error = pool.invoke(b"{}", fresh).await.unwrap_err();
        assert!(matches!(&error, Error::Start(why) if why.contains("within 20ms")), "{error}");
        assert_eq!((pool.status().starting, pool.status().busy), (0, 0));
    }
}

#[tokio::test]
async fn an_invocation_whose_client_goes_away_is_judged_as_any_other() {
    let (pool, starter, ends) = noting_pool(Duration::from_secs(20));
    let full = br#"{"message":"no more","type":"MemoryError"}"#;
    for (arguments, kept) in [(&b"{}"[..], 1), (full, 0), (b"{}", 1)] {
        let mut client = Box::pin(pool.invoke(arguments, false));
        until("one that runs", || {
            assert!((&mut client).now_or_never().is_none());
            pool.status().busy == 1
        })
        .await;
        drop(client);
        starter.answers.add_permits(1);
        until("its end", || pool.status().busy == 0).await;
        assert_eq!(pool.status().idle, kept);
        until("that to be noted", || match ends.try_recv() {
            Ok(Ok(result)) => result == "{}" && kept == 1,
            Ok(Err(error)) => matches!(error, Error::OutOfMemory { .. }) && kept == 0,
            Err(_) => false,
        })
        .await;
    }
    assert!(ends.try_recv().is_err(), "an end is noted once");
}

#[tokio::test]
async fn a_client_that_goes_away_gives_its_invocation_no_more_time() {
    let timeout = Duration::from_millis(500);
    let (pool, _starter, ends) = noting_pool(timeout);
    let mut client = Box::pin(pool.invoke(b"{}", false));
    until("one that runs", || {
        assert!((&mut client).now_or_never().is_none());
        pool.status().busy == 1
    })
    .await;
    assert!((&mut client).now_or_never().is_none());
    // Its time is over, also by Tokio's clock, which counts whole milliseconds, but nobody has had the time to look.
    std::thread::sleep(timeout + Duration::from_millis(5));
    drop(client);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(ends.try_recv(), Ok(Err(Error::Timeout(_)))));
    assert_eq!((pool.status().idle, pool.status().busy), (0, 0));
}
