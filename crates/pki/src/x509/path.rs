//! Path validation: the one way in which this program finds out whether certificates lead to an
//! authority that is trusted.
//!
//! It follows Go's `x509.Certificate.Verify`, which decides for SPIRE: a trust anchor is checked
//! like every other certificate of the path (RFC 5280 leaves that open), a certificate that is
//! itself among the anchors needs no issuer, extended key usages are nested, and every CA
//! certificate counts for path lengths. Stricter than Go are: key usage that names nothing, and
//! constraints of names that are not compared.

use signet_time::UnixTime;

use super::{Certificate, constraints::check::check_chain, error::MAX_CHAIN, shown::subject};

/// How many signatures are checked for one path; as in Go.
const MAX_SIGNATURES: usize = 100;

/// What the leaf must be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Anything: extended key usage is not looked at. SPIFFE and x509pop.
    Any,
    /// A TLS server: extended key usage of the leaf and of all above must allow it.
    Server,
    /// A TLS client: extended key usage of the leaf and of all above must allow it.
    Client,
}

/// Which certificate of a path is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The first.
    Leaf,
    /// A CA certificate that was presented with it.
    Intermediate,
    /// One of the trusted certificates.
    Authority,
}

/// Why a certificate cannot be part of a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// An extension that must be understood is not.
    #[error("has a critical extension that is not supported")]
    CriticalExtension,
    /// `not_after` has passed; both in Unix seconds.
    #[error("expired at {not_after}, and it is {now}")]
    Expired {
        /// End of validity.
        not_after: UnixTime,
        /// When it was looked at.
        now: UnixTime,
    },
    /// It has key usage without keyCertSign.
    #[error("may not sign certificates, by its key usage")]
    KeyUsage,
    /// Basic constraints are absent or do not say CA.
    #[error("is not a CA certificate")]
    NotCa,
    /// `not_before` has not come; both in Unix seconds.
    #[error("is not valid before {not_before}, and it is {now}")]
    NotYetValid {
        /// Start of validity.
        not_before: UnixTime,
        /// When it was looked at.
        now: UnixTime,
    },
    /// More CA certificates are below it than it allows.
    #[error("allows at most {0} CA certificates below it")]
    PathLength(u32),
}

/// Why there is no valid path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Extended key usage of the leaf or of a certificate above it does not allow the purpose.
    #[error(
        "the certificate may not be used for a TLS server, by its or its CA's extended key usage"
    )]
    ExtendedKeyUsage,
    /// Name constraints forbid a name.
    #[error("{0}")]
    Names(String),
    /// More certificates than a chain may have.
    #[error("more than {MAX_CHAIN} certificates")]
    TooLong,
    /// Too many signatures would have to be checked.
    #[error("more than {MAX_SIGNATURES} signatures to check")]
    TooManySignatures,
    /// Nothing leads to an authority.
    #[error("certificate signed by unknown authority")]
    UnknownAuthority,
    /// The way to an authority leads over a certificate that cannot be used.
    #[error("{} \"{subject}\" {why}", match role {
        Role::Leaf => "certificate",
        Role::Intermediate => "intermediate certificate",
        Role::Authority => "X.509 authority",
    })]
    Unusable {
        /// Where it stands in the path.
        role: Role,
        /// Its subject.
        subject: String,
        /// What is wrong with it.
        why: Unusable,
    },
}

impl PathError {
    /// Whether there would be a path if other authorities were trusted, or these were good.
    pub fn is_unknown_authority(&self) -> bool {
        match self {
            Self::UnknownAuthority => true,
            Self::Unusable { role, .. } => *role != Role::Leaf,
            _ => false,
        }
    }
}

/// Verifies a path from `leaf` over `intermediates` to one of `anchors` at `now` (Unix seconds),
/// and returns it: leaf first, anchor last. Whether the leaf may be a CA is for the caller to say.
///
/// # Errors
/// [`PathError`] when there is no valid path. Of several reasons that of the leaf comes first,
/// then the first that was met.
pub fn verify_path(
    leaf: &Certificate,
    intermediates: &[Certificate],
    anchors: &[Certificate],
    purpose: Purpose,
    now: UnixTime,
) -> Result<Vec<Certificate>, PathError> {
    if intermediates.len() >= MAX_CHAIN {
        return Err(PathError::TooLong);
    }
    check_alone(leaf, now).map_err(|why| unusable(Role::Leaf, leaf, why))?;
    let mut search =
        Search { intermediates, anchors, purpose, now, signatures: MAX_SIGNATURES, hint: None };
    let mut chain = vec![leaf.clone()];
    let is_anchor = anchors.iter().any(|anchor| anchor.der() == leaf.der());
    let found = if is_anchor { search.accepts(&chain) } else { search.extend(&mut chain)? };
    if found {
        return Ok(chain);
    }
    Err(search.hint.unwrap_or(PathError::UnknownAuthority))
}

