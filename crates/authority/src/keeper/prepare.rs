//! Making the next authority of a kind.

use std::sync::Arc;

use signet_identity::{Bundle, JwtAuthority, SpiffeId, X509Authority};
use signet_pki::{
    Signer,
    jwt::JwtIssuer,
    ports::{PortError, X509CaAttributes},
    random,
    x509::{
        CaIssuer, CaParams, Certificate, CsrParams, SvidParams, TrustBundle, create_csr,
        self_sign_ca, verify_svid,
    },
};

use super::{KEY_DEADLINE, Keeper, within};
use crate::{
    AuthorityError,
    authority::{JwtKey, X509Ca},
    journal::{JwtRecord, Status, X509Record},
    ports::BundleEdit,
    slot::{Held, Slots},
};

/// How long the upstream authority may take.
const UPSTREAM_DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

/// Key usage bits of a certificate, by their number in RFC 5280 4.2.1.3.
const KEY_CERT_SIGN: u16 = 1 << 5;

impl Keeper {
    /// Prepares the next X.509 authority: key, certificate, journal, bundle, in this order.
    pub(crate) async fn prepare_x509(&mut self) -> Result<(), AuthorityError> {
        make_room(&mut self.x509);
        let slot = self.x509.next.id;
        let key_type = self.shared.options.x509_key_type;
        let signer = self.new_key(&slot.x509_key_id(), key_type).await?;
        // The slot's earlier key is gone now.
        forget_prepared(&mut self.x509);
        let now = self.now();
        let (ca, roots) = match self.ports.upstream.clone() {
            Some(upstream) => self.mint(&*upstream, signer, now).await?,
            None => self.self_sign(signer, now).await?,
        };
        let certificate = ca.issuer.certificate().clone();
        let held = Held {
            status: Status::Prepared,
            issued_at: now,
            not_after: certificate.not_after(),
            authority_id: certificate.subject_key_id_hex(),
            upstream_authority_id: certificate.authority_key_id_hex(),
            material: Some(Arc::new(ca)),
        };
        let mut journal = self.journal.clone();
        journal.append_x509(X509Record {
            slot,
            status: Status::Prepared,
            issued_at: held.issued_at,
            not_after: held.not_after,
            authority_id: held.authority_id.clone(),
            upstream_authority_id: held.upstream_authority_id.clone(),
            certificate: certificate.der().to_vec(),
            upstream_chain: held.material.as_ref().map_or_else(Vec::new, |ca| {
                ca.issuer.upstream_chain().iter().map(|der| der.to_vec()).collect()
            }),
        });
        if roots.iter().any(|root| root.tainted) {
            self.check_upstream_soon();
        }
        let append_x509 = roots.into_iter().map(|root| root.der).collect();
        let edit = BundleEdit { append_x509, ..BundleEdit::default() };
        if self.shared.has_upstream {
            // The journal does not know the upstream's roots: after a crash in between they could
            // not be added again, and they are right in the bundle whatever comes of this CA.
            self.edit_bundle(edit).await?;
            self.save_journal(journal).await?;
        } else {
            self.save_journal(journal).await?;
            self.edit_bundle(edit).await?;
        }
        tracing::info!(
            slot = slot.as_str(),
            local_authority_id = held.authority_id,
            upstream_authority_id = held.upstream_authority_id,
            expiration = held.not_after,
            self_signed = self.ports.upstream.is_none(),
            "X509 CA prepared"
        );
        self.x509.next.held = Some(held);
        self.publish();
        Ok(())
    }

