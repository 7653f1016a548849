//! `spire.api.server.localauthority.v1.LocalAuthority`: operations on the server's authorities.

use signet_api::pb::spire::api::server::localauthority::v1::{self as pb, local_authority_server};
use signet_authority::{AuthorityKind, AuthorityState, KindView};
use tonic::{Request, Response, Status};

use super::shared::serve;
use crate::usecase::{authorities::Authorities, error::Error};

/// The local authority service.
#[derive(Clone, Debug)]
pub struct LocalAuthorityService {
    authorities: Authorities,
}

impl LocalAuthorityService {
    /// The service of a server.
    pub fn new(authorities: Authorities) -> Self {
        Self { authorities }
    }

    /// As a service for the router.
    pub fn into_server(self) -> local_authority_server::LocalAuthorityServer<Self> {
        local_authority_server::LocalAuthorityServer::new(self)
    }
}

#[tonic::async_trait]
impl local_authority_server::LocalAuthority for LocalAuthorityService {
    async fn get_jwt_authority_state(
        &self,
        request: Request<pb::GetJwtAuthorityStateRequest>,
    ) -> Result<Response<pb::GetJwtAuthorityStateResponse>, Status> {
        serve(request, |call, _| async move {
            let (active, prepared, old) =
                states(&self.authorities.state(&call, AuthorityKind::Jwt)?)?;
            Ok(pb::GetJwtAuthorityStateResponse { active, prepared, old })
        })
        .await
    }

    async fn prepare_jwt_authority(
        &self,
        request: Request<pb::PrepareJwtAuthorityRequest>,
    ) -> Result<Response<pb::PrepareJwtAuthorityResponse>, Status> {
        serve(request, |call, _| async move {
            let prepared = self.authorities.prepare(&call, AuthorityKind::Jwt).await?;
            Ok(pb::PrepareJwtAuthorityResponse { prepared_authority: Some(state(&prepared)) })
        })
        .await
    }

    async fn activate_jwt_authority(
        &self,
        request: Request<pb::ActivateJwtAuthorityRequest>,
    ) -> Result<Response<pb::ActivateJwtAuthorityResponse>, Status> {
        serve(request, |call, request| async move {
            let id = &request.authority_id;
            let active = self.authorities.activate(&call, AuthorityKind::Jwt, id).await?;
            Ok(pb::ActivateJwtAuthorityResponse { activated_authority: Some(state(&active)) })
        })
        .await
    }

    async fn taint_jwt_authority(
        &self,
        request: Request<pb::TaintJwtAuthorityRequest>,
    ) -> Result<Response<pb::TaintJwtAuthorityResponse>, Status> {
        serve(request, |call, request| async move {
            let id = &request.authority_id;
            let tainted = self.authorities.taint(&call, AuthorityKind::Jwt, id).await?;
            // As in SPIRE, only the ID comes back.
            let tainted_authority = Some(only_id(tainted.authority_id));
            Ok(pb::TaintJwtAuthorityResponse { tainted_authority })
        })
        .await
    }

    async fn revoke_jwt_authority(
        &self,
        request: Request<pb::RevokeJwtAuthorityRequest>,
    ) -> Result<Response<pb::RevokeJwtAuthorityResponse>, Status> {
        serve(request, |call, request| async move {
            let id = request.authority_id;
            self.authorities.revoke(&call, AuthorityKind::Jwt, &id).await?;
            Ok(pb::RevokeJwtAuthorityResponse { revoked_authority: Some(only_id(id)) })
        })
        .await
    }

    async fn get_x509_authority_state(
        &self,
        request: Request<pb::GetX509AuthorityStateRequest>,
    ) -> Result<Response<pb::GetX509AuthorityStateResponse>, Status> {
        serve(request, |call, _| async move {
            let (active, prepared, old) =
                states(&self.authorities.state(&call, AuthorityKind::X509)?)?;
            Ok(pb::GetX509AuthorityStateResponse { active, prepared, old })
        })
        .await
    }

    async fn prepare_x509_authority(
        &self,
        request: Request<pb::PrepareX509AuthorityRequest>,
    ) -> Result<Response<pb::PrepareX509AuthorityResponse>, Status> {
        serve(request, |call, _| async move {
            let prepared = self.authorities.prepare(&call, AuthorityKind::X509).await?;
            Ok(pb::PrepareX509AuthorityResponse { prepared_authority: Some(state(&prepared)) })
        })
        .await
    }

    async fn activate_x509_authority(
        &self,
        request: Request<pb::ActivateX509AuthorityRequest>,
    ) -> Result<Response<pb::ActivateX509AuthorityResponse>, Status> {
        serve(request, |call, request| async move {
            let id = &request.authority_id;
            let active = self.authorities.activate(&call, AuthorityKind::X509, id).await?;
            Ok(pb::ActivateX509AuthorityResponse { activated_authority: Some(state(&active)) })
        })
        .await
    }

