//! What an operator may do with the authorities, with SPIRE's checks in SPIRE's order.
//!
//! Taint and revoke follow the code of SPIRE 1.15, which is stricter than its documentation: only
//! the old authority (for JWT: anything in the bundle but the active and the prepared one), and a
//! revoked one must be tainted first.

use std::sync::Arc;

use signet_pki::{UpstreamAuthority, x509::Certificate};

use crate::{
    AuthorityError, Keeper, OperationClass, OperationError,
    journal::Status,
    ports::BundleEdit,
    slot::{Held, Slots},
    view::AuthorityState,
};

type Outcome<T> = Result<T, OperationError>;

impl Keeper {
    pub(crate) async fn operate_prepare_x509(&mut self) -> Outcome<AuthorityState> {
        must_be_initialized(&self.x509)?;
        self.prepare_x509().await.map_err(|e| internal("failed to prepare X.509 authority", e))?;
        next_state(&self.x509)
    }

    pub(crate) async fn operate_activate_x509(&mut self, id: &str) -> Outcome<AuthorityState> {
        must_be_prepared(&self.x509, id)?;
        self.activate_x509()
            .await
            .map_err(|e| internal("failed to activate X.509 authority", e))?;
        active_state(&self.x509)
    }

    pub(crate) async fn operate_taint_x509(&mut self, id: &str) -> Outcome<AuthorityState> {
        if self.shared.has_upstream {
            return Err(precondition(
                "local authority can't be tainted if there is an upstream authority",
            ));
        }
        must_be_old(&self.x509, id)?;
        self.taint_x509_in_bundle(id)
            .await
            .map_err(|e| e.during("failed to taint X.509 authority"))?;
        self.announce_taint();
        tracing::info!(local_authority_id = id, "X.509 authority tainted successfully");
        next_state(&self.x509)
    }

    pub(crate) async fn operate_revoke_x509(&mut self, id: &str) -> Outcome<()> {
        if self.shared.has_upstream {
            return Err(precondition(
                "local authority can't be revoked if there is an upstream authority",
            ));
        }
        let refuse = |why: &str| Err(invalid(format!("invalid authority ID: {why}")));
        match id {
            "" => return refuse("no authority ID provided"),
            _ if active_id(&self.x509) == Some(id) => {
                return refuse("unable to use current authority");
            }
            _ if !is_old(&self.x509, id) => {
                return refuse("only Old local authority can be revoked");
            }
            _ => {}
        }
        self.revoke_x509_in_bundle(id)
            .await
            .map_err(|e| e.during("failed to revoke X.509 authority"))?;
        tracing::info!(local_authority_id = id, "X.509 authority revoked successfully");
        Ok(())
    }

    pub(crate) async fn operate_taint_upstream(&mut self, id: String) -> Outcome<String> {
        self.must_be_upstream_of_old(&id, "provided subject key id is not valid")?;
        self.taint_x509_in_bundle(&id)
            .await
            .map_err(|e| e.during("failed to taint upstream authority"))?;
        self.announce_taint();
        tracing::info!(subject_key_id = id, "X.509 upstream authority tainted successfully");
        Ok(id)
    }

    pub(crate) async fn operate_revoke_upstream(&mut self, id: String) -> Outcome<String> {
        self.must_be_upstream_of_old(&id, "invalid subject key ID")?;
        self.revoke_x509_in_bundle(&id)
            .await
            .map_err(|e| e.during("failed to revoke X.509 upstream authority"))?;
        tracing::info!(subject_key_id = id, "X.509 upstream authority successfully revoked");
        Ok(id)
    }

    pub(crate) async fn operate_prepare_jwt(&mut self) -> Outcome<AuthorityState> {
        self.must_have_jwt()?;
        must_be_initialized(&self.jwt)?;
        self.prepare_jwt().await.map_err(|e| internal("failed to prepare JWT authority", e))?;
        next_state(&self.jwt)
    }

    pub(crate) async fn operate_activate_jwt(&mut self, id: &str) -> Outcome<AuthorityState> {
        self.must_have_jwt()?;
        must_be_prepared(&self.jwt, id)?;
        self.activate_jwt().await.map_err(|e| internal("failed to activate JWT authority", e))?;
        active_state(&self.jwt)
    }

