//! Connections that are kept for the next request.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::{ByteStream, MAX_HEAD, url::Target};

/// How long a connection is kept. Shorter than servers keep theirs, so that few close under a request.
const KEPT_FOR: Duration = Duration::from_secs(20);

type Driver = http1::Connection<TokioIo<Box<dyn ByteStream>>, Full<Bytes>>;

/// A connection and what drives it.
pub(super) struct Link {
    pub(super) sender: http1::SendRequest<Full<Bytes>>,
    pub(super) driver: Pin<Box<Driver>>,
}

impl Link {
    pub(super) async fn over(stream: Box<dyn ByteStream>) -> hyper::Result<Self> {
        let mut builder = http1::Builder::new();
        let (sender, driver) =
            builder.max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, driver: Box::pin(driver) })
    }

    /// Whether the next request can go over it, as far as is known here.
    async fn is_idle(&mut self) -> bool {
        poll_fn(|context| {
            let ended = self.driver.as_mut().poll(context).is_ready();
            Poll::Ready(!ended && matches!(self.sender.poll_ready(context), Poll::Ready(Ok(()))))
        })
        .await
    }
}

/// Connections without a request, the last used at the end. Clones share them.
#[derive(Clone)]
pub(super) struct Idle {
    most: usize,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    links: Vec<(Target, Link, Instant)>,
    is_swept: bool,
}

impl Idle {
    /// Keeps at most so many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, kept: Arc::default() }
    }

    /// The same, with none kept yet.
    pub(super) fn anew(&self) -> Self {
        Self::new(self.most)
    }

    /// One to `target` that is not known to have ended.
    pub(super) async fn take(&self, target: &Target) -> Option<Link> {
        loop {
            let mut link = self.kept(|kept| {
                let at = kept.links.iter().rposition(|(to, _, _)| to == target)?;
                Some(kept.links.remove(at).1)
            })?;
            if link.is_idle().await {
                return Some(link);
            }
        }
    }

    /// Keeps a connection whose answer was read, if another request can follow.
    pub(super) async fn keep(&self, target: Target, mut link: Link) {
        if !link.is_idle().await {
            return;
        }
        let now = Instant::now();
        let sweeps = self.kept(|kept| {
            kept.sweep(now);
            if kept.links.len() >= self.most && !kept.links.is_empty() {
                kept.links.remove(0);
            }
            if self.most > 0 {
                kept.links.push((target, link, now + KEPT_FOR));
            }
            !std::mem::replace(&mut kept.is_swept, true)
        });
        if sweeps {
            tokio::spawn(sweep(self.clone()));
        }
    }

    fn kept<T>(&self, then: impl FnOnce(&mut Kept) -> T) -> T {
        then(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    fn sweep(&mut self, now: Instant) {
        self.links.retain(|(_, _, until)| *until > now);
    }
}

/// Closes what was not used for long; ends when nothing is kept, or nobody is left to use it.
async fn sweep(idle: Idle) {
    let (kept, most) = (Arc::downgrade(&idle.kept), idle.most);
    drop(idle);
    loop {
        tokio::time::sleep(KEPT_FOR / 2).await;
        let Some(kept) = kept.upgrade() else { return };
        let is_done = Idle { most, kept }.kept(|kept| {
            kept.sweep(Instant::now());
            kept.is_swept = !kept.links.is_empty();
            !kept.is_swept
        });
        if is_done {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded_in_number_and_in_time() {
        let target = Target::of(&"http://example.org".parse().unwrap()).unwrap();
        let idle = Idle::new(1);
        let mut ends = Vec::new();
        for _ in 0..2 {
            let (here, there) = tokio::io::duplex(1024);
            idle.keep(target.clone(), Link::over(Box::new(here)).await.unwrap()).await;
            ends.push((there, Instant::now()));
        }
        let mut closed_after = Vec::new();
        for (mut end, begun) in ends {
            assert_eq!(end.read(&mut [0]).await.unwrap(), 0, "closed");
            closed_after.push(begun.elapsed());
        }
        assert_eq!(closed_after[0], Duration::ZERO, "there was room for one");
        assert!(closed_after[1] >= KEPT_FOR && closed_after[1] <= KEPT_FOR * 2);
        assert!(idle.take(&target).await.is_none());
    }
}
