//! Trust domain names (SPIFFE-ID standard, section 2.1).

use std::{fmt, str::FromStr, sync::Arc};

/// The longest trust domain name in bytes (SPIFFE-ID, section 2.3).
pub const MAX_TRUST_DOMAIN_LEN: usize = 255;

/// A trust domain name: lower-case letters, digits, `.`, `-` and `_`, at most 255 bytes.
///
/// Cheap to clone. The only way in is [`FromStr`], which takes a bare name (`example.org`), or
/// [`TrustDomain::from_name_or_id`], which also takes an ID (`spiffe://example.org[/path]`) as
/// SPIRE's configuration and CLI do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// Why a text is not a trust domain name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustDomainError {
    /// A character outside lower-case letters, digits, `.`, `-` and `_`.
    #[error(
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
    )]
    BadCharacter,
    /// An empty name.
    #[error("trust domain is missing")]
    Empty,
    /// More than 255 bytes.
    #[error("trust domain is longer than 255 bytes")]
    TooLong,
    /// An ID with a scheme other than `spiffe`.
    #[error("scheme is missing or invalid")]
    WrongScheme,
}

impl TrustDomain {
    /// The bare name, `example.org`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID text of the trust domain itself, `spiffe://example.org`.
    pub fn id_string(&self) -> String {
        format!("spiffe://{}", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(TrustDomainError::Empty);
        }
        if text.len() > MAX_TRUST_DOMAIN_LEN {
            return Err(TrustDomainError::TooLong);
        }
        if !text.bytes().all(is_trust_domain_byte) {
            return Err(TrustDomainError::BadCharacter);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_trust_domain_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_names_of_the_standard_and_refuses_others() {
        for good in ["example.org", "a", "a-b_c.1", &"x".repeat(255)] {
            assert!(good.parse::<TrustDomain>().is_ok(), "{good}");
        }
        for bad in ["", "Example.org", "a/b", "a:1", "ä", "a b", &"x".repeat(256)] {
            assert!(bad.parse::<TrustDomain>().is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_a_name_or_an_id() {
        for text in ["example.org", "spiffe://example.org", "spiffe://example.org/a/b"] {
            assert_eq!(TrustDomain::from_name_or_id(text).unwrap().as_str(), "example.org");
        }
        for bad in ["https://example.org", "spiffe://", "spiffe:///a", "spiffe://a//b"] {
            assert!(TrustDomain::from_name_or_id(bad).is_err(), "{bad}");
        }
    }
}
