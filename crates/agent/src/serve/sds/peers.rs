//! What the peers of the open streams were sent, and what they accepted: who still runs an old root.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use signet_time::UnixTime;

use super::secrets::SecretInfo;

/// How many answers of a stream are remembered that its peer has neither accepted nor rejected.
const MAX_UNANSWERED: usize = 8;
/// How many names of a peer are logged.
const MAX_LOGGED: usize = 64;

/// The open streams. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Peers(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// By number, hence in the order in which they were opened.
    streams: BTreeMap<u64, PeerStream>,
}

/// A stream and what its peer has.
#[derive(Clone, Debug)]
pub struct PeerStream {
    /// The process that opened it.
    pub pid: i32,
    /// Its method.
    pub method: &'static str,
    /// What the peer calls itself.
    pub node_id: Box<str>,
    /// What it subscribes to; none for everything.
    pub names: Vec<Box<str>>,
    /// What it accepted last, by name.
    pub accepted: Vec<Arc<SecretInfo>>,
    /// Answers it has not accepted, oldest first.
    pub sent: VecDeque<Sent>,
    /// Why it rejected the last answer; empty unless it did.
    pub rejected: Box<str>,
    /// Unix seconds; 0 for never.
    pub accepted_at: UnixTime,
    /// Unix seconds.
    pub opened_at: UnixTime,
}

/// An answer that was not accepted (yet).
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its number on the stream.
    pub nonce: u64,
    /// Its secrets.
    pub secrets: Vec<Arc<SecretInfo>>,
    /// Whether it was rejected.
    pub rejected: bool,
}

impl Peers {
    /// Notes a stream that opens now.
    pub fn open(&self, pid: i32, method: &'static str, now: UnixTime) -> PeerGuard {
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        let stream = PeerStream {
            pid,
            method,
            node_id: Box::default(),
            names: Vec::new(),
            accepted: Vec::new(),
            sent: VecDeque::new(),
            rejected: Box::default(),
            accepted_at: UnixTime::EPOCH,
            opened_at: now,
        };
        open.streams.insert(number, stream);
        PeerGuard { peers: self.clone(), number }
    }

    /// All open streams, oldest first.
    pub fn all(&self) -> Vec<PeerStream> {
        self.lock().streams.values().cloned().collect()
    }

