//! The webhook's certificate, and the bundle in its configuration.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use signet_base::{Backoff, ReadyGuard, SharedClock};
use signet_identity::SpiffeId;
use signet_k8s::{ApiError, ApiServer, Write};
use signet_pki::tls::SwappableIdentity;
use signet_time::UnixTime;
use tokio::sync::watch;

use crate::{
    error_throttle::ApiErrorThrottle,
    metrics::ControllerMetrics,
    server::{Notice, Server, ServerError},
};

/// How long certificates are asked to live, seconds.
const TTL: i32 = 24 * 3600;
/// How often everything is looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// Renews the webhook's certificate, and keeps the trust bundle in its configuration current.
#[derive(Debug)]
pub struct CertificateRotator {
    /// Kubernetes.
    pub api: Arc<ApiServer>,
    /// Who signs.
    pub server: Server,
    /// The name of the ValidatingWebhookConfiguration.
    pub configuration: String,
    /// The webhook's identity.
    pub id: SpiffeId,
    /// Where the certificate goes.
    pub identity: Arc<SwappableIdentity>,
    /// What the server tells: without news a bundle is not fetched again.
    pub notices: watch::Receiver<Option<Notice>>,
    /// Wall-clock time.
    pub clock: SharedClock,
    /// What is measured.
    pub metrics: ControllerMetrics,
    /// Which errors are worth a line of the log.
    pub error_throttle: ApiErrorThrottle,
}

