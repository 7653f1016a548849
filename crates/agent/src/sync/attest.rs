//! Becoming and staying attested.

use std::{sync::Arc, time::Duration};

use signet_attest::node::join_token;
use signet_base::{Backoff, chain};
use signet_identity::SpiffeId;
use signet_pki::{
    tls::{BundleSource, StaticBundles},
    x509::{CsrParams, TrustBundle, create_csr, parse_chain},
};
use tonic::Code;

use super::{Fatal, Manager, NO_SVID, Shared};
use crate::{
    agent_identity::{AgentIdentity, AgentKey},
    bootstrap::{BundleFile, BundleQuery, fetch_bundle},
    client::{Attested, ClientError, EVICTED, ServerClient, tls_config},
    config::{RebootstrapMode, SvidCache},
    sealed::SealedCache,
};

/// The pauses between attempts to attest.
const MIN_PAUSE: Duration = Duration::from_secs(5);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How often the bundle is asked for right after an attestation.
const BUNDLE_ATTEMPTS: u32 = 3;

impl Manager {
    /// Takes up what an earlier run left: SVID, key, bundle and, behind the scenes, the sealed
    /// cache.
    pub(super) async fn load_stored(&mut self) {
        let shared = Arc::clone(&self.shared);
        let bundle = shared.data.state().bundle();
        let trust_domain = &shared.settings.trust_domain;
        if bundle.is_empty() {
            tracing::info!("Bundle is not found");
        } else if let Err(error) = shared.server.bundles.set(trust_domain, &bundle) {
            tracing::warn!(error = %error, "The stored bundle is of no use");
        } else {
            tracing::info!(trust_domain_id = trust_domain.id_string(), "Bundle loaded");
        }
        let Some(stored) = shared.data.state().svid() else { return };
        let chain = match parse_chain(&stored.chain) {
            Ok(chain) => chain,
            Err(error) => {
                tracing::warn!(error = %error, "The stored SVID is of no use");
                return;
            }
        };
        let Some(leaf) = chain.first() else { return };
        let id = match leaf.spiffe_id() {
            Ok(id) if id.is_member_of(&shared.settings.trust_domain) => id,
            Ok(id) => {
                tracing::warn!(
                    spiffe_id = %id,
                    "The stored SVID is of another trust domain; attesting anew"
                );
                self.erase_sealed().await;
                self.forget_trust().await;
                return;
            }
            Err(error) => {
                tracing::warn!(error = %error, "The stored SVID is of no use");
                return;
            }
        };
        if shared.is_another_node(&id) {
            tracing::warn!(spiffe_id = %id, "The stored SVID is of another node; attesting anew");
            self.other_node = true;
            self.erase_sealed().await;
            shared.data.keep(|state| state.delete_svid()).await;
            return;
        }
        self.load_sealed(&id).await;
        let key = match shared.data.keys().key_of(leaf).await {
            Ok(Some(key)) => key,
            Ok(None) => {
                tracing::warn!("SVID recovered, but no SVID key found. Generating new keypair");
                return;
            }
            Err(error) => {
                tracing::warn!(error = %error, "The agent's keys cannot be read");
                return;
            }
        };
        if bundle.is_empty() {
            tracing::warn!("SVID recovered, but no bundle; attesting anew");
            return;
        }
        match AgentIdentity::new(&stored.chain, key, stored.reattestable) {
            Ok(identity) => {
                if identity.expired(shared.clock.unix()) {
                    tracing::warn!(
                        expiry = %identity.not_after(),
                        spiffe_id = %identity.id,
                        "SVID key recovered, but SVID is expired. Generating new keypair"
                    );
                } else {
                    tracing::info!(
                        spiffe_id = %identity.id,
                        expires_at = identity.not_after().seconds(),
                        "SVID loaded"
                    );
                }
                self.identity = Some(Arc::new(identity));
            }
            Err(error) => tracing::warn!(error = %error, "The stored SVID is of no use"),
        }
    }