    /// How many streams have a peer that has not accepted what it was sent last.
    pub fn outdated(&self) -> usize {
        self.lock().streams.values().filter(|stream| !stream.sent.is_empty()).count()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream among the open ones, until this is dropped.
#[derive(Debug)]
pub struct PeerGuard {
    peers: Peers,
    number: u64,
}

impl PeerGuard {
    /// Notes what the peer calls itself.
    pub fn is_node(&self, id: &str) {
        self.change(|stream| stream.node_id = id.into());
    }

    /// Notes what the peer subscribes to from now on.
    pub fn subscribes(&self, names: Vec<Box<str>>) {
        self.change(|stream| {
            if !names.is_empty() {
                stream.accepted.retain(|info| names.contains(&info.name));
            }
            stream.names = names;
        });
    }

    /// Notes an answer, with the names of what it takes away.
    pub fn sent(&self, nonce: u64, secrets: Vec<Arc<SecretInfo>>, removed: &[String]) {
        self.change(|stream| {
            stream.accepted.retain(|info| !removed.iter().any(|name| **name == *info.name));
            stream.sent.push_back(Sent { nonce, secrets, rejected: false });
            while stream.sent.len() > MAX_UNANSWERED {
                stream.sent.pop_front();
            }
        });
    }

    /// Notes what the peer still has from another stream.
    pub fn has(&self, secret: Arc<SecretInfo>, now: UnixTime) {
        self.change(|stream| {
            stream.accepted.push(secret);
            stream.accepted_at = now;
        });
    }

    /// Notes that the peer accepted that answer, and those before it that it did not reject.
    pub fn accepted(&self, nonce: u64, now: UnixTime) {
        self.change(|stream| {
            if !stream.sent.iter().any(|sent| sent.nonce == nonce) {
                return;
            }
            while let Some(sent) = stream.sent.pop_front_if(|sent| sent.nonce <= nonce) {
                if sent.rejected {
                    continue;
                }
                stream.accepted.retain(|old| !sent.secrets.iter().any(|new| new.name == old.name));
                stream.accepted.extend(sent.secrets);
            }
            stream.rejected = Box::default();
            stream.accepted_at = now;
        });
    }

    /// Notes that the peer rejected that answer. Returns the names on all streams of its process:
    /// Envoy rejects on the stream that completed a TLS context, whichever secret was wrong.
    pub fn rejected(&self, nonce: u64, why: &str) -> Vec<String> {
        let mut open = self.peers.lock();
        let Some(stream) = open.streams.get_mut(&self.number) else { return Vec::new() };
        stream.rejected = why.into();
        if let Some(sent) = stream.sent.iter_mut().find(|sent| sent.nonce == nonce) {
            sent.rejected = true;
        }
        let pid = stream.pid;
        let mut names: Vec<String> = open
            .streams
            .values()
            .filter(|stream| stream.pid == pid)
            .flat_map(|stream| stream.names.iter().map(ToString::to_string))
            .collect();
        names.sort_unstable();
        names.dedup();
        names.truncate(MAX_LOGGED);
        names
    }

    fn change(&self, change: impl FnOnce(&mut PeerStream)) {
        if let Some(stream) = self.peers.lock().streams.get_mut(&self.number) {
            change(stream);
        }
    }
}

impl Drop for PeerGuard {
    fn drop(&mut self) {
        self.peers.lock().streams.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, version: &str) -> Arc<SecretInfo> {
        Arc::new(SecretInfo {
            name: name.into(),
            version: version.into(),
            authorities: Vec::new(),
            expires_at: UnixTime::EPOCH,
        })
    }

    fn versions(stream: &PeerStream) -> Vec<&str> {
        stream.accepted.iter().map(|info| &*info.version).collect()
    }

    #[test]
    fn a_peer_is_outdated_until_it_accepts_what_it_was_sent_last() {
        let peers = Peers::default();
        let stream = peers.open(7, "DeltaSecrets", UnixTime::from_seconds(1));
        assert_eq!(peers.outdated(), 0);
        stream.sent(1, vec![secret("a", "1")], &[]);
        assert_eq!(peers.outdated(), 1);
        stream.accepted(1, UnixTime::from_seconds(5));
        assert_eq!(peers.outdated(), 0);
        stream.sent(2, vec![secret("a", "2")], &[]);
        stream.accepted(1, UnixTime::from_seconds(6));
        assert_eq!(peers.outdated(), 1, "that was the one before");
        assert_eq!(versions(&peers.all()[0]), ["1"]);
        stream.accepted(2, UnixTime::from_seconds(7));
        assert_eq!(versions(&peers.all()[0]), ["2"]);
        stream.sent(3, Vec::new(), &["a".to_owned()]);
        assert!(versions(&peers.all()[0]).is_empty());
        drop(stream);
        assert!(peers.all().is_empty());
    }

    #[test]
    fn a_rejection_names_what_all_streams_of_the_process_have() {
        let peers = Peers::default();
        let names = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect();
        let (a, b, other) = (
            peers.open(7, "m", UnixTime::from_seconds(1)),
            peers.open(7, "m", UnixTime::from_seconds(1)),
            peers.open(8, "m", UnixTime::from_seconds(1)),
        );
        a.subscribes(names(&["cert"]));
        b.subscribes(names(&["ROOTCA"]));
        other.subscribes(names(&["else"]));
        b.sent(1, vec![secret("ROOTCA", "1")], &[]);
        assert_eq!(b.rejected(1, "bad key"), ["ROOTCA", "cert"]);
        b.sent(2, vec![secret("ROOTCA", "2")], &[]);
        b.accepted(2, UnixTime::from_seconds(3));
        assert_eq!(versions(&peers.all()[1]), ["2"], "what was rejected is not taken for accepted");
        assert_eq!(peers.outdated(), 0);
    }
}
