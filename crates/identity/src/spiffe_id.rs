//! SPIFFE IDs (SPIFFE-ID standard, section 2).

use std::{fmt, str::FromStr, sync::Arc};

use crate::trust_domain::{TrustDomain, TrustDomainError};

/// The longest SPIFFE ID in bytes (SPIFFE-ID, section 2.3).
pub const MAX_SPIFFE_ID_LEN: usize = 2048;

/// The path of a server's own identity.
pub const SERVER_PATH: &str = "/spire/server";

/// A SPIFFE ID: `spiffe://<trust domain>[/<path>]`.
///
/// Private fields; [`FromStr`] and [`SpiffeId::new`] are the only ways in, so a value is always
/// valid. Cheap to clone: clones share their texts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    path: Arc<str>,
}

/// Why a text is not a SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// A character outside letters, digits, `.`, `-` and `_` in a path segment.
    #[error(
        "path segment characters are limited to letters, numbers, dots, dashes, and underscores"
    )]
    BadPathCharacter,
    /// A `.` or `..` segment.
    #[error("path cannot contain dot segments")]
    DotSegment,
    /// The text is empty.
    #[error("cannot be empty")]
    Empty,
    /// Two slashes in a row.
    #[error("path cannot contain empty segments")]
    EmptySegment,
    /// A path that does not start with `/`.
    #[error("path must have a leading slash")]
    NoLeadingSlash,
    /// More than 2048 bytes.
    #[error("SPIFFE ID is longer than 2048 bytes")]
    TooLong,
    /// A path that ends with `/`.
    #[error("path cannot have a trailing slash")]
    TrailingSlash,
    /// The trust domain part is not one.
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
    /// The scheme is not `spiffe`.
    #[error("scheme is missing or invalid")]
    WrongScheme,
}

impl SpiffeId {
    /// An ID from its parts; `path` is empty or starts with `/`.
    ///
    /// # Errors
    /// [`SpiffeIdError`] when the path breaks a rule of the standard or the whole is too long.
    pub fn new(trust_domain: TrustDomain, path: &str) -> Result<Self, SpiffeIdError> {
        check_path(path)?;
        if "spiffe://".len() + trust_domain.as_str().len() + path.len() > MAX_SPIFFE_ID_LEN {
            return Err(SpiffeIdError::TooLong);
        }
        Ok(Self { trust_domain, path: path.into() })
    }

