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
    status,
};
use signet_identity::{Bundle, BundleEndpointProfile, FederationRelationship};
use signet_store::{CreateOutcome, FederationUpdate};
use tonic::{Code, Request, Response, Status};

use super::{
    bundle::foreign_bundle,
    shared::{Answer, Batch, next_token, page, refuse_own, store_failed},
};
use crate::{audit::Audit, context::Context};

/// The trust domain service.
#[derive(Clone, Debug)]
pub struct TrustDomainService {
    context: Context,
}

impl TrustDomainService {
    /// The service of a server.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// As a service for the router.
    pub fn into_server(self) -> trust_domain_server::TrustDomainServer<Self> {
        trust_domain_server::TrustDomainServer::new(self)
    }

    fn new_relationship(
        &self,
        relationship: &types::FederationRelationship,
    ) -> Result<(FederationRelationship, Option<Bundle>), types::Status> {
        let (read, _) = federation_from_pb(relationship).map_err(|error| malformed(&error))?;
        refuse_own(
            &self.context.trust_domain,
            &read.trust_domain,
            "unable to create federation relationship for server trust domain",
        )?;
        Ok((read, bundle_of(relationship)?))
    }

    fn update(
        &self,
        relationship: &types::FederationRelationship,
        mask: Option<&types::FederationRelationshipMask>,
    ) -> Result<FederationUpdate, types::Status> {
        let change =
            FederationChange::from_pb(relationship, mask).map_err(|error| malformed(&error))?;
        let trust_domain = change.trust_domain.clone();
        let bundle = match change.bundle {
            Some(_) => bundle_of(relationship)?,
            None => None,
        };
        Ok(FederationUpdate::new(
            trust_domain,
            move |relationship| change.apply(relationship),
            bundle,
        ))
    }

    fn to_pb(
        &self,
        relationship: &FederationRelationship,
        mask: Option<&types::FederationRelationshipMask>,
    ) -> types::FederationRelationship {
        let cached = self.context.cache.bundle(&relationship.trust_domain);
        federation_to_pb(relationship, cached.as_ref().map(|cached| &cached.bundle), mask)
    }

    /// Records what came of one item, and puts it into the fields of its result.
    fn report(
        &self,
        audit: &Audit,
        asked: &types::FederationRelationship,
        (status, relationship): Answer<FederationRelationship>,
        mask: Option<&types::FederationRelationshipMask>,
    ) -> (Option<types::Status>, Option<types::FederationRelationship>) {
        audit_relationship(audit, &status, asked);
        let relationship = relationship.map(|relationship| {
            self.warn_without_bundle(&relationship);
            self.to_pb(&relationship, mask)
        });
        (Some(status), relationship)
    }

    /// Tells the operator when the endpoint's certificate cannot be verified yet.
    fn warn_without_bundle(&self, relationship: &FederationRelationship) {
        if let BundleEndpointProfile::HttpsSpiffe { endpoint_spiffe_id } = &relationship.profile
            && self.context.cache.bundle(endpoint_spiffe_id.trust_domain()).is_none()
        {
            tracing::warn!(
                endpoint_spiffe_id = %endpoint_spiffe_id,
                "bundle not found for the endpoint SPIFFE ID trust domain"
            );
        }
    }
}

#[tonic::async_trait]
impl trust_domain_server::TrustDomain for TrustDomainService {
    async fn list_federation_relationships(
        &self,
        request: Request<pb::ListFederationRelationshipsRequest>,
    ) -> Result<Response<pb::ListFederationRelationshipsResponse>, Status> {
        const FAILED: &str = "failed to list federation relationships";
        let request = request.get_ref();
        let page = page(request.page_size, &request.page_token, FAILED)?;
        let listed = self.context.store.list_federations(page).await;
        let listed = listed.map_err(|error| store_failed(FAILED, &error))?;
        self.context.cache.fresh().await?;
        let mask = request.output_mask.as_ref();
        Ok(Response::new(pb::ListFederationRelationshipsResponse {
            federation_relationships: listed.items.iter().map(|r| self.to_pb(r, mask)).collect(),
            next_page_token: next_token(listed.next),
        }))
    }

