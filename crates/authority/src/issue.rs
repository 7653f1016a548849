//! Issuing: what the active authorities sign, from memory and without a lock.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use signet_identity::{SpiffeId, tenant::TENANT_CLAIM};
use signet_pki::{
    PublicKey,
    jwt::JwtClaims,
    ports::{X509CaAttributes, X509SvidAttributes},
    wit::{ProofAlgorithm, WitClaims},
    x509::{CaParams, Issued, Name, Serial, SvidParams},
};
use signet_time::UnixTime;

use crate::{
    Authority, IssueError,
    context::composing,
    material::{JwtKey, X509Ca},
    timing,
};

const X509: &str = "X509 CA";
const JWT: &str = "JWT key";
const SECOND_JWT: &str = "second JWT key";
const WIT: &str = "WIT key";

/// An X.509-SVID or CA certificate with what is sent along.
#[derive(Clone, Debug)]
pub struct X509Svid {
    /// DER certificates, leaf first; the root is not among them.
    pub chain: Vec<Arc<[u8]>>,
    /// The serial number, decimal.
    pub serial_number: String,
    /// When it expires, Unix seconds.
    pub not_after: UnixTime,
}

/// A JWT-SVID. The token is a secret: it prints as `(..)`.
pub type JwtSvid = signet_pki::jwt::SignedJwt;

/// What a workload's X.509-SVID is to say.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadX509Params<'a> {
    /// Whom it names.
    pub spiffe_id: &'a SpiffeId,
    /// The key it certifies.
    pub public_key: &'a PublicKey,
    /// Its life; `None` or zero for the default.
    pub ttl: Option<Duration>,
    /// DNS names; the first also becomes the common name.
    pub dns_names: &'a [String],
    /// The subject, when the asker chose one.
    pub subject: Option<&'a Name>,
}

/// What a JWT-SVID is to say.
#[derive(Clone, Copy, Debug)]
pub struct JwtSvidParams<'a> {
    /// Whom it names.
    pub spiffe_id: &'a SpiffeId,
    /// For whom it is, at least one; empty texts are dropped.
    pub audience: &'a [String],
    /// Its life; `None` or zero for the default.
    pub ttl: Option<Duration>,
    /// Whether it carries a random `jti`.
    pub include_jti: bool,
    /// The claim `tenant`: whose the identity is. Composers cannot change it.
    pub tenant: Option<&'a str>,
}

/// What a WIT-SVID is to say.
#[derive(Clone, Copy, Debug)]
pub struct WitSvidParams<'a> {
    /// Whom it names.
    pub spiffe_id: &'a SpiffeId,
    /// The key that it binds.
    pub public_key: &'a PublicKey,
    /// How that key signs proofs.
    pub algorithm: ProofAlgorithm,
    /// Its life; `None` or zero for the default.
    pub ttl: Option<Duration>,
}

impl Authority {
    /// Signs a workload's X.509-SVID.
    ///
    /// # Errors
    /// [`IssueError`], as for everything here.
    pub async fn sign_workload_x509(
        &self,
        params: WorkloadX509Params<'_>,
    ) -> Result<X509Svid, IssueError> {
        let WorkloadX509Params { spiffe_id, public_key, ttl, dns_names, subject } = params;
        let default_ttl = self.shared.options.x509_svid_ttl;
        let composers = self.shared.composers();
        if composers.is_empty() {
            let svid = Svid { spiffe_id, public_key, ttl, default_ttl, serial: None };
            // Without a subject of its own an SVID has the default one, made once.
            let Some(subject) = subject.filter(|subject| !subject.is_empty()) else {
                return self.sign_svid(svid, None, dns_names, &[]).await;
            };
            let subject = with_common_name(subject.clone(), dns_names);
            return self.sign_svid(svid, Some(&subject), dns_names, &[]).await;
        }
        let mut attributes = svid_attributes(subject, dns_names);
        for composer in composers.iter() {
            let composed = composer.workload_x509_svid(spiffe_id, public_key, attributes);
            attributes =
                composing(composer.name(), composed).await.map_err(IssueError::Composer)?;
        }
        self.sign_composed(
            Svid { spiffe_id, public_key, ttl, default_ttl, serial: None },
            attributes,
        )
        .await
    }

