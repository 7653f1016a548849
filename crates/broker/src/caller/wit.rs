//! Callers with a WIT-SVID and a proof that they have its key.

use std::collections::HashMap;

use signet_identity::{JwtAuthority, TrustDomain};
use signet_pki::{
    jwt::JwtError,
    wit::{self, Expected, ProofError, Replays, Tokens, WitError},
};
use signet_time::UnixTime;

use super::{Caller, LEEWAY, check_id, issued_at, tenant_claim};
use crate::reason::{Denial, Reason};

/// How many proofs are remembered.
const MAX_PROOFS: usize = 1 << 17;

/// The WIT authorities of each trust domain.
pub type WitBundles = HashMap<TrustDomain, Vec<JwtAuthority>>;

/// What a request brings.
#[derive(Clone, Copy, Debug)]
pub struct Proven<'a> {
    /// The WIT-SVID.
    pub token: &'a str,
    /// The proof.
    pub proof: &'a str,
    /// A transaction token that came along, which the proof must bind.
    pub transaction_token: Option<&'a str>,
    /// The path that is asked for.
    pub path: &'a str,
}

/// Checks WIT-SVIDs and their proofs, each of which is good for one use.
#[derive(Debug)]
pub struct Proofs {
    /// What this broker is called by: URIs without the path.
    uris: Vec<String>,
    used: Replays,
}

impl Proofs {
    /// For a broker that is called at these URIs, `https://host:port` each.
    pub fn new(uris: Vec<String>) -> Self {
        Self { uris, used: Replays::new(MAX_PROOFS) }
    }

    /// The caller that a WIT-SVID and its proof show.
    ///
    /// # Errors
    /// [`Denial`].
    pub fn caller(
        &self,
        trust_domain: &TrustDomain,
        proven: Proven<'_>,
        bundles: &WitBundles,
        now: UnixTime,
    ) -> Result<Caller, Denial> {
        if self.uris.is_empty() {
            let text = "WIT-SVIDs are not taken here (proof_uris is not set)";
            return Err(Denial::new(Reason::NoEvidence, text));
        }
        let wit = wit::verify(proven.token, now, |domain| bundles.get(domain).cloned());
        let wit = wit.map_err(|error| refused_token(&error))?;
        check_id(trust_domain, wit.subject())?;
        if now > wit.expires_at() + LEEWAY {
            return Err(Denial::new(Reason::TokenExpired, "the WIT-SVID has expired"));
        }
        let issued_at = issued_at("WIT-SVID", wit.claims(), now)?;
        let targets: Vec<String> =
            self.uris.iter().map(|uri| format!("{uri}{}", proven.path)).collect();
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        let tokens = Tokens { transaction_token: proven.transaction_token, ..Tokens::default() };
        let expected = Expected { audiences: &targets, tokens, now };
        let id = wit
            .authenticate(proven.proof, &expected, Some(&self.used))
            .map_err(|error| refused_proof(&error))?;
        let tenant = tenant_claim(wit.claims())?;
        Ok(Caller { id, tenant, claims: Some(wit.claims().clone()), via: "wit", issued_at })
    }
}

fn refused_token(error: &WitError) -> Denial {
    let reason = match error {
        WitError::Jwt(JwtError::Expired) => Reason::TokenExpired,
        WitError::Jwt(JwtError::NotYetValid) => Reason::TokenNotYetValid,
        WitError::Jwt(JwtError::BadSignature | JwtError::Algorithm)
        | WitError::UnknownKey { .. } => Reason::TokenSignature,
        WitError::NoBundle(_) => Reason::TrustDomain,
        _ => Reason::TokenMalformed,
    };
    Denial::new(reason, format!("the WIT-SVID: {error}"))
}

fn refused_proof(error: &ProofError) -> Denial {
    let reason = match error {
        ProofError::Audience => Reason::Audience,
        ProofError::Busy(_) => Reason::Busy,
        ProofError::Replayed => Reason::Replayed,
        _ => Reason::Proof,
    };
    Denial::new(reason, error.to_string())
}

#[cfg(test)]
mod tests {
    use signet_identity::SpiffeId;
    use signet_pki::{
        KeyType, PrivateKey, PublicKey,
        wit::{ProofAlgorithm, ProofParams, WitClaims, authority_header, prove},
    };

    use super::*;

