//! `spire.api.server.bundle.v1.Bundle`: the server's own bundle and those of others.

use signet_api::{
    convert::{
        ConvertError, bundle_from_pb, bundle_to_pb, jwt_authority_from_pb, jwt_authority_to_pb,
        trust_domain_from_pb, x509_authorities_from_pb,
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
    status,
};
use signet_base::chain;
use signet_identity::{Bundle, TrustDomain};
use signet_store::{BundleUpdate, CreateOutcome, DeleteBundleMode, DeleteBundleOutcome};
use tonic::{Code, Request, Response, Status};

use super::shared::{
    Answer, Batch, check_authorities, count, next_token, page, refuse_own, settle, store_failed,
};
use crate::{audit::Audit, caller::Caller, context::Context, limits::Limit};

/// The bundle service.
#[derive(Clone, Debug)]
pub struct BundleService {
    context: Context,
}

impl BundleService {
    /// The service of a server.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// As a service for the router.
    pub fn into_server(self) -> bundle_server::BundleServer<Self> {
        bundle_server::BundleServer::new(self)
    }

    fn now(&self) -> i64 {
        self.context.clock.unix()
    }

    /// Reads a foreign bundle; `own` says why the server's own is refused.
    fn foreign(&self, bundle: &types::Bundle, own: &str) -> Result<Bundle, types::Status> {
        self.foreign_name(&bundle.trust_domain, own)?;
        foreign_bundle(bundle).map_err(|why| {
            status::item(Code::InvalidArgument, format!("failed to convert bundle: {why}"))
        })
    }

    fn foreign_name(&self, name: &str, own: &str) -> Result<TrustDomain, types::Status> {
        let trust_domain = trust_domain_from_pb(name).map_err(|error| {
            let text = format!("trust domain argument is not valid: {error}");
            status::item(Code::InvalidArgument, text)
        })?;
        refuse_own(&self.context.trust_domain, &trust_domain, own)?;
        Ok(trust_domain)
    }
}

/// Reads and checks a bundle from outside. Taints and WIT authorities are not taken over, as in
/// SPIRE: only the trust domain's own server says what is tainted.
///
/// # Errors
/// What is wrong, in one line.
pub(crate) fn foreign_bundle(bundle: &types::Bundle) -> Result<Bundle, String> {
    let mut bundle = bundle_from_pb(bundle).map_err(|error| error.to_string())?;
    check_authorities(&bundle)?;
    bundle.wit_authorities.clear();
    bundle.x509_authorities.iter_mut().for_each(|authority| authority.tainted = false);
    bundle.jwt_authorities.iter_mut().for_each(|authority| authority.tainted = false);
    Ok(bundle)
}

#[tonic::async_trait]
impl bundle_server::Bundle for BundleService {
    async fn count_bundles(
        &self,
        _request: Request<pb::CountBundlesRequest>,
    ) -> Result<Response<pb::CountBundlesResponse>, Status> {
        let n = self.context.store.count_bundles().await;
        let n = n.map_err(|error| store_failed("failed to count bundles", &error))?;
        Ok(Response::new(pb::CountBundlesResponse { count: count(n) }))
    }

    async fn get_bundle(
        &self,
        request: Request<pb::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Audit::of(&request).field("trust_domain_id", &self.context.trust_domain);
        self.context.cache.fresh().await?;
        let cached = self.context.cache.own_bundle();
        let cached = cached.ok_or_else(|| Status::not_found("bundle not found"))?;
        let mask = request.get_ref().output_mask.as_ref();
        Ok(Response::new(bundle_to_pb(&cached.bundle, mask)))
    }

    async fn append_bundle(
        &self,
        request: Request<pb::AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let audit = Audit::of(&request);
        let request = request.get_ref();
        let keys = request.jwt_authorities.iter().map(|key| key.key_id.as_str());
        audit.field("jwt_authority_key_ids", keys.collect::<Vec<_>>().join(","));
        audit.field("x509_authorities", request.x509_authorities.len());
        if request.jwt_authorities.is_empty() && request.x509_authorities.is_empty() {
            return Err(Status::invalid_argument("no authorities to append"));
        }
        let mut bundle = Bundle::empty(self.context.trust_domain.clone());
        let jwt = request.jwt_authorities.iter().map(untainted_jwt);
        bundle.jwt_authorities = jwt.collect::<Result<_, _>>().map_err(|error| {
            status::wrap(Code::InvalidArgument, "failed to convert JWT authority", error)
        })?;
        let mut x509 = x509_authorities_from_pb(&request.x509_authorities).map_err(|error| {
            status::wrap(Code::InvalidArgument, "failed to convert X.509 authority", error)
        })?;
        x509.iter_mut().for_each(|authority| authority.tainted = false);
        bundle.x509_authorities = x509;
        check_authorities(&bundle).map_err(|why| {
            status::wrap(Code::InvalidArgument, "failed to convert authorities", why)
        })?;

        let bundle = self.context.store.append_bundle(bundle, self.now()).await;
        let bundle = bundle.map_err(|error| store_failed("failed to append bundle", &error))?;
        settle(&self.context).await;
        Ok(Response::new(bundle_to_pb(&bundle, request.output_mask.as_ref())))
    }

    async fn publish_jwt_authority(
        &self,
        request: Request<pb::PublishJwtAuthorityRequest>,
    ) -> Result<Response<pb::PublishJwtAuthorityResponse>, Status> {
        let (audit, caller) = (Audit::of(&request), Caller::of(&request)?);
        self.context.limits.acquire(&caller, Limit::PublishKey, 1, "key publishing").await?;
        let key = request.into_inner().jwt_authority;
        let key = key.ok_or_else(|| Status::invalid_argument("missing JWT authority"))?;
        audit.field("jwt_authority_key_id", &key.key_id);
        audit.field("jwt_authority_expires_at", key.expires_at);
        let mut checked = Bundle::empty(self.context.trust_domain.clone());
        let authority = untainted_jwt(&key)
            .map_err(|error| status::wrap(Code::InvalidArgument, "invalid JWT authority", error))?;
        checked.jwt_authorities.push(authority.clone());
        check_authorities(&checked)
            .map_err(|why| status::wrap(Code::InvalidArgument, "invalid JWT authority", why))?;

        let all = self.context.authority.publish_jwt_key(authority).await.map_err(|error| {
            status::wrap(Code::Internal, "failed to publish JWT key", chain(&error))
        })?;
        settle(&self.context).await;
        let jwt_authorities = all.iter().map(jwt_authority_to_pb).collect();
        Ok(Response::new(pb::PublishJwtAuthorityResponse { jwt_authorities }))
    }

    async fn publish_wit_authority(
        &self,
        _request: Request<pb::PublishWitAuthorityRequest>,
    ) -> Result<Response<pb::PublishWitAuthorityResponse>, Status> {
        Err(Status::unimplemented("WIT-SVID functionality is not yet implemented"))
    }

    async fn list_federated_bundles(
        &self,
        request: Request<pb::ListFederatedBundlesRequest>,
    ) -> Result<Response<pb::ListFederatedBundlesResponse>, Status> {
        const FAILED: &str = "failed to list bundles";
        let request = request.get_ref();
        let page = page(request.page_size, &request.page_token, FAILED)?;
        let listed = self.context.store.list_bundles(page).await;
        let listed = listed.map_err(|error| store_failed(FAILED, &error))?;
        let foreign =
            listed.items.iter().filter(|bundle| bundle.trust_domain != self.context.trust_domain);
        let mask = request.output_mask.as_ref();
        Ok(Response::new(pb::ListFederatedBundlesResponse {
            bundles: foreign.map(|bundle| bundle_to_pb(bundle, mask)).collect(),
            next_page_token: next_token(listed.next),
        }))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<pb::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let audit = Audit::of(&request);
        let request = request.get_ref();
        audit.field("trust_domain_id", &request.trust_domain);
        let own = "getting a federated bundle for the server's own trust domain is not allowed";
        let trust_domain = self
            .foreign_name(&request.trust_domain, own)
            .map_err(|status| status::from_item(&status))?;
        self.context.cache.fresh().await?;
        let cached = self.context.cache.bundle(&trust_domain);
        let cached = cached.ok_or_else(|| Status::not_found("bundle not found"))?;
        Ok(Response::new(bundle_to_pb(&cached.bundle, request.output_mask.as_ref())))
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<pb::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<pb::BatchCreateFederatedBundleResponse>, Status> {
        const FAILED: &str = "unable to create bundle";
        const OWN: &str =
            "creating a federated bundle for the server's own trust domain is not allowed";
        let audit = Audit::of(&request);
        let request = request.get_ref();
        let answers = Batch::read(&request.bundle, |bundle| self.foreign(bundle, OWN))
            .run(
                &self.context,
                FAILED,
                |bundles| self.context.store.create_bundles(bundles, self.now()),
                |_, outcome| match outcome {
                    CreateOutcome::Created(bundle) => done(bundle),
                    CreateOutcome::Exists => {
                        (status::item(Code::AlreadyExists, "bundle already exists"), None)
                    }
                },
            )
            .await;
        let results = answers.map(|(asked, answer)| {
            let (status, bundle) = report(&audit, asked, answer, request.output_mask.as_ref());
            batch_create_federated_bundle_response::Result { status, bundle }
        });
        let results = results.collect();
        Ok(Response::new(pb::BatchCreateFederatedBundleResponse { results }))
    }

    async fn batch_update_federated_bundle(
        &self,
        request: Request<pb::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<pb::BatchUpdateFederatedBundleResponse>, Status> {
        const FAILED: &str = "failed to update bundle";
        const OWN: &str =
            "updating a federated bundle for the server's own trust domain is not allowed";
        let audit = Audit::of(&request);
        let request = request.get_ref();
        let input_mask = request.input_mask;
        let read =
            |bundle| self.foreign(bundle, OWN).map(|bundle| bundle_update(bundle, input_mask));
        let answers = Batch::read(&request.bundle, read)
            .run(
                &self.context,
                FAILED,
                |updates| self.context.store.update_bundles(updates, self.now()),
                |_, outcome| match outcome {
                    Some(bundle) => done(bundle),
                    None => (status::item(Code::NotFound, "bundle not found"), None),
                },
            )
            .await;
        let results = answers.map(|(asked, answer)| {
            let (status, bundle) = report(&audit, asked, answer, request.output_mask.as_ref());
            batch_update_federated_bundle_response::Result { status, bundle }
        });
        let results = results.collect();
        Ok(Response::new(pb::BatchUpdateFederatedBundleResponse { results }))
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<pb::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<pb::BatchSetFederatedBundleResponse>, Status> {
        const FAILED: &str = "failed to set bundle";
        const OWN: &str =
            "setting a federated bundle for the server's own trust domain is not allowed";
        let audit = Audit::of(&request);
        let request = request.get_ref();
        let answers = Batch::read(&request.bundle, |bundle| self.foreign(bundle, OWN))
            .run(
                &self.context,
                FAILED,
                |bundles| self.context.store.set_bundles(bundles, self.now()),
                |_, bundle| done(bundle),
            )
            .await;
        let results = answers.map(|(asked, answer)| {
            let (status, bundle) = report(&audit, asked, answer, request.output_mask.as_ref());
            batch_set_federated_bundle_response::Result { status, bundle }
        });
        let results = results.collect();
        Ok(Response::new(pb::BatchSetFederatedBundleResponse { results }))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<pb::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<pb::BatchDeleteFederatedBundleResponse>, Status> {
        const FAILED: &str = "failed to delete federated bundle";
        const OWN: &str = "removing the bundle for the server trust domain is not allowed";
        let audit = Audit::of(&request);
        let request = request.get_ref();
        let (mode, mode_name) = match Mode::try_from(request.mode) {
            Ok(Mode::Restrict) => (DeleteBundleMode::Restrict, "restrict"),
            Ok(Mode::Delete) => (DeleteBundleMode::Delete, "delete"),
            Ok(Mode::Dissociate) => (DeleteBundleMode::Dissociate, "dissociate"),
            Err(_) => {
                let why = format!("unhandled delete mode \"{}\"", request.mode);
                return Err(status::wrap(
                    Code::InvalidArgument,
                    "failed to parse deletion mode",
                    why,
                ));
            }
        };
        let answers = Batch::read(&request.trust_domains, |name| self.foreign_name(name, OWN))
            .run(
                &self.context,
                FAILED,
                |names| self.context.store.delete_bundles(names, mode, self.now()),
                |_, outcome| match outcome {
                    DeleteBundleOutcome::Deleted(_) => (status::item_ok(), Some(())),
                    DeleteBundleOutcome::InUse(n) => {
                        let text = format!(
                            "{FAILED}: cannot delete bundle; federated with {n} registration \
                             entries"
                        );
                        (status::item(Code::FailedPrecondition, text), None)
                    }
                    DeleteBundleOutcome::NotFound => {
                        (status::item(Code::NotFound, "bundle not found"), None)
                    }
                },
            )
            .await;
        let results = answers.map(|(trust_domain, (status, _))| {
            audit.item(
                Code::from(status.code),
                &status.message,
                &[("trust_domain_id", trust_domain), ("mode", &mode_name)],
            );
            batch_delete_federated_bundle_response::Result {
                status: Some(status),
                trust_domain: trust_domain.clone(),
            }
        });
        let results = results.collect();
        Ok(Response::new(pb::BatchDeleteFederatedBundleResponse { results }))
    }
}

/// The update that sets the fields of `mask` (`None` for all).
fn bundle_update(new: Bundle, mask: Option<types::BundleMask>) -> BundleUpdate {
    let mask = mask.unwrap_or_else(signet_api::convert::bundle_mask_all);
    BundleUpdate::new(new.trust_domain.clone(), move |bundle| {
        if mask.x509_authorities {
            bundle.x509_authorities = new.x509_authorities;
        }
        if mask.jwt_authorities {
            bundle.jwt_authorities = new.jwt_authorities;
        }
        if mask.refresh_hint {
            bundle.refresh_hint = new.refresh_hint;
        }
        if mask.sequence_number {
            bundle.sequence_number = new.sequence_number;
        }
    })
}

fn done(bundle: Bundle) -> Answer<Bundle> {
    (status::item_ok(), Some(bundle))
}

fn untainted_jwt(key: &types::JwtKey) -> Result<signet_identity::JwtAuthority, ConvertError> {
    let mut authority = jwt_authority_from_pb(key)?;
    authority.tainted = false;
    Ok(authority)
}

/// Records what came of one item, and puts it into the fields of its result.
fn report(
    audit: &Audit,
    asked: &types::Bundle,
    (status, bundle): Answer<Bundle>,
    mask: Option<&types::BundleMask>,
) -> (Option<types::Status>, Option<types::Bundle>) {
    audit.item(
        Code::from(status.code),
        &status.message,
        &[
            ("trust_domain_id", &asked.trust_domain),
            ("refresh_hint", &asked.refresh_hint),
            ("sequence_number", &asked.sequence_number),
            ("x509_authorities", &asked.x509_authorities.len()),
            ("jwt_authorities", &asked.jwt_authorities.len()),
        ],
    );
    (Some(status), bundle.map(|bundle| bundle_to_pb(&bundle, mask)))
}
