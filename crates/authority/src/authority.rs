//! The handle that everyone but the keeper holds.

use std::{fmt, pin::Pin, sync::Arc};

use arc_swap::{ArcSwap, ArcSwapOption};
use signet_base::SharedClock;
use signet_identity::JwtAuthority;
use signet_pki::{CredentialComposer, UpstreamAuthority, jwt::JwtIssuer, x509::CaIssuer};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::{
    AuthorityError, AuthorityOptions, AuthorityView, Keeper, OperationClass, OperationError,
    view::AuthorityState,
};

/// How many operations may wait for the keeper.
pub(crate) const MAX_WAITING_OPERATIONS: usize = 16;

/// Something the keeper is asked to do.
pub(crate) type Command =
    Box<dyn for<'a> FnOnce(&'a mut Keeper) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> + Send>;

/// Issues credentials and asks for operations on the authorities. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Sender<Command>,
}

/// What the keeper writes and everyone reads.
pub(crate) struct Shared {
    pub options: AuthorityOptions,
    pub clock: SharedClock,
    composers: ArcSwap<Composers>,
    pub has_upstream: bool,
    pub x509: ArcSwapOption<X509Ca>,
    pub jwt: ArcSwapOption<JwtKey>,
    pub view: watch::Sender<AuthorityView>,
    pub taints: watch::Sender<u64>,
    pub wake: Notify,
}

/// What changes the content of credentials, in order.
pub(crate) type Composers = Vec<Arc<dyn CredentialComposer>>;

impl Shared {
    pub(crate) fn new(
        options: AuthorityOptions,
        clock: SharedClock,
        composers: Composers,
        has_upstream: bool,
    ) -> Self {
        Self {
            options,
            clock,
            composers: ArcSwap::from_pointee(composers),
            has_upstream,
            x509: ArcSwapOption::empty(),
            jwt: ArcSwapOption::empty(),
            view: watch::Sender::new(AuthorityView::default()),
            taints: watch::Sender::new(0),
            wake: Notify::new(),
        }
    }

    /// The composers in force; a credential is made with one set of them from beginning to end.
    pub(crate) fn composers(&self) -> Arc<Composers> {
        self.composers.load_full()
    }
}

/// An X.509 authority that can sign.
#[derive(Debug)]
pub(crate) struct X509Ca {
    pub issuer: CaIssuer,
    pub issued_at: i64,
}

/// A JWT authority that can sign.
#[derive(Debug)]
pub(crate) struct JwtKey {
    pub issuer: JwtIssuer,
    pub issued_at: i64,
}

impl Authority {
    /// The states of all authorities, now and whenever one changes.
    pub fn view(&self) -> watch::Receiver<AuthorityView> {
        self.shared.view.subscribe()
    }

    /// Counts taints of X.509 authorities: when it grows, what tainted authorities signed is to
    /// be replaced at once.
    pub fn taints(&self) -> watch::Receiver<u64> {
        self.shared.taints.subscribe()
    }

    /// Whether an upstream authority signs the X.509 CA.
    pub fn has_upstream(&self) -> bool {
        self.shared.has_upstream
    }

    /// Whether JWT-SVIDs are switched off.
    pub fn jwt_disabled(&self) -> bool {
        self.shared.options.jwt_disabled
    }

    /// What the authority was told at its start.
    pub fn options(&self) -> &AuthorityOptions {
        &self.shared.options
    }

    /// Prepares the next X.509 authority; a prepared one is replaced.
    ///
    /// # Errors
    /// [`OperationError`], as for every operation, with SPIRE's texts.
    pub async fn prepare_x509(&self) -> Result<AuthorityState, OperationError> {
        self.ask(|keeper| Box::pin(keeper.operate_prepare_x509())).await?
    }

    /// Activates the prepared X.509 authority.
    ///
    /// # Errors
    /// [`OperationError`] when `id` is not the prepared authority's.
    pub async fn activate_x509(&self, id: &str) -> Result<AuthorityState, OperationError> {
        let id = id.to_owned();
        self.ask(|keeper| Box::pin(async move { keeper.operate_activate_x509(&id).await })).await?
    }

    /// Taints the old X.509 authority in the bundle.
    ///
    /// # Errors
    /// [`OperationError`] when `id` is not the old authority's, or there is an upstream.
    pub async fn taint_x509(&self, id: &str) -> Result<AuthorityState, OperationError> {
        let id = id.to_owned();
        self.ask(|keeper| Box::pin(async move { keeper.operate_taint_x509(&id).await })).await?
    }