    async fn taint_x509_authority(
        &self,
        request: Request<pb::TaintX509AuthorityRequest>,
    ) -> Result<Response<pb::TaintX509AuthorityResponse>, Status> {
        serve(request, |call, request| async move {
            let id = &request.authority_id;
            let tainted = self.authorities.taint(&call, AuthorityKind::X509, id).await?;
            Ok(pb::TaintX509AuthorityResponse { tainted_authority: Some(state(&tainted)) })
        })
        .await
    }

    async fn revoke_x509_authority(
        &self,
        request: Request<pb::RevokeX509AuthorityRequest>,
    ) -> Result<Response<pb::RevokeX509AuthorityResponse>, Status> {
        serve(request, |call, request| async move {
            let id = request.authority_id;
            self.authorities.revoke(&call, AuthorityKind::X509, &id).await?;
            Ok(pb::RevokeX509AuthorityResponse { revoked_authority: Some(only_id(id)) })
        })
        .await
    }

    async fn taint_x509_upstream_authority(
        &self,
        request: Request<pb::TaintX509UpstreamAuthorityRequest>,
    ) -> Result<Response<pb::TaintX509UpstreamAuthorityResponse>, Status> {
        serve(request, |call, request| async move {
            let id = self.authorities.taint_upstream(&call, &request.subject_key_id).await?;
            Ok(pb::TaintX509UpstreamAuthorityResponse { upstream_authority_subject_key_id: id })
        })
        .await
    }

    async fn revoke_x509_upstream_authority(
        &self,
        request: Request<pb::RevokeX509UpstreamAuthorityRequest>,
    ) -> Result<Response<pb::RevokeX509UpstreamAuthorityResponse>, Status> {
        serve(request, |call, request| async move {
            let id = self.authorities.revoke_upstream(&call, &request.subject_key_id).await?;
            Ok(pb::RevokeX509UpstreamAuthorityResponse { upstream_authority_subject_key_id: id })
        })
        .await
    }

    async fn get_wit_authority_state(
        &self,
        request: Request<pb::GetWitAuthorityStateRequest>,
    ) -> Result<Response<pb::GetWitAuthorityStateResponse>, Status> {
        serve(request, |call, _| async move {
            let (active, prepared, old) =
                states(&self.authorities.state(&call, AuthorityKind::Wit)?)?;
            Ok(pb::GetWitAuthorityStateResponse { active, prepared, old })
        })
        .await
    }

    async fn prepare_wit_authority(
        &self,
        request: Request<pb::PrepareWitAuthorityRequest>,
    ) -> Result<Response<pb::PrepareWitAuthorityResponse>, Status> {
        serve(request, |call, _| async move {
            let prepared = self.authorities.prepare(&call, AuthorityKind::Wit).await?;
            Ok(pb::PrepareWitAuthorityResponse { prepared_authority: Some(state(&prepared)) })
        })
        .await
    }

    async fn activate_wit_authority(
        &self,
        request: Request<pb::ActivateWitAuthorityRequest>,
    ) -> Result<Response<pb::ActivateWitAuthorityResponse>, Status> {
        serve(request, |call, request| async move {
            let id = &request.authority_id;
            let active = self.authorities.activate(&call, AuthorityKind::Wit, id).await?;
            Ok(pb::ActivateWitAuthorityResponse { activated_authority: Some(state(&active)) })
        })
        .await
    }

    async fn taint_wit_authority(
        &self,
        request: Request<pb::TaintWitAuthorityRequest>,
    ) -> Result<Response<pb::TaintWitAuthorityResponse>, Status> {
        serve(request, |call, request| async move {
            let id = &request.authority_id;
            let tainted = self.authorities.taint(&call, AuthorityKind::Wit, id).await?;
            let tainted_authority = Some(only_id(tainted.authority_id));
            Ok(pb::TaintWitAuthorityResponse { tainted_authority })
        })
        .await
    }

    async fn revoke_wit_authority(
        &self,
        request: Request<pb::RevokeWitAuthorityRequest>,
    ) -> Result<Response<pb::RevokeWitAuthorityResponse>, Status> {
        serve(request, |call, request| async move {
            let id = request.authority_id;
            self.authorities.revoke(&call, AuthorityKind::Wit, &id).await?;
            Ok(pb::RevokeWitAuthorityResponse { revoked_authority: Some(only_id(id)) })
        })
        .await
    }
}

pub(super) type States =
    (Option<pb::AuthorityState>, Option<pb::AuthorityState>, Option<pb::AuthorityState>);

/// Active, prepared and old.
pub(super) fn states(view: &KindView) -> Result<States, Error> {
    let active = view.active.as_ref();
    let active = active.ok_or_else(|| Error::unavailable("server is initializing"))?;
    Ok((Some(state(active)), view.prepared().map(state), view.old().map(state)))
}

pub(super) fn state(state: &AuthorityState) -> pb::AuthorityState {
    pb::AuthorityState {
        authority_id: state.authority_id.clone(),
        expires_at: state.expires_at.seconds(),
        upstream_authority_subject_key_id: state.upstream_authority_id.clone(),
    }
}

fn only_id(authority_id: String) -> pb::AuthorityState {
    pb::AuthorityState { authority_id, ..Default::default() }
}
