//! `spire.api.server.svid.v1.SVID`: signing.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use signet_api::{
    convert::{id_to_pb, workload_id_from_pb},
    pb::spire::api::{
        server::svid::v1::{self as pb, batch_new_x509svid_response, svid_server},
        types,
    },
    status,
};
use signet_authority::{IssueError, JwtSvidParams, WorkloadX509Params};
use signet_base::chain;
use signet_identity::{Entry, EntryId, SpiffeId, entry::check_dns_name};
use signet_pki::{
    digest,
    x509::{Csr, CsrError},
};
use tonic::{Code, Request, Response, Status};

use crate::{
    audit::Audit,
    caller::{Caller, Role},
    context::Context,
    limits::Limit,
};

/// After so many signatures of a batch others get their turn.
const YIELD_AFTER: usize = 8;
const NOT_FOUND: &str = "entry not found or not authorized";
const NO_WIT: &str = "WIT functionality is disabled";

/// The SVID service.
#[derive(Clone, Debug)]
pub struct SvidService {
    context: Context,
}

impl SvidService {
    /// The service of this server.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// As a service for the router.
    pub fn into_server(self) -> svid_server::SvidServer<Self> {
        svid_server::SvidServer::new(self)
    }

    async fn new_x509(
        &self,
        param: &pb::NewX509svidParams,
        entry: Option<&Arc<Entry>>,
    ) -> Result<types::X509svid, Status> {
        if param.entry_id.is_empty() {
            return Err(Status::invalid_argument("missing entry ID"));
        }
        if param.csr.is_empty() {
            return Err(Status::invalid_argument("missing CSR"));
        }
        let entry = entry.ok_or_else(|| Status::not_found(NOT_FOUND))?;
        let public_key = Csr::verified_public_key(&param.csr).map_err(|error| bad_csr(&error))?;
        let svid = self
            .context
            .authority
            .sign_workload_x509(WorkloadX509Params {
                spiffe_id: &entry.spiffe_id,
                public_key: &public_key,
                ttl: ttl(entry.x509_svid_ttl),
                dns_names: &entry.dns_names,
                subject: None,
            })
            .await
            .map_err(|error| sign_failed("failed to sign X509-SVID", &error))?;
        self.context.counted.signed_x509.inc(&[]);
        Ok(x509_to_pb(&entry.spiffe_id, svid))
    }

    async fn sign_jwt(
        &self,
        id: &SpiffeId,
        audience: &[String],
        ttl_seconds: i32,
        include_jti: bool,
    ) -> Result<types::Jwtsvid, Status> {
        // Empty ones do not count.
        if audience.iter().all(String::is_empty) {
            return Err(Status::invalid_argument("at least one audience is required"));
        }
        let signed = self
            .context
            .authority
            .sign_jwt_svid(JwtSvidParams {
                spiffe_id: id,
                audience,
                ttl: ttl(ttl_seconds),
                include_jti,
            })
            .await
            .map_err(|error| sign_failed("failed to sign JWT-SVID", &error))?;
        self.context.counted.signed_jwt.inc(&[]);
        Ok(types::Jwtsvid {
            token: signed.token,
            id: Some(id_to_pb(id)),
            expires_at: signed.expires_at,
            issued_at: signed.issued_at,
            hint: String::new(),
        })
    }

