//! Work that comes round again and again.

use std::time::Duration;

use tokio::time::sleep;

/// Does `work` after `first` and every `interval` from then on; after `retry` where it says, by
/// `false`, that it failed. Never ends; is dropped at any point.
pub async fn periodically<F: Future<Output = bool>>(
    first: Duration,
    interval: Duration,
    retry: Duration,
    work: impl Fn() -> F,
) {
    sleep(first).await;
    loop {
        let pause = if work().await { interval } else { retry };
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_done_again_sooner() {
        let done = AtomicU32::new(0);
        let seconds = Duration::from_secs;
        let work = || async { done.fetch_add(1, Ordering::Relaxed) != 1 };
        let periodic = periodically(seconds(10), seconds(100), seconds(5), work);
        // At 10, 110 (which fails), 115 and 215.
        assert!(tokio::time::timeout(seconds(120), periodic).await.is_err());
        assert_eq!(done.load(Ordering::Relaxed), 3);
    }
}
