//! What the manager shares with its own parts and with the endpoints.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use signet_attest::node::NodeAttestorAgent;
use signet_base::SharedClock;
use signet_identity::{Bundle, TrustDomain};
use signet_pki::{
    KeyType, digest,
    tls::{BundleSource, SwappableIdentity},
    x509::{CertError, Certificate, TrustBundle},
};
use tokio::sync::watch;

use crate::{
    agent_identity::AgentIdentity,
    cache::Cache,
    client::{ClientError, ServerClient, Target, tls_config},
    config::{Bootstrap, JoinTokenText, RebootstrapMode, SvidCache},
    data_dir::DataDir,
    jwt_cache::JwtCache,
    metrics::AgentMetrics,
    rotation::RotationRule,
    status::Status,
    wake::Wake,
    wit_cache::WitCache,
};

/// What the manager was told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Where the first bundle comes from.
    pub bootstrap: Bootstrap,
    /// What to do when the server is not to be trusted for long.
    pub rebootstrap_mode: RebootstrapMode,
    /// For how long it must be so.
    pub rebootstrap_delay: Duration,
    /// When SVIDs are due.
    pub rule: RotationRule,
    /// How often a server without push is asked.
    pub sync_interval: Duration,
    /// Whether `SyncAuthorizedEntries` is tried.
    pub use_sync: bool,
    /// Whether there are WIT-SVIDs.
    pub wit_svids: bool,
    /// The kind of workload keys.
    pub workload_key_type: KeyType,
    /// Whether TLS must use hybrid post-quantum key exchange.
    pub require_pq_kem: bool,
    /// The join token, if there is one.
    pub join_token: Option<JoinTokenText>,
    /// Whether the key manager forgets.
    pub memory_keys: bool,
    /// What outlasts a restart.
    pub svid_cache: SvidCache,
    /// The names of the secret stores that there are.
    pub svid_stores: Vec<&'static str>,
}

/// How writing the sealed cache went at the last try, so that each trouble is told once.
#[derive(Debug, Default)]
pub(super) struct SealingTrouble {
    /// It could not be written.
    pub(super) failing: AtomicBool,
    /// Its key could not be replaced.
    pub(super) same_key: AtomicBool,
}

/// How the server is reached and known.
#[derive(Debug)]
pub(super) struct Server {
    /// The conversation with it.
    pub(super) client: Arc<ServerClient>,
    /// Whom it is known by.
    pub(super) bundles: Arc<AgentBundles>,
    /// What the agent presents to it.
    pub(super) tls_identity: Arc<SwappableIdentity>,
}

impl Server {
    /// The server at `target`, of whom nothing is known yet.
    pub(super) fn new(
        target: Target,
        settings: &Settings,
        clock: &SharedClock,
    ) -> Result<Self, ClientError> {
        let bundles = Arc::new(AgentBundles::default());
        let tls_identity = Arc::new(SwappableIdentity::empty());
        let tls = tls_config(
            &settings.trust_domain,
            Some(Arc::clone(&bundles) as _),
            Some(Arc::clone(&tls_identity)),
            Arc::clone(clock),
            settings.require_pq_kem,
        )?;
        let client = Arc::new(ServerClient::new(target, tls));
        Ok(Self { client, bundles, tls_identity })
    }
}

/// The node attestor of the moment; none without a join token. Reconfiguring exchanges it.
pub type CurrentAttestor = ArcSwapOption<Box<dyn NodeAttestorAgent>>;

/// What the manager's parts have in common. Shared by `Arc`, and with nobody else.
#[derive(Debug)]
pub(super) struct Shared {
    /// What the manager was told.
    pub(super) settings: Settings,
    /// The wall clock.
    pub(super) clock: SharedClock,
    /// What workloads are served from.
    pub(super) cache: Arc<Cache>,
    /// JWT-SVIDs at hand.
    pub(super) jwt_cache: Arc<JwtCache>,
    /// WIT-SVIDs at hand; absent unless they are switched on.
    pub(super) wit_cache: Option<Arc<WitCache>>,
    /// What is kept over a restart: the agent's state and its own keys.
    pub(super) data: Arc<DataDir>,
    /// The server.
    pub(super) server: Server,
    /// How the node proves what it is.
    pub(super) attestor: Arc<CurrentAttestor>,
    /// How the agent stands.
    pub(super) status: watch::Sender<Status>,
    /// What wakes the manager.
    pub(super) wake: Arc<Wake>,
    /// How writing the sealed cache went at the last try.
    pub(super) sealing: SealingTrouble,
    /// What is measured.
    pub(super) metrics: AgentMetrics,
}

impl Shared {
    /// Tells the server which version this is; a failure is only logged.
    pub(super) async fn greet(&self) {
        let version = env!("CARGO_PKG_VERSION");
        match self.server.client.post_status(version).await {
            Ok(()) => {}
            Err(error) if error.is_unimplemented() => {
                tracing::debug!("The server does not take agent versions");
            }
            Err(error) if error.is_unreachable() => {}
            Err(error) => {
                tracing::warn!(error = %error, agent_version = version, "Failed to post agent status");
            }
        }
    }

    /// Notes a sync that went well.
    pub(super) async fn synced(&self) {
        let now = self.clock.unix();
        let was_serving = self.status.borrow().serving;
        self.status.send_modify(|status| {
            status.last_sync = now;
            status.server_reachable = true;
            status.serving = true;
        });
        if !was_serving {
            tracing::info!(entries = self.cache.entry_count(), "First sync with the server done");
        }
        self.metrics.bootstrapped.set(&[], 1.0);
        self.jwt_cache.prune(now);
        if self.data.state().untrusted_since().is_some() {
            self.data.keep(|state| state.note_trusted()).await;
        }
    }

