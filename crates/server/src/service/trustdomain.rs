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
    shared::{item_lost, item_store_failed, next_token, page, refuse_own, settle, store_failed},
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
        Ok(FederationUpdate {
            trust_domain,
            change: Box::new(move |relationship| change.apply(relationship)),
            bundle,
        })
    }

    fn to_pb(
        &self,
        relationship: &FederationRelationship,
        mask: Option<&types::FederationRelationshipMask>,
    ) -> types::FederationRelationship {
        let cached = self.context.cache.bundle(&relationship.trust_domain);
        federation_to_pb(relationship, cached.as_ref().map(|cached| &cached.bundle), mask)
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
        let mut accepted = Vec::new();
        let asked = &request.federation_relationships;
        let checked: Vec<Result<(), types::Status>> = asked
            .iter()
            .map(|asked| self.new_relationship(asked).map(|good| accepted.push(good)))
            .collect();
        let now = self.context.clock.unix();
        let outcomes = self.context.store.create_federations(accepted, now).await;
        settle(&self.context).await;
        let mut outcomes = outcomes.map(Vec::into_iter);
        let mask = request.output_mask.as_ref();
        let mut results = Vec::with_capacity(checked.len());
        for (asked, checked) in asked.iter().zip(checked) {
            let outcome = checked.and_then(|()| match &mut outcomes {
                Err(error) => Err(item_store_failed(FAILED, error)),
                Ok(outcomes) => match outcomes.next() {
                    Some(CreateOutcome::Created(relationship)) => Ok(relationship),
                    Some(CreateOutcome::Exists) => Err(status::item(
                        // The API promises this code; SPIRE answers Internal.
                        Code::AlreadyExists,
                        format!("{FAILED}: federation relationship already exists"),
                    )),
                    None => Err(item_lost(FAILED)),
                },
            });
            let (status, relationship) = match outcome {
                Ok(relationship) => {
                    self.warn_without_bundle(&relationship);
                    (status::item_ok(), Some(self.to_pb(&relationship, mask)))
                }
                Err(status) => (status, None),
            };
            audit_relationship(&audit, &status, asked);
            results.push(batch_create_federation_relationship_response::Result {
                status: Some(status),
                federation_relationship: relationship,
            });
        }
        Ok(Response::new(pb::BatchCreateFederationRelationshipResponse { results }))
    }

    async fn batch_update_federation_relationship(
        &self,
        request: Request<pb::BatchUpdateFederationRelationshipRequest>,
    ) -> Result<Response<pb::BatchUpdateFederationRelationshipResponse>, Status> {
        const FAILED: &str = "failed to update federation relationship";
        let audit = Audit::of(&request);
        let request = request.get_ref();
        let mut accepted = Vec::new();
        let asked = &request.federation_relationships;
        let input_mask = request.input_mask.as_ref();
        let checked: Vec<Result<(), types::Status>> = asked
            .iter()
            .map(|asked| self.update(asked, input_mask).map(|good| accepted.push(good)))
            .collect();
        let now = self.context.clock.unix();
        let outcomes = self.context.store.update_federations(accepted, now).await;
        settle(&self.context).await;
        let mut outcomes = outcomes.map(Vec::into_iter);
        let mask = request.output_mask.as_ref();
        let mut results = Vec::with_capacity(checked.len());
        for (asked, checked) in asked.iter().zip(checked) {
            let outcome = checked.and_then(|()| match &mut outcomes {
                Err(error) => Err(item_store_failed(FAILED, error)),
                Ok(outcomes) => match outcomes.next() {
                    Some(Some(relationship)) => Ok(relationship),
                    Some(None) => Err(status::item(
                        Code::NotFound,
                        format!("{FAILED}: federation relationship does not exist"),
                    )),
                    None => Err(item_lost(FAILED)),
                },
            });
            let (status, relationship) = match outcome {
                Ok(relationship) => {
                    self.warn_without_bundle(&relationship);
                    (status::item_ok(), Some(self.to_pb(&relationship, mask)))
                }
                Err(status) => (status, None),
            };
            audit_relationship(&audit, &status, asked);
            results.push(batch_update_federation_relationship_response::Result {
                status: Some(status),
                federation_relationship: relationship,
            });
        }
        Ok(Response::new(pb::BatchUpdateFederationRelationshipResponse { results }))
    }

    async fn batch_delete_federation_relationship(
        &self,
        request: Request<pb::BatchDeleteFederationRelationshipRequest>,
    ) -> Result<Response<pb::BatchDeleteFederationRelationshipResponse>, Status> {
        const FAILED: &str = "failed to delete federation relationship";
        let audit = Audit::of(&request);
        let names = request.into_inner().trust_domains;
        let mut accepted = Vec::new();
        let checked: Vec<Result<String, types::Status>> = names
            .iter()
            .map(|name| {
                if name.is_empty() {
                    return Err(status::item(Code::InvalidArgument, "missing trust domain"));
                }
                let trust_domain = trust_domain_from_pb(name).map_err(|error| {
                    let text = format!("failed to parse trust domain: {error}");
                    status::item(Code::InvalidArgument, text)
                })?;
                let canonical = trust_domain.as_str().to_owned();
                accepted.push(trust_domain);
                Ok(canonical)
            })
            .collect();
        let now = self.context.clock.unix();
        let outcomes = self.context.store.delete_federations(accepted, now).await;
        settle(&self.context).await;
        let mut outcomes = outcomes.map(Vec::into_iter);
        let mut results = Vec::with_capacity(names.len());
        for (asked, checked) in names.into_iter().zip(checked) {
            let (status, trust_domain) = match checked {
                Err(status) => (status, asked),
                Ok(canonical) => {
                    let status = match &mut outcomes {
                        Err(error) => item_store_failed(FAILED, error),
                        Ok(outcomes) => match outcomes.next() {
                            Some(true) => status::item_ok(),
                            Some(false) => {
                                status::item(Code::NotFound, "federation relationship not found")
                            }
                            None => item_lost(FAILED),
                        },
                    };
                    (status, canonical)
                }
            };
            audit.item(
                Code::from(status.code),
                &status.message,
                &[("trust_domain_id", &trust_domain)],
            );
            results.push(batch_delete_federation_relationship_response::Result {
                status: Some(status),
                trust_domain,
            });
        }
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