    pub(crate) async fn operate_taint_jwt(&mut self, id: &str) -> Outcome<AuthorityState> {
        self.must_have_jwt()?;
        must_be_old(&self.jwt, id)?;
        let during = "failed to taint JWT authority";
        let bundle = self.read_bundle().await.map_err(|e| internal(during, e))?;
        let keys = bundle.map_or_else(Vec::new, |bundle| bundle.jwt_authorities);
        match keys.iter().find(|key| *key.key_id == *id) {
            None => return Err(failed(during, "no JWT Key found with provided key ID")),
            Some(key) if key.tainted => return Err(failed(during, "key is already tainted")),
            Some(_) => {}
        }
        let edit = BundleEdit { taint_jwt: vec![id.into()], ..BundleEdit::default() };
        self.edit_bundle(edit).await.map_err(|e| internal(during, e))?;
        tracing::info!(local_authority_id = id, "JWT authority tainted successfully");
        next_state(&self.jwt)
    }

    pub(crate) async fn operate_revoke_jwt(&mut self, id: &str) -> Outcome<()> {
        self.must_have_jwt()?;
        let refuse = |why: &str| Err(invalid(format!("invalid authority ID: {why}")));
        let next = self.jwt.next.held.as_ref();
        match id {
            "" => return refuse("no authority ID provided"),
            _ if next.is_some_and(|n| n.authority_id == id && n.status == Status::Prepared) => {
                return refuse("unable to use a prepared key");
            }
            _ if active_id(&self.jwt) == Some(id) => {
                return refuse("unable to use current authority");
            }
            _ => {}
        }
        let during = "failed to revoke JWT authority";
        let bundle = self.read_bundle().await.map_err(|e| internal(during, e))?;
        let keys = bundle.map_or_else(Vec::new, |bundle| bundle.jwt_authorities);
        match keys.iter().find(|key| *key.key_id == *id) {
            None => return refuse("no JWT authority found with provided authority ID"),
            Some(key) if !key.tainted => {
                return Err(failed(during, "it is not possible to revoke an untainted key"));
            }
            Some(_) => {}
        }
        let edit = BundleEdit { remove_jwt: vec![id.into()], ..BundleEdit::default() };
        self.edit_bundle(edit).await.map_err(|e| internal(during, e))?;
        tracing::info!(local_authority_id = id, "JWT authority revoked successfully");
        Ok(())
    }

    pub(crate) fn operate_replace_upstream(
        &mut self,
        upstream: Arc<dyn UpstreamAuthority>,
    ) -> Outcome<()> {
        if !self.shared.has_upstream {
            return Err(precondition("upstream authority is not configured"));
        }
        self.ports.upstream = Some(upstream);
        self.check_upstream_soon();
        self.shared.wake.notify_one();
        Ok(())
    }

    async fn taint_x509_in_bundle(&self, id: &str) -> Result<(), BundleRefusal> {
        let found = self.in_bundle(id).await?;
        if found.is_empty() {
            return Err(BundleRefusal::Because("no ca found with provided subject key ID"));
        }
        if found.iter().any(|(_, tainted)| *tainted) {
            return Err(BundleRefusal::Because("root CA is already tainted"));
        }
        let taint_x509 = found.into_iter().map(|(der, _)| der).collect();
        self.edit_bundle(BundleEdit { taint_x509, ..BundleEdit::default() }).await?;
        Ok(())
    }

    async fn revoke_x509_in_bundle(&self, id: &str) -> Result<(), BundleRefusal> {
        let found = self.in_bundle(id).await?;
        if found.is_empty() {
            return Err(BundleRefusal::Because("no root CA found with provided subject key ID"));
        }
        if found.iter().any(|(_, tainted)| !*tainted) {
            return Err(BundleRefusal::Because(
                "it is not possible to revoke an untainted root CA",
            ));
        }
        let remove_x509 = found.into_iter().map(|(der, _)| der).collect();
        self.edit_bundle(BundleEdit { remove_x509, ..BundleEdit::default() }).await?;
        Ok(())
    }

    /// The authorities of the bundle with this subject key ID, and whether each is tainted.
    async fn in_bundle(&self, id: &str) -> Result<Vec<(Arc<[u8]>, bool)>, AuthorityError> {
        let bundle = self.read_bundle().await?;
        let all = bundle.map_or_else(Vec::new, |bundle| bundle.x509_authorities);
        Ok(all
            .into_iter()
            .filter(|authority| {
                Certificate::from_der(&authority.der)
                    .is_ok_and(|certificate| certificate.subject_key_id_hex() == id)
            })
            .map(|authority| (authority.der, authority.tainted))
            .collect())
    }

