//! Why a request is refused: one code each, the same in answers, audit records and metrics.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal;)+) => {
        /// A reason code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name,)+
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The code, as answers and records have it.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// The HTTP status that goes with it.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }
        }
    };
}

reasons! {
    /// The audience of the token is not the broker's, or it has others as well.
    Audience = "audience_mismatch", 403;
    /// Too many of this caller's calls are waiting.
    Busy = "too_many_waiting", 429;
    /// The certificate of the connection has expired meanwhile.
    CertificateExpired = "certificate_expired", 403;
    /// A claim is not what the rule asks for.
    Claim = "claim_mismatch", 403;
    /// Certificate and token name two identities.
    EvidenceDisagrees = "evidence_disagrees", 403;
    /// Dynamic credentials are not handed out by GET.
    Get = "use_post", 405;
    /// Several identities could be meant.
    IdentityAmbiguous = "identity_ambiguous", 403;
    /// No registration entry issues this identity any more.
    IdentityEnded = "identity_ended", 403;
    /// `iat` is missing.
    IssuedAtMissing = "iat_missing", 403;
    /// `iss` is another one.
    Issuer = "issuer_mismatch", 403;
    /// `iss` is missing.
    IssuerMissing = "issuer_missing", 403;
    /// OpenBao would let the credential live longer than the policy allows.
    LeaseTooLong = "lease_longer_than_policy", 502;
    /// The token lives longer than tokens may.
    LifetimeTooLong = "lifetime_too_long", 403;
    /// There is no such lease of this caller.
    LeaseUnknown = "lease_unknown", 404;
    /// The identity has drawn the credential as often as it may for now.
    MaxUses = "max_uses", 403;
    /// The token has no `jti`.
    JtiMissing = "jti_missing", 403;
    /// Neither certificate nor token.
    NoEvidence = "no_evidence", 401;
    /// No rule grants this credential to this identity.
    NoRule = "no_rule", 403;
    /// There is no such place.
    NotFound = "not_found", 404;
    /// OpenBao is sealed.
    OpenBaoSealed = "openbao_sealed", 503;
    /// OpenBao does not answer, or not in time.
    OpenBaoUnavailable = "openbao_unavailable", 503;
    /// OpenBao refuses what the broker asks: its set-up does not fit the policy.
    OpenBaoRefused = "openbao_refused", 502;
    /// A parameter is not one that this kind of credential takes.
    Parameter = "parameter_refused", 400;
    /// The evidence is from before the ban of an agent that could have had this identity.
    PredatesBan = "evidence_predates_ban", 403;
    /// More calls than one identity may make.
    RateLimit = "rate_limit", 429;
    /// The proof that came with a WIT-SVID proves nothing.
    Proof = "proof_refused", 403;
    /// The token, or the proof, was used before.
    Replayed = "token_replayed", 403;
    /// The identity is one of SPIRE's own, not a workload's.
    ReservedPath = "path_reserved", 403;
    /// What the server of identities says is too old to be believed.
    ServerUnavailable = "server_unavailable", 503;
    /// The tenant is not named by the evidence.
    TenantMissing = "tenant_missing", 403;
    /// Two pieces of evidence name two tenants, or the identity lies outside of its tenant's path.
    TenantMismatch = "tenant_mismatch", 403;
    /// The tenant is suspended.
    TenantSuspended = "tenant_suspended", 403;
    /// There is no such tenant.
    TenantUnknown = "tenant_unknown", 403;
    /// The token has expired.
    TokenExpired = "token_expired", 403;
    /// The token is not a JWT-SVID.
    TokenMalformed = "token_malformed", 403;
    /// The token is not valid yet.
    TokenNotYetValid = "token_not_yet_valid", 403;
    /// The token is signed by nobody we know.
    TokenSignature = "token_signature", 403;
    /// The identity is of another trust domain.
    TrustDomain = "trust_domain", 403;
    /// There is no such credential.
    UnknownCredential = "unknown_credential", 403;
    /// The workload on the socket has no identity.
    Unattested = "workload_unattested", 403;
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A refusal: the code, and a sentence for people that holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {text}")]
pub struct Denial {
    /// The code.
    pub reason: Reason,
    /// The sentence.
    pub text: String,
}

impl Denial {
    /// A refusal.
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_code_of_its_own_and_a_status_that_refuses() {
        let codes: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        assert!(Reason::ALL.iter().all(|reason| reason.status() >= 400));
    }
}