    /// Removes the old, tainted X.509 authority from the bundle.
    ///
    /// # Errors
    /// [`OperationError`] when `id` is not the old authority's, it is not tainted, or there is an
    /// upstream.
    pub async fn revoke_x509(&self, id: &str) -> Result<(), OperationError> {
        let id = id.to_owned();
        self.ask(|keeper| Box::pin(async move { keeper.operate_revoke_x509(&id).await })).await?
    }

    /// Taints the upstream authority that signed the old X.509 authority. Answers with its
    /// subject key ID in lower case.
    ///
    /// # Errors
    /// [`OperationError`] when it did not, or there is no upstream.
    pub async fn taint_upstream(&self, subject_key_id: &str) -> Result<String, OperationError> {
        let id = subject_key_id.to_ascii_lowercase();
        self.ask(|keeper| Box::pin(async move { keeper.operate_taint_upstream(id).await })).await?
    }

    /// Removes the tainted upstream authority that signed the old X.509 authority.
    ///
    /// # Errors
    /// [`OperationError`] when it did not, is not tainted, or there is no upstream.
    pub async fn revoke_upstream(&self, subject_key_id: &str) -> Result<String, OperationError> {
        let id = subject_key_id.to_ascii_lowercase();
        self.ask(|keeper| Box::pin(async move { keeper.operate_revoke_upstream(id).await })).await?
    }

    /// Prepares the next JWT authority; a prepared one is replaced.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn prepare_jwt(&self) -> Result<AuthorityState, OperationError> {
        self.ask(|keeper| Box::pin(keeper.operate_prepare_jwt())).await?
    }

    /// Activates the prepared JWT authority.
    ///
    /// # Errors
    /// [`OperationError`] when `id` is not the prepared authority's.
    pub async fn activate_jwt(&self, id: &str) -> Result<AuthorityState, OperationError> {
        let id = id.to_owned();
        self.ask(|keeper| Box::pin(async move { keeper.operate_activate_jwt(&id).await })).await?
    }

    /// Taints the old JWT authority in the bundle.
    ///
    /// # Errors
    /// [`OperationError`] when `id` is not the old authority's.
    pub async fn taint_jwt(&self, id: &str) -> Result<AuthorityState, OperationError> {
        let id = id.to_owned();
        self.ask(|keeper| Box::pin(async move { keeper.operate_taint_jwt(&id).await })).await?
    }

    /// Removes a tainted JWT authority from the bundle: the old one, or any other of the bundle.
    ///
    /// # Errors
    /// [`OperationError`] when `id` is the active or prepared one, unknown, or not tainted.
    pub async fn revoke_jwt(&self, id: &str) -> Result<(), OperationError> {
        let id = id.to_owned();
        self.ask(|keeper| Box::pin(async move { keeper.operate_revoke_jwt(&id).await })).await?
    }

    /// Publishes a downstream server's JWT key: upstream if that can, else in the bundle. Answers
    /// with all JWT authorities then.
    ///
    /// # Errors
    /// [`AuthorityError`] when upstream or the bundle cannot be reached.
    pub async fn publish_jwt_key(
        &self,
        key: JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, AuthorityError> {
        self.ask(|keeper| Box::pin(keeper.publish_jwt_key(key)))
            .await
            .map_err(|_| AuthorityError::Stopped)?
    }

    /// Replaces the upstream authority by one with new settings: the next X.509 authority is signed
    /// by it, and its roots are followed at once.
    ///
    /// # Errors
    /// [`OperationError`] when the server runs without an upstream authority, or is stopping.
    pub async fn replace_upstream(
        &self,
        upstream: Arc<dyn UpstreamAuthority>,
    ) -> Result<(), OperationError> {
        self.ask(|keeper| Box::pin(async move { keeper.operate_replace_upstream(upstream) }))
            .await?
    }

    /// Replaces the credential composers from the next credential on.
    pub fn replace_composers(&self, composers: Vec<Arc<dyn CredentialComposer>>) {
        self.shared.composers.store(Arc::new(composers));
    }

    /// Has the keeper do something and waits for the answer. What was begun is finished even when
    /// the caller goes away.
    async fn ask<T: Send + 'static>(
        &self,
        operation: impl for<'a> FnOnce(&'a mut Keeper) -> Pin<Box<dyn Future<Output = T> + Send + 'a>>
        + Send
        + 'static,
    ) -> Result<T, OperationError> {
        let (reply, answer) = oneshot::channel();
        let command: Command = Box::new(move |keeper| {
            Box::pin(async move {
                // The caller may be gone: then nobody wants the answer.
                let _ = reply.send(operation(keeper).await);
            })
        });
        let stopped = || OperationError::new(OperationClass::Unavailable, "server is stopping");
        self.commands.send(command).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("view", &*self.shared.view.borrow()).finish()
    }
}