    fn jwt_must_be_on(&self) -> Result<(), Status> {
        if self.context.authority.jwt_disabled() {
            return Err(Status::unimplemented("JWT functionality is disabled"));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl svid_server::Svid for SvidService {
    async fn mint_x509svid(
        &self,
        request: Request<pb::MintX509svidRequest>,
    ) -> Result<Response<pb::MintX509svidResponse>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        if audit.is_on() {
            audit.field("csr", digest::sha256_hex(&request.csr));
            audit.field("ttl", request.ttl);
        }
        if request.csr.is_empty() {
            return Err(Status::invalid_argument("missing CSR"));
        }
        let csr = Csr::from_der(&request.csr).map_err(|error| match error {
            CsrError::BadSignature => {
                status::wrap(Code::InvalidArgument, "failed to verify CSR signature", error)
            }
            error => status::wrap(Code::InvalidArgument, "malformed CSR", error),
        })?;
        let invalid_uri = |error: &dyn std::fmt::Display| {
            status::wrap(Code::InvalidArgument, "CSR URI SAN is invalid", error)
        };
        let id = match csr.uris() {
            [] => return Err(Status::invalid_argument("CSR URI SAN is required")),
            [uri] => uri.parse::<SpiffeId>().map_err(|error| invalid_uri(&error))?,
            _ => return Err(Status::invalid_argument("only one URI SAN is expected")),
        };
        signet_api::convert::check_workload_id(&self.context.trust_domain, &id)
            .map_err(|error| invalid_uri(&error))?;
        for name in csr.dns_names() {
            check_dns_name(name).map_err(|error| {
                status::wrap(Code::InvalidArgument, "CSR DNS name is invalid", error)
            })?;
        }
        if let Some(covered) = wildcard_overlap(csr.dns_names()) {
            return Err(status::wrap(
                Code::InvalidArgument,
                "CSR DNS name contains a wildcard that covers another non-wildcard name",
                covered,
            ));
        }
        let subject = Some(csr.subject()).filter(|subject| !subject.is_empty());
        let svid = self
            .context
            .authority
            .sign_workload_x509(WorkloadX509Params {
                spiffe_id: &id,
                public_key: csr.public_key(),
                ttl: ttl(request.ttl),
                dns_names: csr.dns_names(),
                subject,
            })
            .await
            .map_err(|error| sign_failed("failed to sign X509-SVID", &error))?;
        self.context.counted.signed_x509.inc(&[]);
        audit.field("spiffe_id", &id);
        audit.field("serial_num", &svid.serial_number);
        audit.field("expires_at", svid.not_after);
        Ok(Response::new(pb::MintX509svidResponse { svid: Some(x509_to_pb(&id, svid)) }))
    }

    async fn mint_jwtsvid(
        &self,
        request: Request<pb::MintJwtsvidRequest>,
    ) -> Result<Response<pb::MintJwtsvidResponse>, Status> {
        self.jwt_must_be_on()?;
        let audit = Audit::of(&request);
        let request = request.into_inner();
        let id = workload_id_from_pb(&self.context.trust_domain, request.id.as_ref())
            .map_err(|error| status::wrap(Code::InvalidArgument, "invalid SPIFFE ID", error))?;
        audit.field("spiffe_id", &id);
        audit.field("audience", request.audience.join(","));
        audit.field("ttl", request.ttl);
        let svid = self.sign_jwt(&id, &request.audience, request.ttl, false).await?;
        Ok(Response::new(pb::MintJwtsvidResponse { svid: Some(svid) }))
    }

    async fn mint_witsvid(
        &self,
        _request: Request<pb::MintWitsvidRequest>,
    ) -> Result<Response<pb::MintWitsvidResponse>, Status> {
        Err(Status::unimplemented(NO_WIT))
    }

    async fn batch_new_x509svid(
        &self,
        request: Request<pb::BatchNewX509svidRequest>,
    ) -> Result<Response<pb::BatchNewX509svidResponse>, Status> {
        let caller = Caller::of(&request)?;
        let audit = Audit::of(&request);
        let agent = caller.agent_id()?;
        let params = request.into_inner().params;
        if params.is_empty() {
            return Err(Status::invalid_argument("missing parameters"));
        }
        let limits = &self.context.limits;
        limits.acquire(&caller, Limit::SignX509, params.len(), "certificate signing").await?;
        let ids: Vec<Option<EntryId>> = params.iter().map(|p| p.entry_id.parse().ok()).collect();
        let entries = self.context.cache.with_index(|index| {
            let find = |id: &Option<EntryId>| index.entry_for_agent(agent, id.as_ref()?);
            ids.iter().map(find).collect::<Vec<_>>()
        });
        let mut results = Vec::with_capacity(params.len());
        for (n, (param, entry)) in params.iter().zip(&entries).enumerate() {
            if n % YIELD_AFTER == YIELD_AFTER - 1 {
                tokio::task::yield_now().await;
            }
            let outcome = self.new_x509(param, entry.as_ref()).await;
            if audit.is_on() {
                audit_item(&audit, param, entry.as_ref(), &outcome);
            }
            results.push(match outcome {
                Ok(svid) => batch_new_x509svid_response::Result {
                    status: Some(status::item_ok()),
                    svid: Some(svid),
                },
                Err(error) => batch_new_x509svid_response::Result {
                    status: Some(status::item(error.code(), error.message())),
                    svid: None,
                },
            });
        }
        Ok(Response::new(pb::BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<pb::NewJwtsvidRequest>,
    ) -> Result<Response<pb::NewJwtsvidResponse>, Status> {
        let caller = Caller::of(&request)?;
        let audit = Audit::of(&request);
        let agent = caller.agent_id()?;
        let request = request.into_inner();
        if audit.is_on() {
            audit.field("entry_id", &request.entry_id);
            audit.field("audience", request.audience.join(","));
        }
        let limits = &self.context.limits;
        limits.acquire(&caller, Limit::SignJwt, 1, "JWT signing request").await?;
        self.jwt_must_be_on()?;
        let entry = request.entry_id.parse::<EntryId>().ok();
        let entry = entry.and_then(|id| self.context.cache.entry_for_agent(agent, &id));
        let entry = entry.ok_or_else(|| Status::not_found(NOT_FOUND))?;
        audit.field("spiffe_id", &entry.spiffe_id);
        audit.field("ttl", entry.jwt_svid_ttl);
        let svid = self
            .sign_jwt(
                &entry.spiffe_id,
                &request.audience,
                entry.jwt_svid_ttl,
                entry.jwt_svid_include_jti,
            )
            .await?;
        Ok(Response::new(pb::NewJwtsvidResponse { svid: Some(svid) }))
    }

    async fn batch_new_witsvid(
        &self,
        _request: Request<pb::BatchNewWitsvidRequest>,
    ) -> Result<Response<pb::BatchNewWitsvidResponse>, Status> {
        Err(Status::unimplemented(NO_WIT))
    }

    async fn new_downstream_x509ca(
        &self,
        request: Request<pb::NewDownstreamX509caRequest>,
    ) -> Result<Response<pb::NewDownstreamX509caResponse>, Status> {
        let caller = Caller::of(&request)?;
        let audit = Audit::of(&request);
        let request = request.into_inner();
        if audit.is_on() {
            audit.field("csr", digest::sha256_hex(&request.csr));
            audit.field("trust_domain_id", self.context.trust_domain.id_string());
        }
        let limits = &self.context.limits;
        limits.acquire(&caller, Limit::SignX509, 1, "downstream CA signing").await?;
        if !matches!(caller.role, Role::Downstream(_)) {
            return Err(Status::internal("caller is not a downstream workload"));
        }
        let public_key = Csr::verified_public_key(&request.csr).map_err(|error| bad_csr(&error))?;
        let svid = self
            .context
            .authority
            .sign_downstream_x509_ca(&public_key, ttl(request.preferred_ttl))
            .await
            .map_err(|error| sign_failed("failed to sign downstream X.509 CA", &error))?;
        self.context.counted.signed_ca.inc(&[]);
        let bundle = self.context.cache.own_bundle();
        let bundle = bundle.ok_or_else(|| Status::not_found("bundle not found"))?;
        audit.field("expires_at", svid.not_after);
        Ok(Response::new(pb::NewDownstreamX509caResponse {
            ca_cert_chain: chain_to_pb(&svid.chain),
            x509_authorities: bundle
                .bundle
                .x509_authorities
                .iter()
                .map(|authority| Bytes::copy_from_slice(&authority.der))
                .collect(),
        }))
    }
}

fn audit_item(
    audit: &Audit,
    param: &pb::NewX509svidParams,
    entry: Option<&Arc<Entry>>,
    outcome: &Result<types::X509svid, Status>,
) {
    let csr = digest::sha256_hex(&param.csr);
    let spiffe_id = entry.map(|entry| entry.spiffe_id.to_string()).unwrap_or_default();
    let (code, message, expires_at) = match outcome {
        Ok(svid) => (Code::Ok, "", svid.expires_at),
        Err(error) => (error.code(), error.message(), 0),
    };
    audit.item(
        code,
        message,
        &[
            ("csr", &csr),
            ("entry_id", &param.entry_id),
            ("spiffe_id", &spiffe_id),
            ("expires_at", &expires_at),
        ],
    );
}

/// An X.509-SVID as a message.
pub(crate) fn x509_to_pb(id: &SpiffeId, svid: signet_authority::X509Svid) -> types::X509svid {
    types::X509svid {
        cert_chain: chain_to_pb(&svid.chain),
        id: Some(id_to_pb(id)),
        expires_at: svid.not_after,
        hint: String::new(),
    }
}

pub(crate) fn chain_to_pb(chain: &[Arc<[u8]>]) -> Vec<Bytes> {
    chain.iter().map(|der| Bytes::copy_from_slice(der)).collect()
}

/// The status of a refused CSR.
pub(crate) fn bad_csr(error: &CsrError) -> Status {
    let what = match error {
        CsrError::BadSignature => "invalid CSR signature",
        _ => "malformed CSR",
    };
    status::wrap(Code::InvalidArgument, what, chain(error))
}

/// The status of a failed signature.
pub(crate) fn sign_failed(what: &str, error: &IssueError) -> Status {
    let code = if error.is_temporary() { Code::Unavailable } else { Code::Internal };
    tracing::error!(error = chain(error), "{what}");
    status::wrap(code, what, chain(error))
}

fn ttl(seconds: i32) -> Option<Duration> {
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