    /// Drops all JWT- and WIT-SVIDs: what signed them is not believed any more.
    pub(super) fn forget_tokens(&self) {
        self.jwt_cache.clear();
        self.wit_cache.iter().for_each(|kept| kept.clear());
    }

    /// Notes that the server has been asked for a while; what was cached is served from now on.
    pub(super) fn late(&self) {
        let cached = self.cache.entry_count() > 0;
        let changed = self.status.send_if_modified(|status| {
            let now = cached && !status.serving;
            status.serving |= now;
            now
        });
        if changed {
            tracing::warn!("The server has not answered; serving what the sealed cache holds");
        }
    }

    /// Notes what keeps the agent from having an SVID.
    pub(super) fn trouble(&self, reason: String) {
        self.status.send_modify(|status| status.trouble = Some(reason.into()));
    }

    /// Notes that the server did not answer; what was cached is served from now on.
    pub(super) fn unreachable(&self) {
        let cached = self.cache.entry_count() > 0;
        self.status.send_modify(|status| {
            status.server_reachable = false;
            if cached && !status.serving {
                status.serving = true;
                tracing::warn!("The server cannot be reached; serving what the sealed cache holds");
            }
        });
    }

    /// Notes that the server could not be trusted; true when it is time to bootstrap again.
    pub(super) async fn untrusted(&self, reattestable: bool) -> bool {
        let mode = self.settings.rebootstrap_mode;
        let now = self.clock.unix();
        if mode == RebootstrapMode::Never || !reattestable {
            tracing::error!(
                "The server presents an authority that this agent does not know. If the server's \
                 authority was replaced on purpose, stop the agent, remove agent-data.json from \
                 its data directory, give it the new trust bundle and start it again (or set \
                 rebootstrap_mode)"
            );
            return false;
        }
        self.data.keep(move |state| state.note_untrusted(now)).await;
        let since = self.data.state().untrusted_since().unwrap_or(now);
        let left = since + self.settings.rebootstrap_delay - now;
        if left > 0 {
            tracing::info!(
                time_left_secs = left,
                "Trust bundle and server do not agree, ignoring for now"
            );
        }
        left <= 0
    }

    /// Keeps the own bundle.
    pub(super) async fn keep_bundle(&self, bundle: &Bundle) {
        let ders: Vec<Vec<u8>> = bundle.x509_authorities.iter().map(|a| a.der.to_vec()).collect();
        if !ders.is_empty() && self.data.state().bundle() != ders {
            self.data.keep(move |state| state.store_bundle(&ders)).await;
        }
    }

    /// Keeps the agent's SVID; says whether it is on disk.
    pub(super) async fn keep_svid(&self, identity: &AgentIdentity) -> bool {
        let (chain, reattestable) = (identity.chain_der(), identity.reattestable);
        self.data.keep(move |state| state.store_svid(&chain, reattestable)).await
    }
}

/// The bundle the server is known by; replaced as the server's own changes.
#[derive(Debug, Default)]
pub(super) struct AgentBundles(ArcSwapOption<TrustBundle>);

impl AgentBundles {
    /// Uses `bundle` for the next handshakes; one without usable authorities changes nothing.
    pub(super) fn replace(&self, bundle: &Bundle) {
        if bundle.x509_authorities.is_empty() {
            return;
        }
        let same = self.0.load().as_ref().is_some_and(|present| {
            present
                .authorities()
                .iter()
                .map(Certificate::der)
                .eq(bundle.x509_authorities.iter().map(|a| &a.der))
        });
        if same {
            return;
        }
        match TrustBundle::from_bundle(bundle) {
            Ok(trust) => self.install(trust),
            Err(error) => {
                tracing::error!(error = %error, "The server's bundle holds no usable authority");
            }
        }
    }

    /// Uses certificates (DER).
    ///
    /// # Errors
    /// [`CertError`] when one cannot be read.
    pub(super) fn set(
        &self,
        trust_domain: &TrustDomain,
        ders: &[Vec<u8>],
    ) -> Result<(), CertError> {
        self.install(TrustBundle::new(trust_domain.clone(), ders)?);
        Ok(())
    }

    /// Says whom the agent trusts with everything, each time that it changes.
    fn install(&self, trust: TrustBundle) {
        let trust = Arc::new(trust);
        let before = self.0.swap(Some(Arc::clone(&trust)));
        let ders = trust.authorities().iter().map(Certificate::der);
        if before.is_none_or(|before| !before.authorities().iter().map(Certificate::der).eq(ders)) {
            let roots: Vec<String> =
                trust.authorities().iter().map(|root| digest::sha256_hex(root.der())).collect();
            tracing::info!(
                x509_authorities_asn1_sha256 = roots.join(","),
                "Trust bundle of the server installed"
            );
        }
    }
}

impl BundleSource for AgentBundles {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<TrustBundle>> {
        self.0.load_full().filter(|bundle| bundle.trust_domain() == trust_domain)
    }
}

/// The name of a call's outcome for metrics.
pub(super) fn status_of<T>(result: &Result<T, ClientError>) -> &'static str {
    match result {
        Ok(_) => "OK",
        Err(error) => match error.code() {
            Some(code) => signet_daemon::metrics::status_name(code as i32),
            None if matches!(error, ClientError::TimedOut { .. }) => "DeadlineExceeded",
            None => "Unavailable",
        },
    }
}