struct Search<'a> {
    intermediates: &'a [Certificate],
    anchors: &'a [Certificate],
    purpose: Purpose,
    now: UnixTime,
    /// How many more signatures may be checked.
    signatures: usize,
    /// The first reason why something was refused that could have been part of a path.
    hint: Option<PathError>,
}

impl Search<'_> {
    /// Looks for issuers of the last of `chain` until it ends with an anchor. It is as deep as
    /// the chain is long, and no longer than there are intermediates: none comes twice.
    fn extend(&mut self, chain: &mut Vec<Certificate>) -> Result<bool, PathError> {
        let (anchors, intermediates) = (self.anchors, self.intermediates);
        let all = [(Role::Authority, anchors), (Role::Intermediate, intermediates)];
        for (role, candidates) in all {
            for first in [true, false] {
                let wanted = |c: &&Certificate| is_named(c, chain) && has_key_id(c, chain) == first;
                let issuers: Vec<&Certificate> = candidates.iter().filter(wanted).collect();
                for issuer in issuers {
                    if !self.is_issuer(role, issuer, chain)? {
                        continue;
                    }
                    chain.push(issuer.clone());
                    let done = match role {
                        Role::Authority => self.accepts(chain),
                        _ => self.extend(chain)?,
                    };
                    if done {
                        return Ok(true);
                    }
                    chain.pop();
                }
            }
        }
        Ok(false)
    }

    /// Whether `issuer` signed the last of `chain` and may be above it.
    fn is_issuer(
        &mut self,
        role: Role,
        issuer: &Certificate,
        chain: &[Certificate],
    ) -> Result<bool, PathError> {
        let is_same = |other: &Certificate| {
            other.raw_subject() == issuer.raw_subject() && other.spki() == issuer.spki()
        };
        if chain.iter().any(is_same) {
            return Ok(false);
        }
        self.signatures = self.signatures.checked_sub(1).ok_or(PathError::TooManySignatures)?;
        if !chain.last().is_some_and(|last| last.is_signed_by_key_of(issuer)) {
            return Ok(false);
        }
        let below = chain.len().saturating_sub(1);
        if let Err(why) = check_issuer(role, issuer, below, self.now) {
            self.hint.get_or_insert_with(|| unusable(role, issuer, why));
            return Ok(false);
        }
        Ok(true)
    }

    /// What only a whole path shows.
    fn accepts(&mut self, chain: &[Certificate]) -> bool {
        let is_good = |c: &Certificate| match self.purpose {
            Purpose::Any => true,
            Purpose::Server => c.limits().is_for_servers.unwrap_or(true),
            Purpose::Client => c.limits().is_for_clients.unwrap_or(true),
        };
        let checked = if !chain.iter().all(is_good) {
            Err(PathError::ExtendedKeyUsage)
        } else {
            check_chain(chain).map_err(PathError::Names)
        };
        match checked {
            Ok(()) => true,
            Err(error) => {
                self.hint.get_or_insert(error);
                false
            }
        }
    }
}

fn is_named(candidate: &Certificate, chain: &[Certificate]) -> bool {
    chain.last().is_some_and(|last| last.raw_issuer() == candidate.raw_subject())
}

/// Whether the key identifiers agree, as far as there are any: these issuers are tried first.
fn has_key_id(candidate: &Certificate, chain: &[Certificate]) -> bool {
    let wanted = chain.last().map(Certificate::authority_key_id).unwrap_or_default();
    let found = candidate.subject_key_id();
    wanted.is_empty() || found.is_empty() || wanted == found
}

fn check_alone(certificate: &Certificate, now: UnixTime) -> Result<(), Unusable> {
    if certificate.limits().has_unknown_critical {
        return Err(Unusable::CriticalExtension);
    }
    let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
    if now < not_before {
        return Err(Unusable::NotYetValid { not_before, now });
    }
    if now > not_after {
        return Err(Unusable::Expired { not_after, now });
    }
    Ok(())
}

/// `below` is the number of CA certificates under it.
fn check_issuer(
    role: Role,
    issuer: &Certificate,
    below: usize,
    now: UnixTime,
) -> Result<(), Unusable> {
    const KEY_CERT_SIGN: u16 = 1 << 5;
    let limits = issuer.limits();
    // A root of version 1 cannot say what it is.
    let is_old_root = role == Role::Authority && !limits.is_v3 && !limits.has_basic_constraints;
    if !issuer.is_ca() && !is_old_root {
        return Err(Unusable::NotCa);
    }
    if issuer.key_usage().is_some_and(|usage| usage & KEY_CERT_SIGN == 0) {
        return Err(Unusable::KeyUsage);
    }
    check_alone(issuer, now)?;
    match limits.max_path_len {
        Some(max) if below > max as usize => Err(Unusable::PathLength(max)),
        _ => Ok(()),
    }
}

fn unusable(role: Role, certificate: &Certificate, why: Unusable) -> PathError {
    PathError::Unusable { role, subject: subject(certificate), why }
}