    /// Signs an agent's X.509-SVID, with this serial number or a random one.
    ///
    /// # Errors
    /// [`IssueError`] when no authority of the kind is active or valid now, the ID is of a foreign
    /// trust domain, a credential composer fails, or signing fails.
    pub async fn sign_agent_x509(
        &self,
        spiffe_id: &SpiffeId,
        public_key: &PublicKey,
        serial: Option<Serial>,
    ) -> Result<X509Svid, IssueError> {
        let mut attributes = svid_attributes(None, &[]);
        for composer in self.shared.composers().iter() {
            let composed = composer.agent_x509_svid(spiffe_id, public_key, attributes);
            attributes =
                composing(composer.name(), composed).await.map_err(IssueError::Composer)?;
        }
        let default_ttl = self.shared.options.agent_ttl;
        let svid = Svid { spiffe_id, public_key, ttl: None, default_ttl, serial };
        self.sign_composed(svid, attributes).await
    }

    /// Signs the server's own X.509-SVID, `spiffe://<td>/spire/server`.
    ///
    /// # Errors
    /// [`IssueError`] when no authority of the kind is active or valid now, the ID is of a foreign
    /// trust domain, a credential composer fails, or signing fails.
    pub async fn sign_server_x509(&self, public_key: &PublicKey) -> Result<X509Svid, IssueError> {
        let mut attributes = svid_attributes(None, &[]);
        for composer in self.shared.composers().iter() {
            let composed = composer.server_x509_svid(attributes);
            attributes =
                composing(composer.name(), composed).await.map_err(IssueError::Composer)?;
        }
        let spiffe_id = SpiffeId::server(self.shared.options.trust_domain.clone());
        let default_ttl = self.shared.options.x509_svid_ttl;
        let svid = Svid { spiffe_id: &spiffe_id, public_key, ttl: None, default_ttl, serial: None };
        self.sign_composed(svid, attributes).await
    }

    /// Signs the CA certificate of a downstream server; `ttl` is its wish.
    ///
    /// # Errors
    /// [`IssueError`] when no authority of the kind is active or valid now, the ID is of a foreign
    /// trust domain, a credential composer fails, or signing fails.
    pub async fn sign_downstream_x509_ca(
        &self,
        public_key: &PublicKey,
        ttl: Option<Duration>,
    ) -> Result<X509Svid, IssueError> {
        let ca = self.x509_ca()?;
        let depth = ca.ca.upstream_chain().len().max(1);
        let subject = Name {
            organizational_unit: vec![format!("DOWNSTREAM-{depth}")],
            ..ca.ca.certificate().subject().clone()
        };
        let mut attributes = X509CaAttributes { subject, extensions: Vec::new() };
        for composer in self.shared.composers().iter() {
            let composed = composer.server_x509_ca(attributes);
            attributes =
                composing(composer.name(), composed).await.map_err(IssueError::Composer)?;
        }
        let now = self.shared.clock.unix();
        let ttl = ttl.filter(|ttl| !ttl.is_zero()).unwrap_or(self.shared.options.ca_ttl);
        let params = CaParams {
            trust_domain: self.shared.options.trust_domain.clone(),
            subject: attributes.subject,
            extensions: attributes.extensions,
            now,
            not_after: now + ttl,
        };
        let issued = ca.ca.downstream_ca(public_key, &params)?.sign_with(&ca.key).await?;
        Ok(self.noted(with_chain(&ca, issued)))
    }

