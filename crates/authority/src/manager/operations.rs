//! What an operator may do with the authorities, with SPIRE's checks in SPIRE's order and in its
//! words.
//!
//! What may be tainted and revoked goes beyond SPIRE 1.15, which knows only the authority in the
//! other slot (SPIRE issue 6198): anything in the bundle, however old, but what signs now or is
//! about to. What is revoked must be tainted first, as there.

use std::{sync::Arc, time::Duration};

use signet_identity::{Bundle, JwtAuthority};
use signet_pki::UpstreamAuthority;
use signet_time::UnixTime;

use super::CaManager;
use crate::{
    AuthorityError, AuthorityKind, OperationClass, OperationError, TrustRoot,
    context::Context,
    journal::Status,
    kind::{Handle, Jwt, Kind, Published, Wit, Withdrawal, X509, edit_of},
    machine::Machine,
    slot::LocalAuthority,
    view::AuthorityState,
};

type Outcome<T> = Result<T, OperationError>;

impl CaManager {
    pub(crate) async fn operate_prepare(&mut self, kind: AuthorityKind) -> Outcome<AuthorityState> {
        match kind {
            AuthorityKind::X509 => self.x509.operate_prepare(&mut self.context).await,
            AuthorityKind::Jwt => self.jwt.operate_prepare(&mut self.context).await,
            AuthorityKind::SecondJwt => self.second_jwt.operate_prepare(&mut self.context).await,
            AuthorityKind::Wit => self.wit.operate_prepare(&mut self.context).await,
        }
    }

    pub(crate) async fn operate_activate(
        &mut self,
        kind: AuthorityKind,
        id: &str,
    ) -> Outcome<AuthorityState> {
        match self.holder_of(kind, id) {
            AuthorityKind::X509 => self.x509.operate_activate(&mut self.context, id).await,
            AuthorityKind::Jwt => self.jwt.operate_activate(&mut self.context, id).await,
            AuthorityKind::SecondJwt => {
                self.second_jwt.operate_activate(&mut self.context, id).await
            }
            AuthorityKind::Wit => self.wit.operate_activate(&mut self.context, id).await,
        }
    }

    pub(crate) async fn operate_taint(
        &mut self,
        kind: AuthorityKind,
        id: &str,
    ) -> Outcome<AuthorityState> {
        match self.holder_of(kind, id) {
            AuthorityKind::X509 => self.x509.operate_taint(&self.context, id).await,
            AuthorityKind::Jwt => self.jwt.operate_taint(&self.context, id).await,
            AuthorityKind::SecondJwt => self.second_jwt.operate_taint(&self.context, id).await,
            AuthorityKind::Wit => self.wit.operate_taint(&self.context, id).await,
        }
    }

    pub(crate) async fn operate_revoke(&mut self, kind: AuthorityKind, id: &str) -> Outcome<()> {
        match self.holder_of(kind, id) {
            AuthorityKind::X509 => self.x509.operate_revoke(&mut self.context, id).await,
            AuthorityKind::Jwt => self.jwt.operate_revoke(&mut self.context, id).await,
            AuthorityKind::SecondJwt => self.second_jwt.operate_revoke(&mut self.context, id).await,
            AuthorityKind::Wit => self.wit.operate_revoke(&mut self.context, id).await,
        }
    }

    /// The kind of an authority that is named as one of `kind`. Both kinds of JWT authority stand
    /// in one list of the bundle, so whoever names one need not know which of them it is; and one
    /// that signs is never taken for an old one of the other kind.
    fn holder_of(&self, kind: AuthorityKind, id: &str) -> AuthorityKind {
        let is_jwt = matches!(kind, AuthorityKind::Jwt | AuthorityKind::SecondJwt);
        if is_jwt && self.jwt.place_of(id) != Place::None {
            AuthorityKind::Jwt
        } else if is_jwt && self.second_jwt.place_of(id) != Place::None {
            AuthorityKind::SecondJwt
        } else {
            kind
        }
    }

    pub(crate) async fn operate_taint_upstream(&mut self, id: String) -> Outcome<String> {
        self.must_have_upstream()?;
        let roots = self.idle_roots(&id, "provided subject key id is not valid").await?;
        let during = "failed to taint upstream authority";
        withdraw::<X509>(&self.context, &roots, Withdrawal::Taint, during).await?;
        self.context.announce_taint();
        tracing::info!(subject_key_id = id, "X.509 upstream authority tainted successfully");
        Ok(id)
    }

    pub(crate) async fn operate_revoke_upstream(&mut self, id: String) -> Outcome<String> {
        self.must_have_upstream()?;
        let roots = self.idle_roots(&id, "invalid subject key ID").await?;
        let during = "failed to revoke X.509 upstream authority";
        withdraw::<X509>(&self.context, &roots, Withdrawal::Revoke, during).await?;
        self.context.revoked_roots.extend(certificates(&roots));
        tracing::info!(subject_key_id = id, "X.509 upstream authority successfully revoked");
        Ok(id)
    }

