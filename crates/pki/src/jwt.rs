//! JWT-SVIDs: signing and validation (JWT-SVID standard).

mod audience;
pub(crate) mod sign;
pub(crate) mod validate;

pub use audience::{
    AudienceError, MAX_AUDIENCE_LEN, MAX_AUDIENCES, MAX_AUDIENCES_LEN, check_audience,
};
pub use sign::{JwtAuthorityHeader, JwtClaims, JwtIssuer, JwtSignError, SignedJwt, UnsignedJwt};
pub use validate::{
    JwtBundle, JwtError, LEEWAY, MAX_JWT_LEN, PeekedClaims, PeekedIds, ValidatedJwt, numeric_date,
    peek_claims, peek_ids, peek_subject, validate,
};
