//! `spire.api.server.trustdomain.v1.TrustDomain`: federation relationships.

use signet_api::{
    convert::{FederationChange, federation_from_pb, federation_to_pb, trust_domain_from_pb},
    pb::spire::api::{
        server::trustdomain::v1::{
            self as pb, batch_create_federation_relationship_response,
            batch_delete_federation_relationship_response,
            batch_update_federation_relationship_response, trust_domain_server,
        },
        types,
    },
};
use signet_audit::Field;
use signet_identity::{Bundle, FederationRelationship, TrustDomain};
use tonic::{Request, Response, Status};

use super::shared::{Batch, item, next_token, page, serve};
use crate::usecase::{
    error::Error,
    federation::{Federation, Related},
};

/// The trust domain service.
#[derive(Clone, Debug)]
pub struct TrustDomainService {
    federation: Federation,
}

impl TrustDomainService {
    /// The service of a server.
    pub fn new(federation: Federation) -> Self {
        Self { federation }
    }

    /// As a service for the router.
    pub fn into_server(self) -> trust_domain_server::TrustDomainServer<Self> {
        trust_domain_server::TrustDomainServer::new(self)
    }

    fn new_relationship(
        &self,
        relationship: &types::FederationRelationship,
    ) -> Result<(FederationRelationship, Option<Bundle>), Error> {
        let (read, bundle) = federation_from_pb(relationship).map_err(|error| malformed(&error))?;
        self.federation.must_be_foreign(&read.trust_domain)?;
        Ok((read, bundle))
    }
}

#[tonic::async_trait]
impl trust_domain_server::TrustDomain for TrustDomainService {
    async fn list_federation_relationships(
        &self,
        request: Request<pb::ListFederationRelationshipsRequest>,
    ) -> Result<Response<pb::ListFederationRelationshipsResponse>, Status> {
        serve(request, |call, request| async move {
            let what = "failed to list federation relationships";
            let page = page(request.page_size, &request.page_token, what)?;
            let listed = self.federation.list(&call, page).await?;
            let mask = request.output_mask.as_ref();
            Ok(pb::ListFederationRelationshipsResponse {
                federation_relationships: listed.items.iter().map(|r| to_pb(r, mask)).collect(),
                next_page_token: next_token(listed.next),
            })
        })
        .await
    }

    async fn get_federation_relationship(
        &self,
        request: Request<pb::GetFederationRelationshipRequest>,
    ) -> Result<Response<types::FederationRelationship>, Status> {
        serve(request, |call, request| async move {
            call.about(Field::TrustDomainId(request.trust_domain.clone()));
            let trust_domain = name(&request.trust_domain)?;
            let found = self.federation.get(&call, &trust_domain).await?;
            Ok(to_pb(&found, request.output_mask.as_ref()))
        })
        .await
    }

    async fn batch_create_federation_relationship(
        &self,
        request: Request<pb::BatchCreateFederationRelationshipRequest>,
    ) -> Result<Response<pb::BatchCreateFederationRelationshipResponse>, Status> {
        serve(request, |call, request| async move {
            let asked = &request.federation_relationships;
            let read = |asked| self.new_relationship(asked);
            let mut batch = Batch::read(&call, asked, read, about);
            let created = self.federation.create(&call, batch.take()).await;
            let mask = request.output_mask.as_ref();
            let results = batch.answers(created).map(|created| {
                batch_create_federation_relationship_response::Result {
                    status: item(&created),
                    federation_relationship: created.ok().map(|created| to_pb(&created, mask)),
                }
            });
            let results = results.collect();
            Ok(pb::BatchCreateFederationRelationshipResponse { results })
        })
        .await
    }

    async fn batch_update_federation_relationship(
        &self,
        request: Request<pb::BatchUpdateFederationRelationshipRequest>,
    ) -> Result<Response<pb::BatchUpdateFederationRelationshipResponse>, Status> {
        serve(request, |call, request| async move {
            let asked = &request.federation_relationships;
            let read = |asked| {
                FederationChange::from_pb(asked, request.input_mask.as_ref())
                    .map_err(|error| malformed(&error))
            };
            let mut batch = Batch::read(&call, asked, read, about);
            let updated = self.federation.update(&call, batch.take()).await;
            let mask = request.output_mask.as_ref();
            let results = batch.answers(updated).map(|updated| {
                batch_update_federation_relationship_response::Result {
                    status: item(&updated),
                    federation_relationship: updated.ok().map(|updated| to_pb(&updated, mask)),
                }
            });
            let results = results.collect();
            Ok(pb::BatchUpdateFederationRelationshipResponse { results })
        })
        .await
    }

    async fn batch_delete_federation_relationship(
        &self,
        request: Request<pb::BatchDeleteFederationRelationshipRequest>,
    ) -> Result<Response<pb::BatchDeleteFederationRelationshipResponse>, Status> {
        serve(request, |call, request| async move {
            let read = |asked: &String| match asked.as_str() {
                "" => Err(Error::invalid("missing trust domain")),
                asked => name(asked),
            };
            let about = |asked: &String| Field::TrustDomainId(asked.clone());
            let mut batch = Batch::read(&call, &request.trust_domains, read, about);
            let deleted = self.federation.delete(&call, batch.take()).await;
            let results = batch.answers(deleted).zip(&request.trust_domains);
            let results = results.map(|(deleted, asked)| {
                // A name is answered in its canonical form; what is no name, as it came.
                let trust_domain = trust_domain_from_pb(asked)
                    .map_or_else(|_| asked.clone(), |name| name.as_str().to_owned());
                batch_delete_federation_relationship_response::Result {
                    status: item(&deleted),
                    trust_domain,
                }
            });
            let results = results.collect();
            Ok(pb::BatchDeleteFederationRelationshipResponse { results })
        })
        .await
    }

    async fn refresh_bundle(
        &self,
        request: Request<pb::RefreshBundleRequest>,
    ) -> Result<Response<()>, Status> {
        serve(request, |call, request| async move {
            call.about(Field::TrustDomainId(request.trust_domain.clone()));
            let trust_domain = name(&request.trust_domain)?;
            self.federation.refresh(&call, &trust_domain, false).await.map(drop)
        })
        .await
    }
}

fn to_pb(
    related: &Related,
    mask: Option<&types::FederationRelationshipMask>,
) -> types::FederationRelationship {
    let bundle = related.bundle.as_ref().map(|cached| &cached.bundle);
    federation_to_pb(&related.relationship, bundle, mask)
}

fn name(text: &str) -> Result<TrustDomain, Error> {
    trust_domain_from_pb(text)
        .map_err(|error| Error::invalid("failed to parse trust domain").because(error))
}

fn malformed(why: &dyn std::fmt::Display) -> Error {
    Error::invalid("failed to convert federation relationship").because(why)
}

fn about(asked: &types::FederationRelationship) -> Field {
    Field::TrustDomainId(asked.trust_domain.clone())
}
