//! What is signed for workloads and downstream servers.

mod wit;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use signet_api::convert::check_workload_id;
use signet_audit::{Digested, Field};
use signet_authority::{
    Authority, AuthorityKind, JwtSvid, JwtSvidParams, WorkloadX509Params, X509Svid,
};
use signet_base::chain;
use signet_daemon::spans;
use signet_identity::{
    Bundle, Entry, EntryId, SpiffeId, Tenant, TenantDenial, TrustDomain, entry::check_dns_name,
};
use signet_pki::{
    PublicKey, digest, jwt,
    x509::{Csr, CsrError},
};
use tracing::Instrument as _;

use super::{
    Call, authorities::must_be_on, authorization::Action, error::Error, parts::Parts,
    principal::Role,
};
use crate::{
    cache::Cache,
    limits::{Limit, Limits},
    metrics::ServerMetrics,
    policy::Policy,
};

pub use wit::WitRequest;

/// After so many signatures of a batch others get their turn.
const YIELD_AFTER: usize = 8;
const NOT_FOUND: &str = "entry not found or not authorized";

/// What can be signed. Cheap to clone.
#[derive(Clone)]
pub struct Issuance {
    trust_domain: TrustDomain,
    cache: Arc<Cache>,
    authority: Authority,
    limits: Limits,
    counted: ServerMetrics,
    policy: Policy,
}

/// An X.509-SVID with whom it names.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Whom.
    pub spiffe_id: SpiffeId,
    /// The SVID.
    pub svid: X509Svid,
}

/// One X.509-SVID that an agent asks for.
#[derive(Clone, Debug)]
pub struct X509Request {
    /// The entry, as it was asked for.
    pub entry_id: String,
    /// The CSR, DER.
    pub csr: Bytes,
}

/// The authority of a downstream server.
#[derive(Clone, Debug)]
pub struct DownstreamAuthority {
    /// Its certificate with what is sent along.
    pub svid: X509Svid,
    /// The bundle that it chains up to.
    pub bundle: Bundle,
}

/// What a JWT-SVID says besides whom it names and for whom it is.
#[derive(Clone, Copy, Debug)]
struct JwtExtras<'a> {
    jti: bool,
    tenant: Option<&'a str>,
}

impl Issuance {
    /// Those of a server with these parts.
    pub fn new(parts: &Parts) -> Self {
        Self {
            trust_domain: parts.trust_domain.clone(),
            cache: Arc::clone(&parts.cache),
            authority: parts.authority.clone(),
            limits: parts.limits.clone(),
            counted: parts.counted.clone(),
            policy: parts.policy.clone(),
        }
    }

    /// The trust domain whose SVIDs are signed.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Signs what a CSR asks for, names included.
    ///
    /// # Errors
    /// `Invalid` when the CSR may not say what it says; or when it cannot be signed.
    pub async fn mint_x509(&self, call: &Call, csr: &[u8], ttl: i32) -> Result<Issued, Error> {
        call.may(Action::MintSvid)?;
        if call.audit.is_on() {
            call.about(Field::Csr(digest::sha256_hex(csr)));
            call.about(Field::Ttl(ttl));
        }
        if csr.is_empty() {
            return Err(Error::invalid("missing CSR"));
        }
        let csr = Csr::from_der(csr).map_err(|error| match error {
            CsrError::BadSignature => {
                Error::invalid("failed to verify CSR signature").because(error)
            }
            error => Error::invalid("malformed CSR").because(error),
        })?;
        let id = self.minted_id(&csr)?;
        self.may_mint(call, &id).await?;
        let subject = Some(csr.subject()).filter(|subject| !subject.is_empty());
        let params = WorkloadX509Params {
            spiffe_id: &id,
            public_key: csr.public_key(),
            ttl: positive(ttl),
            dns_names: csr.dns_names(),
            subject,
        };
        let svid = self.sign_x509(params).await?;
        call.about(Field::SpiffeId(id.clone()));
        call.about(Field::DnsNames(csr.dns_names().to_vec()));
        call.about(Field::SerialNumber(svid.serial_number.clone()));
        call.about(Field::ExpiresAt(svid.not_after));
        Ok(Issued { spiffe_id: id, svid })
    }

