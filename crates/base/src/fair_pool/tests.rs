use std::{
    future::Future,
    ops::ControlFlow,
    pin::pin,
    sync::{Arc, mpsc},
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::*;

const LIMITS: FairPoolLimits =
    FairPoolLimits { threads: 2, started: 4, waiting: 8, waiting_in_all: 12 };

/// Starts a future; it goes on when it is awaited.
fn start<F: Future + Unpin>(mut future: F) -> F {
    let first = pin!(&mut future).poll(&mut Context::from_waker(Waker::noop()));
    assert!(first.is_pending(), "it was refused");
    future
}

/// Work without end, which says when it is dropped.
fn endless(dropped: mpsc::Sender<()>) -> impl FnMut() -> ControlFlow<()> {
    struct OnDrop(mpsc::Sender<()>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let on_drop = OnDrop(dropped);
    move || {
        let _kept = &on_drop;
        ControlFlow::Continue(())
    }
}

fn counted(mut steps: usize) -> impl FnMut() -> ControlFlow<&'static str> {
    move || {
        steps -= 1;
        if steps == 0 { ControlFlow::Break("done") } else { ControlFlow::Continue(()) }
    }
}

#[tokio::test]
async fn work_without_end_of_one_share_does_not_keep_others_waiting() {
    let pool = FairPool::new("test", LIMITS);
    let (dropped, _) = mpsc::channel();
    let _endless: Vec<_> =
        (0..8).map(|_| start(Box::pin(pool.run(1, endless(dropped.clone()))))).collect();
    for share in 2..6 {
        assert_eq!(pool.run(share, counted(100)).await, Ok("done"));
    }
}

#[tokio::test]
async fn work_that_nobody_waits_for_ends() {
    let pool = FairPool::new("test", LIMITS);
    let (dropped, was_dropped) = mpsc::channel();
    let running = start(Box::pin(pool.run(1, endless(dropped))));
    assert_eq!(pool.run(1, counted(2)).await, Ok("done"));
    drop(running);
    was_dropped.recv_timeout(Duration::from_secs(60)).unwrap();
}

#[tokio::test]
async fn a_share_that_has_too_much_waiting_is_refused_and_no_other() {
    let pool = FairPool::new("test", LIMITS);
    let (hold, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let blocked = || {
        let held = Arc::clone(&held);
        move || {
            let _ = held.lock().unwrap().recv();
            1
        }
    };
    let mut waiting = Vec::new();
    // Threads have the first, as soon as they come to it; eight wait.
    let full = loop {
        let mut one = Box::pin(pool.run_once(1, blocked()));
        match one.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => break result,
            Poll::Pending => waiting.push(one),
        }
        assert!(waiting.len() < 12);
    };
    assert_eq!(full, Err(FairPoolError::Full));
    let other = start(Box::pin(pool.run_once(2, blocked())));
    drop(hold);
    assert_eq!(other.await, Ok(1));
}

#[tokio::test]
async fn when_all_room_is_taken_who_has_most_gives_way() {
    let pool = FairPool::with_patience("test", LIMITS, Duration::from_secs(3600));
    let (hold, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let (begun, has_begun) = mpsc::channel();
    let blocked = || {
        let (held, begun) = (Arc::clone(&held), begun.clone());
        move || {
            let _ = begun.send(());
            let _ = held.lock().unwrap().recv();
        }
    };
    let busy: Vec<_> =
        (1..=2).map(|share| start(Box::pin(pool.run_once(share, blocked())))).collect();
    (0..2).for_each(|_| has_begun.recv_timeout(Duration::from_secs(60)).unwrap());
    let wait = |share, count| -> Vec<_> {
        (0..count).map(|_| start(Box::pin(pool.run_once(share, blocked())))).collect()
    };
    let (mut most, few) = (wait(3, 8), wait(4, 4));
    let one_more = wait(5, 1);
    drop(hold);
    assert_eq!(most.pop().unwrap().await, Err(FairPoolError::Stopped));
    for work in busy.into_iter().chain(most).chain(few).chain(one_more) {
        assert_eq!(work.await, Ok(()));
    }
}

#[tokio::test]
async fn threads_that_hang_are_replaced() {
    let pool = FairPool::with_patience("test", LIMITS, Duration::ZERO);
    let (hold, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let (begun, has_begun) = mpsc::channel();
    let hung: Vec<_> = (1..=3)
        .map(|share| {
            let (held, begun) = (Arc::clone(&held), begun.clone());
            let hung = start(Box::pin(pool.run_once(share, move || {
                let _ = begun.send(());
                let _ = held.lock().unwrap().recv();
            })));
            has_begun.recv_timeout(Duration::from_secs(60)).unwrap();
            hung
        })
        .collect();
    assert_eq!(pool.run_once(9, || 7).await, Ok(7));
    drop(hold);
    for work in hung {
        assert_eq!(work.await, Ok(()));
    }
}

#[tokio::test]
async fn work_that_panics_fails_alone() {
    let pool = FairPool::new("test", LIMITS);
    let failed = pool.run_once(1, || panic!("on purpose")).await;
    assert_eq!(failed, Err::<(), _>(FairPoolError::Stopped));
    for _ in 0..20 {
        assert_eq!(pool.run_once(1, || 1).await, Ok(1));
    }
}
