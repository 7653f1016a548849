//! Admission control: how many calls that cost the server much it works on at a time, and which of
//! those that wait come first.
//!
//! After a restart, or where many agents come at once, more renewals, attestations and first syncs
//! come than the server can do at a time. Who has the least time left comes first; who finds no place
//! is told when to ask again.

use std::{fmt, sync::Arc, time::Duration};

use signet_daemon::metrics::{Counter, Metrics};
use signet_time::UnixTime;

use super::urgent::{Turn, UrgentQueue};
use crate::usecase::{
    error::{Error, ErrorKind},
    principal::{Peer, Principal},
};

/// How many calls are worked on at a time, for each processor and at least.
const FOR_EACH_PROCESSOR: usize = 16;
const AT_LEAST: usize = 64;
/// How many wait; each is a small future.
const WAITING: usize = 4_096;
/// How long one waits: well below the time that agents give a call.
const PATIENCE: Duration = Duration::from_secs(10);
/// When who was turned away is to ask again; agents spread it.
const RETRY: Duration = Duration::from_secs(5);
/// For how long somebody without an SVID can wait, as it counts beside those that have one: whoever
/// knows nobody here must not keep away those whose SVIDs end.
const STRANGER: i64 = 3600;

/// What costs the server much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// AttestAgent, once the node has proved what it is.
    Attest,
    /// RenewAgent.
    Renew,
    /// GetAuthorizedEntries and SyncAuthorizedEntries.
    Sync,
}

impl Work {
    const fn name(self) -> &'static str {
        match self {
            Self::Attest => "attest_agent",
            Self::Renew => "renew_agent",
            Self::Sync => "sync_entries",
        }
    }
}

/// The turns of a server. Cheap to clone.
#[derive(Clone)]
pub struct Turns(Arc<Inner>);

struct Inner {
    queue: UrgentQueue,
    turned_away: Counter,
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Turns({:?})", self.0.queue)
    }
}

impl Turns {
    /// As many turns as the machine's processors can use; what comes of them is shown by `metrics`.
    pub fn new(metrics: &Metrics) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let running = processors.saturating_mul(FOR_EACH_PROCESSOR).max(AT_LEAST);
        Self::sized(running, WAITING, metrics)
    }

    fn sized(running: usize, waiting: usize, metrics: &Metrics) -> Self {
        let turned_away = metrics.counter(
            &["admission", "turned_away"],
            "Calls that were told to come again because others were more urgent",
            &["work"],
        );
        let gauge = metrics.gauge(
            &["admission", "waiting"],
            "Attestations, renewals and syncs that wait for a turn",
            &[],
        );
        let queue = UrgentQueue::new(running, waiting);
        let shown = queue.clone();
        metrics.before_reading(move || gauge.set_len(&[], shown.waiting()));
        Self(Arc::new(Inner { queue, turned_away }))
    }

    /// Waits for the turn of a caller, which lasts until it is dropped. What counts is when the SVID
    /// expires that it has: `expires_at`, else that of the one that it presents. Local callers wait
    /// for nobody.
    ///
    /// # Errors
    /// `Exhausted` when others are more urgent.
    pub async fn turn(
        &self,
        principal: &Principal,
        work: Work,
        expires_at: Option<UnixTime>,
        now: UnixTime,
    ) -> Result<Option<Turn>, Error> {
        let Peer::Remote(remote) = &principal.peer else { return Ok(None) };
        let presented = || remote.svid.as_ref().map(|svid| svid.not_after);
        let urgency = expires_at.or_else(presented).unwrap_or(now + STRANGER);
        match self.0.queue.turn(urgency.seconds(), PATIENCE).await {
            Ok(turn) => Ok(Some(turn)),
            Err(_) => {
                self.0.turned_away.inc(&[work.name()]);
                let what = "the server is busy with agents whose SVIDs expire sooner";
                Err(Error::new(ErrorKind::Exhausted, what).retry_after(RETRY))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usecase::{
        authorization::action::Action,
        principal::{LocalPeer, PeerSvid, RemotePeer, Role},
    };

    const NOW: UnixTime = UnixTime::from_seconds(1_000_000);

    fn agent(expires_in: Option<i64>) -> Principal {
        let svid = expires_in.map(|seconds| {
            Arc::new(PeerSvid {
                spiffe_id: "spiffe://td/spire/agent/a".parse().unwrap(),
                serial_number: "1".into(),
                not_after: NOW + seconds,
            })
        });
        let peer = Peer::Remote(RemotePeer { addr: "10.0.0.1:1".parse().unwrap(), svid });
        Principal { peer, role: Role::Anyone, action: Action::RenewAgent, scope: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_server_serves_first_whose_svid_expires_soonest() {
        let turns = Turns::sized(1, 3, &Metrics::detached());
        let held = turns.turn(&agent(Some(9)), Work::Renew, None, NOW).await.unwrap();
        let (tell, mut heard) = tokio::sync::mpsc::channel(8);
        let ask = |name: &'static str, caller: Principal, known: Option<i64>| {
            let (turns, tell) = (turns.clone(), tell.clone());
            let known = known.map(|seconds| NOW + seconds);
            tokio::spawn(async move {
                let turn = turns.turn(&caller, Work::Attest, known, NOW).await;
                tell.send((name, turn.as_ref().err().map(Error::retry))).await.unwrap();
                // Work, so that one comes after the other.
                tokio::time::sleep(Duration::from_millis(1)).await;
            });
        };
        for (name, caller, known) in [
            ("a day", agent(Some(86_400)), None),
            ("a stranger", agent(None), None),
            ("half an hour", agent(Some(1_800)), None),
            // Proved to be an agent whose SVID has expired: its workloads have little left.
            ("expired", agent(None), Some(-5)),
            ("two days", agent(Some(2 * 86_400)), None),
        ] {
            ask(name, caller, known);
            tokio::task::yield_now().await;
        }
        // Only three may wait.
        let (first, second) = (heard.recv().await.unwrap(), heard.recv().await.unwrap());
        let turned_away = [first.0, second.0];
        assert_eq!(turned_away, ["a day", "two days"], "the least urgent, whenever they came");
        assert_eq!(first.1, Some(Some(RETRY)), "and they are told when to ask again");
        drop(held);
        for name in ["expired", "half an hour", "a stranger"] {
            assert_eq!(heard.recv().await.unwrap(), (name, None));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn local_callers_wait_for_nobody() {
        let turns = Turns::sized(1, 0, &Metrics::detached());
        let _held = turns.turn(&agent(Some(9)), Work::Renew, None, NOW).await.unwrap();
        let peer = Peer::Local(LocalPeer { pid: None, uid: 0, gid: 0 });
        let local = Principal { peer, ..agent(None) };
        assert!(turns.turn(&local, Work::Sync, None, NOW).await.unwrap().is_none());
        turns.turn(&agent(Some(1)), Work::Sync, None, NOW).await.unwrap_err();
    }
}