/// Why a round failed.
#[derive(Debug, thiserror::Error)]
enum RotateError {
    #[error("reading or writing ValidatingWebhookConfiguration {name}")]
    Api {
        name: String,
        #[source]
        source: ApiError,
    },
    #[error("asking the server")]
    Server(#[from] ServerError),
}

#[derive(Debug)]
struct Certificate {
    made: UnixTime,
    expires: UnixTime,
    dns_names: Vec<String>,
}

impl CertificateRotator {
    /// Goes on for ever; `ready` is dropped once the webhook can be used.
    pub async fn run(self, ready: ReadyGuard) {
        let mut ready = Some(ready);
        let mut certificate = None;
        let mut bundle: Option<(Option<Notice>, String)> = None;
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        loop {
            match self.round(&mut certificate, &mut bundle).await {
                Ok(()) => {
                    backoff.reset();
                    ready = None;
                    tokio::time::sleep(INTERVAL).await;
                }
                Err(error) => {
                    let delay = backoff.next_delay();
                    let untold = match &error {
                        RotateError::Api { source, .. } => {
                            self.error_throttle.tell("webhook", source)
                        }
                        RotateError::Server(_) => Some(0),
                    };
                    if let Some(untold) = untold {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            retry_ms = delay.as_millis() as u64,
                            usable = ready.is_none(),
                            untold,
                            "The webhook cannot be kept up to date"
                        );
                    }
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    async fn round(
        &self,
        certificate: &mut Option<Certificate>,
        bundle: &mut Option<(Option<Notice>, String)>,
    ) -> Result<(), RotateError> {
        let failed = |source| RotateError::Api { name: self.configuration.clone(), source };
        let path = format!(
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{}",
            self.configuration
        );
        let configuration = self.api.get_object::<Value>(&path).await.map_err(failed)?;

        let dns_names = service_names(&configuration);
        if let Some(reason) = reason(certificate.as_ref(), self.clock.unix(), &dns_names) {
            tracing::info!(reason, ?dns_names, "Asking for a certificate for the webhook");
            let minted = self.server.mint(&self.id, &dns_names, TTL).await?;
            self.metrics.webhook_expiry.set(&[], minted.expires_at.seconds() as f64);
            let made = self.clock.unix();
            *certificate = Some(Certificate { made, expires: minted.expires_at, dns_names });
            self.identity.set(minted.identity);
        }

        let latest = self.notices.borrow().clone();
        let stale = match bundle {
            Some((Some(seen), _)) => latest
                .as_ref()
                .is_none_or(|now| (&now.feed_id, now.bundles) != (&seen.feed_id, seen.bundles)),
            _ => true,
        };
        if stale {
            *bundle = Some((latest, self.server.authorities_pem().await?));
        }
        let Some((_, pem)) = bundle else { return Ok(()) };
        if let Some(patch) = patch(&configuration, &STANDARD.encode(&*pem)) {
            self.api.write(Write::JsonPatch, &path, &patch).await.map_err(failed)?;
            tracing::info!(
                configuration = self.configuration,
                "Wrote the trust bundle into the webhook's configuration"
            );
        }
        Ok(())
    }
}

/// Why a new certificate is needed, if it is.
fn reason(
    certificate: Option<&Certificate>,
    now: UnixTime,
    dns_names: &[String],
) -> Option<&'static str> {
    let Some(certificate) = certificate else { return Some("none yet") };
    if certificate.dns_names != dns_names {
        return Some("the names of its services have changed");
    }
    let lifetime = certificate.expires - certificate.made;
    (certificate.expires - now < lifetime / 2).then_some("it expires soon")
}

/// The names by which the API server calls the webhook.
fn service_names(configuration: &Value) -> Vec<String> {
    let webhooks = configuration.get("webhooks").and_then(Value::as_array);
    let mut names: Vec<String> = webhooks
        .into_iter()
        .flatten()
        .filter_map(|webhook| {
            let service = webhook.pointer("/clientConfig/service")?;
            let name = service.get("name")?.as_str()?;
            let namespace = service.get("namespace")?.as_str()?;
            let named = !(name.is_empty() || namespace.is_empty());
            named.then(|| format!("{name}.{namespace}.svc"))
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// What puts `bundle` into every webhook of the configuration, if it is not there. It applies to
/// the version that was read and to no other.
fn patch(configuration: &Value, bundle: &str) -> Option<Value> {
    let webhooks = configuration.get("webhooks").and_then(Value::as_array)?;
    let mut steps = Vec::new();
    for (at, webhook) in webhooks.iter().enumerate() {
        let now = webhook.pointer("/clientConfig/caBundle").and_then(Value::as_str);
        if now != Some(bundle) {
            let path = format!("/webhooks/{at}/clientConfig/caBundle");
            steps.push(json!({ "op": "add", "path": path, "value": bundle }));
        }
    }
    if steps.is_empty() {
        return None;
    }
    let version = configuration.pointer("/metadata/resourceVersion").cloned();
    let test = json!({
        "op": "test", "path": "/metadata/resourceVersion", "value": version.unwrap_or_default(),
    });
    steps.insert(0, test);
    Some(Value::Array(steps))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration() -> Value {
        let service = |name: &str| json!({"service": {"name": name, "namespace": "spire"}});
        json!({
            "metadata": {"resourceVersion": "7"},
            "webhooks": [
                {"clientConfig": service("b")},
                {"clientConfig": service("a")},
                {"clientConfig": {"url": "https://elsewhere", "caBundle": "eA=="}},
            ],
        })
    }

    #[test]
    fn the_certificate_is_for_the_services_and_is_renewed_in_time() {
        let names = service_names(&configuration());
        assert_eq!(names, ["a.spire.svc", "b.spire.svc"]);
        let certificate = Certificate {
            made: UnixTime::EPOCH,
            expires: UnixTime::from_seconds(1000),
            dns_names: names.clone(),
        };
        assert_eq!(reason(None, UnixTime::EPOCH, &names), Some("none yet"));
        assert_eq!(reason(Some(&certificate), UnixTime::from_seconds(499), &names), None);
        assert_eq!(
            reason(Some(&certificate), UnixTime::from_seconds(501), &names),
            Some("it expires soon")
        );
        assert!(reason(Some(&certificate), UnixTime::from_seconds(1), &names[..1]).is_some());
    }

    #[test]
    fn the_bundle_is_written_where_it_is_missing_and_only_over_what_was_read() {
        let patched = patch(&configuration(), "eA==").unwrap();
        assert_eq!(
            patched[0],
            json!({"op": "test", "path": "/metadata/resourceVersion", "value": "7"})
        );
        assert_eq!(patched.as_array().unwrap().len(), 3);
        assert_eq!(patched[1]["path"], "/webhooks/0/clientConfig/caBundle");
        let mut good = configuration();
        for webhook in good["webhooks"].as_array_mut().unwrap() {
            webhook["clientConfig"]["caBundle"] = json!("eA==");
        }
        assert_eq!(patch(&good, "eA=="), None);
    }
}