    pub(crate) fn operate_replace_upstream(
        &mut self,
        upstream: Arc<dyn UpstreamAuthority>,
    ) -> Outcome<()> {
        self.must_have_upstream()?;
        self.context.ports.trust_root = TrustRoot::Upstream(upstream);
        self.context.check_upstream_soon();
        self.context.shared.wake.notify_one();
        Ok(())
    }

    pub(crate) async fn publish_jwt_key(
        &mut self,
        key: JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, AuthorityError> {
        self.context.publish_key::<Jwt>(key).await
    }

    pub(crate) async fn publish_wit_key(
        &mut self,
        key: JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, AuthorityError> {
        self.context.publish_key::<Wit>(key).await
    }

    fn must_have_upstream(&self) -> Outcome<()> {
        if self.context.has_upstream() {
            return Ok(());
        }
        Err(OperationError::new(
            OperationClass::FailedPrecondition,
            "upstream authority is not configured",
        ))
    }

    /// The roots of the bundle with this subject key ID, provided that neither what signs now nor
    /// what is prepared is under one of them.
    async fn idle_roots(&self, id: &str, during: &str) -> Outcome<Vec<Published>> {
        let refuse = |why: &str| Err(invalid(format!("{during}: {why}")));
        if id.is_empty() {
            return refuse("no subject key ID provided");
        }
        let bundle = self.context.read_bundle().await.map_err(|error| internal(during, error))?;
        let found = X509::published(&bundle, id);
        let roots: Vec<_> = certificates(&found).collect();
        let uses = |ca: &LocalAuthority<_>| {
            let is_above = |material: &Arc<crate::material::X509Ca>| material.is_under(&roots);
            ca.upstream_authority_id == id || ca.material.as_ref().is_some_and(is_above)
        };
        if self.x509.slots.active().is_some_and(uses) {
            return refuse("unable to use upstream authority singing current authority");
        }
        let next = self.x509.slots.next.held.as_ref();
        if next.is_some_and(|next| next.status == Status::Prepared && uses(next)) {
            return refuse("only upstream authorities signing an old authority can be used");
        }
        if found.is_empty() {
            return refuse("no upstream authority found with provided subject key ID");
        }
        Ok(found)
    }
}

impl<K: Kind> Machine<K> {
    async fn operate_prepare(&mut self, context: &mut Context) -> Outcome<AuthorityState> {
        must_be_enabled::<K>(context)?;
        if self.slots.active().is_none() {
            return Err(OperationError::new(OperationClass::Unavailable, "server is initializing"));
        }
        self.prepare(context).await.map_err(|error| internal(&failed_to::<K>("prepare"), error))?;
        self.slots.view().next.ok_or_else(gone)
    }

    async fn operate_activate(
        &mut self,
        context: &mut Context,
        id: &str,
    ) -> Outcome<AuthorityState> {
        must_be_enabled::<K>(context)?;
        let next = self.slots.next.held.as_ref();
        match next {
            _ if id.is_empty() => return Err(invalid("no authority ID provided")),
            Some(next) if next.authority_id == id => {
                if next.status != Status::Prepared {
                    return Err(failed(
                        "only Prepared authorities can be activated",
                        &format!("unsupported local authority status: {}", name(next.status)),
                    ));
                }
            }
            _ => return Err(invalid("unexpected authority ID")),
        }
        let published_for = context.shared.options.published_for.as_secs();
        let known_at = next
            .map(|next| next.issued_at + Duration::from_secs(published_for))
            .filter(|known_at| context.now() < *known_at);
        if let Some(known_at) = known_at {
            tracing::warn!(
                local_authority_id = id,
                known_at = known_at.seconds(),
                "The {} is activated before federated trust domains can be expected to know it",
                K::NAMES.log
            );
        }
        self.activate(context)
            .await
            .map_err(|error| internal(&failed_to::<K>("activate"), error))?;
        self.slots.view().active.ok_or_else(gone)
    }

    async fn operate_taint(&self, context: &Context, id: &str) -> Outcome<AuthorityState> {
        must_be_enabled::<K>(context)?;
        K::may_be_withdrawn(context, Withdrawal::Taint)?;
        match self.place_of(id) {
            _ if id.is_empty() => return Err(invalid("no authority ID provided")),
            Place::Active => return Err(invalid("unable to taint current local authority")),
            Place::Prepared => {
                return Err(invalid(format!(
                    "only Old local authorities can be tainted: unsupported local authority \
                     status: {}",
                    name(Status::Prepared)
                )));
            }
            Place::Old | Place::None => {}
        }
        let during = failed_to::<K>("taint");
        let found = K::published(&read(context, &during).await?, id);
        if found.is_empty() && self.place_of(id) == Place::None {
            return Err(invalid("unexpected authority ID"));
        }
        withdraw::<K>(context, &found, Withdrawal::Taint, &during).await?;
        if K::TAINT_IS_ANNOUNCED {
            context.announce_taint();
        }
        tracing::info!(local_authority_id = id, "{} authority tainted successfully", K::NAMES.api);
        let view = self.slots.view();
        Ok(view.next.filter(|next| next.authority_id == id).unwrap_or_else(|| AuthorityState {
            authority_id: id.to_owned(),
            status: Status::Old,
            slot: None,
            issued_at: UnixTime::EPOCH,
            expires_at: found.iter().map(|one| one.expires_at).max().unwrap_or_default(),
            upstream_authority_id: String::new(),
        }))
    }

    async fn operate_revoke(&self, context: &mut Context, id: &str) -> Outcome<()> {
        must_be_enabled::<K>(context)?;
        K::may_be_withdrawn(context, Withdrawal::Revoke)?;
        let refuse = |why: &str| Err(invalid(format!("invalid authority ID: {why}")));
        match self.place_of(id) {
            _ if id.is_empty() => return refuse("no authority ID provided"),
            Place::Active => return refuse("unable to use current authority"),
            Place::Prepared => return refuse(K::NAMES.prepared_is_not_revoked),
            Place::Old | Place::None => {}
        }
        let during = failed_to::<K>("revoke");
        let found = K::published(&read(context, &during).await?, id);
        if found.is_empty() {
            return match (self.place_of(id), K::NAMES.nothing_to_revoke) {
                (Place::Old, Some(why)) => Err(failed(&during, why)),
                _ => refuse(&format!(
                    "no {} authority found with provided authority ID",
                    K::NAMES.api
                )),
            };
        }
        withdraw::<K>(context, &found, Withdrawal::Revoke, &during).await?;
        K::revoked(context, id);
        tracing::info!(local_authority_id = id, "{} authority revoked successfully", K::NAMES.api);
        Ok(())
    }

    fn place_of(&self, id: &str) -> Place {
        let is = |authority: &LocalAuthority<_>| authority.authority_id == id;
        if self.slots.active().is_some_and(is) {
            return Place::Active;
        }
        match self.slots.next.held.as_ref().filter(|next| is(next)).map(|next| next.status) {
            Some(Status::Prepared) => Place::Prepared,
            Some(_) => Place::Old,
            None => Place::None,
        }
    }
}

/// Where an authority is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Active,
    Prepared,
    Old,
    /// In no slot; it may be in the bundle.
    None,
}

fn certificates(published: &[Published]) -> impl Iterator<Item = Arc<[u8]>> {
    published.iter().filter_map(|one| match &one.handle {
        Handle::Certificate(der) => Some(Arc::clone(der)),
        Handle::KeyId(_) | Handle::WitKeyId(_) => None,
    })
}

/// Taints or revokes authorities of the bundle; all of them have one ID.
async fn withdraw<K: Kind>(
    context: &Context,
    found: &[Published],
    withdrawal: Withdrawal,
    during: &str,
) -> Outcome<()> {
    let names = K::NAMES;
    let refusal = match withdrawal {
        Withdrawal::Taint if found.is_empty() => Some(names.nothing_to_taint),
        Withdrawal::Taint if found.iter().any(|one| one.tainted) => Some(names.already_tainted),
        Withdrawal::Revoke if found.iter().any(|one| !one.tainted) => Some(names.not_tainted),
        Withdrawal::Taint | Withdrawal::Revoke => None,
    };
    if let Some(why) = refusal {
        return Err(failed(during, why));
    }
    let edit = edit_of(found, withdrawal);
    context.edit_bundle(edit).await.map(drop).map_err(|error| internal(during, error))
}

async fn read(context: &Context, during: &str) -> Outcome<Bundle> {
    context.read_bundle().await.map_err(|error| internal(during, error))
}

fn must_be_enabled<K: Kind>(context: &Context) -> Outcome<()> {
    if K::is_enabled(&context.shared.options) {
        return Ok(());
    }
    Err(OperationError::new(OperationClass::Unimplemented, K::NAMES.disabled))
}

/// `failed to prepare X.509 authority`
fn failed_to<K: Kind>(verb: &str) -> String {
    format!("failed to {verb} {} authority", K::NAMES.api)
}

fn name(status: Status) -> &'static str {
    match status {
        Status::Active => "ACTIVE",
        Status::Old => "OLD",
        Status::Prepared => "PREPARED",
    }
}

fn gone() -> OperationError {
    OperationError::new(OperationClass::Internal, "the authority is gone again")
}

fn invalid(message: impl Into<String>) -> OperationError {
    OperationError::new(OperationClass::InvalidArgument, message)
}

fn failed(during: &str, why: &str) -> OperationError {
    OperationError::new(OperationClass::Internal, format!("{during}: {why}"))
}

fn internal(during: &str, error: AuthorityError) -> OperationError {
    OperationError::because(OperationClass::Internal, during, error)
}
