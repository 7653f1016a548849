//! Who is asking: evidence becomes a [`Caller`], or a reason why it does not.

mod replay;
mod wit;

use serde_json::{Map, Value};
use signet_identity::{SpiffeId, TrustDomain};
use signet_pki::{
    digest,
    jwt::{self, JwtBundle, JwtError},
    x509::Certificate,
};
use signet_time::UnixTime;

pub use self::{
    replay::Replays,
    wit::{Proofs, Proven, WitBundles},
};
use crate::{
    policy::Subject,
    reason::{Denial, Reason},
};

/// How far clocks may differ, seconds: less than for other tokens, since these open secrets.
const LEEWAY: i64 = 5;
/// Servers date certificates back by this much, seconds, for clocks that are behind.
const BACKDATE: i64 = 10;
/// The claim that names the tenant.
pub const TENANT_CLAIM: &str = "tenant";

/// An identity that was proven.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The identity.
    pub id: SpiffeId,
    /// The tenant that the token names.
    pub tenant: Option<String>,
    /// The claims of the token; `None` for a certificate alone.
    pub claims: Option<Map<String, Value>>,
    /// How it was proven: `x509`, `jwt`, `wit`, or `socket` for a token that the agent gave for a
    /// process.
    pub via: &'static str,
    /// When the evidence was issued, Unix seconds, as late as it can have been.
    pub issued_at: UnixTime,
}

/// What is asked of tokens.
#[derive(Clone, Debug)]
pub struct TokenRules {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// `iss`, byte for byte; `None` when tokens of this trust domain have none.
    pub issuer: Option<String>,
    /// The one audience.
    pub audience: String,
    /// The longest life, seconds.
    pub max_lifetime: i64,
    /// How often one token may be used.
    pub max_uses: u32,
}

impl Caller {
    /// What the policy decides about.
    pub fn subject(&self) -> Subject<'_> {
        Subject { id: &self.id, tenant: self.tenant.as_deref(), claims: self.claims.as_ref() }
    }

    /// The caller that the certificate of a connection proves. The handshake has verified chain and
    /// possession; what may have changed since is looked at here.
    ///
    /// # Errors
    /// [`Denial`] when the caller is not whom the policy knows, or what it shows is expired, forged
    /// or of another trust domain; its reason says which.
    pub fn from_certificate(
        trust_domain: &TrustDomain,
        id: &SpiffeId,
        leaf: &Certificate,
        now: UnixTime,
    ) -> Result<Self, Denial> {
        check_id(trust_domain, id)?;
        if now > leaf.not_after() {
            let text = "the certificate has expired since the connection was made";
            return Err(Denial::new(Reason::CertificateExpired, text));
        }
        Ok(Self {
            id: id.clone(),
            tenant: None,
            claims: None,
            via: "x509",
            issued_at: leaf.not_before() + BACKDATE,
        })
    }

    /// The caller that a token proves. It is not yet marked as used: see [`Replays::take`].
    ///
    /// # Errors
    /// [`Denial`] when the caller is not whom the policy knows, or what it shows is expired, forged
    /// or of another trust domain; its reason says which.
    pub fn from_token<'a>(
        rules: &TokenRules,
        token: &str,
        now: UnixTime,
        bundles: impl FnOnce(&TrustDomain) -> Option<&'a JwtBundle>,
    ) -> Result<Self, Denial> {
        let audience = [rules.audience.clone()];
        let valid = jwt::validate(token, &audience, now, bundles).map_err(denial)?;
        check_id(&rules.trust_domain, &valid.id)?;
        let claim = |name: &str| valid.claims.get(name);
        match (claim("iss"), &rules.issuer) {
            (None, None) => {}
            (Some(Value::String(found)), Some(issuer)) if found == issuer => {}
            (None, Some(_)) => {
                return Err(Denial::new(Reason::IssuerMissing, "the token has no iss"));
            }
            (Some(_), Some(issuer)) => {
                return Err(Denial::new(Reason::Issuer, format!("iss is not {issuer:?}")));
            }
            (Some(_), None) => {
                let text = "the token has an iss, and the broker's jwt_issuer is not set";
                return Err(Denial::new(Reason::Issuer, text));
            }
        }
        if valid.audience.len() != 1 {
            let text = "the token is for others as well: they could use it here";
            return Err(Denial::new(Reason::Audience, text));
        }
        if now > valid.expires_at + LEEWAY {
            return Err(Denial::new(Reason::TokenExpired, "the token has expired"));
        }
        let issued_at = issued_at("token", &valid.claims, now)?;
        let not_before = jwt::numeric_date(&valid.claims, "nbf").ok().flatten();
        if not_before.is_some_and(|from| from > now + LEEWAY) {
            return Err(Denial::new(Reason::TokenNotYetValid, "nbf is in the future"));
        }
        if valid.expires_at - issued_at > rules.max_lifetime {
            let text = format!("the token lives longer than {} s", rules.max_lifetime);
            return Err(Denial::new(Reason::LifetimeTooLong, text));
        }
        let tenant = tenant_claim(&valid.claims)?;
        Ok(Self { id: valid.id, tenant, claims: Some(valid.claims), via: "jwt", issued_at })
    }

    /// One caller of two pieces of evidence: both have to name the same identity.
    ///
    /// # Errors
    /// [`Denial`] when they do not.
    pub fn both(certificate: &Self, token: Self) -> Result<Self, Denial> {
        if certificate.id != token.id {
            let text = format!("the certificate names {}, the token another", certificate.id);
            return Err(Denial::new(Reason::EvidenceDisagrees, text));
        }
        Ok(Self { issued_at: certificate.issued_at.min(token.issued_at), ..token })
    }

    /// What names the token, for [`Replays::take`]: its `jti`, or its digest where it need not
    /// have one.
    ///
    /// # Errors
    /// [`Denial`] when it must have one.
    pub fn token_id(&self, token: &str, required: bool) -> Result<(String, UnixTime), Denial> {
        let claims = self.claims.as_ref();
        let claim = |name: &str| claims.and_then(|claims| claims.get(name));
        let expires = claims.and_then(|claims| jwt::numeric_date(claims, "exp").ok().flatten());
        let expires = expires.unwrap_or(UnixTime::MAX);
        match claim("jti").and_then(Value::as_str).filter(|jti| !jti.is_empty()) {
            // The ID is unique for its issuer and subject at most.
            Some(jti) => Ok((format!("{} {jti}", self.id), expires)),
            None if required => {
                let text = "the token has no jti; its entry needs jwt_svid_include_jti";
                Err(Denial::new(Reason::JtiMissing, text))
            }
            None => Ok((digest::sha256_hex(token.as_bytes()), expires)),
        }
    }
}

