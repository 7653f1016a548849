//! Who asks, and whether they may.

use std::{sync::Arc, time::Instant};

use axum::http::request::Parts;
use signet_console::guard::{self, COOKIE};
use signet_pki::random;

use super::{Console, Form};
use crate::{
    policy::Scope,
    usecase::{
        Call,
        authorization::{Action, Unauthorized},
        error::{Error, ErrorKind},
        principal::{Peer, Principal, Role},
    },
};

/// The service that audit events name.
const SERVICE: &str = "console";

/// Someone who is let in.
#[derive(Debug)]
pub(super) struct Caller {
    peer: Peer,
    /// What forms must send along.
    pub(super) csrf: String,
    /// Whether it was let in by a session, not by a certificate.
    pub(super) by_session: bool,
}

impl Caller {
    /// For the one who looks.
    pub(super) fn name(&self) -> String {
        match &self.peer {
            Peer::Local(local) => format!("local user {}", local.uid),
            Peer::Remote(remote) => {
                remote.svid.as_ref().map(|svid| svid.spiffe_id.to_string()).unwrap_or_default()
            }
        }
    }

    /// Whether a page of this caller made the form.
    pub(super) fn made(&self, form: &Form) -> bool {
        signet_pki::digest::constant_time_eq(form.get("csrf").as_bytes(), self.csrf.as_bytes())
    }
}

impl Console {
    /// Who a request is from: by the certificate of its connection, or by its session.
    pub(super) fn caller(&self, parts: &Parts) -> Option<Caller> {
        if let Some(peer @ Peer::Remote(remote)) = parts.extensions.get::<Peer>()
            && remote.svid.is_some()
        {
            return Some(Caller {
                peer: peer.clone(),
                csrf: self.0.csrf.clone(),
                by_session: false,
            });
        }
        let cookie = guard::cookie(&parts.headers, COOKIE)?;
        let session = self.sessions().find(cookie, Instant::now())?;
        Some(Caller {
            peer: session.peer,
            csrf: session.csrf.reveal().to_owned(),
            by_session: true,
        })
    }

    /// Does something that the caller may do, and leaves an audit event.
    ///
    /// # Errors
    /// `Denied`, or what `work` says.
    pub(super) async fn with<T>(
        &self,
        caller: &Caller,
        action: Action,
        method: &'static str,
        work: impl AsyncFnOnce(&Call) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let peer = caller.peer.clone();
        let allowed = self.0.authorizer.authorize(&peer, action).await;
        let (role, scope, refused) = match allowed {
            Ok(allowed) => (allowed.role, allowed.scope, None),
            Err(refused) => (Role::Anyone, None, Some(refused)),
        };
        let refused = refused.or_else(|| self.0.auditor.must_accept(action).err().map(Into::into));
        let principal = Principal { peer, role, action, scope };
        let request_id: Arc<str> = random::uuid_v4().unwrap_or_default().into();
        let audit = self.0.auditor.call(SERVICE, method, &principal, request_id);
        if let Some(refused) = refused {
            let error = match refused {
                Unauthorized::Failed(error) => {
                    audit.failed(&error);
                    error
                }
                Unauthorized::Denied { why, .. } => {
                    audit.unauthorized(method, why.as_deref(), None);
                    Error::new(ErrorKind::Denied, "you have no right to this")
                }
            };
            audit.finish(error.kind().name(), &error.to_string());
            return Err(error);
        }
        let call = Call { principal, audit: audit.clone() };
        let result = work(&call).await;
        match &result {
            Ok(_) => audit.finish("OK", ""),
            Err(error) => {
                audit.failed(error);
                audit.finish(error.kind().name(), &error.to_string());
            }
        }
        result
    }

    /// Whether the caller may do this to anything at all, without doing it.
    pub(super) async fn may(&self, caller: &Caller, action: Action) -> bool {
        self.0.authorizer.authorize(&caller.peer, action).await.is_ok()
    }

    /// To what the caller's rights to this are narrowed; `None` when it has none. An inner `None`
    /// stands for everything.
    pub(super) async fn scope(
        &self,
        caller: &Caller,
        action: Action,
    ) -> Option<Option<Arc<Scope>>> {
        let allowed = self.0.authorizer.authorize(&caller.peer, action).await;
        allowed.ok().map(|allowed| allowed.scope)
    }

    /// Whether the caller may do this to everything.
    pub(super) async fn may_to_all(&self, caller: &Caller, action: Action) -> bool {
        let scope = self.scope(caller, action).await;
        scope.is_some_and(|scope| {
            scope.is_none_or(|scope| action.verb().is_some_and(|verb| scope.allows_whole(verb)))
        })
    }
}
