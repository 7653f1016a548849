//! `signet.api.server.localauthority.v1.SecondJwtAuthority`: what SPIRE's service of that name has
//! no word for.

use signet_api::pb::{
    signet::api::server::localauthority::v1::second_jwt_authority_server::{
        SecondJwtAuthority, SecondJwtAuthorityServer,
    },
    spire::api::server::localauthority::v1 as pb,
};
use signet_authority::AuthorityKind;
use tonic::{Request, Response, Status};

use super::{
    localauthority::{state, states},
    shared::serve,
};
use crate::usecase::authorities::Authorities;

/// The service for second JWT authorities.
#[derive(Clone, Debug)]
pub struct SecondJwtService {
    authorities: Authorities,
}

impl SecondJwtService {
    /// The service of a server.
    pub fn new(authorities: Authorities) -> Self {
        Self { authorities }
    }

    /// As a service for the router.
    pub fn into_server(self) -> SecondJwtAuthorityServer<Self> {
        SecondJwtAuthorityServer::new(self)
    }
}

#[tonic::async_trait]
impl SecondJwtAuthority for SecondJwtService {
    async fn get_state(
        &self,
        request: Request<pb::GetJwtAuthorityStateRequest>,
    ) -> Result<Response<pb::GetJwtAuthorityStateResponse>, Status> {
        serve(request, |call, _| async move {
            let (active, prepared, old) =
                states(&self.authorities.state(&call, AuthorityKind::SecondJwt)?)?;
            Ok(pb::GetJwtAuthorityStateResponse { active, prepared, old })
        })
        .await
    }

    async fn prepare(
        &self,
        request: Request<pb::PrepareJwtAuthorityRequest>,
    ) -> Result<Response<pb::PrepareJwtAuthorityResponse>, Status> {
        serve(request, |call, _| async move {
            let prepared = self.authorities.prepare(&call, AuthorityKind::SecondJwt).await?;
            Ok(pb::PrepareJwtAuthorityResponse { prepared_authority: Some(state(&prepared)) })
        })
        .await
    }
}
