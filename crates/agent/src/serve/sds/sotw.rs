//! State of the world, as SPIRE serves it: each answer has everything the stream asks for.

use std::{collections::BTreeSet, sync::Arc};

use prost::Message as _;
use signet_api::{
    duplex::Parts,
    pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
};
use tonic::Status;

use super::{
    protocol::{Answer, Asked, MAX_NAMES, Protocol, Verdict, hex_nonce, parse_nonce, reason},
    secrets::{Secret, SecretInfo, Secrets},
};
use crate::config::UnknownNames;

/// How long a refusal may get with the names it lists.
const MAX_REFUSAL: usize = 4096;
/// The longest type that is echoed.
const MAX_TYPE: usize = 256;

/// A stream of `StreamSecrets`.
#[derive(Debug)]
pub struct Sotw {
    unknown: UnknownNames,
    /// None before the first request.
    names: Option<BTreeSet<Box<str>>>,
    type_url: String,
    version: u64,
    nonce: u64,
    /// A request is still to be answered.
    due: bool,
    /// There was an update since the last look.
    updated: bool,
    /// What was sent last.
    last: Vec<Arc<SecretInfo>>,
}

impl Sotw {
    /// A stream on which nothing was said.
    pub fn new(unknown: UnknownNames) -> Self {
        Self {
            unknown,
            names: None,
            type_url: String::new(),
            version: 0,
            nonce: 0,
            due: false,
            updated: false,
            last: Vec::new(),
        }
    }
}

impl Protocol for Sotw {
    type Request = DiscoveryRequest;
    const METHOD: &'static str = "StreamSecrets";

    fn asked(&mut self, request: DiscoveryRequest) -> Result<Asked, Status> {
        let names = names(&request.resource_names)?;
        let verdict = match (&request.error_detail, parse_nonce(&request.response_nonce)) {
            (Some(error), nonce) => Verdict::Rejected(nonce, reason(error)),
            (None, Some(nonce)) => Verdict::Accepted(nonce),
            (None, None) => Verdict::None,
        };
        // Whatever its nonce says, a request tells which names are wanted now.
        let changed = self.names.as_ref() != Some(&names);
        if changed {
            self.due = true;
            self.type_url = request.type_url;
            self.type_url.truncate(self.type_url.floor_char_boundary(MAX_TYPE));
        }
        let names = self.names.insert(names);
        Ok(Asked {
            node: request.node,
            verdict,
            names: changed.then(|| names.iter().cloned().collect()),
        })
    }

    fn updated(&mut self) {
        self.version += 1;
        self.updated = true;
    }

    fn answer(&mut self, secrets: &Secrets<'_>) -> Result<Option<Answer>, Status> {
        let Some(names) = &self.names else { return Ok(None) };
        if !std::mem::take(&mut self.updated) && !self.due {
            return Ok(None);
        }
        let chosen = choose(secrets, names, self.unknown)?;
        let info: Vec<_> = chosen.iter().map(|secret| Arc::clone(&secret.info)).collect();
        let nothing_new = match self.due {
            true => info.is_empty() && self.unknown == UnknownNames::Wait,
            false => info == self.last,
        };
        if nothing_new || (info.is_empty() && !self.due) {
            return Ok(None);
        }
        self.due = false;
        self.nonce += 1;
        let own = DiscoveryResponse {
            version_info: self.version.to_string(),
            type_url: self.type_url.clone(),
            nonce: hex_nonce(self.nonce),
            resources: Vec::new(),
        };
        let parts = Parts::new(&own.encode_to_vec(), chosen.iter().map(|secret| secret.whole()))?;
        self.last = info;
        Ok(Some(Answer { parts, nonce: self.nonce, secrets: chosen, removed: Vec::new() }))
    }
}

