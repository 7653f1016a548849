//! Recovering the authorities at start.

use std::sync::Arc;

use signet_identity::{Bundle, JwtAuthority};
use signet_pki::{
    Signer,
    jwt::JwtIssuer,
    x509::{CaIssuer, Certificate},
};

use super::{KEY_DEADLINE, Keeper, STORE_DEADLINE, within};
use crate::{
    AuthorityError,
    authority::{JwtKey, X509Ca},
    journal::{Journal, JwtRecord, Status, X509Record},
    ports::BundleEdit,
    slot::{Held, Slots},
};

impl Keeper {
    /// Reads the journal and takes up every authority whose key the key manager still has.
    ///
    /// An authority that was active or old but is missing from the bundle is not taken up: nobody
    /// could verify what it signs (the store was restored from a backup, or it was revoked). A
    /// prepared one is put into the bundle (again), because the server may have ended between
    /// journal and bundle.
    pub(super) async fn recover(&mut self) -> Result<(), AuthorityError> {
        let data = within(STORE_DEADLINE, "the CA journal", self.ports.journal.load())
            .await?
            .map_err(AuthorityError::JournalStore)?;
        let Some(data) = data else { return Ok(()) };
        self.journal = Journal::decode(&data)?;
        tracing::info!(
            x509_cas = self.journal.x509.len(),
            jwt_keys = self.journal.jwt.len(),
            "Journal loaded"
        );
        let bundle = self.read_bundle().await?;
        let bundle =
            bundle.unwrap_or_else(|| Bundle::empty(self.shared.options.trust_domain.clone()));
        self.recover_x509(&bundle).await?;
        if !self.shared.options.jwt_disabled {
            self.recover_jwt(&bundle).await?;
        }
        Ok(())
    }

    async fn recover_x509(&mut self, bundle: &Bundle) -> Result<(), AuthorityError> {
        let (mut active, mut other) = (None, None);
        let mut append_x509: Vec<Arc<[u8]>> = Vec::new();
        for record in self.journal.x509.iter().rev() {
            let in_bundle = bundle.x509_authorities.iter().any(|a| *a.der == *record.certificate);
            let must_be_in_bundle = self.ports.upstream.is_none();
            if must_be_in_bundle && !in_bundle && record.status != Status::Prepared {
                tracing::warn!(
                    local_authority_id = record.authority_id,
                    "X509CA slot unusable: it is not in the trust bundle"
                );
                continue;
            }
            let Some(held) = self.load_x509(record).await? else { continue };
            let place = match record.status {
                Status::Active => &mut active,
                Status::Old | Status::Prepared => &mut other,
            };
            if place.is_none() {
                if must_be_in_bundle && !in_bundle {
                    append_x509.push(record.certificate.clone().into());
                }
                *place = Some((record.slot, held));
            }
        }
        if !append_x509.is_empty() {
            self.edit_bundle(BundleEdit { append_x509, ..BundleEdit::default() }).await?;
        }
        self.x509 = Slots::recovered(active, other);
        Ok(())
    }

    async fn recover_jwt(&mut self, bundle: &Bundle) -> Result<(), AuthorityError> {
        let (mut active, mut other) = (None, None);
        let mut missing = Vec::new();
        for record in self.journal.jwt.iter().rev() {
            let in_bundle = bundle.jwt_authorities.iter().any(|a| *a.key_id == *record.key_id);
            if !in_bundle && record.status != Status::Prepared {
                tracing::warn!(
                    local_authority_id = record.key_id,
                    "JWT key slot unusable: it is not in the trust bundle"
                );
                continue;
            }
            let Some(held) = self.load_jwt(record).await? else { continue };
            let place = match record.status {
                Status::Active => &mut active,
                Status::Old | Status::Prepared => &mut other,
            };
            if place.is_none() {
                if !in_bundle {
                    missing.push(JwtAuthority {
                        public_key: record.public_key.clone().into(),
                        key_id: record.key_id.as_str().into(),
                        expires_at: record.not_after,
                        tainted: false,
                    });
                }
                *place = Some((record.slot, held));
            }
        }
        for key in missing {
            self.publish_jwt_key(key).await?;
        }
        self.jwt = Slots::recovered(active, other);
        Ok(())
    }

    async fn load_x509(&self, record: &X509Record) -> Result<Option<Held<X509Ca>>, AuthorityError> {
        let unusable = |why: &str| {
            tracing::debug!(
                slot = record.slot.as_str(),
                local_authority_id = record.authority_id,
                why,
                "X509CA slot unusable"
            );
        };
        if record.not_after <= self.now() {
            unusable("it expired");
            return Ok(None);
        }
        let certificate =
            Certificate::from_der(&record.certificate).map_err(AuthorityError::BadCertificate)?;
        let Some(signer) = self.find_key(&record.slot.x509_key_id()).await? else {
            unusable("its key is not in the key manager");
            return Ok(None);
        };
        if certificate.public_key().ok() != Some(signer.public_key()) {
            unusable("its key was replaced in the key manager");
            return Ok(None);
        }
        let chain = record.upstream_chain.iter().map(|der| der.as_slice().into()).collect();
        let issuer =
            CaIssuer::new(certificate, chain, signer).map_err(AuthorityError::Certificate)?;
        Ok(Some(Held {
            status: record.status,
            issued_at: record.issued_at,
            not_after: record.not_after,
            authority_id: record.authority_id.clone(),
            upstream_authority_id: record.upstream_authority_id.clone(),
            material: (record.status != Status::Old)
                .then(|| Arc::new(X509Ca { issuer, issued_at: record.issued_at })),
        }))
    }

    async fn load_jwt(&self, record: &JwtRecord) -> Result<Option<Held<JwtKey>>, AuthorityError> {
        let unusable = |why: &str| {
            tracing::debug!(
                slot = record.slot.as_str(),
                local_authority_id = record.key_id,
                why,
                "JWT key slot unusable"
            );
        };
        if record.not_after <= self.now() {
            unusable("it expired");
            return Ok(None);
        }
        let Some(signer) = self.find_key(&record.slot.jwt_key_id()).await? else {
            unusable("its key is not in the key manager");
            return Ok(None);
        };
        if signer.public_key().spki_der() != record.public_key {
            unusable("its key was replaced in the key manager");
            return Ok(None);
        }
        let issuer = JwtIssuer::new(record.key_id.as_str(), record.not_after, signer)
            .map_err(AuthorityError::JwtKey)?;
        Ok(Some(Held {
            status: record.status,
            issued_at: record.issued_at,
            not_after: record.not_after,
            authority_id: record.key_id.clone(),
            upstream_authority_id: String::new(),
            material: (record.status != Status::Old)
                .then(|| Arc::new(JwtKey { issuer, issued_at: record.issued_at })),
        }))
    }

    async fn find_key(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, AuthorityError> {
        within(KEY_DEADLINE, "the key manager", self.ports.keys.get_key(id))
            .await?
            .map_err(AuthorityError::KeyManager)
    }
}