    /// Signs a JWT-SVID, by the second key if its audience wants that; one key never stands in for
    /// the other.
    ///
    /// # Errors
    /// [`IssueError`] when the audiences want different keys, no authority of the kind is active or valid now, the ID is of a foreign
    /// trust domain, a credential composer fails, or signing fails.
    pub async fn sign_jwt_svid(&self, params: JwtSvidParams<'_>) -> Result<JwtSvid, IssueError> {
        if self.shared.options.jwt_disabled {
            return Err(IssueError::JwtDisabled);
        }
        self.must_be_member(params.spiffe_id)?;
        let key = self.jwt_key_for(params.audience)?;
        let now = self.shared.clock.unix();
        let ttl = params.ttl.filter(|ttl| !ttl.is_zero());
        let ttl = ttl.unwrap_or(self.shared.options.jwt_svid_ttl);
        let some_are_empty = params.audience.iter().any(String::is_empty);
        let kept: Vec<String>;
        let audience = if some_are_empty {
            kept = params.audience.iter().filter(|a| !a.is_empty()).cloned().collect();
            &kept
        } else {
            params.audience
        };
        let claims = JwtClaims {
            spiffe_id: params.spiffe_id,
            audience,
            issued_at: now,
            expires_at: (now + ttl).min(key.header.expires_at()),
            issuer: self.shared.options.jwt_issuer.as_deref(),
            jti: params.include_jti,
        };
        // A composer may say less, and not more.
        self.shared.issued_until.fetch_max(claims.expires_at.seconds(), Ordering::Relaxed);
        let composers = self.shared.composers();
        if composers.is_empty() && params.tenant.is_none() {
            return Ok(key.header.token(&claims)?.sign_with(&key.key).await?);
        }
        let mut claims = key.header.claims(&claims)?;
        for composer in composers.iter() {
            let composed = composer.workload_jwt_svid(params.spiffe_id, claims);
            claims = composing(composer.name(), composed).await.map_err(IssueError::Composer)?;
        }
        if let Some(tenant) = params.tenant {
            claims.insert(TENANT_CLAIM.to_owned(), tenant.into());
        }
        Ok(key.header.token_of(&claims)?.sign_with(&key.key).await?)
    }

    /// Signs a WIT-SVID. Composers have no part in it, as in SPIRE.
    ///
    /// # Errors
    /// [`IssueError`] when no authority of the kind is active or valid now, the ID is of a foreign
    /// trust domain, a credential composer fails, or signing fails.
    pub async fn sign_wit_svid(&self, params: WitSvidParams<'_>) -> Result<JwtSvid, IssueError> {
        let options = self.shared.options.wit.as_ref().ok_or(IssueError::WitDisabled)?;
        self.must_be_member(params.spiffe_id)?;
        let key = self.wit_key()?;
        let now = self.shared.clock.unix();
        let ttl = params.ttl.filter(|ttl| !ttl.is_zero()).unwrap_or(options.svid_ttl);
        let claims = WitClaims {
            spiffe_id: params.spiffe_id,
            key: params.public_key,
            algorithm: params.algorithm,
            issued_at: now,
            expires_at: (now + ttl).min(key.header.expires_at()),
            issuer: options.issuer.as_deref(),
        };
        self.shared.issued_until.fetch_max(claims.expires_at.seconds(), Ordering::Relaxed);
        Ok(key.header.token_of(&claims.to_map()?)?.sign_with(&key.key).await?)
    }

    async fn sign_composed(
        &self,
        svid: Svid<'_>,
        attributes: X509SvidAttributes,
    ) -> Result<X509Svid, IssueError> {
        let X509SvidAttributes { subject, dns_names, extensions } = attributes;
        self.sign_svid(svid, Some(&subject), &dns_names, &extensions).await
    }

    async fn sign_svid(
        &self,
        svid: Svid<'_>,
        subject: Option<&Name>,
        dns_names: &[String],
        extensions: &[signet_pki::x509::Extension],
    ) -> Result<X509Svid, IssueError> {
        self.must_be_member(svid.spiffe_id)?;
        let ca = self.shared.issuer_under(self.x509_ca()?);
        let now = self.shared.clock.unix();
        let ttl = svid.ttl.filter(|ttl| !ttl.is_zero()).unwrap_or(svid.default_ttl);
        let not_after = now + ttl;
        let params = SvidParams {
            spiffe_id: svid.spiffe_id,
            public_key: svid.public_key,
            dns_names,
            subject,
            extensions,
            now,
            not_after,
        };
        let unsigned = match svid.serial {
            Some(serial) => ca.ca.numbered_svid(&params, serial)?,
            None => ca.ca.svid(&params)?,
        };
        let issued = unsigned.sign_with(&ca.key).await?;
        Ok(self.noted(with_chain(&ca, issued)))
    }