    /// Puts the sealed cache's content into the cache. It is not served before the server had
    /// its say or could not be reached.
    async fn load_sealed(&mut self, id: &SpiffeId) {
        let SvidCache::Sealed { key_file } = &self.shared.settings.svid_cache else { return };
        let sealed = SealedCache::new(self.shared.data.path(), key_file, id);
        let loaded = tokio::task::spawn_blocking(move || sealed.load()).await;
        match loaded {
            Ok(Ok(Some(snapshot))) => {
                let (entries, svids) = (snapshot.entries.len(), snapshot.svids.len());
                let now = self.shared.clock.unix();
                // Those used last come last, and so are the last to leave a smaller cache.
                for (key, svid) in snapshot.jwt_svids.into_iter().rev() {
                    if svid.expires_at > now {
                        self.shared.jwt_cache.put(key, svid);
                    }
                }
                if let Some(kept) = &self.shared.wit_cache {
                    for (id, svid) in snapshot.wit_svids.into_iter().rev() {
                        if svid.expires_at > now {
                            kept.put(id, svid);
                        }
                    }
                }
                let jwt_svids = self.shared.jwt_cache.len();
                let wit_svids = self.shared.wit_cache.as_ref().map(|kept| kept.len());
                self.shared.cache.update(&snapshot.entries, snapshot.bundles);
                self.shared
                    .cache
                    .put(snapshot.svids.into_iter().map(|(id, svid)| (id, Some(svid))).collect());
                self.entries = Arc::new(snapshot.entries);
                tracing::info!(entries, svids, jwt_svids, wit_svids, "Sealed cache opened");
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(error = %error, cause = ?cause, "Erasing a sealed cache that does not open");
                self.erase_sealed().await;
            }
            Err(error) => tracing::warn!(error = %error, "Could not read the sealed cache"),
        }
    }

    /// With `rebootstrap_mode = "always"` the agent must be able to attest again.
    pub(super) fn check_rebootstrap_mode(&self) -> Result<(), Fatal> {
        match (&self.identity, self.shared.settings.rebootstrap_mode) {
            (Some(identity), RebootstrapMode::Always) if !identity.reattestable => {
                Err(Fatal::NotReattestable)
            }
            _ => Ok(()),
        }
    }

    /// Attests, trying again until it succeeds or cannot.
    pub(super) async fn attest_until_done(
        &mut self,
        reason: &str,
    ) -> Result<Arc<AgentIdentity>, Fatal> {
        let shared = Arc::clone(&self.shared);
        let Some(attestor) = shared.attestor.load_full() else {
            return Err(self.cannot_attest(reason, "it has no join token").await);
        };
        let node_attestor_type = attestor.kind();
        if self.identity.is_none() && reason == NO_SVID {
            tracing::info!(node_attestor_type, "SVID is not found. Starting node attestation");
        } else {
            tracing::info!(reason, node_attestor_type, "Starting node attestation");
        }
        let mut backoff = Backoff::new(MIN_PAUSE, MAX_PAUSE).with_jitter(0.1);
        let previous = self.identity.as_ref().map(|identity| identity.key.clone());
        let mut previous = match previous {
            Some(key) => Some(key),
            None => shared.stored_key().await,
        };
        loop {
            let bundle_file = BundleFile::of(&shared.settings.bootstrap).await;
            let timer = shared.metrics.new_svid.start(&[attestor.kind()]);
            let result = shared.attest_once(previous.as_ref()).await;
            timer.done(super::shared::status_of(&result));
            let error = match result {
                Ok(identity) => {
                    if !identity.reattestable && shared.settings.memory_keys {
                        tracing::warn!(
                            "This agent cannot attest again and its key is only in memory: after \
                             a restart it will need a new join token"
                        );
                    }
                    tracing::info!(
                        spiffe_id = %identity.id,
                        reattestable = identity.reattestable,
                        "Node attestation was successful"
                    );
                    return Ok(Arc::new(identity));
                }
                Err(error) => error,
            };
            match error.code() {
                Some(Code::PermissionDenied) => {
                    self.erase_sealed().await;
                    return Err(Fatal::Refused(error));
                }
                Some(Code::InvalidArgument) if attestor.kind() == join_token::KIND => {
                    let why = format!("its join token was refused ({error})");
                    return Err(self.cannot_attest(reason, &why).await);
                }
                _ => {}
            }
            if error.is_unknown_authority() && !shared.data.state().bundle().is_empty() {
                let reattestable = attestor.kind() != join_token::KIND;
                if shared.untrusted(reattestable).await {
                    tracing::warn!("Trust bundle and server do not agree, rebootstrapping");
                    self.erase_sealed().await;
                    self.forget_trust().await;
                    previous = None;
                }
            }
            let pause = error.pause(backoff.next_delay());
            tracing::warn!(error = %error, retry_in = ?pause, "Node attestation failed");
            shared.unreachable();
            shared.trouble(format!("it cannot attest: {error}"));
            let no_bundle = shared.data.state().bundle().is_empty();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // On a first installation the bundle may come after the agent.
                () = bundle_file.changed(), if no_bundle => {
                    tracing::info!("The trust bundle's file has changed; attesting at once");
                    backoff.reset();
                }
            }
        }
    }

    /// Attesting is over: what is valid is served until it expires, then the agent gives up.
    async fn cannot_attest(&mut self, reason: &str, why: &str) -> Fatal {
        let shared = Arc::clone(&self.shared);
        let id = match (&self.identity, shared.data.state().svid()) {
            (Some(identity), _) => Some(identity.id.to_string()),
            (None, Some(stored)) => parse_chain(&stored.chain)
                .ok()
                .and_then(|chain| chain.first()?.spiffe_id().ok())
                .map(|id| id.to_string()),
            (None, None) => None,
        };
        let was = id.map(|id| format!(" (it was {id})")).unwrap_or_default();
        let advice = format!(
            "{why}{was}: make a new token on the server with `signet-server token generate \
             -spiffeID <the ID the node's entries have as parent>` and start the agent again with \
             -joinToken or join_token_file"
        );
        if reason == EVICTED {
            shared.data.keep(|state| state.delete_svid()).await;
        } else {
            loop {
                let now = shared.clock.unix();
                let valid = shared.cache.snapshot().svids.values().any(|svid| !svid.expired(now));
                if !valid {
                    break;
                }
                tracing::error!(
                    reason,
                    advice,
                    "The agent must attest anew and cannot; serving what is still valid"
                );
                shared.unreachable();
                shared.trouble(format!("it must attest anew because {reason}; {advice}"));
                tokio::time::sleep(MAX_PAUSE).await;
            }
        }
        Fatal::MustAttest { reason: reason.to_owned(), advice }
    }

    /// Forgets SVID and bundle, so that the next attestation begins with the bundle source.
    pub(super) async fn forget_trust(&mut self) {
        let now = self.shared.clock.unix();
        self.identity = None;
        self.shared.server.tls_identity.clear();
        // What the old authority signed is to be signed anew.
        self.shared.cache.taint(|_| true);
        self.shared.forget_tokens();
        self.shared.data.keep(move |state| state.force_rebootstrap(now)).await;
    }

    /// The server has banned this agent: nothing of it stays.
    pub(super) async fn banned(&mut self) -> Fatal {
        self.erase_sealed().await;
        self.shared.data.keep(|state| state.delete_svid()).await;
        let id = match &self.identity {
            Some(identity) => identity.id.clone(),
            None => SpiffeId::of_trust_domain(self.shared.settings.trust_domain.clone()),
        };
        tracing::error!(spiffe_id = %id, "Agent is banned: removing SVID and shutting down");
        Fatal::Banned { id }
    }
}

