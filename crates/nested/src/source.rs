//! This server's own X.509-SVID, and the bundle that the upstream server is known by, from a
//! Workload API.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use futures_util::FutureExt;
use signet_api::{
    connect, convert,
    pb::workload::{
        X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
    workload,
};
use signet_identity::{Bundle, TrustDomain, X509Authority};
use signet_pki::{
    PrivateKey,
    tls::{BundleSource, SwappableIdentity, TlsIdentity},
    x509::TrustBundle,
};
use tonic::Streaming;

/// How long the Workload API may take for its first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(15);
/// How many answers are taken at once: only the last of them counts.
const MAX_AT_ONCE: usize = 64;

/// What the Workload API said last.
#[derive(Debug)]
pub(crate) struct Source {
    socket: PathBuf,
    trust_domain: TrustDomain,
    identity: Arc<SwappableIdentity>,
    bundle: Arc<OwnBundle>,
    stream: tokio::sync::Mutex<Option<Streaming<X509svidResponse>>>,
}

/// The bundle of the own trust domain, as the agent has it.
#[derive(Debug, Default)]
pub(crate) struct OwnBundle(ArcSwapOption<TrustBundle>);

impl BundleSource for OwnBundle {
    fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<TrustBundle>> {
        self.0.load_full().filter(|bundle| bundle.trust_domain() == trust_domain)
    }
}

impl Source {
    pub(crate) fn new(socket: PathBuf, trust_domain: TrustDomain) -> Self {
        Self {
            socket,
            trust_domain,
            identity: Arc::default(),
            bundle: Arc::default(),
            stream: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn identity(&self) -> Arc<SwappableIdentity> {
        Arc::clone(&self.identity)
    }

    pub(crate) fn bundles(&self) -> Arc<dyn BundleSource> {
        Arc::clone(&self.bundle) as _
    }

    /// Takes up what the Workload API has said since; waits for it only the first time, and when
    /// it had gone away. Says whether the identity is another now.
    ///
    /// # Errors
    /// Why there is no identity. One that was had before stays in use while the agent is away.
    pub(crate) async fn refresh(&self) -> Result<bool, String> {
        let mut held = self.stream.lock().await;
        let mut changed = false;
        if let Some(stream) = &mut *held {
            for _ in 0..MAX_AT_ONCE {
                match stream.message().now_or_never() {
                    None => return Ok(changed),
                    Some(Ok(Some(answer))) => {
                        self.take(answer)?;
                        changed = true;
                    }
                    // The agent ended, or took the identity away.
                    Some(Ok(None) | Err(_)) => {
                        *held = None;
                        break;
                    }
                }
            }
        }
        if held.is_some() {
            return Ok(changed);
        }
        match tokio::time::timeout(FIRST_ANSWER, self.connect()).await {
            Ok(Ok((stream, answer))) => {
                self.take(answer)?;
                *held = Some(stream);
                Ok(true)
            }
            Ok(Err(why)) => self.without(why),
            Err(_) => self.without(format!("no answer within {FIRST_ANSWER:?}")),
        }
    }

    fn without(&self, why: String) -> Result<bool, String> {
        let why = format!("the Workload API at {}: {why}", self.socket.display());
        if self.identity.get().is_none() {
            return Err(why);
        }
        tracing::debug!(why, "Going on with the X509-SVID that is there");
        Ok(false)
    }

    async fn connect(&self) -> Result<(Streaming<X509svidResponse>, X509svidResponse), String> {
        let channel = connect::unix(&self.socket).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            cause.unwrap_or_else(|| error.to_string())
        })?;
        let request = workload::request(X509svidRequest {});
        let said = |status: tonic::Status| match status.code() {
            tonic::Code::PermissionDenied => format!(
                "{}: this server needs an entry (with downstream) at the upstream server",
                status.message()
            ),
            _ => status.message().to_owned(),
        };
        let mut stream = SpiffeWorkloadApiClient::new(channel)
            .fetch_x509svid(request)
            .await
            .map_err(said)?
            .into_inner();
        let answer = stream.message().await.map_err(said)?;
        Ok((stream, answer.ok_or("it ended without an answer")?))
    }

    /// The first identity of this trust domain counts, as in SPIRE the first of all.
    fn take(&self, answer: X509svidResponse) -> Result<(), String> {
        let own = format!("{}/", self.trust_domain.id_string());
        let svid = answer.svids.into_iter().find(|svid| svid.spiffe_id.starts_with(&own));
        let svid = svid.ok_or_else(|| {
            format!("the Workload API has no X509-SVID in the trust domain {}", self.trust_domain)
        })?;
        let split = |bytes: &[u8]| -> Result<Vec<Arc<[u8]>>, String> {
            let ders = convert::split_der(bytes).map_err(|error| error.to_string())?;
            Ok(ders.into_iter().map(Into::into).collect())
        };
        let key = PrivateKey::from_der(&svid.x509_svid_key).map_err(|error| error.to_string())?;
        let signer = key.signer().map_err(|error| error.to_string())?;
        let identity = TlsIdentity::new(&split(&svid.x509_svid)?, signer)
            .map_err(|error| signet_base::chain(&error))?;
        let mut bundle = Bundle::empty(self.trust_domain.clone());
        let roots = split(&svid.bundle)?.into_iter();
        bundle.x509_authorities = roots.map(|der| X509Authority { der, tainted: false }).collect();
        let bundle = TrustBundle::from_bundle(&bundle).map_err(|error| error.to_string())?;
        self.bundle.0.store(Some(Arc::new(bundle)));
        self.identity.set(identity);
        Ok(())
    }
}
