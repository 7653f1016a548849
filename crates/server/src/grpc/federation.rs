//! `signet.api.server.federation.v1.Federation`: how fetching the bundles of others goes.

use signet_api::{
    convert::{federation_mask_all, federation_to_pb, trust_domain_from_pb},
    pb::{
        signet::api::server::federation::v1::{self as pb, federation_server, relationship},
        spire::api::types::FederationRelationshipMask,
    },
};
use signet_audit::Field;
use signet_identity::{Bundle, TrustDomain};
use tonic::{Request, Response, Status};

use super::shared::serve;
use crate::{
    federation::{self, Origin},
    usecase::{error::Error, federation::Federation},
};

/// The federation service.
#[derive(Clone, Debug)]
pub struct FederationService {
    federation: Federation,
}

impl FederationService {
    /// The service of a server.
    pub fn new(federation: Federation) -> Self {
        Self { federation }
    }

    /// As a service for the router.
    pub fn into_server(self) -> federation_server::FederationServer<Self> {
        federation_server::FederationServer::new(self)
    }
}

#[tonic::async_trait]
impl federation_server::Federation for FederationService {
    async fn list_relationships(
        &self,
        request: Request<pb::ListRelationshipsRequest>,
    ) -> Result<Response<pb::ListRelationshipsResponse>, Status> {
        serve(request, |call, request| async move {
            let only = match request.trust_domain.as_str() {
                "" => None,
                only => Some(name(only)?),
            };
            let found = self.federation.statuses(&call, only.as_ref()).await?;
            let relationships = found
                .iter()
                .map(|(status, held)| to_pb(status, held.as_ref().map(|held| &held.bundle)));
            Ok(pb::ListRelationshipsResponse { relationships: relationships.collect() })
        })
        .await
    }

    async fn refresh_bundle(
        &self,
        request: Request<pb::RefreshBundleRequest>,
    ) -> Result<Response<pb::RefreshBundleResponse>, Status> {
        serve(request, |call, request| async move {
            call.about(Field::TrustDomainId(request.trust_domain.clone()));
            let trust_domain = name(&request.trust_domain)?;
            let changed =
                self.federation.refresh(&call, &trust_domain, request.accept_older).await?;
            Ok(pb::RefreshBundleResponse { changed })
        })
        .await
    }

    async fn report_unknown_key(
        &self,
        request: Request<pb::ReportUnknownKeyRequest>,
    ) -> Result<Response<pb::ReportUnknownKeyResponse>, Status> {
        serve(request, |call, request| async move {
            call.about(Field::TrustDomainId(request.trust_domain.clone()));
            self.federation.report_unknown_key(&call, &name(&request.trust_domain)?)?;
            Ok(pb::ReportUnknownKeyResponse {})
        })
        .await
    }
}

fn to_pb(status: &federation::Status, held: Option<&Bundle>) -> pb::Relationship {
    let mask = FederationRelationshipMask { trust_domain_bundle: false, ..federation_mask_all() };
    let origin = match status.origin {
        Origin::Dynamic => relationship::Origin::Dynamic,
        Origin::Static => relationship::Origin::Static,
    };
    let count = |all: usize| u32::try_from(all).unwrap_or(u32::MAX);
    pb::Relationship {
        relationship: Some(federation_to_pb(&status.relationship, None, Some(&mask))),
        origin: origin.into(),
        last_poll: status.last_poll.unwrap_or_default().seconds(),
        last_success: status.last_success.unwrap_or_default().seconds(),
        last_change: status.last_change.unwrap_or_default().seconds(),
        next_poll: status.next_poll.unwrap_or_default().seconds(),
        last_error: status.last_error.clone().unwrap_or_default(),
        failures: status.failures,
        polled_elsewhere: status.elsewhere,
        bundle: held.map(|held| pb::BundleSummary {
            sequence_number: held.sequence_number,
            refresh_hint: held.refresh_hint,
            x509_authorities: count(held.x509_authorities.len()),
            jwt_authorities: count(held.jwt_authorities.len()),
        }),
    }
}

fn name(text: &str) -> Result<TrustDomain, Error> {
    trust_domain_from_pb(text)
        .map_err(|error| Error::invalid("failed to parse trust domain").because(error))
}
