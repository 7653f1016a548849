//! `ValidateJWTSVID`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::Value as Json;
use signet_api::pb::workload as pb;
use signet_base::SharedClock;
use signet_identity::{Bundle, TrustDomain};
use signet_pki::jwt::{self, JwtBundle};
use tonic::Status;

/// Bundles prepared for verification are kept for this many trust domains.
const MAX_PREPARED: usize = 256;
/// Claims nested deeper than this are refused.
const MAX_DEPTH: usize = 64;

/// Validates JWT-SVIDs against the bundles of a caller.
#[derive(Debug)]
pub(super) struct Validator {
    trust_domain: TrustDomain,
    allowed_foreign: HashSet<String>,
    clock: SharedClock,
    prepared: Mutex<HashMap<TrustDomain, (Arc<Bundle>, JwtBundle)>>,
}

impl Validator {
    pub(super) fn new(
        trust_domain: TrustDomain,
        allowed_foreign: HashSet<String>,
        clock: SharedClock,
    ) -> Self {
        Self { trust_domain, allowed_foreign, clock, prepared: Mutex::default() }
    }

    pub(super) fn validate(
        &self,
        token: &str,
        audience: &str,
        bundles: &[Arc<Bundle>],
    ) -> Result<pb::ValidateJwtsvidResponse, Status> {
        let refused = |reason: String| {
            tracing::warn!(audience, error = reason, "Failed to validate JWT");
            Status::invalid_argument(reason)
        };
        let subject = jwt::peek_subject(token).map_err(|error| refused(error.to_string()))?;
        let prepared = bundles
            .iter()
            .find(|bundle| bundle.trust_domain == *subject.trust_domain())
            .map(|bundle| self.prepare(bundle));
        let validated =
            jwt::validate(token, &[audience.to_owned()], self.clock.unix(), |trust_domain| {
                prepared.as_ref().filter(|bundle| bundle.trust_domain() == trust_domain)
            })
            .map_err(|error| refused(error.to_string()))?;
        let foreign = !validated.id.is_member_of(&self.trust_domain);
        let fields = validated
            .claims
            .into_iter()
            .filter(|(name, _)| {
                !foreign
                    || matches!(name.as_str(), "sub" | "exp" | "aud")
                    || self.allowed_foreign.contains(name)
            })
            .map(|(name, value)| Ok((name, to_value(value, 0)?)))
            .collect::<Result<BTreeMap<_, _>, Status>>()?;
        tracing::debug!(spiffe_id = %validated.id, "Successfully validated JWT");
        Ok(pb::ValidateJwtsvidResponse {
            spiffe_id: validated.id.to_string(),
            claims: Some(Struct { fields }),
        })
    }

    /// Whose bundle lacks the key that signed `token`: a foreign trust domain's, which has another
    /// key perhaps that is not here yet.
    pub(super) fn unknown_key(&self, token: &str, bundles: &[Arc<Bundle>]) -> Option<TrustDomain> {
        let subject = jwt::peek_subject(token).ok()?;
        let trust_domain = subject.trust_domain();
        let kid = jwt::peek_ids(token).ok()?.key_id?;
        let bundle = bundles.iter().find(|bundle| bundle.trust_domain == *trust_domain)?;
        let is_known = bundle.jwt_authorities.iter().any(|key| *key.key_id == *kid);
        (*trust_domain != self.trust_domain && !is_known).then(|| trust_domain.clone())
    }

    /// The bundle, prepared once for as long as it stays the same.
    fn prepare(&self, bundle: &Arc<Bundle>) -> JwtBundle {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((from, ready)) = prepared.get(&bundle.trust_domain)
            && Arc::ptr_eq(from, bundle)
        {
            return ready.clone();
        }
        let ready = JwtBundle::from_bundle(bundle);
        if prepared.len() >= MAX_PREPARED {
            prepared.clear();
        }
        prepared.insert(bundle.trust_domain.clone(), (Arc::clone(bundle), ready.clone()));
        ready
    }
}

fn to_value(json: Json, depth: usize) -> Result<Value, Status> {
    if depth > MAX_DEPTH {
        return Err(Status::invalid_argument("claims are nested too deeply"));
    }
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Json::String(value) => Kind::StringValue(value),
        Json::Array(values) => Kind::ListValue(ListValue {
            values: values
                .into_iter()
                .map(|value| to_value(value, depth + 1))
                .collect::<Result<_, _>>()?,
        }),
        Json::Object(fields) => Kind::StructValue(Struct {
            fields: fields
                .into_iter()
                .map(|(name, value)| Ok((name, to_value(value, depth + 1)?)))
                .collect::<Result<_, Status>>()?,
        }),
    };
    Ok(Value { kind: Some(kind) })
}
