//! `spire.api.server.bundle.v1.Bundle`: the server's own bundle and those of others.

use signet_api::{
    convert::{
        bundle_from_pb, bundle_mask_all, bundle_to_pb, jwt_authority_from_pb, jwt_authority_to_pb,
        trust_domain_from_pb, wit_authority_from_pb, wit_authority_to_pb, x509_authorities_from_pb,
    },
    pb::spire::api::{
        server::bundle::v1::{
            self as pb, batch_create_federated_bundle_response,
            batch_delete_federated_bundle_request::Mode, batch_delete_federated_bundle_response,
            batch_set_federated_bundle_response, batch_update_federated_bundle_response,
            bundle_server,
        },
        types,
    },
};
use signet_audit::Field;
use signet_authority::AuthorityKind;
use signet_identity::{Bundle, TrustDomain};
use signet_store::DeleteBundleMode;
use signet_time::UnixTime;
use tonic::{Request, Response, Status};

use super::shared::{Batch, count, item, next_token, page, serve};
use crate::usecase::{
    bundles::{BundleParts, Bundles, ForeignOnly},
    error::Error,
};

/// The bundle service.
#[derive(Clone, Debug)]
pub struct BundleService {
    bundles: Bundles,
}

impl BundleService {
    /// The service of a server.
    pub fn new(bundles: Bundles) -> Self {
        Self { bundles }
    }

    /// As a service for the router.
    pub fn into_server(self) -> bundle_server::BundleServer<Self> {
        bundle_server::BundleServer::new(self)
    }

    /// Reads a foreign bundle; that it is foreign comes before what it says.
    fn foreign(&self, bundle: &types::Bundle, doing: ForeignOnly) -> Result<Bundle, Error> {
        self.foreign_name(&bundle.trust_domain, doing)?;
        bundle_from_pb(bundle)
            .map_err(|why| Error::invalid("failed to convert bundle").because(why))
    }

    fn foreign_name(&self, name: &str, doing: ForeignOnly) -> Result<TrustDomain, Error> {
        let trust_domain = trust_domain_from_pb(name)
            .map_err(|error| Error::invalid("trust domain argument is not valid").because(error))?;
        self.bundles.must_be_foreign(&trust_domain, doing)?;
        Ok(trust_domain)
    }
}

#[tonic::async_trait]
impl bundle_server::Bundle for BundleService {
    async fn count_bundles(
        &self,
        request: Request<pb::CountBundlesRequest>,
    ) -> Result<Response<pb::CountBundlesResponse>, Status> {
        serve(request, |call, _| async move {
            Ok(pb::CountBundlesResponse { count: count(self.bundles.count(&call).await?) })
        })
        .await
    }

    async fn get_bundle(
        &self,
        request: Request<pb::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        serve(request, |call, request| async move {
            let cached = self.bundles.own(&call).await?;
            Ok(bundle_to_pb(&cached.bundle, request.output_mask.as_ref()))
        })
        .await
    }

    async fn append_bundle(
        &self,
        request: Request<pb::AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        serve(request, |call, request| async move {
            let keys = request.jwt_authorities.iter().map(|key| key.key_id.clone());
            call.about(Field::JwtAuthorityKeyIds(keys.collect()));
            let x509 = u64::try_from(request.x509_authorities.len()).unwrap_or(u64::MAX);
            call.about(Field::X509Authorities(x509));
            let wit = request.wit_authorities.iter().map(wit_authority_from_pb);
            if request.jwt_authorities.is_empty()
                && request.x509_authorities.is_empty()
                && request.wit_authorities.is_empty()
            {
                return Err(Error::invalid("no authorities to append"));
            }
            let mut bundle = Bundle::empty(self.bundles.trust_domain().clone());
            let jwt = request.jwt_authorities.iter().map(jwt_authority_from_pb);
            bundle.jwt_authorities = jwt.collect::<Result<_, _>>().map_err(|error| {
                Error::invalid("failed to convert JWT authority").because(error)
            })?;
            bundle.x509_authorities =
                x509_authorities_from_pb(&request.x509_authorities).map_err(|error| {
                    Error::invalid("failed to convert X.509 authority").because(error)
                })?;
            bundle.wit_authorities = wit.collect::<Result<_, _>>().map_err(|error| {
                Error::invalid("failed to convert WIT authority").because(error)
            })?;
            let bundle = self.bundles.append(&call, bundle).await?;
            Ok(bundle_to_pb(&bundle, request.output_mask.as_ref()))
        })
        .await
    }

    async fn publish_jwt_authority(
        &self,
        request: Request<pb::PublishJwtAuthorityRequest>,
    ) -> Result<Response<pb::PublishJwtAuthorityResponse>, Status> {
        serve(request, |call, request| async move {
            self.bundles.may_publish(&call).await?;
            let key = request.jwt_authority;
            let key = key.ok_or_else(|| Error::invalid("missing JWT authority"))?;
            call.about(Field::JwtAuthorityKeyId(key.key_id.clone()));
            call.about(Field::JwtAuthorityExpiresAt(UnixTime::from_seconds(key.expires_at)));
            let key = jwt_authority_from_pb(&key)
                .map_err(|error| Error::invalid("invalid JWT authority").because(error))?;
            let all = self.bundles.publish_jwt(&call, key).await?;
            let jwt_authorities = all.iter().map(jwt_authority_to_pb).collect();
            Ok(pb::PublishJwtAuthorityResponse { jwt_authorities })
        })
        .await
    }

