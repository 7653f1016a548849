//! WIT-SVIDs, which bind a workload's key to its identity, and the proofs that it has that key
//! (SPIFFE WIT-SVID; draft-ietf-wimse-workload-creds; draft-ietf-wimse-wpt).
//!
//! A WIT-SVID alone authenticates nobody: what [`verify`] gives names a workload only once a proof
//! was checked with it ([`Wit::authenticate`]).

mod proof;
mod replay;
mod token;

pub use proof::{
    Expected, MAX_PROOF_LIFE, PROOF_LEEWAY, ProofError, ProofParams, Tokens, prove, without_query,
};
pub use replay::{Replays, TooManyProofs};
pub use token::{
    ProofAlgorithm, WIT_TYPE, Wit, WitClaims, WitError, authority_header, named_algorithm, verify,
};