    async fn get_federation_relationship(
        &self,
        request: Request<pb::GetFederationRelationshipRequest>,
    ) -> Result<Response<types::FederationRelationship>, Status> {
        let audit = Audit::of(&request);
        let request = request.get_ref();
        audit.field("trust_domain_id", &request.trust_domain);
        let trust_domain = trust_domain_from_pb(&request.trust_domain).map_err(|error| {
            status::wrap(Code::InvalidArgument, "failed to parse trust domain", error)
        })?;
        let found = self.context.store.federation(&trust_domain).await;
        let found = found
            .map_err(|error| store_failed("failed to fetch federation relationship", &error))?
            .ok_or_else(|| Status::not_found("federation relationship does not exist"))?;
        self.context.cache.fresh().await?;
        Ok(Response::new(self.to_pb(&found, request.output_mask.as_ref())))
    }

    async fn batch_create_federation_relationship(
        &self,
        request: Request<pb::BatchCreateFederationRelationshipRequest>,
    ) -> Result<Response<pb::BatchCreateFederationRelationshipResponse>, Status> {
        const FAILED: &str = "failed to create federation relationship";
        let audit = Audit::of(&request);
        let request = request.get_ref();
        let now = self.context.clock.unix();
        let answers =
            Batch::read(&request.federation_relationships, |asked| self.new_relationship(asked))
                .run(
                    &self.context,
                    FAILED,
                    |relationships| self.context.store.create_federations(relationships, now),
                    |_, outcome| match outcome {
                        CreateOutcome::Created(relationship) => {
                            (status::item_ok(), Some(relationship))
                        }
                        // The API promises this code; SPIRE answers Internal.
                        CreateOutcome::Exists => {
                            let text = format!("{FAILED}: federation relationship already exists");
                            (status::item(Code::AlreadyExists, text), None)
                        }
                    },
                )
                .await;
        let results = answers.map(|(asked, answer)| {
            let mask = request.output_mask.as_ref();
            let (status, federation_relationship) = self.report(&audit, asked, answer, mask);
            batch_create_federation_relationship_response::Result {
                status,
                federation_relationship,
            }
        });
        let results = results.collect();
        Ok(Response::new(pb::BatchCreateFederationRelationshipResponse { results }))
    }

    async fn batch_update_federation_relationship(
        &self,
        request: Request<pb::BatchUpdateFederationRelationshipRequest>,
    ) -> Result<Response<pb::BatchUpdateFederationRelationshipResponse>, Status> {
        const FAILED: &str = "failed to update federation relationship";
        let audit = Audit::of(&request);
        let request = request.get_ref();
        let now = self.context.clock.unix();
        let input_mask = request.input_mask.as_ref();
        let answers =
            Batch::read(&request.federation_relationships, |asked| self.update(asked, input_mask))
                .run(
                    &self.context,
                    FAILED,
                    |updates| self.context.store.update_federations(updates, now),
                    |_, outcome| match outcome {
                        Some(relationship) => (status::item_ok(), Some(relationship)),
                        None => {
                            let text = format!("{FAILED}: federation relationship does not exist");
                            (status::item(Code::NotFound, text), None)
                        }
                    },
                )
                .await;
        let results = answers.map(|(asked, answer)| {
            let mask = request.output_mask.as_ref();
            let (status, federation_relationship) = self.report(&audit, asked, answer, mask);
            batch_update_federation_relationship_response::Result {
                status,
                federation_relationship,
            }
        });
        let results = results.collect();
        Ok(Response::new(pb::BatchUpdateFederationRelationshipResponse { results }))
    }

