//! Clock, tasks and shutdown, backoff, rate limits, bounded collections, reading of files that
//! people name, locks on files; no other I/O, SPIFFE-free.
//!
//! Everything here is a value that is passed in: no globals, no statics. All waiting goes through
//! tokio's clock, so that tests run on paused time.

mod backoff;
mod clock;
mod error_chain;
mod fair_pool;
mod fair_queue;
mod file_lock;
pub mod files;
mod lru;
mod periodic;
mod rate_limit;
mod readiness;
mod repeats;
mod tasks;
mod throttle;

pub use backoff::{Backoff, Jitter};
pub use clock::{Clock, SharedClock, SystemClock, TestClock, sleep_until};
pub use error_chain::chain;
pub use fair_pool::{FairPool, FairPoolError, FairPoolLimits};
pub use fair_queue::{FairQueue, QueueFull, Turn};
pub use file_lock::LockedFile;
pub use lru::BoundedLru;
pub use periodic::periodically;
pub use rate_limit::{RateLimitError, RateLimiter};
pub use readiness::{Readiness, ReadyGuard};
pub use repeats::Repeats;
pub use tasks::{ShutdownError, Tasks};
pub use throttle::Throttle;
pub use tokio_util::sync::CancellationToken;