    /// The ID of the trust domain itself, without a path.
    pub fn of_trust_domain(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, path: "".into() }
    }

    /// The server's own ID, `spiffe://<td>/spire/server`.
    pub fn server(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, path: SERVER_PATH.into() }
    }

    /// Reads an ID as [`FromStr`] does; one that equals `like`, or is of its trust domain, shares
    /// its texts.
    ///
    /// # Errors
    /// [`SpiffeIdError`] when the text is not a SPIFFE ID.
    pub fn parse_like(text: &str, like: &Self) -> Result<Self, SpiffeIdError> {
        let path = text
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.strip_prefix(like.trust_domain.as_str()))
            .filter(|path| path.is_empty() || path.starts_with('/'))
            .filter(|_| text.len() <= MAX_SPIFFE_ID_LEN);
        match path {
            Some(path) if *path == *like.path => Ok(like.clone()),
            Some(path) => Self::new(like.trust_domain.clone(), path),
            None => text.parse(),
        }
    }

    /// The same ID, sharing the text of an equal trust domain.
    pub(crate) fn sharing(mut self, trust_domain: &TrustDomain) -> Self {
        if self.trust_domain == *trust_domain {
            self.trust_domain = trust_domain.clone();
        }
        self
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash, or an empty text.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the ID is `other`'s trust domain's member.
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain == *trust_domain
    }

    /// Whether this is `spiffe://<td>/spire/server`.
    pub fn is_server(&self) -> bool {
        &*self.path == SERVER_PATH
    }

    /// Whether the path lies under `/spire/agent/`.
    pub fn is_agent(&self) -> bool {
        self.path.strip_prefix("/spire/agent/").is_some_and(|rest| !rest.is_empty())
    }

    /// Whether the path is `/spire` or lies under it: reserved for SPIRE's own identities.
    pub fn is_reserved(&self) -> bool {
        &*self.path == "/spire" || self.path.starts_with("/spire/")
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(SpiffeIdError::Empty);
        }
        if text.len() > MAX_SPIFFE_ID_LEN {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(SpiffeIdError::WrongScheme)?;
        let (name, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        Self::new(name.parse()?, path)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}{}", self.trust_domain, self.path)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    if path.is_empty() {
        return Ok(());
    }
    let segments = path.strip_prefix('/').ok_or(SpiffeIdError::NoLeadingSlash)?;
    if segments.is_empty() || segments.ends_with('/') {
        return Err(SpiffeIdError::TrailingSlash);
    }
    for segment in segments.split('/') {
        match segment {
            "" => return Err(SpiffeIdError::EmptySegment),
            "." | ".." => return Err(SpiffeIdError::DotSegment),
            _ if !segment.bytes().all(is_path_byte) => {
                return Err(SpiffeIdError::BadPathCharacter);
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

impl TrustDomain {
    /// Reads `example.org` or `spiffe://example.org[/path]`; a path is checked and dropped.
    ///
    /// # Errors
    /// [`TrustDomainError`] when the text is neither.
    pub fn from_name_or_id(text: &str) -> Result<Self, TrustDomainError> {
        if text.contains(":/") {
            let rest = text.strip_prefix("spiffe://").ok_or(TrustDomainError::WrongScheme)?;
            let name = rest.split_once('/').map_or(rest, |(name, _)| name);
            if text != rest && rest.contains('/') {
                SpiffeId::from_str(text).map_err(|_| TrustDomainError::BadCharacter)?;
            }
            return name.parse();
        }
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_of_the_standard_has_its_edge() {
        let longest = format!("spiffe://td/{}", "a".repeat(MAX_SPIFFE_ID_LEN - 12));
        for good in ["spiffe://td", "spiffe://td/a", "spiffe://td/A.b-c_0/..x/...", &longest] {
            assert_eq!(good.parse::<SpiffeId>().unwrap().to_string(), good);
        }
        let too_long = format!("{longest}a");
        for (bad, why) in [
            ("", SpiffeIdError::Empty),
            ("SPIFFE://td/a", SpiffeIdError::WrongScheme),
            ("http://td/a", SpiffeIdError::WrongScheme),
            ("spiffe://", SpiffeIdError::TrustDomain(TrustDomainError::Empty)),
            ("spiffe:///a", SpiffeIdError::TrustDomain(TrustDomainError::Empty)),
            ("spiffe://TD/a", SpiffeIdError::TrustDomain(TrustDomainError::BadCharacter)),
            ("spiffe://td:80/a", SpiffeIdError::TrustDomain(TrustDomainError::BadCharacter)),
            ("spiffe://u@td/a", SpiffeIdError::TrustDomain(TrustDomainError::BadCharacter)),
            ("spiffe://td/", SpiffeIdError::TrailingSlash),
            ("spiffe://td/a/", SpiffeIdError::TrailingSlash),
            ("spiffe://td//a", SpiffeIdError::EmptySegment),
            ("spiffe://td/./a", SpiffeIdError::DotSegment),
            ("spiffe://td/a/..", SpiffeIdError::DotSegment),
            ("spiffe://td/a%20", SpiffeIdError::BadPathCharacter),
            ("spiffe://td/a?b", SpiffeIdError::BadPathCharacter),
            ("spiffe://td/a#b", SpiffeIdError::BadPathCharacter),
            ("spiffe://td/ä", SpiffeIdError::BadPathCharacter),
            (&too_long, SpiffeIdError::TooLong),
        ] {
            assert_eq!(bad.parse::<SpiffeId>().unwrap_err(), why, "{bad}");
        }
    }

    #[test]
    fn reading_beside_another_id_changes_nothing() {
        let like: SpiffeId = "spiffe://td/a".parse().unwrap();
        let long = format!("spiffe://td/{}", "a".repeat(MAX_SPIFFE_ID_LEN));
        for text in ["spiffe://td", "spiffe://td/a", "spiffe://td/b", "spiffe://td2/a", "", "td/a"]
            .into_iter()
            .chain(["spiffe://td/", "spiffe://tda", "spiffe://td?/a", "spiffe://td/a/", &long])
        {
            assert_eq!(SpiffeId::parse_like(text, &like), text.parse(), "{text}");
        }
    }

    #[test]
    fn tells_the_reserved_namespace() {
        let id = |path| SpiffeId::new("td".parse().unwrap(), path).unwrap();
        assert!(id("/spire").is_reserved() && id("/spire/x").is_reserved());
        assert!(!id("/spirex").is_reserved());
        assert!(id("/spire/agent/x").is_agent() && !id("/spire/agent").is_agent());
        assert!(id("/spire/server").is_server());
    }
}