    /// Remembers how long the authorities of this server are needed.
    fn noted(&self, svid: X509Svid) -> X509Svid {
        self.shared.issued_until.fetch_max(svid.not_after.seconds(), Ordering::Relaxed);
        svid
    }

    fn must_be_member(&self, id: &SpiffeId) -> Result<(), IssueError> {
        if id.is_member_of(&self.shared.options.trust_domain) {
            return Ok(());
        }
        Err(IssueError::Foreign(id.clone()))
    }

    fn x509_ca(&self) -> Result<Arc<X509Ca>, IssueError> {
        let ca = self.shared.x509.load_full().ok_or(IssueError::NotAvailable(X509))?;
        self.must_be_valid(X509, ca.issued_at, ca.ca.certificate().not_after())?;
        Ok(ca)
    }

    /// The key that signs for these audiences.
    fn jwt_key_for(&self, audience: &[String]) -> Result<Arc<JwtKey>, IssueError> {
        let (current, what) = match self.wants_second_key(audience)? {
            true => (&self.shared.second_jwt, SECOND_JWT),
            false => (&self.shared.jwt, JWT),
        };
        let key = current.load_full().ok_or(IssueError::NotAvailable(what))?;
        self.must_be_valid(what, key.issued_at, key.header.expires_at())?;
        Ok(key)
    }

    fn wants_second_key(&self, audience: &[String]) -> Result<bool, IssueError> {
        let Some(second) = &self.shared.options.second_jwt else { return Ok(false) };
        let is_listed = |one: &&String| second.audiences.iter().any(|pattern| pattern.matches(one));
        let mut named = audience.iter().filter(|one| !one.is_empty());
        let listed = named.clone().find(is_listed);
        match (listed, named.find(|one| !is_listed(one))) {
            (Some(second), Some(first)) => Err(IssueError::MixedAudiences {
                first: format!("{first:?}"),
                second: format!("{second:?}"),
            }),
            (listed, _) => Ok(listed.is_some()),
        }
    }

    fn wit_key(&self) -> Result<Arc<JwtKey>, IssueError> {
        let key = self.shared.wit.load_full().ok_or(IssueError::NotAvailable(WIT))?;
        self.must_be_valid(WIT, key.issued_at, key.header.expires_at())?;
        Ok(key)
    }

    /// Refuses to sign with what nobody would accept, and has the CA manager look at once: after a
    /// jump of the clock the next call finds a fresh authority.
    fn must_be_valid(
        &self,
        what: &'static str,
        issued_at: UnixTime,
        not_after: UnixTime,
    ) -> Result<(), IssueError> {
        let now = self.shared.clock.unix();
        if now < not_after && issued_at <= now + timing::BACKWARD_TOLERANCE {
            return Ok(());
        }
        self.shared.wake.notify_one();
        Err(IssueError::NotValidNow(what))
    }
}

struct Svid<'a> {
    spiffe_id: &'a SpiffeId,
    public_key: &'a PublicKey,
    ttl: Option<Duration>,
    default_ttl: Duration,
    /// Random unless it is given.
    serial: Option<Serial>,
}

fn svid_attributes(subject: Option<&Name>, dns_names: &[String]) -> X509SvidAttributes {
    let subject = subject.filter(|name| !name.is_empty()).cloned();
    let subject = with_common_name(subject.unwrap_or_else(Name::spire_svid), dns_names);
    X509SvidAttributes { subject, dns_names: dns_names.to_vec(), extensions: Vec::new() }
}

/// SPIRE: the first DNS name is the common name, even over a subject that was asked for; only a
/// composer may say otherwise.
fn with_common_name(mut subject: Name, dns_names: &[String]) -> Name {
    if let Some(first) = dns_names.first() {
        subject.common_name.clone_from(first);
    }
    subject
}

fn with_chain(ca: &X509Ca, issued: Issued) -> X509Svid {
    let mut chain: Vec<Arc<[u8]>> = Vec::with_capacity(1 + ca.ca.upstream_chain().len());
    chain.push(issued.der.into());
    chain.extend(ca.ca.upstream_chain().iter().cloned());
    X509Svid { chain, serial_number: issued.serial.to_string(), not_after: issued.not_after }
}
