//! Waiting for conditions.

use std::time::{Duration, Instant};

/// How long anything may take that should take much less.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer, and returns it.
///
/// # Panics
///
/// When there is none after [`DEADLINE`]; the message names `what` was awaited.
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    eventually_within(what, DEADLINE, ask)
}

/// [`eventually`] with a deadline of its own.
pub fn eventually_within<T>(
    what: &str,
    deadline: Duration,
    mut ask: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}