/// The one answer of `FetchSecrets`: without version and nonce.
///
/// # Errors
/// As [`choose`].
pub fn fetch(request: &DiscoveryRequest, secrets: &Secrets<'_>) -> Result<Answer, Status> {
    let chosen = choose(secrets, &names(&request.resource_names)?, UnknownNames::Refuse)?;
    let mut type_url = request.type_url.clone();
    type_url.truncate(type_url.floor_char_boundary(MAX_TYPE));
    let own = DiscoveryResponse { type_url, ..DiscoveryResponse::default() };
    let parts = Parts::new(&own.encode_to_vec(), chosen.iter().map(|secret| secret.whole()))?;
    Ok(Answer { parts, nonce: 0, secrets: chosen, removed: Vec::new() })
}

fn names(wanted: &[String]) -> Result<BTreeSet<Box<str>>, Status> {
    if wanted.len() > MAX_NAMES {
        return Err(Status::resource_exhausted(format!("more than {MAX_NAMES} names")));
    }
    Ok(wanted.iter().filter(|name| !name.is_empty()).map(|name| name.as_str().into()).collect())
}

/// What there is of `names`; of everything when there are none.
///
/// As in SPIRE, where unknown names are refused: of the own bundle's three names one is answered in
/// a request, and of the first identity's two as well.
///
/// # Errors
/// `InvalidArgument` when names are unknown and not waited for; `Internal` as [`Secrets::get`].
fn choose(
    secrets: &Secrets<'_>,
    names: &BTreeSet<Box<str>>,
    unknown: UnknownNames,
) -> Result<Vec<Arc<Secret>>, Status> {
    let mut chosen = Vec::new();
    if names.is_empty() {
        for name in secrets.names() {
            chosen.extend(secrets.get(&name)?);
        }
        return Ok(chosen);
    }
    if unknown == UnknownNames::Wait {
        for name in names {
            chosen.extend(secrets.get(name)?);
        }
        return Ok(chosen);
    }
    let (update, settings) = (secrets.update, secrets.settings);
    let mut left: BTreeSet<&str> = names.iter().map(|name| &**name).collect();
    let own = update.bundle.trust_domain.id_string();
    let of_own = [&own, &settings.default_bundle_name, &settings.default_all_bundles_name];
    let mut take = |wanted: &[&str]| -> Result<(), Status> {
        let Some(name) = wanted.iter().find(|name| left.contains(**name)) else { return Ok(()) };
        chosen.extend(secrets.get(name)?);
        left.remove(*name);
        Ok(())
    };
    take(&of_own.map(String::as_str))?;
    for bundle in &update.federated {
        take(&[&bundle.trust_domain.id_string()])?;
    }
    for (at, identity) in update.identities.iter().enumerate() {
        let id = identity.entry.spiffe_id.to_string();
        match at {
            0 => take(&[&id, &settings.default_svid_name])?,
            _ => take(&[&id])?,
        }
    }
    if left.is_empty() { Ok(chosen) } else { Err(refusal(&left)) }
}

fn refusal(names: &BTreeSet<&str>) -> Status {
    let mut list = String::new();
    for name in names {
        let quoted = format!("{name:?}");
        if list.len() + quoted.len() > MAX_REFUSAL {
            list.push_str(" ...");
            break;
        }
        if !list.is_empty() {
            list.push(' ');
        }
        list.push_str(&quoted);
    }
    Status::invalid_argument(format!(
        "workload is not authorized for the requested identities [{list}]"
    ))
}

#[cfg(test)]
mod tests {
    use signet_api::pb::google::rpc;
    use tonic::Code;

    use super::*;
    use crate::{
        config::SdsSettings,
        serve::sds::secrets::{Form, tests::update},
    };

    fn asks(stream: &mut Sotw, names: &[&str]) {
        let names = names.iter().map(ToString::to_string).collect();
        let request = DiscoveryRequest { resource_names: names, ..Default::default() };
        stream.asked(request).unwrap();
    }

    fn told(answer: &Answer) -> Vec<&str> {
        answer.secrets.iter().map(|secret| &*secret.info.name).collect()
    }