    fn must_be_upstream_of_old(&self, id: &str, during: &str) -> Outcome<()> {
        if !self.shared.has_upstream {
            return Err(precondition("upstream authority is not configured"));
        }
        let refuse = |why: &str| Err(invalid(format!("{during}: {why}")));
        if id.is_empty() {
            return refuse("no subject key ID provided");
        }
        let upstream_of = |held: Option<&Held<_>>| held.map(|h| h.upstream_authority_id.clone());
        if upstream_of(self.x509.active()).as_deref() == Some(id) {
            return refuse("unable to use upstream authority singing current authority");
        }
        let next = self.x509.next.held.as_ref();
        if upstream_of(next).as_deref() != Some(id) {
            return refuse("upstream authority didn't sign the old local authority");
        }
        if next.is_some_and(|held| held.status == Status::Prepared) {
            return refuse("only upstream authorities signing an old authority can be used");
        }
        Ok(())
    }

    fn must_have_jwt(&self) -> Outcome<()> {
        if self.shared.options.jwt_disabled {
            return Err(OperationError::new(
                OperationClass::Unimplemented,
                "JWT functionality is disabled",
            ));
        }
        Ok(())
    }
}

/// Why the bundle was not changed.
enum BundleRefusal {
    Because(&'static str),
    Failed(AuthorityError),
}

impl BundleRefusal {
    fn during(self, what: &str) -> OperationError {
        match self {
            Self::Because(why) => failed(what, why),
            Self::Failed(error) => internal(what, error),
        }
    }
}

impl From<AuthorityError> for BundleRefusal {
    fn from(error: AuthorityError) -> Self {
        Self::Failed(error)
    }
}

fn must_be_initialized<T>(slots: &Slots<T>) -> Outcome<()> {
    match slots.active() {
        Some(_) => Ok(()),
        None => Err(OperationError::new(OperationClass::Unavailable, "server is initializing")),
    }
}

fn must_be_prepared<T>(slots: &Slots<T>, id: &str) -> Outcome<()> {
    let next = slots.next.held.as_ref();
    match next {
        _ if id.is_empty() => Err(invalid("no authority ID provided")),
        Some(held) if held.authority_id != id => Err(invalid("unexpected authority ID")),
        None => Err(invalid("unexpected authority ID")),
        Some(held) if held.status != Status::Prepared => Err(failed(
            "only Prepared authorities can be activated",
            &format!("unsupported local authority status: {}", name(held.status)),
        )),
        Some(_) => Ok(()),
    }
}

fn must_be_old<T>(slots: &Slots<T>, id: &str) -> Outcome<()> {
    let next = slots.next.held.as_ref();
    match next {
        _ if id.is_empty() => Err(invalid("no authority ID provided")),
        _ if active_id(slots) == Some(id) => {
            Err(invalid("unable to taint current local authority"))
        }
        Some(held) if held.authority_id != id => Err(invalid("unexpected authority ID")),
        None => Err(invalid("unexpected authority ID")),
        Some(held) if held.status != Status::Old => Err(invalid(format!(
            "only Old local authorities can be tainted: unsupported local authority status: {}",
            name(held.status)
        ))),
        Some(_) => Ok(()),
    }
}

fn active_id<T>(slots: &Slots<T>) -> Option<&str> {
    slots.active().map(|held| held.authority_id.as_str())
}

fn is_old<T>(slots: &Slots<T>, id: &str) -> bool {
    let next = slots.next.held.as_ref();
    next.is_some_and(|held| held.authority_id == id && held.status == Status::Old)
}

fn next_state<T>(slots: &Slots<T>) -> Outcome<AuthorityState> {
    slots
        .view()
        .next
        .ok_or_else(|| OperationError::new(OperationClass::Internal, "the authority is gone again"))
}

fn active_state<T>(slots: &Slots<T>) -> Outcome<AuthorityState> {
    slots
        .view()
        .active
        .ok_or_else(|| OperationError::new(OperationClass::Internal, "the authority is gone again"))
}

fn name(status: Status) -> &'static str {
    match status {
        Status::Active => "ACTIVE",
        Status::Old => "OLD",
        Status::Prepared => "PREPARED",
    }
}

fn invalid(message: impl Into<String>) -> OperationError {
    OperationError::new(OperationClass::InvalidArgument, message)
}

fn precondition(message: &str) -> OperationError {
    OperationError::new(OperationClass::FailedPrecondition, message)
}

fn failed(during: &str, why: &str) -> OperationError {
    OperationError::new(OperationClass::Internal, format!("{during}: {why}"))
}

fn internal(during: &str, error: AuthorityError) -> OperationError {
    OperationError::because(OperationClass::Internal, during, error)
}
