//! Incremental SDS: the peer is told of what changes, and of what is no more.
//!
//! Versions are hashes of the content. A peer that comes back after a restart of the agent says
//! which versions it has, and is told nothing as long as they are right.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::Message as _;
use signet_api::{
    duplex::Parts,
    pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
};
use tonic::Status;

use super::{
    protocol::{Answer, Asked, MAX_NAMES, Protocol, Verdict, hex_nonce, parse_nonce, reason},
    secrets::{SECRET_TYPE, Secret, Secrets},
};

const EVERYTHING: &str = "*";

/// A stream of `DeltaSecrets`.
#[derive(Debug, Default)]
pub struct Delta {
    /// Whether the first request has come.
    begun: bool,
    wildcard: bool,
    named: BTreeSet<Box<str>>,
    /// What the peer was told, or has said itself, by name. A name that is not there has to be
    /// answered.
    told: BTreeMap<Box<str>, Told>,
    /// Names of which the peer said a version, until that was looked at.
    said: Vec<Box<str>>,
    version: u64,
    nonce: u64,
    /// There was an update, or the subscription changed, since the last look.
    due: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    /// It has this version.
    Version(Box<str>),
    /// There is none.
    Absent,
}

impl Delta {
    /// Whether the peer has this version.
    fn has(&self, name: &str, version: &str) -> bool {
        matches!(self.told.get(name), Some(Told::Version(told)) if **told == *version)
    }

    fn subscribe(&mut self, name: &str, first: bool) {
        if name == EVERYTHING {
            self.wildcard = true;
            return;
        }
        self.named.insert(name.into());
        if !first {
            // Whoever asks again is answered, even if nothing has changed.
            self.told.remove(name);
        }
    }

    fn unsubscribe(&mut self, name: &str) {
        if name == EVERYTHING {
            self.wildcard = false;
            self.told.retain(|name, _| self.named.contains(name));
        } else if self.named.remove(name) {
            // What everything includes is told again, so that the peer knows that it stays.
            self.told.remove(name);
        }
    }
}

impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;
    const METHOD: &'static str = "DeltaSecrets";

    fn asked(&mut self, request: DeltaDiscoveryRequest) -> Result<Asked, Status> {
        let first = !std::mem::replace(&mut self.begun, true);
        let too_many = || Status::resource_exhausted(format!("more than {MAX_NAMES} names"));
        let subscribe = &request.resource_names_subscribe;
        if first {
            if request.initial_resource_versions.len() > MAX_NAMES {
                return Err(too_many());
            }
            let versions = request.initial_resource_versions;
            let told =
                |(name, version): (String, String)| (name.into(), Told::Version(version.into()));
            self.said = versions.keys().map(|name| name.as_str().into()).collect();
            self.told = versions.into_iter().map(told).collect();
            self.wildcard = subscribe.is_empty();
        }
        for name in subscribe.iter().filter(|name| !name.is_empty()) {
            self.subscribe(name, first);
            if self.named.len() > MAX_NAMES {
                return Err(too_many());
            }
        }
        let unsubscribe = &request.resource_names_unsubscribe;
        for name in unsubscribe.iter().take(2 * MAX_NAMES) {
            self.unsubscribe(name);
        }
        if first && !self.wildcard {
            self.told.retain(|name, _| self.named.contains(name));
        }
        let verdict = match (&request.error_detail, parse_nonce(&request.response_nonce)) {
            (Some(error), nonce) => Verdict::Rejected(nonce, reason(error)),
            (None, Some(nonce)) => Verdict::Accepted(nonce),
            (None, None) => Verdict::None,
        };
        let changed = first || !subscribe.is_empty() || !unsubscribe.is_empty();
        self.due |= changed;
        let names = || match self.wildcard {
            true => Vec::new(),
            false => self.named.iter().cloned().collect(),
        };
        Ok(Asked { node: request.node, verdict, names: changed.then(names) })
    }

    fn updated(&mut self) {
        self.version += 1;
        self.due = true;
    }

    fn answer(&mut self, secrets: &Secrets<'_>) -> Result<Option<Answer>, Status> {
        if !self.begun || !std::mem::take(&mut self.due) {
            return Ok(None);
        }
        let mut names: BTreeSet<Box<str>> = self.named.clone();
        if self.wildcard {
            names.extend(secrets.names().into_iter().map(Box::from));
            // What the peer has, and what may be gone.
            names.extend(self.told.keys().cloned());
        }
        let (mut chosen, mut removed) = (Vec::new(), Vec::new());
        for name in names {
            let told = self.told.get(&name);
            match secrets.get(&name)? {
                Some(secret) => {
                    let version = Told::Version(secret.info.version.clone());
                    if told != Some(&version) {
                        self.told.insert(name, version);
                        chosen.push(secret);
                    }
                }
                None if told == Some(&Told::Absent) => {}
                None => {
                    removed.push(name.to_string());
                    // What was not asked for by name is not remembered for ever.
                    match self.named.contains(&name) {
                        true => self.told.insert(name, Told::Absent),
                        false => self.told.remove(&name),
                    };
                }
            }
        }
        if chosen.is_empty() && removed.is_empty() {
            return Ok(None);
        }
        self.nonce += 1;
        self.said.retain(|name| !chosen.iter().any(|secret| secret.info.name == *name));
        let own = DeltaDiscoveryResponse {
            system_version_info: self.version.to_string(),
            type_url: SECRET_TYPE.to_owned(),
            nonce: hex_nonce(self.nonce),
            removed_resources: removed.clone(),
            resources: Vec::new(),
        };
        let shared = chosen.iter().flat_map(|secret: &Arc<_>| secret.delta());
        let parts = Parts::new(&own.encode_to_vec(), shared)?;
        Ok(Some(Answer { parts, nonce: self.nonce, secrets: chosen, removed }))
    }

    fn known(&mut self, secrets: &Secrets<'_>) -> Vec<Arc<Secret>> {
        let said = std::mem::take(&mut self.said);
        let named = said.iter().filter_map(|name| secrets.get(name).ok().flatten());
        named.filter(|secret| self.has(&secret.info.name, &secret.info.version)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::SdsSettings,
        serve::sds::secrets::{Form, tests::update},
    };

    struct Talk {
        stream: Delta,
        ids: Vec<(&'static str, u8)>,
    }

    /// Names of what was sent, and of what was removed.
    type Heard = Option<(Vec<String>, Vec<String>)>;

    impl Talk {
        fn new(ids: &[(&'static str, u8)]) -> Self {
            Self { stream: Delta::default(), ids: ids.to_vec() }
        }

        fn request(&mut self, subscribe: &[&str], unsubscribe: &[&str]) -> Heard {
            self.begin(subscribe, unsubscribe, &[])
        }

        fn begin(
            &mut self,
            subscribe: &[&str],
            unsubscribe: &[&str],
            versions: &[(&str, &str)],
        ) -> Heard {
            let texts = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            let request = DeltaDiscoveryRequest {
                resource_names_subscribe: texts(subscribe),
                resource_names_unsubscribe: texts(unsubscribe),
                initial_resource_versions: versions
                    .iter()
                    .map(|(name, version)| (name.to_string(), version.to_string()))
                    .collect(),
                ..Default::default()
            };
            self.stream.asked(request).unwrap();
            self.answer()
        }

        fn answer(&mut self) -> Heard {
            let (update, settings) = (update(&self.ids, &[]), SdsSettings::default());
            let secrets = Secrets { update: &update, settings: &settings, form: Form::Validator };
            self.stream.updated();
            let answer = self.stream.answer(&secrets).unwrap()?;
            let names = answer.secrets.iter().map(|secret| secret.info.name.to_string());
            Some((names.collect(), answer.removed))
        }

        fn version(&self, name: &str) -> String {
            let (update, settings) = (update(&self.ids, &[]), SdsSettings::default());
            let secrets = Secrets { update: &update, settings: &settings, form: Form::Validator };
            secrets.get(name).unwrap().unwrap().info.version.to_string()
        }
    }

    fn heard(sent: &[&str], removed: &[&str]) -> Heard {
        let texts = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Some((texts(sent), texts(removed)))
    }

    #[test]
    fn only_what_changes_is_sent() {
        let mut talk = Talk::new(&[("a", 1)]);
        assert_eq!(talk.request(&["default", "ROOTCA"], &[]), heard(&["ROOTCA", "default"], &[]));
        assert_eq!(talk.answer(), None);
        talk.ids = vec![("a", 2)];
        assert_eq!(talk.answer(), heard(&["default"], &[]));
        talk.ids.clear();
        assert_eq!(talk.answer(), heard(&[], &["default"]));
        assert_eq!(talk.answer(), None);
        talk.ids = vec![("a", 3)];
        assert_eq!(talk.answer(), heard(&["default"], &[]));
    }

    #[test]
    fn what_is_missing_is_told_at_once_and_sent_when_it_appears() {
        let mut talk = Talk::new(&[]);
        assert_eq!(talk.request(&["spiffe://td/b"], &[]), heard(&[], &["spiffe://td/b"]));
        talk.ids = vec![("a", 1), ("b", 2)];
        assert_eq!(talk.answer(), heard(&["spiffe://td/b"], &[]));
    }

    #[test]
    fn a_peer_that_comes_back_with_the_right_version_is_told_nothing() {
        let mut talk = Talk::new(&[("a", 1)]);
        let version = talk.version("default");
        assert_eq!(talk.begin(&["default"], &[], &[("default", &version)]), None);
        assert!(talk.stream.has("default", &version));
        let mut other = Talk::new(&[("a", 1)]);
        assert_eq!(other.begin(&["default"], &[], &[("default", "x")]), heard(&["default"], &[]));
        // Later on, whoever asks again is answered.
        assert_eq!(talk.request(&["default"], &[]), heard(&["default"], &[]));
    }

    #[test]
    fn everything_is_what_there_is_under_its_own_names() {
        let mut talk = Talk::new(&[("a", 1)]);
        let all = heard(&["spiffe://td", "spiffe://td/a"], &[]);
        assert_eq!(talk.request(&[], &[]), all);
        talk.ids.push(("b", 2));
        assert_eq!(talk.answer(), heard(&["spiffe://td/b"], &[]));
        talk.ids.pop();
        assert_eq!(talk.answer(), heard(&[], &["spiffe://td/b"]));
        // An alias beside it, and without it again.
        assert_eq!(talk.request(&["default"], &[]), heard(&["default"], &[]));
        assert_eq!(talk.request(&[], &["*"]), None);
        talk.ids = vec![("a", 3)];
        assert_eq!(talk.answer(), heard(&["default"], &[]));
        assert_eq!(talk.request(&["*"], &[]), all);
        // A name that everything includes stays, and is told so.
        assert_eq!(talk.request(&["spiffe://td/a"], &[]), heard(&["spiffe://td/a"], &[]));
        assert_eq!(talk.request(&[], &["spiffe://td/a"]), heard(&["spiffe://td/a"], &[]));
        assert_eq!(talk.request(&[], &["nosuch"]), None);
    }

    #[test]
    fn a_peer_may_not_ask_for_endlessly_many_names() {
        let mut stream = Delta::default();
        let request = |n: usize| DeltaDiscoveryRequest {
            resource_names_subscribe: (0..600).map(|i| format!("{n}-{i}")).collect(),
            ..Default::default()
        };
        stream.asked(request(1)).unwrap();
        let refused = stream.asked(request(2)).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    }
}
