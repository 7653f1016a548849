//! Making the local intermediate and the next ones: see [`LocalIntermediate`].

use std::{sync::Arc, time::Duration};

use signet_identity::Bundle;
use signet_pki::{
    ManagedKey, PrivateKey,
    x509::{Ca, CaParams, Certificate},
};
use signet_time::UnixTime;

use crate::{
    AuthorityError,
    context::{Chain, Context},
    kind::{ca_attributes, check_ca},
    local::LocalIntermediate,
    material::X509Ca,
};

impl Context {
    /// Makes the local intermediate, or the next one, where one is wanted and it is time. What
    /// fails is logged, and tried again at the next look; an authority that may sign no other CA
    /// is not asked again.
    pub(super) async fn renew_intermediate(&mut self) {
        let Some(life) = self.shared.options.local_intermediate else { return };
        let Some(active) = self.shared.x509.load_full() else { return };
        // A key in this process signs as fast itself.
        if active.key.in_memory().is_some() {
            return;
        }
        let now = self.now();
        let held = self.shared.intermediate.load_full();
        if held.is_some_and(|held| !held.is_due(&active, now)) {
            return;
        }
        let id = active.ca.certificate().subject_key_id_hex();
        if self.no_intermediate_under.as_ref() == Some(&id) {
            return;
        }
        let bundle = match self.read_bundle().await {
            Ok(bundle) => bundle,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "The local intermediate is not renewed yet");
                return;
            }
        };
        match self.make_intermediate(&active, life, now, &bundle).await {
            Ok(ca) => {
                tracing::info!(
                    local_authority_id = id,
                    expiration = ca.ca.certificate().not_after().seconds(),
                    "Local intermediate made"
                );
                let local = LocalIntermediate::new(active, ca);
                self.shared.intermediate.store(Some(Arc::new(local)));
            }
            Err(AuthorityError::InvalidUpstreamCa(why)) => {
                tracing::warn!(
                    local_authority_id = id,
                    why,
                    "The active X.509 CA cannot have a local intermediate under it: it signs itself"
                );
                self.no_intermediate_under = Some(id);
            }
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "Could not renew the local intermediate");
            }
        }
    }

    async fn make_intermediate(
        &self,
        active: &Arc<X509Ca>,
        life: Duration,
        now: UnixTime,
        bundle: &Bundle,
    ) -> Result<X509Ca, AuthorityError> {
        let options = &self.shared.options;
        let key_type = options.x509_key_type;
        let made = tokio::task::spawn_blocking(move || {
            PrivateKey::generate(key_type).map(|key| key.signer())
        });
        // The task is neither cancelled nor does it panic.
        let made = made.await.map_err(|_| AuthorityError::Stopped)?;
        let made = made.map_err(|error| AuthorityError::KeyManager(error.into()))?;
        let signer = made.map_err(AuthorityError::NewKey)?;
        let key: ManagedKey = signer.into();
        let attributes = ca_attributes(self).await?;
        let params = CaParams {
            trust_domain: options.trust_domain.clone(),
            subject: attributes.subject,
            extensions: attributes.extensions,
            now,
            not_after: now + life,
        };
        let unsigned = active.ca.downstream_ca(key.public_key(), &params);
        let unsigned = unsigned.map_err(AuthorityError::Certificate)?;
        let issued = unsigned.sign_with(&active.key).await.map_err(AuthorityError::Certificate)?;
        let certificate =
            Certificate::from_der(&issued.der).map_err(AuthorityError::BadCertificate)?;
        let mut chain = vec![Arc::clone(certificate.der())];
        chain.extend(active.ca.upstream_chain().iter().cloned());
        let ca = Ca::new(certificate, chain, key.public_key());
        let ca = X509Ca { ca: ca.map_err(AuthorityError::Certificate)?, key, issued_at: now };
        check_ca(self, &ca, &bundle.x509_authorities, now)
            .await
            .map_err(AuthorityError::InvalidUpstreamCa)?;
        Ok(ca)
    }
}
