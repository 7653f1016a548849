//! `signet.api.server.console.v1.Console`: logging in to the web console.

use std::{sync::PoisonError, time::Instant};

use signet_api::pb::signet::api::server::console::v1::{self as pb, console_server};
use signet_console::session::CODE_LIFE;
use tonic::{Request, Response, Status};

use super::shared::serve;
use crate::{
    console::Logins,
    context::Context,
    usecase::{
        authorization::Action,
        error::{Error, ErrorKind},
    },
};

/// The login service, on the local socket.
#[derive(Clone, Debug)]
pub struct ConsoleService {
    logins: Logins,
    url: Option<String>,
}

impl ConsoleService {
    /// The service of this server.
    pub fn new(context: &Context) -> Self {
        let url = context.config.console.as_ref().map(|console| console.url());
        Self { logins: Logins::clone(&context.logins), url }
    }

    /// As a service for the router.
    pub fn into_server(self) -> console_server::ConsoleServer<Self> {
        console_server::ConsoleServer::new(self)
    }
}

#[tonic::async_trait]
impl console_server::Console for ConsoleService {
    async fn login(
        &self,
        request: Request<pb::LoginRequest>,
    ) -> Result<Response<pb::LoginResponse>, Status> {
        serve(request, |call, _| async move {
            call.may(Action::OpenConsole)?;
            let url = self.url.clone().ok_or_else(|| {
                let what = "the server has no console: it is configured with console {}";
                Error::new(ErrorKind::Precondition, what)
            })?;
            let peer = call.principal.peer.clone();
            let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
            let code = logins.code(peer, Instant::now()).ok_or_else(|| {
                Error::new(ErrorKind::Exhausted, "too many codes wait to be used: try in a minute")
            })?;
            let lifetime = u32::try_from(CODE_LIFE.as_secs()).unwrap_or(u32::MAX);
            Ok(pb::LoginResponse { code: code.reveal().to_owned(), lifetime, url })
        })
        .await
    }
}
