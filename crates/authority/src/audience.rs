//! Which audiences want JWT-SVIDs of the second key.

use std::{fmt, str::FromStr};

/// The longest pattern, bytes: as much as AWS takes for an audience, and twice that.
const MAX_LEN: usize = 512;

/// An audience, or with `*` at its end the beginning of one. Case matters, as it does to verifiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudiencePattern {
    text: Box<str>,
    is_prefix: bool,
}

/// Why a text is not a pattern of audiences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AudiencePatternError {
    /// It has no characters.
    #[error("expected an audience, found an empty text")]
    Empty,
    /// It is longer than 512 bytes.
    #[error("expected at most {MAX_LEN} bytes, found {0}")]
    TooLong(usize),
    /// There is a `*` that is not at its end.
    #[error("a * stands at the end only, for any end of the audience")]
    Star,
    /// It is `*` alone.
    #[error("* alone would be every audience: set jwt_key_type instead")]
    Everything,
}

impl AudiencePattern {
    /// Whether it means this audience.
    pub fn matches(&self, audience: &str) -> bool {
        match self.is_prefix {
            true => audience.starts_with(&*self.text),
            false => *audience == *self.text,
        }
    }
}

impl FromStr for AudiencePattern {
    type Err = AudiencePatternError;

    fn from_str(pattern: &str) -> Result<Self, AudiencePatternError> {
        if pattern.is_empty() {
            return Err(AudiencePatternError::Empty);
        }
        if pattern.len() > MAX_LEN {
            return Err(AudiencePatternError::TooLong(pattern.len()));
        }
        let (text, is_prefix) = match pattern.strip_suffix('*') {
            Some("") => return Err(AudiencePatternError::Everything),
            Some(start) => (start, true),
            None => (pattern, false),
        };
        if text.contains('*') {
            return Err(AudiencePatternError::Star);
        }
        Ok(Self { text: text.into(), is_prefix })
    }
}

impl fmt::Display for AudiencePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        f.write_str(if self.is_prefix { "*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> AudiencePattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_pattern_is_an_audience_or_the_beginning_of_one() {
        let exact = pattern("api://AzureADTokenExchange");
        assert!(exact.matches("api://AzureADTokenExchange"));
        for other in ["api://azureadtokenexchange", "api://AzureADTokenExchange/", "api://", ""] {
            assert!(!exact.matches(other), "{other}");
        }
        let prefix = pattern("https://a.example/*");
        assert!(prefix.matches("https://a.example/x") && prefix.matches("https://a.example/"));
        assert!(!prefix.matches("https://a.example"));
        assert_eq!((exact.to_string(), prefix.to_string()), {
            ("api://AzureADTokenExchange".into(), "https://a.example/*".into())
        });
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let refused = |text: &str| text.parse::<AudiencePattern>().unwrap_err();
        assert_eq!(refused(""), AudiencePatternError::Empty);
        assert_eq!(refused("*"), AudiencePatternError::Everything);
        assert_eq!(refused("a*b"), AudiencePatternError::Star);
        assert_eq!(refused("a**"), AudiencePatternError::Star);
        assert_eq!(refused(&"a".repeat(513)), AudiencePatternError::TooLong(513));
    }
}