    /// Prepares the next JWT authority.
    pub(crate) async fn prepare_jwt(&mut self) -> Result<(), AuthorityError> {
        make_room(&mut self.jwt);
        let slot = self.jwt.next.id;
        let signer = self.new_key(&slot.jwt_key_id(), self.shared.options.jwt_key_type).await?;
        forget_prepared(&mut self.jwt);
        let now = self.now();
        let not_after = now.saturating_add(seconds(self.shared.options.ca_ttl));
        let key_id: Arc<str> = random::key_id()?.into();
        let public_key: Arc<[u8]> = signer.public_key().spki_der().into();
        let issuer = JwtIssuer::new(Arc::clone(&key_id), not_after, signer)
            .map_err(AuthorityError::JwtKey)?;
        let mut journal = self.journal.clone();
        journal.append_jwt(JwtRecord {
            slot,
            status: Status::Prepared,
            issued_at: now,
            not_after,
            key_id: key_id.to_string(),
            public_key: public_key.to_vec(),
        });
        self.save_journal(journal).await?;
        self.publish_jwt_key(JwtAuthority {
            public_key,
            key_id: Arc::clone(&key_id),
            expires_at: not_after,
            tainted: false,
        })
        .await?;
        tracing::info!(
            slot = slot.as_str(),
            local_authority_id = &*key_id,
            expiration = not_after,
            "JWT key prepared"
        );
        self.jwt.next.held = Some(Held {
            status: Status::Prepared,
            issued_at: now,
            not_after,
            authority_id: key_id.to_string(),
            upstream_authority_id: String::new(),
            material: Some(Arc::new(JwtKey { issuer, issued_at: now })),
        });
        self.publish();
        Ok(())
    }

