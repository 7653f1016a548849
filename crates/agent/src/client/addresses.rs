//! Which of a server name's addresses is tried first.
//!
//! A name may stand for many servers. Agents spread over them by chance, and one that did not
//! answer comes last for a while.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use signet_base::Jitter;
use tokio::time::Instant;

/// How long an address that failed comes after the others.
const AVOIDED: Duration = Duration::from_secs(60);
/// How many addresses of a name are tried.
const MOST: usize = 32;

/// What is remembered of them.
#[derive(Debug)]
pub(super) struct Addresses(Mutex<State>);

#[derive(Debug)]
struct State {
    failed: HashMap<SocketAddr, Instant>,
    current: Option<SocketAddr>,
    random: Jitter,
}

impl Addresses {
    pub(super) fn new(random: Jitter) -> Self {
        Self(Mutex::new(State { failed: HashMap::new(), current: None, random }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The order to try them in: by chance, and those that failed lately last, the one that failed
    /// longest ago before the others.
    pub(super) fn order(&self, mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut state = self.state();
        found.sort_unstable();
        found.dedup();
        for last in (1..found.len()).rev() {
            let other = state.random.next_u64() % (last as u64 + 1);
            found.swap(last, usize::try_from(other).unwrap_or(last));
        }
        // What the name stands for no more is forgotten.
        state.failed.retain(|address, at| found.contains(address) && at.elapsed() < AVOIDED);
        found.sort_by_key(|address| state.failed.get(address).copied());
        found.truncate(MOST);
        found
    }

    pub(super) fn failed(&self, address: SocketAddr) {
        self.state().failed.insert(address, Instant::now());
    }

    pub(super) fn reached(&self, address: SocketAddr) {
        let mut state = self.state();
        state.failed.remove(&address);
        state.current = Some(address);
    }

    /// The server that is talked to cannot help now: the next connection goes to another one.
    pub(super) fn leave(&self) {
        let mut state = self.state();
        if let Some(current) = state.current.take() {
            state.failed.insert(current, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|n| SocketAddr::from(([10, 0, 0, n], 1))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn agents_spread_and_leave_what_failed_for_a_while() {
        let firsts: std::collections::HashSet<_> =
            (0..64).map(|seed| Addresses::new(Jitter::from_seed(seed)).order(all(4))[0]).collect();
        assert_eq!(firsts.len(), 4, "every address is somebody's first");

        let addresses = Addresses::new(Jitter::from_seed(1));
        let [one, two, three, _] = all(4)[..] else { panic!() };
        addresses.failed(two);
        tokio::time::advance(Duration::from_secs(1)).await;
        addresses.failed(one);
        for _ in 0..20 {
            assert_eq!(addresses.order(all(4))[2..], [two, one]);
        }
        addresses.reached(two);
        assert_eq!(addresses.order(all(4)).last(), Some(&one));
        tokio::time::advance(Duration::from_secs(1)).await;
        addresses.leave();
        assert_eq!(addresses.order(all(4))[2..], [one, two]);
        tokio::time::advance(AVOIDED).await;
        let later: std::collections::HashSet<_> =
            (0..64).map(|_| addresses.order(all(4))[0]).collect();
        assert_eq!(later.len(), 4, "all of them again");
        assert_eq!(addresses.order(vec![three, three]), [three]);
    }
}