    /// That an identity may be minted by this caller; where tenants are required, answers whose it
    /// is.
    async fn may_mint(&self, call: &Call, id: &SpiffeId) -> Result<Option<Tenant>, Error> {
        if call.scope().is_none() && !self.policy.is_required() {
            return Ok(None);
        }
        self.policy.ready(&self.cache).await?;
        self.cache.fresh().await?;
        let owner = match self.policy.judge(&self.cache, |judge| judge.owner(id))? {
            Some(owner) => Some(owner),
            None => {
                let entries = self.cache.entries_of(id).await?;
                entries.iter().find_map(|entry| entry.tenant.clone())
            }
        };
        if let Some(owner) = &owner {
            call.about(Field::Tenant(owner.clone()));
        }
        call.may_touch(owner.as_ref(), id)?;
        Ok(owner.filter(|_| self.policy.is_required()))
    }

    /// Whom a CSR is for; what else it names is checked.
    fn minted_id(&self, csr: &Csr) -> Result<SpiffeId, Error> {
        let invalid_uri =
            |error: &dyn fmt::Display| Error::invalid("CSR URI SAN is invalid").because(error);
        let id = match csr.uris() {
            [] => return Err(Error::invalid("CSR URI SAN is required")),
            [uri] => uri.parse::<SpiffeId>().map_err(|error| invalid_uri(&error))?,
            _ => return Err(Error::invalid("only one URI SAN is expected")),
        };
        check_workload_id(&self.trust_domain, &id).map_err(|error| invalid_uri(&error))?;
        for name in csr.dns_names() {
            check_dns_name(name)
                .map_err(|error| Error::invalid("CSR DNS name is invalid").because(error))?;
        }
        if let Some(covered) = wildcard_overlap(csr.dns_names()) {
            return Err(Error::invalid(
                "CSR DNS name contains a wildcard that covers another non-wildcard name",
            )
            .because(covered));
        }
        Ok(id)
    }