impl Shared {
    /// Whether the node is another one than was attested as `id`, as far as can be told here.
    pub(super) fn is_another_node(&self, id: &SpiffeId) -> bool {
        self.attestor.load().as_ref().is_some_and(|attestor| !attestor.may_still_be(id))
    }

    /// The key of the stored SVID, whatever became of that.
    async fn stored_key(&self) -> Option<AgentKey> {
        let chain = parse_chain(&self.data.state().svid()?.chain).ok()?;
        self.data.keys().key_of(chain.first()?).await.ok()?
    }

    /// One attestation from end to end; what it brought is on disk when this returns, if the disk
    /// takes it.
    async fn attest_once(&self, current: Option<&AgentKey>) -> Result<AgentIdentity, ClientError> {
        let cached = self.data.state().bundle();
        let authorities = if cached.is_empty() { self.ask_source().await? } else { Some(cached) };
        let client = self.anonymous_client(authorities.as_deref())?;
        // The key is durable before the request leaves: a lost reply can be asked for again.
        let what = match &self.settings.join_token {
            Some(token) => token.expose(),
            None => self.attestor.load().as_ref().map_or("", |attestor| attestor.kind()),
        };
        let key = self.data.keys().for_attempt(what, current).await.map_err(local)?;
        let attested = self.attest_with(&client, &key).await?;
        let identity =
            AgentIdentity::new(&attested.chain, key, attested.reattestable).map_err(local)?;
        if !identity.id.is_member_of(&self.settings.trust_domain) {
            let why = format!("the server made this agent {}", identity.id);
            return Err(ClientError::Local(why));
        }
        let bundle = self.bundle_after(&client, authorities).await?;
        self.server.bundles.set(&self.settings.trust_domain, &bundle).map_err(local)?;
        let (chain, reattestable) = (attested.chain, attested.reattestable);
        let kept = self
            .data
            .keep(move |state| state.store_attestation(&chain, reattestable, &bundle))
            .await;
        if kept {
            self.data.keys().settled();
        }
        Ok(identity)
    }

    /// Has a new SVID made for the agent, by attesting again or by renewing.
    pub(super) async fn renew(
        &self,
        present: &AgentIdentity,
    ) -> Result<AgentIdentity, ClientError> {
        let timer = self.metrics.rotate.start(&[]);
        let result = self.renew_inner(present).await;
        timer.done(super::shared::status_of(&result));
        result
    }

