//! `spire.api.server.localauthority.v1.LocalAuthority`: operations on the server's authorities.

use signet_api::pb::spire::api::server::localauthority::v1::{self as pb, local_authority_server};
use signet_authority::{AuthorityKind, AuthorityState, KindView, OperationClass, OperationError};
use signet_base::chain;
use tonic::{Code, Request, Response, Status};

use crate::{audit::Audit, context::Context};

/// The local authority service.
#[derive(Clone, Debug)]
pub struct LocalAuthorityService {
    context: Context,
}

impl LocalAuthorityService {
    /// The service of a server.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// As a service for the router.
    pub fn into_server(self) -> local_authority_server::LocalAuthorityServer<Self> {
        local_authority_server::LocalAuthorityServer::new(self)
    }

    fn jwt_enabled(&self) -> Result<(), Status> {
        if self.context.authority.jwt_disabled() {
            return Err(Status::unimplemented("JWT functionality is disabled"));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl local_authority_server::LocalAuthority for LocalAuthorityService {
    async fn get_jwt_authority_state(
        &self,
        _request: Request<pb::GetJwtAuthorityStateRequest>,
    ) -> Result<Response<pb::GetJwtAuthorityStateResponse>, Status> {
        self.jwt_enabled()?;
        let (active, prepared, old) = states(&self.context.authority.view().borrow().jwt)?;
        Ok(Response::new(pb::GetJwtAuthorityStateResponse { active, prepared, old }))
    }

    async fn prepare_jwt_authority(
        &self,
        request: Request<pb::PrepareJwtAuthorityRequest>,
    ) -> Result<Response<pb::PrepareJwtAuthorityResponse>, Status> {
        let prepared = self.context.authority.prepare(AuthorityKind::Jwt).await.map_err(refused)?;
        audited(&request, &prepared.authority_id);
        let prepared_authority = Some(state(&prepared));
        Ok(Response::new(pb::PrepareJwtAuthorityResponse { prepared_authority }))
    }

    async fn activate_jwt_authority(
        &self,
        request: Request<pb::ActivateJwtAuthorityRequest>,
    ) -> Result<Response<pb::ActivateJwtAuthorityResponse>, Status> {
        let id = audited(&request, &request.get_ref().authority_id);
        let active =
            self.context.authority.activate(AuthorityKind::Jwt, &id).await.map_err(refused)?;
        let activated_authority = Some(state(&active));
        Ok(Response::new(pb::ActivateJwtAuthorityResponse { activated_authority }))
    }

    async fn taint_jwt_authority(
        &self,
        request: Request<pb::TaintJwtAuthorityRequest>,
    ) -> Result<Response<pb::TaintJwtAuthorityResponse>, Status> {
        let id = audited(&request, &request.get_ref().authority_id);
        let tainted =
            self.context.authority.taint(AuthorityKind::Jwt, &id).await.map_err(refused)?;
        // As in SPIRE, only the ID comes back.
        let tainted_authority = Some(only_id(tainted.authority_id));
        Ok(Response::new(pb::TaintJwtAuthorityResponse { tainted_authority }))
    }

    async fn revoke_jwt_authority(
        &self,
        request: Request<pb::RevokeJwtAuthorityRequest>,
    ) -> Result<Response<pb::RevokeJwtAuthorityResponse>, Status> {
        let id = audited(&request, &request.get_ref().authority_id);
        self.context.authority.revoke(AuthorityKind::Jwt, &id).await.map_err(refused)?;
        let revoked_authority = Some(only_id(id));
        Ok(Response::new(pb::RevokeJwtAuthorityResponse { revoked_authority }))
    }

    async fn get_x509_authority_state(
        &self,
        _request: Request<pb::GetX509AuthorityStateRequest>,
    ) -> Result<Response<pb::GetX509AuthorityStateResponse>, Status> {
        let (active, prepared, old) = states(&self.context.authority.view().borrow().x509)?;
        Ok(Response::new(pb::GetX509AuthorityStateResponse { active, prepared, old }))
    }

    async fn prepare_x509_authority(
        &self,
        request: Request<pb::PrepareX509AuthorityRequest>,
    ) -> Result<Response<pb::PrepareX509AuthorityResponse>, Status> {
        let prepared =
            self.context.authority.prepare(AuthorityKind::X509).await.map_err(refused)?;
        audited(&request, &prepared.authority_id);
        let prepared_authority = Some(state(&prepared));
        Ok(Response::new(pb::PrepareX509AuthorityResponse { prepared_authority }))
    }

    async fn activate_x509_authority(
        &self,
        request: Request<pb::ActivateX509AuthorityRequest>,
    ) -> Result<Response<pb::ActivateX509AuthorityResponse>, Status> {
        let id = audited(&request, &request.get_ref().authority_id);
        let active =
            self.context.authority.activate(AuthorityKind::X509, &id).await.map_err(refused)?;
        let activated_authority = Some(state(&active));
        Ok(Response::new(pb::ActivateX509AuthorityResponse { activated_authority }))
    }

    async fn taint_x509_authority(
        &self,
        request: Request<pb::TaintX509AuthorityRequest>,
    ) -> Result<Response<pb::TaintX509AuthorityResponse>, Status> {
        let id = audited(&request, &request.get_ref().authority_id);
        let tainted =
            self.context.authority.taint(AuthorityKind::X509, &id).await.map_err(refused)?;
        let tainted_authority = Some(state(&tainted));
        Ok(Response::new(pb::TaintX509AuthorityResponse { tainted_authority }))
    }

    async fn taint_x509_upstream_authority(
        &self,
        request: Request<pb::TaintX509UpstreamAuthorityRequest>,
    ) -> Result<Response<pb::TaintX509UpstreamAuthorityResponse>, Status> {
        let id = &request.get_ref().subject_key_id;
        Audit::of(&request).field("subject_key_id", id);
        let id = self.context.authority.taint_upstream(id).await.map_err(refused)?;
        Ok(Response::new(pb::TaintX509UpstreamAuthorityResponse {
            upstream_authority_subject_key_id: id,
        }))
    }

    async fn revoke_x509_authority(
        &self,
        request: Request<pb::RevokeX509AuthorityRequest>,
    ) -> Result<Response<pb::RevokeX509AuthorityResponse>, Status> {
        let id = audited(&request, &request.get_ref().authority_id);
        self.context.authority.revoke(AuthorityKind::X509, &id).await.map_err(refused)?;
        let revoked_authority = Some(only_id(id));
        Ok(Response::new(pb::RevokeX509AuthorityResponse { revoked_authority }))
    }

    async fn revoke_x509_upstream_authority(
        &self,
        request: Request<pb::RevokeX509UpstreamAuthorityRequest>,
    ) -> Result<Response<pb::RevokeX509UpstreamAuthorityResponse>, Status> {
        let id = &request.get_ref().subject_key_id;
        Audit::of(&request).field("subject_key_id", id);
        let id = self.context.authority.revoke_upstream(id).await.map_err(refused)?;
        Ok(Response::new(pb::RevokeX509UpstreamAuthorityResponse {
            upstream_authority_subject_key_id: id,
        }))
    }

    async fn get_wit_authority_state(
        &self,
        _request: Request<pb::GetWitAuthorityStateRequest>,
    ) -> Result<Response<pb::GetWitAuthorityStateResponse>, Status> {
        Err(no_wit())
    }

    async fn prepare_wit_authority(
        &self,
        _request: Request<pb::PrepareWitAuthorityRequest>,
    ) -> Result<Response<pb::PrepareWitAuthorityResponse>, Status> {
        Err(no_wit())
    }

    async fn activate_wit_authority(
        &self,
        _request: Request<pb::ActivateWitAuthorityRequest>,
    ) -> Result<Response<pb::ActivateWitAuthorityResponse>, Status> {
        Err(no_wit())
    }

    async fn taint_wit_authority(
        &self,
        _request: Request<pb::TaintWitAuthorityRequest>,
    ) -> Result<Response<pb::TaintWitAuthorityResponse>, Status> {
        Err(no_wit())
    }

    async fn revoke_wit_authority(
        &self,
        _request: Request<pb::RevokeWitAuthorityRequest>,
    ) -> Result<Response<pb::RevokeWitAuthorityResponse>, Status> {
        Err(no_wit())
    }
}

type States = (Option<pb::AuthorityState>, Option<pb::AuthorityState>, Option<pb::AuthorityState>);

/// Active, prepared and old.
fn states(view: &KindView) -> Result<States, Status> {
    let active = view.active.as_ref();
    let active = active.ok_or_else(|| Status::unavailable("server is initializing"))?;
    Ok((Some(state(active)), view.prepared().map(state), view.old().map(state)))
}

fn state(state: &AuthorityState) -> pb::AuthorityState {
    pb::AuthorityState {
        authority_id: state.authority_id.clone(),
        expires_at: state.expires_at,
        upstream_authority_subject_key_id: state.upstream_authority_id.clone(),
    }
}

fn only_id(authority_id: String) -> pb::AuthorityState {
    pb::AuthorityState { authority_id, ..Default::default() }
}

fn audited<T>(request: &Request<T>, id: &str) -> String {
    if !id.is_empty() {
        Audit::of(request).field("local_authority_id", id);
    }
    id.to_owned()
}

fn refused(error: OperationError) -> Status {
    let code = match error.class() {
        OperationClass::FailedPrecondition => Code::FailedPrecondition,
        OperationClass::Internal => Code::Internal,
        OperationClass::InvalidArgument => Code::InvalidArgument,
        OperationClass::Unavailable => Code::Unavailable,
        OperationClass::Unimplemented => Code::Unimplemented,
    };
    Status::new(code, chain(&error))
}

fn no_wit() -> Status {
    Status::unimplemented("WIT-SVID functionality is not yet implemented")
}