    /// Publishes a JWT key: upstream when that can, and in the bundle in any case.
    pub(crate) async fn publish_jwt_key(
        &mut self,
        key: JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, AuthorityError> {
        let mut keys = vec![key];
        if let (Some(upstream), Some(key)) = (self.ports.upstream.clone(), keys.first()) {
            let published =
                within(UPSTREAM_DEADLINE, "the upstream authority", upstream.publish_jwt_key(key));
            match published.await? {
                Ok(all) => keys = all,
                Err(PortError::Unsupported { name, .. }) => {
                    if !std::mem::replace(&mut self.warned_jwt_upstream, true) {
                        tracing::warn!(
                            plugin = name,
                            "The upstream authority does not publish JWT keys: JWT-SVIDs of this \
                             server verify only with its own bundle"
                        );
                    }
                }
                Err(error) => return Err(AuthorityError::Upstream(error)),
            }
        }
        let edit = BundleEdit { append_jwt: keys, ..BundleEdit::default() };
        Ok(self.edit_bundle(edit).await?.0.jwt_authorities)
    }

    async fn new_key(
        &self,
        id: &str,
        key_type: signet_pki::KeyType,
    ) -> Result<Arc<dyn Signer>, AuthorityError> {
        within(KEY_DEADLINE, "the key manager", self.ports.keys.generate_key(id, key_type))
            .await?
            .map_err(AuthorityError::KeyManager)
    }

    async fn ca_attributes(&self) -> Result<X509CaAttributes, AuthorityError> {
        let mut attributes = X509CaAttributes {
            subject: self.shared.options.ca_subject.clone(),
            extensions: Vec::new(),
        };
        for composer in self.shared.composers().iter() {
            attributes =
                composer.server_x509_ca(attributes).await.map_err(AuthorityError::Composer)?;
        }
        Ok(attributes)
    }

    async fn self_sign(
        &self,
        signer: Arc<dyn Signer>,
        now: i64,
    ) -> Result<(X509Ca, Vec<X509Authority>), AuthorityError> {
        let attributes = self.ca_attributes().await?;
        let params = CaParams {
            trust_domain: self.shared.options.trust_domain.clone(),
            subject: attributes.subject,
            extensions: attributes.extensions,
            now,
            not_after: now.saturating_add(seconds(self.shared.options.ca_ttl)),
        };
        let (issued, signer) =
            on_signer(signer, move |signer| self_sign_ca(signer, &params)).await?;
        let certificate = Certificate::from_der(&issued.map_err(AuthorityError::Certificate)?.der)
            .map_err(AuthorityError::BadCertificate)?;
        let root = X509Authority { der: Arc::clone(certificate.der()), tainted: false };
        let issuer =
            CaIssuer::new(certificate, Vec::new(), signer).map_err(AuthorityError::Certificate)?;
        Ok((X509Ca { issuer, issued_at: now }, vec![root]))
    }

    async fn mint(
        &self,
        upstream: &dyn signet_pki::UpstreamAuthority,
        signer: Arc<dyn Signer>,
        now: i64,
    ) -> Result<(X509Ca, Vec<X509Authority>), AuthorityError> {
        let attributes = self.ca_attributes().await?;
        let trust_domain = self.shared.options.trust_domain.clone();
        let params = CsrParams {
            subject: attributes.subject,
            uri: Some(SpiffeId::of_trust_domain(trust_domain)),
            dns_names: Vec::new(),
            extensions: attributes.extensions,
        };
        let (csr, signer) = on_signer(signer, move |signer| create_csr(&params, signer)).await?;
        let csr = csr.map_err(AuthorityError::Csr)?;
        let minting = upstream.mint_x509_ca(&csr, self.shared.options.ca_ttl);
        let minted = within(UPSTREAM_DEADLINE, "the upstream authority", minting)
            .await?
            .map_err(AuthorityError::Upstream)?;
        let Some(leaf) = minted.chain.first() else {
            return Err(AuthorityError::InvalidUpstreamCa("it has no certificate".to_owned()));
        };
        let certificate = Certificate::from_der(leaf).map_err(AuthorityError::BadCertificate)?;
        let issuer = CaIssuer::new(certificate, minted.chain.clone(), signer)
            .map_err(AuthorityError::Certificate)?;
        let ca = X509Ca { issuer, issued_at: now };
        self.check_minted(&ca, &minted.upstream_roots, now)
            .map_err(AuthorityError::InvalidUpstreamCa)?;
        Ok((ca, minted.upstream_roots))
    }

    /// Whether a minted CA can do its work: an SVID that it signs must verify to the roots.
    fn check_minted(&self, ca: &X509Ca, roots: &[X509Authority], now: i64) -> Result<(), String> {
        let certificate = ca.issuer.certificate();
        let trust_domain = &self.shared.options.trust_domain;
        if !certificate.is_ca() {
            return Err("cA constraint is not set".to_owned());
        }
        if certificate.key_usage().is_some_and(|usage| usage & KEY_CERT_SIGN == 0) {
            return Err("keyCertSign key usage must be set".to_owned());
        }
        match certificate.spiffe_id() {
            Ok(id) if id.path().is_empty() && id.is_member_of(trust_domain) => {}
            Ok(id) => return Err(format!("it is for {id}, expected {}", trust_domain.id_string())),
            Err(error) => return Err(error.to_string()),
        }
        let id = SpiffeId::server(trust_domain.clone());
        let issued = ca
            .issuer
            .issue_svid(&SvidParams {
                spiffe_id: &id,
                public_key: ca.issuer.signer().public_key(),
                dns_names: &[],
                subject: None,
                extensions: &[],
                now,
                not_after: now.saturating_add(60),
            })
            .map_err(|error| error.to_string())?;
        let mut chain: Vec<&[u8]> = vec![&issued.der];
        chain.extend(ca.issuer.upstream_chain().iter().map(|der| &**der));
        let mut bundle = Bundle::empty(trust_domain.clone());
        bundle.x509_authorities = roots.to_vec();
        let bundle = TrustBundle::from_bundle(&bundle).map_err(|error| error.to_string())?;
        verify_svid(&chain, &bundle, now).map(drop).map_err(|error| {
            format!("an SVID that it signs does not verify to the upstream roots: {error}")
        })
    }
}

/// Puts the empty slot (if only one is in use) where the next authority goes.
fn make_room<T>(slots: &mut Slots<T>) {
    if slots.current.held.is_none() {
        std::mem::swap(&mut slots.current, &mut slots.next);
    }
}

/// A prepared authority whose key was just replaced can never sign.
fn forget_prepared<T>(slots: &mut Slots<T>) {
    if slots.next.held.as_ref().is_some_and(|held| held.status == Status::Prepared) {
        slots.next.held = None;
    }
}

/// Runs something that signs: on a blocking thread when the signer may block.
async fn on_signer<T: Send + 'static>(
    signer: Arc<dyn Signer>,
    sign: impl FnOnce(&dyn Signer) -> T + Send + 'static,
) -> Result<(T, Arc<dyn Signer>), AuthorityError> {
    if !signer.may_block() {
        return Ok((sign(&*signer), signer));
    }
    tokio::task::spawn_blocking(move || (sign(&*signer), signer))
        .await
        .map_err(|_| AuthorityError::Stopped)
}

pub(crate) fn seconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
