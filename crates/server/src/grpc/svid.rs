//! `spire.api.server.svid.v1.SVID`: signing.

use std::sync::Arc;

use bytes::Bytes;
use signet_api::{
    convert::{id_to_pb, workload_id_from_pb},
    pb::spire::api::{
        server::svid::v1::{
            self as pb, batch_new_witsvid_response, batch_new_x509svid_response, svid_server,
        },
        types,
    },
};
use signet_authority::{AuthorityKind, JwtSvid};
use signet_identity::SpiffeId;
use tonic::{Request, Response, Status};

use super::shared::{item, serve};
use crate::usecase::{
    error::Error,
    issuance::{Issuance, Issued, WitRequest, X509Request},
};

/// The SVID service.
#[derive(Clone, Debug)]
pub struct SvidService {
    issuance: Issuance,
}

impl SvidService {
    /// The service of this server.
    pub fn new(issuance: Issuance) -> Self {
        Self { issuance }
    }

    /// As a service for the router.
    pub fn into_server(self) -> svid_server::SvidServer<Self> {
        svid_server::SvidServer::new(self)
    }
}

#[tonic::async_trait]
impl svid_server::Svid for SvidService {
    async fn mint_x509svid(
        &self,
        request: Request<pb::MintX509svidRequest>,
    ) -> Result<Response<pb::MintX509svidResponse>, Status> {
        serve(request, |call, request| async move {
            let issued = self.issuance.mint_x509(&call, &request.csr, request.ttl).await?;
            Ok(pb::MintX509svidResponse { svid: Some(x509_to_pb(issued)) })
        })
        .await
    }

    async fn mint_jwtsvid(
        &self,
        request: Request<pb::MintJwtsvidRequest>,
    ) -> Result<Response<pb::MintJwtsvidResponse>, Status> {
        serve(request, |call, request| async move {
            self.issuance.must_be_on(AuthorityKind::Jwt)?;
            let id = workload_id_from_pb(self.issuance.trust_domain(), request.id.as_ref())
                .map_err(|error| Error::invalid("invalid SPIFFE ID").because(error))?;
            let (audience, ttl) = (&request.audience, request.ttl);
            let svid = self.issuance.mint_jwt(&call, &id, audience, ttl).await?;
            Ok(pb::MintJwtsvidResponse { svid: Some(jwt_to_pb(&id, svid)) })
        })
        .await
    }

    async fn mint_witsvid(
        &self,
        request: Request<pb::MintWitsvidRequest>,
    ) -> Result<Response<pb::MintWitsvidResponse>, Status> {
        serve(request, |call, request| async move {
            self.issuance.must_be_on(AuthorityKind::Wit)?;
            let id = workload_id_from_pb(self.issuance.trust_domain(), request.id.as_ref())
                .map_err(|error| Error::invalid("invalid SPIFFE ID").because(error))?;
            let key = (&*request.public_key, request.signing_algorithm.as_str());
            let svid = self.issuance.mint_wit(&call, &id, key, request.ttl).await?;
            Ok(pb::MintWitsvidResponse { svid: Some(wit_to_pb(&id, svid)) })
        })
        .await
    }

    async fn batch_new_x509svid(
        &self,
        request: Request<pb::BatchNewX509svidRequest>,
    ) -> Result<Response<pb::BatchNewX509svidResponse>, Status> {
        serve(request, |call, request| async move {
            let params = request.params.into_iter();
            let requests: Vec<_> = params
                .map(|param| X509Request { entry_id: param.entry_id, csr: param.csr })
                .collect();
            let issued = self.issuance.x509(&call, &requests).await?;
            let results = issued.into_iter().map(|issued| {
                let status = item(&issued);
                let svid = issued.ok().map(x509_to_pb);
                batch_new_x509svid_response::Result { status, svid }
            });
            Ok(pb::BatchNewX509svidResponse { results: results.collect() })
        })
        .await
    }

    async fn new_jwtsvid(
        &self,
        request: Request<pb::NewJwtsvidRequest>,
    ) -> Result<Response<pb::NewJwtsvidResponse>, Status> {
        serve(request, |call, request| async move {
            let (id, svid) = self.issuance.jwt(&call, &request.entry_id, &request.audience).await?;
            Ok(pb::NewJwtsvidResponse { svid: Some(jwt_to_pb(&id, svid)) })
        })
        .await
    }

    async fn batch_new_witsvid(
        &self,
        request: Request<pb::BatchNewWitsvidRequest>,
    ) -> Result<Response<pb::BatchNewWitsvidResponse>, Status> {
        serve(request, |call, request| async move {
            let params = request.params.into_iter();
            let requests: Vec<_> = params
                .map(|param| WitRequest {
                    entry_id: param.entry_id,
                    public_key: param.public_key,
                    signing_algorithm: param.signing_algorithm,
                })
                .collect();
            let issued = self.issuance.wit(&call, &requests).await?;
            let results = issued.into_iter().map(|issued| {
                let status = item(&issued);
                let svid = issued.ok().map(|(id, svid)| wit_to_pb(&id, svid));
                batch_new_witsvid_response::Result { status, svid }
            });
            Ok(pb::BatchNewWitsvidResponse { results: results.collect() })
        })
        .await
    }

    async fn new_downstream_x509ca(
        &self,
        request: Request<pb::NewDownstreamX509caRequest>,
    ) -> Result<Response<pb::NewDownstreamX509caResponse>, Status> {
        serve(request, |call, request| async move {
            let (csr, ttl) = (&request.csr, request.preferred_ttl);
            let issued = self.issuance.downstream_authority(&call, csr, ttl).await?;
            let roots = issued.bundle.x509_authorities.iter();
            Ok(pb::NewDownstreamX509caResponse {
                ca_cert_chain: chain_to_pb(&issued.svid.chain),
                x509_authorities: roots.map(|root| Bytes::copy_from_slice(&root.der)).collect(),
            })
        })
        .await
    }
}

/// An X.509-SVID as a message.
pub(crate) fn x509_to_pb(issued: Issued) -> types::X509svid {
    types::X509svid {
        cert_chain: chain_to_pb(&issued.svid.chain),
        id: Some(id_to_pb(&issued.spiffe_id)),
        expires_at: issued.svid.not_after.seconds(),
        hint: String::new(),
    }
}

fn chain_to_pb(chain: &[Arc<[u8]>]) -> Vec<Bytes> {
    chain.iter().map(|der| Bytes::copy_from_slice(der)).collect()
}

fn jwt_to_pb(id: &SpiffeId, svid: JwtSvid) -> types::Jwtsvid {
    types::Jwtsvid {
        token: svid.token,
        id: Some(id_to_pb(id)),
        expires_at: svid.expires_at.seconds(),
        issued_at: svid.issued_at.seconds(),
        hint: String::new(),
    }
}

fn wit_to_pb(id: &SpiffeId, svid: JwtSvid) -> types::Witsvid {
    types::Witsvid {
        token: svid.token,
        id: Some(id_to_pb(id)),
        expires_at: svid.expires_at.seconds(),
        issued_at: svid.issued_at.seconds(),
        hint: String::new(),
    }
}