    /// That SVIDs of this kind are on.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn must_be_on(&self, kind: AuthorityKind) -> Result<(), Error> {
        must_be_on(&self.authority, kind)
    }

    /// Signs a JWT-SVID of any identity.
    ///
    /// # Errors
    /// `Invalid` without an audience, or with too many or too long ones; or when it cannot be
    /// signed.
    pub async fn mint_jwt(
        &self,
        call: &Call,
        id: &SpiffeId,
        audience: &[String],
        ttl: i32,
    ) -> Result<JwtSvid, Error> {
        call.may(Action::MintSvid)?;
        call.about(Field::SpiffeId(id.clone()));
        bounded(audience)?;
        call.about(Field::Audience(audience.to_vec()));
        call.about(Field::Ttl(ttl));
        let tenant = self.may_mint(call, id).await?;
        let tenant = tenant.as_ref().map(Tenant::as_str);
        self.sign_jwt(call, id, audience, ttl, JwtExtras { jti: false, tenant }).await
    }

    /// Signs X.509-SVIDs of entries that the calling agent is authorised for; the answers are in
    /// order.
    ///
    /// # Errors
    /// `Exhausted` when they are too many.
    pub async fn x509(
        &self,
        call: &Call,
        requests: &[X509Request],
    ) -> Result<Vec<Result<Issued, Error>>, Error> {
        call.may(Action::IssueForEntries)?;
        let agent = call.agent_id()?;
        if requests.is_empty() {
            return Err(Error::invalid("missing parameters"));
        }
        let (limits, principal) = (&self.limits, &call.principal);
        limits.acquire(principal, Limit::SignX509, requests.len(), "certificate signing").await?;
        let ids: Vec<Option<EntryId>> = requests.iter().map(|r| r.entry_id.parse().ok()).collect();
        let entries = self.entries_for(agent, &ids).await?;
        let mut results = Vec::with_capacity(requests.len());
        for (n, (request, entry)) in requests.iter().zip(&entries).enumerate() {
            if n % YIELD_AFTER == YIELD_AFTER - 1 {
                tokio::task::yield_now().await;
            }
            let result = match entry {
                Ok(entry) => self.x509_of(request, entry.as_ref()).await,
                Err(denial) => Err(denial.clone().into()),
            };
            let entry = entry.as_ref().ok().and_then(Option::as_ref);
            call.audit.item(&result, || {
                let mut about = vec![
                    Field::Csr(digest::sha256_hex(&request.csr)),
                    Field::EntryId(request.entry_id.clone()),
                ];
                if let Some(entry) = entry {
                    about.extend(entry_fields(entry));
                }
                if let Ok(Issued { svid, .. }) = &result {
                    about.push(Field::SerialNumber(svid.serial_number.clone()));
                    about.push(Field::ExpiresAt(svid.not_after));
                }
                about
            });
            results.push(result);
        }
        Ok(results)
    }

    /// Those of `ids` that the agent may have signed for, in order; of others, why not.
    async fn entries_for(
        &self,
        agent: &SpiffeId,
        ids: &[Option<EntryId>],
    ) -> Result<Vec<Result<Option<Arc<Entry>>, TenantDenial>>, Error> {
        self.policy.ready(&self.cache).await?;
        let judged = self.policy.judge(&self.cache, |judge| {
            let find = |id: &Option<EntryId>| match id {
                Some(id) => judge.entry_for_agent(agent, id),
                None => Ok(None),
            };
            Ok(ids.iter().map(find).collect())
        });
        match judged? {
            Some(judged) => Ok(judged),
            None => {
                let found = self.cache.entries_for_agent(agent, ids).await?;
                Ok(found.into_iter().map(Ok).collect())
            }
        }
    }

    async fn x509_of(
        &self,
        request: &X509Request,
        entry: Option<&Arc<Entry>>,
    ) -> Result<Issued, Error> {
        if request.entry_id.is_empty() {
            return Err(Error::invalid("missing entry ID"));
        }
        if request.csr.is_empty() {
            return Err(Error::invalid("missing CSR"));
        }
        let entry = entry.ok_or_else(|| Error::not_found(NOT_FOUND))?;
        let public_key = public_key(&request.csr)?;
        let params = WorkloadX509Params {
            spiffe_id: &entry.spiffe_id,
            public_key: &public_key,
            ttl: positive(entry.x509_svid_ttl),
            dns_names: &entry.dns_names,
            subject: None,
        };
        let svid = self.sign_x509(params).await?;
        tracing::debug!(
            spiffe_id = %entry.spiffe_id,
            entry_id = %entry.id,
            serial_num = svid.serial_number,
            expiration = svid.not_after.seconds(),
            "Signed X509 SVID"
        );
        Ok(Issued { spiffe_id: entry.spiffe_id.clone(), svid })
    }

    async fn sign_x509(&self, params: WorkloadX509Params<'_>) -> Result<X509Svid, Error> {
        let span = tracing::info_span!(target: spans::TARGET, "sign X.509-SVID");
        let signed = self.authority.sign_workload_x509(params).instrument(span).await;
        let svid = signed.map_err(|error| Error::signing("failed to sign X509-SVID", &error))?;
        self.counted.signed_x509.inc(&[]);
        Ok(svid)
    }

    /// Signs a JWT-SVID of an entry that the calling agent is authorised for.
    ///
    /// # Errors
    /// `NotFound` when it is not; `Exhausted`; `Invalid` as in [`Self::mint_jwt`]; or when it
    /// cannot be signed.
    pub async fn jwt(
        &self,
        call: &Call,
        entry_id: &str,
        audience: &[String],
    ) -> Result<(SpiffeId, JwtSvid), Error> {
        call.may(Action::IssueForEntries)?;
        let agent = call.agent_id()?;
        call.about(Field::EntryId(entry_id.to_owned()));
        let accepted = bounded(audience);
        if call.audit.is_on() && accepted.is_ok() {
            call.about(Field::Audience(audience.to_vec()));
        }
        let principal = &call.principal;
        self.limits.acquire(principal, Limit::SignJwt, 1, "JWT signing request").await?;
        self.must_be_on(AuthorityKind::Jwt)?;
        accepted?;
        let entry_id = entry_id.parse::<EntryId>().ok();
        let entry = self.entries_for(agent, &[entry_id]).await?.pop().unwrap_or(Ok(None));
        let entry = entry?.ok_or_else(|| Error::not_found(NOT_FOUND))?;
        if call.audit.is_on() {
            let selectors = Digested(entry.selectors.clone());
            call.about(Field::MatchedSelectors(selectors));
        }
        let tenant = entry.tenant.as_ref();
        if let Some(tenant) = tenant {
            call.about(Field::Tenant(tenant.clone()));
        }
        let id = &entry.spiffe_id;
        call.about(Field::SpiffeId(id.clone()));
        call.about(Field::Ttl(entry.jwt_svid_ttl));
        let tenant = tenant.filter(|_| entry.jwt_svid_tenant_claim).map(Tenant::as_str);
        let extras = JwtExtras { jti: entry.jwt_svid_include_jti, tenant };
        let svid = self.sign_jwt(call, id, audience, entry.jwt_svid_ttl, extras).await?;
        Ok((id.clone(), svid))
    }

    async fn sign_jwt(
        &self,
        call: &Call,
        id: &SpiffeId,
        audience: &[String],
        ttl: i32,
        extras: JwtExtras<'_>,
    ) -> Result<JwtSvid, Error> {
        let JwtExtras { jti: include_jti, tenant } = extras;
        let ttl = positive(ttl);
        let params = JwtSvidParams { spiffe_id: id, audience, ttl, include_jti, tenant };
        let span = tracing::info_span!(target: spans::TARGET, "sign JWT-SVID");
        let signed = self.authority.sign_jwt_svid(params).instrument(span).await;
        let svid = signed.map_err(|error| Error::signing("failed to sign JWT-SVID", &error))?;
        self.counted.signed_jwt.inc(&[]);
        if call.audit.is_on() {
            token_fields(&svid).into_iter().for_each(|field| call.about(field));
        }
        Ok(svid)
    }

    /// Signs the authority of a downstream server.
    ///
    /// # Errors
    /// `Invalid` when the CSR is malformed; `Exhausted`; or when it cannot be signed.
    pub async fn downstream_authority(
        &self,
        call: &Call,
        csr: &[u8],
        ttl: i32,
    ) -> Result<DownstreamAuthority, Error> {
        call.may(Action::IssueDownstreamAuthority)?;
        if call.audit.is_on() {
            call.about(Field::Csr(digest::sha256_hex(csr)));
            call.about(Field::TrustDomainId(self.trust_domain.id_string()));
        }
        let principal = &call.principal;
        self.limits.acquire(principal, Limit::SignX509, 1, "downstream CA signing").await?;
        if self.policy.is_required() {
            return Err(TenantDenial::Downstream.into());
        }
        if !matches!(principal.role, Role::Downstream(_)) {
            return Err(Error::internal("caller is not a downstream workload"));
        }
        let public_key = public_key(csr)?;
        let signed = self.authority.sign_downstream_x509_ca(&public_key, positive(ttl)).await;
        let svid =
            signed.map_err(|error| Error::signing("failed to sign downstream X.509 CA", &error))?;
        self.counted.signed_ca.inc(&[]);
        let bundle = self.cache.own_bundle();
        let bundle = bundle.ok_or_else(|| Error::not_found("bundle not found"))?;
        call.about(Field::SerialNumber(svid.serial_number.clone()));
        call.about(Field::ExpiresAt(svid.not_after));
        Ok(DownstreamAuthority { svid, bundle: bundle.bundle.clone() })
    }
}