    async fn renew_inner(&self, present: &AgentIdentity) -> Result<AgentIdentity, ClientError> {
        if present.reattestable && self.attestor.load().is_some() {
            let bundle = self.data.state().bundle();
            let client = self.anonymous_client(Some(&bundle))?;
            let key = self.data.keys().fresh(Some(&present.key)).await.map_err(local)?;
            let attested = self.attest_with(&client, &key).await?;
            return AgentIdentity::new(&attested.chain, key, attested.reattestable).map_err(local);
        }
        let key = self.data.keys().fresh(Some(&present.key)).await.map_err(local)?;
        let csr = create_csr(&CsrParams::agent(), &*key.signer).map_err(local)?;
        let chain = self.server.client.renew(&csr).await?;
        AgentIdentity::new(&chain, key, false).map_err(local)
    }

    async fn attest_with(
        &self,
        client: &ServerClient,
        key: &AgentKey,
    ) -> Result<Attested, ClientError> {
        let none = || ClientError::Local("there is no node attestor".to_owned());
        let attestor = self.attestor.load_full().ok_or_else(none)?;
        let csr = create_csr(&CsrParams::agent(), &*key.signer).map_err(local)?;
        client.attest(&**attestor, &csr).await
    }

    /// Asks the configured source whom to trust; none for `insecure_bootstrap`.
    async fn ask_source(&self) -> Result<Option<Vec<Vec<u8>>>, ClientError> {
        let now = self.clock.unix();
        self.data.keep(move |state| state.note_bootstrap_attempt(now)).await;
        let state = self.data.state();
        let attempts = state.connection_attempts();
        let rebootstrap = state.was_bootstrapped();
        let mode = if rebootstrap { "rebootstrap" } else { "bootstrap" };
        self.metrics.bootstrapped.set(&[], 0.0);
        self.metrics.bootstrap_attempts.set(&[mode], attempts as f64);
        let since = state.untrusted_since().unwrap_or(now);
        self.metrics.bootstrap_seconds.set(&[mode], since.seconds() as f64);
        let target = self.server.client.target();
        let query = BundleQuery {
            rebootstrap,
            attempts,
            since: state.untrusted_since().unwrap_or(now),
            server_address: target.host.clone(),
            server_port: target.port,
            trust_domain: self.settings.trust_domain.clone(),
        };
        fetch_bundle(&self.settings.bootstrap, &query).await.map_err(local)
    }

    /// A client that presents nothing and knows the server by `authorities`.
    fn anonymous_client(
        &self,
        authorities: Option<&[Vec<u8>]>,
    ) -> Result<ServerClient, ClientError> {
        let trust_domain = &self.settings.trust_domain;
        let bundles: Option<Arc<dyn BundleSource>> = match authorities {
            Some(ders) => {
                let bundle = TrustBundle::new(trust_domain.clone(), ders).map_err(local)?;
                Some(Arc::new(StaticBundles(vec![Arc::new(bundle)])))
            }
            None => {
                tracing::warn!(
                    "Insecure bootstrap enabled; skipping server certificate verification"
                );
                None
            }
        };
        let pq = self.settings.require_pq_kem;
        let tls = tls_config(trust_domain, bundles, None, Arc::clone(&self.clock), pq)?;
        Ok(ServerClient::new(self.server.client.target().clone(), tls))
    }

    /// The server's bundle right after attesting. Once attested, losing it must not lose the
    /// attestation: the bundle at hand does until the next sync.
    async fn bundle_after(
        &self,
        client: &ServerClient,
        authorities: Option<Vec<Vec<u8>>>,
    ) -> Result<Vec<Vec<u8>>, ClientError> {
        let mut attempt = 1;
        loop {
            match client.bundle().await {
                Ok(bundle) if !bundle.x509_authorities.is_empty() => {
                    return Ok(bundle.x509_authorities.iter().map(|a| a.der.to_vec()).collect());
                }
                Ok(_) => {
                    return Err(ClientError::Malformed {
                        method: "GetBundle",
                        reason: "the bundle is empty".to_owned(),
                    });
                }
                Err(error) if attempt >= BUNDLE_ATTEMPTS => {
                    let Some(authorities) = authorities else { return Err(error) };
                    tracing::warn!(error = %error, "Failed to get updated bundle");
                    return Ok(authorities);
                }
                Err(_) => attempt += 1,
            }
        }
    }
}

/// An error of this side, with its causes.
fn local(error: impl std::error::Error) -> ClientError {
    ClientError::Local(chain(&error))
}
