//! Bounds of the audiences that a JWT-SVID may be asked for.

use super::MAX_JWT_LEN;

/// The most audiences of one token.
pub const MAX_AUDIENCES: usize = 64;
/// The longest audience, bytes.
pub const MAX_AUDIENCE_LEN: usize = 4096;
/// The longest that all audiences of one token may be together, bytes: the token must stay below
/// what is read.
pub const MAX_AUDIENCES_LEN: usize = MAX_JWT_LEN / 2;

/// Why audiences were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AudienceError {
    /// There is none but empty ones.
    #[error("at least one audience is required")]
    None,
    /// One is too long.
    #[error("an audience is longer than {MAX_AUDIENCE_LEN} bytes")]
    TooLong,
    /// All together are too long.
    #[error("the audiences are longer than {MAX_AUDIENCES_LEN} bytes together")]
    TooLongTogether,
    /// There are too many.
    #[error("more than {MAX_AUDIENCES} audiences")]
    TooMany,
}

/// Checks audiences that somebody asks for, before they are logged, kept or signed.
///
/// # Errors
/// [`AudienceError`] when there is none, or they are too many or too long.
pub fn check_audience(audience: &[String]) -> Result<(), AudienceError> {
    if audience.iter().all(String::is_empty) {
        return Err(AudienceError::None);
    }
    if audience.len() > MAX_AUDIENCES {
        return Err(AudienceError::TooMany);
    }
    if audience.iter().any(|one| one.len() > MAX_AUDIENCE_LEN) {
        return Err(AudienceError::TooLong);
    }
    match audience.iter().map(String::len).sum::<usize>() {
        0..=MAX_AUDIENCES_LEN => Ok(()),
        _ => Err(AudienceError::TooLongTogether),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audiences_are_bounded_in_number_and_length() {
        let long = |count, len| vec!["a".repeat(len); count];
        assert_eq!(check_audience(&[]), Err(AudienceError::None));
        assert_eq!(check_audience(&long(2, 0)), Err(AudienceError::None));
        assert_eq!(check_audience(&long(MAX_AUDIENCES + 1, 1)), Err(AudienceError::TooMany));
        assert_eq!(check_audience(&long(1, MAX_AUDIENCE_LEN + 1)), Err(AudienceError::TooLong));
        let each = MAX_AUDIENCES_LEN / 8;
        assert_eq!(check_audience(&long(8, each)), Ok(()));
        assert_eq!(check_audience(&long(9, each)), Err(AudienceError::TooLongTogether));
        assert_eq!(check_audience(&long(MAX_AUDIENCES, 1)), Ok(()));
    }
}