impl fmt::Debug for Issuance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Issuance(..)")
    }
}

/// The key of a CSR whose signature shows that the caller has it.
///
/// # Errors
/// `Invalid`.
pub(super) fn public_key(csr: &[u8]) -> Result<PublicKey, Error> {
    Csr::verified_public_key(csr).map_err(|error| {
        let what = match error {
            CsrError::BadSignature => "invalid CSR signature",
            _ => "malformed CSR",
        };
        Error::invalid(what).because(chain(&error))
    })
}

/// What audit events say of the entry that something is signed for.
fn entry_fields(entry: &Entry) -> Vec<Field> {
    let mut fields = vec![Field::SpiffeId(entry.spiffe_id.clone())];
    fields.extend(entry.tenant.clone().map(Field::Tenant));
    fields.push(Field::MatchedSelectors(Digested(entry.selectors.clone())));
    fields
}

/// What audit events say of a JWT- or WIT-SVID that was signed.
fn token_fields(svid: &JwtSvid) -> Vec<Field> {
    let ids = jwt::peek_ids(&svid.token).unwrap_or_default();
    let ids = ids.key_id.map(Field::KeyId).into_iter().chain(ids.jti.map(Field::JwtId));
    ids.chain([Field::ExpiresAt(svid.expires_at)]).collect()
}

/// Refuses audiences that are none, or too many or too long to be recorded and signed.
fn bounded(audience: &[String]) -> Result<(), Error> {
    jwt::check_audience(audience).map_err(|error| Error::invalid(error.to_string()))
}

fn positive(seconds: i32) -> Option<Duration> {
    u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

/// A wildcard name that covers another name of the list, as `*.a.b` covers `x.a.b`.
fn wildcard_overlap(names: &[String]) -> Option<String> {
    let wildcards: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix("*.")).collect();
    names
        .iter()
        .filter(|name| !name.starts_with("*."))
        .filter_map(|name| Some((name, name.split_once('.')?.1)))
        .find(|(_, rest)| wildcards.contains(rest))
        .map(|(name, rest)| {
            format!("name \"{name}\" overlaps with an existing wildcard name *.{rest}")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_one_label_only() {
        let overlap = |names: &[&str]| {
            wildcard_overlap(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).is_some()
        };
        assert!(overlap(&["x.a.b", "*.a.b"]));
        assert!(!overlap(&["x.y.a.b", "*.a.b"]));
        assert!(!overlap(&["a.b", "*.a.b"]));
    }
}
