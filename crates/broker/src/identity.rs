//! The broker's own SVIDs and the bundles it checks others by, from the Workload API.

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use signet_api::{
    connect,
    convert::split_der,
    pb::workload::{
        JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, WitBundlesRequest,
        WitBundlesResponse, X509svidRequest, X509svidResponse,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
    workload,
};
use signet_base::{Backoff, ReadyGuard, chain};
use signet_identity::{SpiffeId, TrustDomain};
use signet_pki::{
    PrivateKey, jwks,
    jwt::JwtBundle,
    pem,
    tls::{BundleSource, SwappableIdentity, TlsIdentity},
    x509::TrustBundle,
};
use tokio::sync::watch;
use tonic::{Response, Status, Streaming, transport::Channel};
use zeroize::Zeroizing;

use crate::{
    bao::{Secret, TokenSource},
    caller::WitBundles,
};

/// How long a token may take.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);

type Client = SpiffeWorkloadApiClient<Channel>;
/// A stream that is being opened.
type Opening<T> = Pin<Box<dyn Future<Output = Result<Response<Streaming<T>>, Status>> + Send>>;

/// What the Workload API gives: one identity and the bundles of its trust domain.
pub struct Identity {
    channel: Channel,
    trust_domain: TrustDomain,
    tls: Arc<SwappableIdentity>,
    id: Mutex<Option<SpiffeId>>,
    x509: Arc<Bundles>,
    bundle_pem: watch::Sender<String>,
    jwt: RwLock<Arc<HashMap<TrustDomain, JwtBundle>>>,
    wit: RwLock<Arc<WitBundles>>,
}

/// The X.509 bundle of the trust domain, for handshakes.
#[derive(Debug, Default)]
struct Bundles(RwLock<Option<Arc<TrustBundle>>>);

impl BundleSource for Bundles {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<TrustBundle>> {
        let bundle = self.0.read().unwrap_or_else(PoisonError::into_inner);
        bundle.as_ref().filter(|bundle| bundle.trust_domain() == trust_domain).cloned()
    }
}

impl Identity {
    /// By the Workload API at a Unix socket.
    pub fn new(socket: PathBuf, trust_domain: TrustDomain) -> Arc<Self> {
        Arc::new(Self {
            channel: connect::unix_lazy(socket),
            trust_domain,
            tls: Arc::default(),
            id: Mutex::default(),
            x509: Arc::default(),
            bundle_pem: watch::Sender::default(),
            jwt: RwLock::default(),
            wit: RwLock::default(),
        })
    }

    /// What is presented in handshakes.
    pub fn tls(&self) -> &Arc<SwappableIdentity> {
        &self.tls
    }

    /// The X.509 bundle of the trust domain.
    pub fn bundles(&self) -> Arc<dyn BundleSource> {
        Arc::clone(&self.x509) as Arc<dyn BundleSource>
    }

    /// The X.509 bundle as PEM, and again whenever it changes; empty while there is none.
    pub fn bundle_pem(&self) -> watch::Receiver<String> {
        self.bundle_pem.subscribe()
    }

    /// The JWT bundles.
    pub fn jwt_bundles(&self) -> Arc<HashMap<TrustDomain, JwtBundle>> {
        Arc::clone(&self.jwt.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The WIT bundles; none unless [`Identity::follow_wit`] is polled.
    pub fn wit_bundles(&self) -> Arc<WitBundles> {
        Arc::clone(&self.wit.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who the broker is, once it knows.
    pub fn id(&self) -> Option<SpiffeId> {
        self.id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the X.509-SVID and its bundle current, for as long as it is polled.
    pub async fn follow_x509(self: Arc<Self>, ready: ReadyGuard) {
        let call = |mut client: Client| -> Opening<X509svidResponse> {
            let request = workload::request(X509svidRequest {});
            Box::pin(async move { client.fetch_x509svid(request).await })
        };
        self.follow("X.509-SVID", Some(ready), call, Self::take_x509).await;
    }

    /// Keeps the JWT bundles current, for as long as it is polled.
    pub async fn follow_jwt(self: Arc<Self>, ready: ReadyGuard) {
        let call = |mut client: Client| -> Opening<JwtBundlesResponse> {
            let request = workload::request(JwtBundlesRequest {});
            Box::pin(async move { client.fetch_jwt_bundles(request).await })
        };
        self.follow("JWT bundles", Some(ready), call, Self::take_jwt).await;
    }

    /// Keeps the WIT bundles current, for as long as it is polled.
    pub async fn follow_wit(self: Arc<Self>) {
        let call = |mut client: Client| -> Opening<WitBundlesResponse> {
            let request = workload::request(WitBundlesRequest {});
            Box::pin(async move { client.fetch_wit_bundles(request).await })
        };
        self.follow("WIT bundles", None, call, Self::take_wit).await;
    }

    /// Opens a stream, again whenever it ends, and takes what comes. The first that is taken is what
    /// `ready` waits for.
    async fn follow<T>(
        &self,
        what: &str,
        mut ready: Option<ReadyGuard>,
        call: fn(Client) -> Opening<T>,
        take: fn(&Self, &T) -> Result<(), String>,
    ) {
        let mut backoff = backoff();
        loop {
            if let Err(error) = self.stream(call, take, &mut ready, &mut backoff).await {
                tracing::warn!(error, "No {what} from the Workload API");
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn stream<T>(
        &self,
        call: fn(Client) -> Opening<T>,
        take: fn(&Self, &T) -> Result<(), String>,
        ready: &mut Option<ReadyGuard>,
        backoff: &mut Backoff,
    ) -> Result<(), String> {
        let client = SpiffeWorkloadApiClient::new(self.channel.clone());
        let mut answers = call(client).await.map_err(|status| chain(&status))?.into_inner();
        while let Some(answer) = answers.message().await.map_err(|status| chain(&status))? {
            take(self, &answer)?;
            backoff.reset();
            drop(ready.take());
        }
        Err("the stream has ended".to_owned())
    }

    fn take_x509(&self, answer: &X509svidResponse) -> Result<(), String> {
        let svid = answer.svids.first().ok_or("there is no SVID in the answer")?;
        let id: SpiffeId = svid.spiffe_id.parse().map_err(|e| format!("{e}"))?;
        if !id.is_member_of(&self.trust_domain) {
            return Err(format!("{id} is not a member of {}", self.trust_domain));
        }
        let chain = split_der(&svid.x509_svid).map_err(|error| error.to_string())?;
        let chain: Vec<Arc<[u8]>> = chain.into_iter().map(Arc::from).collect();
        let key = PrivateKey::from_der(&svid.x509_svid_key).map_err(|error| error.to_string())?;
        let signer = key.signer().map_err(|error| error.to_string())?;
        let tls = TlsIdentity::new(&chain, signer).map_err(|error| error.to_string())?;
        let roots = split_der(&svid.bundle).map_err(|error| error.to_string())?;
        let bundle = TrustBundle::new(self.trust_domain.clone(), &roots)
            .map_err(|error| error.to_string())?;
        let text = pem::encode_certificates(roots);
        self.bundle_pem.send_if_modified(|current| {
            let changed = *current != text;
            *current = text;
            changed
        });
        *self.x509.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(bundle));
        self.tls.set(tls);
        let before = self.id.lock().unwrap_or_else(PoisonError::into_inner).replace(id.clone());
        if before.as_ref() != Some(&id) {
            tracing::info!(spiffe_id = %id, "The broker has its identity");
        }
        Ok(())
    }

    fn take_jwt(&self, answer: &JwtBundlesResponse) -> Result<(), String> {
        let mut bundles = HashMap::new();
        for (name, document) in &answer.bundles {
            let name = TrustDomain::from_name_or_id(name).map_err(|e| e.to_string())?;
            let keys = jwks::decode_jwt_jwks(document).map_err(|error| chain(&error))?;
            bundles.insert(name.clone(), JwtBundle::new(name, &keys));
        }
        *self.jwt.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(bundles);
        Ok(())
    }

    fn take_wit(&self, answer: &WitBundlesResponse) -> Result<(), String> {
        let mut bundles = WitBundles::new();
        for (name, document) in &answer.bundles {
            let name = TrustDomain::from_name_or_id(name).map_err(|e| e.to_string())?;
            let keys = jwks::decode_wit_jwks(document.as_bytes());
            bundles.insert(name, keys.map_err(|error| chain(&error))?);
        }
        *self.wit.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(bundles);
        Ok(())
    }
}

#[async_trait]
impl TokenSource for Identity {
    async fn jwt_svid(&self, audience: &str) -> Result<Secret, String> {
        let id = self.id().ok_or("the broker has no identity yet")?;
        let request =
            JwtsvidRequest { audience: vec![audience.to_owned()], spiffe_id: id.to_string() };
        let mut client = SpiffeWorkloadApiClient::new(self.channel.clone());
        let answer =
            tokio::time::timeout(TOKEN_TIMEOUT, client.fetch_jwtsvid(workload::request(request)))
                .await
                .map_err(|_| "the Workload API does not answer".to_owned())?
                .map_err(|status| chain(&status))?;
        let svid = answer.into_inner().svids.into_iter().next();
        svid.map(|svid| Zeroizing::new(svid.svid)).ok_or_else(|| "no JWT-SVID".to_owned())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id()).finish_non_exhaustive()
    }
}

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(10))
}