    #[test]
    fn names_are_answered_as_spire_does() {
        let (update, settings) =
            (update(&[("a", 1), ("b", 2)], &["x.org"]), SdsSettings::default());
        let secrets = Secrets { update: &update, settings: &settings, form: Form::Validator };
        let answer = |names: &[&str]| {
            let mut stream = Sotw::new(UnknownNames::Refuse);
            stream.updated();
            asks(&mut stream, names);
            let answer = stream.answer(&secrets).map(|answer| {
                let answer = answer.unwrap();
                told(&answer).join(" ")
            });
            answer.map_err(|status| (status.code(), status.message().to_owned()))
        };
        let everything = "spiffe://td spiffe://x.org spiffe://td/a spiffe://td/b";
        assert_eq!(answer(&[]).unwrap(), everything);
        assert_eq!(answer(&["", ""]).unwrap(), everything);
        for alone in ["default", "ROOTCA", "ALL", "spiffe://td", "spiffe://x.org", "spiffe://td/b"]
        {
            assert_eq!(answer(&[alone]).unwrap(), alone);
        }
        assert_eq!(
            answer(&["ROOTCA", "default", "spiffe://td/b"]).unwrap(),
            "ROOTCA default spiffe://td/b"
        );
        let refused = |names: &[&str], left: &str| {
            let message =
                format!("workload is not authorized for the requested identities [{left}]");
            assert_eq!(answer(names).unwrap_err(), (Code::InvalidArgument, message));
        };
        refused(&["z", "default", "spiffe://td/c"], r#""spiffe://td/c" "z""#);
        refused(&["ALL", "ROOTCA", "spiffe://td"], r#""ALL" "ROOTCA""#);
        refused(&["default", "spiffe://td/a"], r#""default""#);
    }

    #[test]
    fn what_is_not_there_yet_is_waited_for_if_so_configured() {
        let settings = SdsSettings::default();
        let mut stream = Sotw::new(UnknownNames::Wait);
        let answer = |stream: &mut Sotw, ids: &[(&str, u8)]| {
            let update = update(ids, &[]);
            let secrets = Secrets { update: &update, settings: &settings, form: Form::Validator };
            stream.updated();
            let answer = stream.answer(&secrets).unwrap();
            answer.map(|answer| told(&answer).join(" "))
        };
        asks(&mut stream, &["default"]);
        assert_eq!(answer(&mut stream, &[]), None);
        assert_eq!(answer(&mut stream, &[("a", 1)]).as_deref(), Some("default"));
        assert_eq!(answer(&mut stream, &[("a", 1)]), None, "nothing new");
        assert_eq!(answer(&mut stream, &[]), None, "the peer keeps what it has");
        assert_eq!(answer(&mut stream, &[("a", 2)]).as_deref(), Some("default"));
        asks(&mut stream, &["default", "ROOTCA"]);
        assert_eq!(answer(&mut stream, &[("a", 2)]).as_deref(), Some("ROOTCA default"));
    }

    #[test]
    fn a_stale_nonce_does_not_drop_a_subscription_and_a_rejection_is_told_by_its_error() {
        let (update, settings) = (update(&[("a", 1)], &[]), SdsSettings::default());
        let secrets = Secrets { update: &update, settings: &settings, form: Form::Validator };
        let mut stream = Sotw::new(UnknownNames::Refuse);
        stream.updated();
        asks(&mut stream, &["default"]);
        let first = stream.answer(&secrets).unwrap().unwrap();
        let request = |names: &[&str], nonce: &str, error: bool| DiscoveryRequest {
            resource_names: names.iter().map(ToString::to_string).collect(),
            response_nonce: nonce.to_owned(),
            error_detail: error
                .then(|| rpc::Status { message: "bad".into(), ..Default::default() }),
            ..Default::default()
        };
        let asked = stream.asked(request(&["default"], &hex_nonce(first.nonce), false)).unwrap();
        assert!(matches!(asked.verdict, Verdict::Accepted(1)) && asked.names.is_none());
        assert!(stream.answer(&secrets).unwrap().is_none());
        let asked = stream.asked(request(&["ROOTCA"], "ffffffff", true)).unwrap();
        assert!(matches!(asked.verdict, Verdict::Rejected(Some(0xffff_ffff), why) if why == "bad"));
        let second = stream.answer(&secrets).unwrap().unwrap();
        assert_eq!((told(&second).join(" ").as_str(), second.nonce), ("ROOTCA", 2));
    }
}