/// A workload of this trust domain.
fn check_id(trust_domain: &TrustDomain, id: &SpiffeId) -> Result<(), Denial> {
    if !id.is_member_of(trust_domain) {
        let text = format!("{id} is not a member of {trust_domain}");
        return Err(Denial::new(Reason::TrustDomain, text));
    }
    if id.path().is_empty() || id.is_reserved() {
        return Err(Denial::new(Reason::ReservedPath, format!("{id} is not a workload's")));
    }
    Ok(())
}

/// When the evidence was issued: it has to say so, and not be from the future.
fn issued_at(what: &str, claims: &Map<String, Value>, now: UnixTime) -> Result<UnixTime, Denial> {
    let Some(issued_at) = jwt::numeric_date(claims, "iat").ok().flatten() else {
        return Err(Denial::new(Reason::IssuedAtMissing, format!("the {what} has no iat")));
    };
    if issued_at > now + LEEWAY {
        return Err(Denial::new(Reason::TokenNotYetValid, "iat is in the future"));
    }
    Ok(issued_at)
}

/// The tenant that a token names.
fn tenant_claim(claims: &Map<String, Value>) -> Result<Option<String>, Denial> {
    match claims.get(TENANT_CLAIM) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(tenant)) => Ok(Some(tenant.clone())),
        Some(_) => {
            let text = "the claim tenant is not a text";
            Err(Denial::new(Reason::TenantUnknown, text))
        }
    }
}

fn denial(error: JwtError) -> Denial {
    let reason = match &error {
        JwtError::Audience => Reason::Audience,
        JwtError::Expired => Reason::TokenExpired,
        JwtError::NotYetValid => Reason::TokenNotYetValid,
        JwtError::NoBundle(_) => Reason::TrustDomain,
        JwtError::BadSignature | JwtError::UnknownKey { .. } | JwtError::Algorithm => {
            Reason::TokenSignature
        }
        _ => Reason::TokenMalformed,
    };
    Denial::new(reason, error.to_string())
}

#[cfg(test)]
mod tests;