    const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);
    const URI: &str = "https://broker.example.org:8444";
    const PATH: &str = "/v1/credentials/orders-db";

    struct World {
        trust_domain: TrustDomain,
        bundles: WitBundles,
        authority: PrivateKey,
        holder: PrivateKey,
        proofs: Proofs,
    }

    fn key() -> PrivateKey {
        PrivateKey::generate(KeyType::EcP256).unwrap()
    }

    impl World {
        fn new() -> Self {
            let trust_domain: TrustDomain = "example.org".parse().unwrap();
            let authority = key();
            let published = JwtAuthority {
                key_id: "k1".into(),
                public_key: authority.public_key().spki_der().into(),
                expires_at: NOW + 3600,
                tainted: false,
            };
            let bundles = WitBundles::from([(trust_domain.clone(), vec![published])]);
            let proofs = Proofs::new(vec![URI.to_owned()]);
            Self { trust_domain, bundles, authority, holder: key(), proofs }
        }

        fn token(&self, id: &str, issued_at: UnixTime) -> String {
            let id: SpiffeId = id.parse().unwrap();
            let holder: &PublicKey = self.holder.public_key();
            let claims = WitClaims {
                spiffe_id: &id,
                key: holder,
                algorithm: ProofAlgorithm::of(holder.algorithm()),
                issued_at,
                expires_at: NOW + 600,
                issuer: None,
            };
            let header = authority_header("k1", NOW + 3600, self.authority.public_key()).unwrap();
            let unsigned = header.token_of(&claims.to_map().unwrap()).unwrap();
            let signer = self.authority.signer().unwrap();
            unsigned.sign(&*signer).unwrap().token
        }

        fn proof(&self, wit: &str, key: &PrivateKey, target: &str, txn: Option<&str>) -> String {
            let params = ProofParams {
                wit,
                algorithm: ProofAlgorithm::of(key.public_key().algorithm()),
                audience: target,
                expires_at: NOW + 60,
                tokens: Tokens { transaction_token: txn, ..Tokens::default() },
            };
            prove(key, &params).unwrap()
        }

        fn ask(&self, token: &str, proof: &str, txn: Option<&str>) -> Result<Caller, Reason> {
            let proven = Proven { token, proof, transaction_token: txn, path: PATH };
            let caller = self.proofs.caller(&self.trust_domain, proven, &self.bundles, NOW);
            caller.map_err(|denial| denial.reason)
        }
    }

    const ID: &str = "spiffe://example.org/tenants/blue/orders";

    #[test]
    fn whoever_proves_to_have_the_key_is_the_caller_once() {
        let world = World::new();
        let token = world.token(ID, NOW - 5);
        let target = format!("{URI}{PATH}");
        let proof = world.proof(&token, &world.holder, &target, None);
        let caller = world.ask(&token, &proof, None).unwrap();
        assert_eq!((caller.id.to_string().as_str(), caller.via), (ID, "wit"));
        assert_eq!(caller.issued_at, NOW - 5);
        assert_eq!(world.ask(&token, &proof, None).unwrap_err(), Reason::Replayed);
        // Another proof of the same token is another use.
        let proof = world.proof(&token, &world.holder, &target, Some("txn"));
        assert_eq!(world.ask(&token, &proof, None).unwrap_err(), Reason::Proof, "unbound");
        world.ask(&token, &proof, Some("txn")).unwrap();
    }

    #[test]
    fn what_proves_nothing_is_refused() {
        let world = World::new();
        let token = world.token(ID, NOW - 5);
        let target = format!("{URI}{PATH}");
        let of_another = world.proof(&token, &key(), &target, None);
        assert_eq!(world.ask(&token, &of_another, None).unwrap_err(), Reason::Proof);
        for elsewhere in [
            format!("{URI}/v1/credentials/reports-db"),
            format!("https://other.example.org{PATH}"),
            PATH.to_owned(),
        ] {
            let proof = world.proof(&token, &world.holder, &elsewhere, None);
            assert_eq!(world.ask(&token, &proof, None).unwrap_err(), Reason::Audience);
        }
        let fresh = |token: &str| world.proof(token, &world.holder, &target, None);
        let late = world.token(ID, NOW + 60);
        assert_eq!(world.ask(&late, &fresh(&late), None).unwrap_err(), Reason::TokenNotYetValid);
        let foreign = world.token("spiffe://other.org/x", NOW);
        assert_eq!(world.ask(&foreign, &fresh(&foreign), None).unwrap_err(), Reason::TrustDomain);
        let own = world.token("spiffe://example.org/spire/agent/a", NOW);
        assert_eq!(world.ask(&own, &fresh(&own), None).unwrap_err(), Reason::ReservedPath);
        // The token of another authority, and where none is taken.
        let strange = World::new().token(ID, NOW);
        assert_eq!(
            world.ask(&strange, &fresh(&strange), None).unwrap_err(),
            Reason::TokenSignature
        );
        let none = World { proofs: Proofs::new(Vec::new()), ..World::new() };
        let token = none.token(ID, NOW);
        let proof = none.proof(&token, &none.holder, &target, None);
        assert_eq!(none.ask(&token, &proof, None).unwrap_err(), Reason::NoEvidence);
    }
}