    async fn publish_wit_authority(
        &self,
        request: Request<pb::PublishWitAuthorityRequest>,
    ) -> Result<Response<pb::PublishWitAuthorityResponse>, Status> {
        serve(request, |call, request| async move {
            self.bundles.may_publish(&call).await?;
            self.bundles.must_be_on(AuthorityKind::Wit)?;
            let key = request.wit_authority;
            let key = key.ok_or_else(|| Error::invalid("missing WIT authority"))?;
            call.about(Field::KeyId(key.key_id.clone()));
            call.about(Field::ExpiresAt(UnixTime::from_seconds(key.expires_at)));
            let key = wit_authority_from_pb(&key)
                .map_err(|error| Error::invalid("invalid WIT authority").because(error))?;
            let all = self.bundles.publish_wit(&call, key).await?;
            let wit_authorities = all.iter().map(wit_authority_to_pb).collect();
            Ok(pb::PublishWitAuthorityResponse { wit_authorities })
        })
        .await
    }

    async fn list_federated_bundles(
        &self,
        request: Request<pb::ListFederatedBundlesRequest>,
    ) -> Result<Response<pb::ListFederatedBundlesResponse>, Status> {
        serve(request, |call, request| async move {
            let page = page(request.page_size, &request.page_token, "failed to list bundles")?;
            let listed = self.bundles.list(&call, page).await?;
            let mask = request.output_mask.as_ref();
            Ok(pb::ListFederatedBundlesResponse {
                bundles: listed.items.iter().map(|bundle| bundle_to_pb(bundle, mask)).collect(),
                next_page_token: next_token(listed.next),
            })
        })
        .await
    }

    async fn get_federated_bundle(
        &self,
        request: Request<pb::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        serve(request, |call, request| async move {
            call.about(Field::TrustDomainId(request.trust_domain.clone()));
            let trust_domain = self.foreign_name(&request.trust_domain, ForeignOnly::Get)?;
            let cached = self.bundles.foreign(&call, &trust_domain).await?;
            Ok(bundle_to_pb(&cached.bundle, request.output_mask.as_ref()))
        })
        .await
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<pb::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<pb::BatchCreateFederatedBundleResponse>, Status> {
        serve(request, |call, request| async move {
            let read = |bundle| self.foreign(bundle, ForeignOnly::Create);
            let mut batch = Batch::read(&call, &request.bundle, read, about);
            let created = self.bundles.create(&call, batch.take()).await;
            let results = batch.answers(created).map(|created| {
                let (status, bundle) = (item(&created), shown(created, request.output_mask));
                batch_create_federated_bundle_response::Result { status, bundle }
            });
            Ok(pb::BatchCreateFederatedBundleResponse { results: results.collect() })
        })
        .await
    }

    async fn batch_update_federated_bundle(
        &self,
        request: Request<pb::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<pb::BatchUpdateFederatedBundleResponse>, Status> {
        serve(request, |call, request| async move {
            let mask = request.input_mask.unwrap_or_else(bundle_mask_all);
            let parts = BundleParts {
                x509_authorities: mask.x509_authorities,
                jwt_authorities: mask.jwt_authorities,
                wit_authorities: mask.wit_authorities,
                refresh_hint: mask.refresh_hint,
                sequence_number: mask.sequence_number,
            };
            let read = |bundle| self.foreign(bundle, ForeignOnly::Update);
            let mut batch = Batch::read(&call, &request.bundle, read, about);
            let updated = self.bundles.update(&call, batch.take(), parts).await;
            let results = batch.answers(updated).map(|updated| {
                let (status, bundle) = (item(&updated), shown(updated, request.output_mask));
                batch_update_federated_bundle_response::Result { status, bundle }
            });
            Ok(pb::BatchUpdateFederatedBundleResponse { results: results.collect() })
        })
        .await
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<pb::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<pb::BatchSetFederatedBundleResponse>, Status> {
        serve(request, |call, request| async move {
            let read = |bundle| self.foreign(bundle, ForeignOnly::Set);
            let mut batch = Batch::read(&call, &request.bundle, read, about);
            let set = self.bundles.set(&call, batch.take()).await;
            let results = batch.answers(set).map(|set| {
                let (status, bundle) = (item(&set), shown(set, request.output_mask));
                batch_set_federated_bundle_response::Result { status, bundle }
            });
            Ok(pb::BatchSetFederatedBundleResponse { results: results.collect() })
        })
        .await
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<pb::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<pb::BatchDeleteFederatedBundleResponse>, Status> {
        serve(request, |call, request| async move {
            let mode = match Mode::try_from(request.mode) {
                Ok(Mode::Restrict) => DeleteBundleMode::Restrict,
                Ok(Mode::Delete) => DeleteBundleMode::Delete,
                Ok(Mode::Dissociate) => DeleteBundleMode::Dissociate,
                Err(_) => {
                    let why = format!("unhandled delete mode \"{}\"", request.mode);
                    return Err(Error::invalid("failed to parse deletion mode").because(why));
                }
            };
            let names = &request.trust_domains;
            let read = |name: &String| self.foreign_name(name, ForeignOnly::Delete);
            let about = |name: &String| Field::TrustDomainId(name.clone());
            let mut batch = Batch::read(&call, names, read, about);
            let deleted = self.bundles.delete(&call, batch.take(), mode).await;
            let results = batch.answers(deleted).zip(names).map(|(deleted, name)| {
                batch_delete_federated_bundle_response::Result {
                    status: item(&deleted),
                    trust_domain: name.clone(),
                }
            });
            Ok(pb::BatchDeleteFederatedBundleResponse { results: results.collect() })
        })
        .await
    }
}

fn about(bundle: &types::Bundle) -> Field {
    Field::TrustDomainId(bundle.trust_domain.clone())
}

fn shown(result: Result<Bundle, Error>, mask: Option<types::BundleMask>) -> Option<types::Bundle> {
    result.ok().map(|bundle| bundle_to_pb(&bundle, mask.as_ref()))
}