    async fn batch_delete_federation_relationship(
        &self,
        request: Request<pb::BatchDeleteFederationRelationshipRequest>,
    ) -> Result<Response<pb::BatchDeleteFederationRelationshipResponse>, Status> {
        const FAILED: &str = "failed to delete federation relationship";
        let audit = Audit::of(&request);
        let now = self.context.clock.unix();
        let read = |name: &String| match name.as_str() {
            "" => Err(status::item(Code::InvalidArgument, "missing trust domain")),
            name => trust_domain_from_pb(name).map_err(|error| {
                let text = format!("failed to parse trust domain: {error}");
                status::item(Code::InvalidArgument, text)
            }),
        };
        let answers = Batch::read(&request.get_ref().trust_domains, read)
            .run(
                &self.context,
                FAILED,
                |names| self.context.store.delete_federations(names, now),
                |_, deleted| match deleted {
                    true => (status::item_ok(), Some(())),
                    false => {
                        (status::item(Code::NotFound, "federation relationship not found"), None)
                    }
                },
            )
            .await;
        let results = answers.map(|(asked, (status, _))| {
            // A name is answered in its canonical form; what is no name, as it came.
            let trust_domain = trust_domain_from_pb(asked)
                .map_or_else(|_| asked.clone(), |name| name.as_str().to_owned());
            audit.item(
                Code::from(status.code),
                &status.message,
                &[("trust_domain_id", &trust_domain)],
            );
            batch_delete_federation_relationship_response::Result {
                status: Some(status),
                trust_domain,
            }
        });
        let results = results.collect();
        Ok(Response::new(pb::BatchDeleteFederationRelationshipResponse { results }))
    }

    async fn refresh_bundle(
        &self,
        request: Request<pb::RefreshBundleRequest>,
    ) -> Result<Response<()>, Status> {
        const FAILED: &str = "failed to refresh bundle";
        let audit = Audit::of(&request);
        let name = request.into_inner().trust_domain;
        audit.field("trust_domain_id", &name);
        let trust_domain = trust_domain_from_pb(&name).map_err(|error| {
            status::wrap(Code::InvalidArgument, "failed to parse trust domain", error)
        })?;
        let found = self.context.store.federation(&trust_domain).await;
        let found = found.map_err(|error| store_failed(FAILED, &error))?.ok_or_else(|| {
            Status::not_found(format!("no relationship with trust domain \"{trust_domain}\""))
        })?;
        if let BundleEndpointProfile::HttpsSpiffe { endpoint_spiffe_id } = &found.profile
            && self.context.cache.bundle(endpoint_spiffe_id.trust_domain()).is_none()
        {
            let why = "can't perform SPIFFE Authentication: local copy of bundle not found";
            return Err(status::wrap(Code::Internal, FAILED, why));
        }
        Err(Status::unimplemented(
            "failed to refresh bundle: this version does not fetch bundles; \
             set them with `bundle set`",
        ))
    }
}

fn malformed(why: &dyn std::fmt::Display) -> types::Status {
    let text = format!("failed to convert federation relationship: {why}");
    status::item(Code::InvalidArgument, text)
}

fn bundle_of(
    relationship: &types::FederationRelationship,
) -> Result<Option<Bundle>, types::Status> {
    let bundle = relationship.trust_domain_bundle.as_ref().map(foreign_bundle).transpose();
    bundle.map_err(|why| malformed(&format_args!("failed to parse bundle: {why}")))
}

fn audit_relationship(
    audit: &Audit,
    status: &types::Status,
    asked: &types::FederationRelationship,
) {
    use types::federation_relationship::BundleEndpointProfile as Profile;

    let (profile, endpoint) = match &asked.bundle_endpoint_profile {
        Some(Profile::HttpsSpiffe(spiffe)) => ("https_spiffe", spiffe.endpoint_spiffe_id.as_str()),
        Some(Profile::HttpsWeb(_)) => ("https_web", ""),
        None => ("", ""),
    };
    audit.item(
        Code::from(status.code),
        &status.message,
        &[
            ("trust_domain_id", &asked.trust_domain),
            ("bundle_endpoint_url", &asked.bundle_endpoint_url),
            ("bundle_endpoint_profile", &profile),
            ("endpoint_spiffe_id", &endpoint),
        ],
    );
}
