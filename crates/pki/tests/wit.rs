//! WIT-SVIDs and their proofs: what is accepted, and everything that is not.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which may panic"
)]

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use serde_json::{Value, json};
use signet_identity::{JwtAuthority, TrustDomain};
use signet_pki::{
    KeyAlgorithm, KeyType, PrivateKey, PublicKey, Signer,
    jwt::JwtError,
    wit::{
        Expected, ProofAlgorithm, ProofError, ProofParams, Replays, Tokens, WitClaims, WitError,
        authority_header, prove, verify,
    },
};
use signet_time::UnixTime;

const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);
const ID: &str = "spiffe://td/w";
const TARGET: &str = "https://a.test/path";

struct Issuer {
    key: PrivateKey,
    workload: PrivateKey,
}

impl Issuer {
    fn new() -> Self {
        let key = || PrivateKey::generate(KeyType::EcP256).unwrap();
        Self { key: key(), workload: key() }
    }

    fn authorities(&self, trust_domain: &TrustDomain) -> Option<Vec<JwtAuthority>> {
        (trust_domain.as_str() == "td").then(|| vec![authority("k", self.key.public_key())])
    }

    fn claims(&self) -> Value {
        let claims = WitClaims {
            spiffe_id: &ID.parse().unwrap(),
            key: self.workload.public_key(),
            algorithm: "ES256".parse().unwrap(),
            issued_at: NOW,
            expires_at: NOW + 3600,
            issuer: None,
        };
        claims.to_map().unwrap().into()
    }

    /// As the server signs it.
    fn wit(&self) -> String {
        let header = authority_header("k", NOW + 9000, self.key.public_key()).unwrap();
        let claims = self.claims();
        let token = header.token_of(claims.as_object().unwrap()).unwrap();
        token.sign(&*self.key.signer().unwrap()).unwrap().token
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        signed(&self.key, header, claims)
    }

    fn refused(&self, header: &Value, claims: &Value) -> WitError {
        let token = self.token(header, claims);
        verify(&token, NOW, |domain| self.authorities(domain)).unwrap_err()
    }

    /// What becomes of a WIT-SVID with this proof.
    fn proof(&self, proof: &str, tokens: Tokens<'_>) -> Result<String, ProofError> {
        self.proof_at(NOW, proof, tokens, None)
    }

    fn proof_at(
        &self,
        now: UnixTime,
        proof: &str,
        tokens: Tokens<'_>,
        replays: Option<&Replays>,
    ) -> Result<String, ProofError> {
        let wit = WIT.with(|(wit, _)| wit.clone());
        let wit = verify(&wit, now, |domain| self.authorities(domain)).unwrap();
        let audiences = &[TARGET, "https://alias.test/path"];
        let expected = Expected { audiences, tokens, now };
        wit.authenticate(proof, &expected, replays).map(|id| id.to_string())
    }
}

thread_local! {
    /// One issuer and WIT-SVID per test.
    static WIT: (String, Issuer) = {
        let issuer = Issuer::new();
        (issuer.wit(), issuer)
    };
}

fn authority(kid: &str, key: &PublicKey) -> JwtAuthority {
    JwtAuthority {
        public_key: key.spki_der().into(),
        key_id: kid.into(),
        expires_at: UnixTime::EPOCH,
        tainted: false,
    }
}

fn signed(key: &PrivateKey, header: &Value, claims: &Value) -> String {
    let mut text = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()));
    let algorithm = ProofAlgorithm::of(key.public_key().algorithm());
    let der = key.signer().unwrap().sign(algorithm.signature(), text.as_bytes()).unwrap();
    let signature = match key.public_key().algorithm() {
        KeyAlgorithm::EcP256 => fixed(&der, 32),
        KeyAlgorithm::EcP384 => fixed(&der, 48),
        _ => der,
    };
    text.push('.');
    text.push_str(&B64.encode(signature));
    text
}

/// The two numbers of a DER signature, each as long as the curve's.
fn fixed(der: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = if der[1] & 0x80 == 0 { 2 } else { 3 };
    for _ in 0..2 {
        let len = usize::from(der[at + 1]);
        let number = &der[at + 2..at + 2 + len];
        let number = &number[number.len().saturating_sub(size)..];
        out.resize(out.len() + size - number.len(), 0);
        out.extend_from_slice(number);
        at += 2 + len;
    }
    out
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "k", "typ": "wit+jwt"})
}

fn with(value: &Value, name: &str, new: Value) -> Value {
    let mut value = value.clone();
    value[name] = new;
    value
}

fn without(value: &Value, name: &str) -> Value {
    let mut value = value.clone();
    value.as_object_mut().unwrap().remove(name);
    value
}

#[test]
fn what_the_authority_signs_verifies_and_says_no_more_than_it_must() {
    let issuer = Issuer::new();
    let token = issuer.wit();
    let wit = verify(&token, NOW, |domain| issuer.authorities(domain)).unwrap();
    assert_eq!(wit.subject().to_string(), ID);
    assert_eq!(wit.key(), issuer.workload.public_key());
    assert_eq!((wit.algorithm().as_str(), wit.expires_at()), ("ES256", NOW + 3600));
    let names: Vec<&String> = wit.claims().keys().collect();
    assert_eq!(names, ["cnf", "exp", "iat", "sub"]);
    let first = token.split('.').next().unwrap();
    let read: Value = serde_json::from_slice(&B64.decode(first).unwrap()).unwrap();
    assert_eq!(read, header());
    // Skew of a minute is borne; `iat` bounds nothing.
    let at = |now| verify(&token, now, |domain| issuer.authorities(domain)).map(drop);
    at(NOW - 9_000).unwrap();
    at(NOW + 3660).unwrap();
    assert_eq!(at(NOW + 3661), Err(JwtError::Expired.into()));
}

#[test]
fn headers_that_the_standard_forbids_are_refused() {
    let issuer = Issuer::new();
    let (header, claims) = (header(), issuer.claims());
    for typ in ["JWT", "", "WIT+JWT", "application/wit+jwt", "wpt+jwt", "at+jwt"] {
        assert_eq!(issuer.refused(&with(&header, "typ", json!(typ)), &claims), WitError::Type);
    }
    assert_eq!(issuer.refused(&without(&header, "typ"), &claims), WitError::Type);
    for kid in [with(&header, "kid", json!("")), without(&header, "kid")] {
        assert_eq!(issuer.refused(&kid, &claims), JwtError::Missing("kid").into());
    }
    assert!(matches!(
        issuer.refused(&with(&header, "kid", json!("K")), &claims),
        WitError::UnknownKey { kid, .. } if kid == "K"
    ));
    for alg in ["none", "HS256", "EdDSA", "ES384", "RS256", "es256", "ML-DSA-44"] {
        let header = with(&header, "alg", json!(alg));
        assert_eq!(issuer.refused(&header, &claims), JwtError::Algorithm.into(), "{alg}");
    }
    let critical = with(&header, "crit", json!(["exp"]));
    assert!(matches!(issuer.refused(&critical, &claims), WitError::Jwt(JwtError::Malformed(_))));
    // Unknown ones are ignored.
    let token = issuer.token(&with(&header, "x", json!(1)), &claims);
    verify(&token, NOW, |domain| issuer.authorities(domain)).unwrap();
}

#[test]
fn claims_that_the_standard_forbids_are_refused() {
    let issuer = Issuer::new();
    let (header, claims) = (header(), issuer.claims());
    let refused = |claims: &Value| issuer.refused(&header, claims);
    for aud in [json!("a"), json!(["a"]), json!([]), json!(null)] {
        assert_eq!(refused(&with(&claims, "aud", aud)), WitError::Audience);
    }
    assert_eq!(refused(&without(&claims, "exp")), JwtError::Missing("exp").into());
    assert_eq!(refused(&with(&claims, "exp", json!("1"))), JwtError::Missing("exp").into());
    assert_eq!(refused(&with(&claims, "exp", json!(NOW - 61))), JwtError::Expired.into());
    assert_eq!(refused(&with(&claims, "nbf", json!(NOW + 61))), JwtError::NotYetValid.into());
    assert_eq!(refused(&without(&claims, "sub")), JwtError::Missing("sub").into());
    let accepted = |claims: &Value| {
        let token = issuer.token(&header, claims);
        verify(&token, NOW, |domain| issuer.authorities(domain)).map(drop).unwrap();
    };
    accepted(&with(&claims, "nbf", json!(NOW + 60)));
    accepted(&with(&claims, "iat", json!(NOW + 9_000)));
    accepted(&with(&claims, "jti", json!("x")));
    accepted(&with(&claims, "iss", json!("https://elsewhere.test")));
    accepted(&without(&claims, "iat"));
}

/// fkautz/wimse-security-counterexamples: canonicalization, hierarchical-matching.
#[test]
fn subjects_are_spelled_as_spiffe_ids_are_or_refused() {
    let issuer = Issuer::new();
    for subject in [
        "spiffe://td/%77",
        "spiffe://td/service/%70ayment",
        "spiffe://TD/w",
        "SPIFFE://td/w",
        "spiffe://td/w/",
        "spiffe://td//w",
        "spiffe://td/a/../w",
        "spiffe://td/./w",
        "spiffe://td/a/%2e%2e/w",
        "spiffe://td:80/w",
        "spiffe://u@td/w",
        "spiffe://td/w?a",
        "spiffe://td/w#a",
        " spiffe://td/w",
    ] {
        let claims = with(&issuer.claims(), "sub", json!(subject));
        let refused = issuer.refused(&header(), &claims);
        assert!(matches!(refused, WitError::Subject(_)), "{subject}: {refused}");
    }
    let nobody = with(&issuer.claims(), "sub", json!("spiffe://td"));
    assert_eq!(issuer.refused(&header(), &nobody), WitError::NoWorkload);
}

/// fkautz/wimse-security-counterexamples: issuer-origin-binding.
#[test]
fn no_authority_vouches_for_another_trust_domain_or_scheme() {
    let (a, b) = (Issuer::new(), Issuer::new());
    let token = a.token(&header(), &with(&a.claims(), "sub", json!("spiffe://other/w")));
    let both = |domain: &TrustDomain| match domain.as_str() {
        "td" => Some(vec![authority("k", a.key.public_key())]),
        "other" => Some(vec![authority("k", b.key.public_key())]),
        _ => None,
    };
    assert_eq!(verify(&token, NOW, both).unwrap_err(), JwtError::BadSignature.into());
    let only = |domain: &TrustDomain| a.authorities(domain);
    assert!(matches!(verify(&token, NOW, only).unwrap_err(), WitError::NoBundle(_)));
    // Neither does `iss` choose the keys.
    let claims = with(&a.claims(), "iss", json!("spiffe://other"));
    verify(&a.token(&header(), &claims), NOW, both).unwrap();
    let wimse = with(&a.claims(), "sub", json!("wimse://td/w"));
    assert!(matches!(a.refused(&header(), &wimse), WitError::Subject(_)));
    let empty = |_: &TrustDomain| Some(vec![]);
    assert!(matches!(verify(&a.wit(), NOW, empty).unwrap_err(), WitError::NoBundle(_)));
}

#[test]
fn confirmation_keys_that_prove_nothing_are_refused() {
    let issuer = Issuer::new();
    let claims = issuer.claims();
    let jwk = claims["cnf"]["jwk"].clone();
    let refused =
        |jwk: Value| issuer.refused(&header(), &with(&claims, "cnf", json!({"jwk": jwk})));
    let p384 = PrivateKey::generate(KeyType::EcP384).unwrap();
    let mut private: Value = serde_json::from_str(&issuer.workload.to_jwk().unwrap()).unwrap();
    private["alg"] = json!("ES256");
    let mut of_p384: Value = serde_json::from_str(&p384.to_jwk().unwrap()).unwrap();
    of_p384.as_object_mut().unwrap().remove("d");
    of_p384["alg"] = json!("ES256");
    for jwk in [
        json!(null),
        json!("x"),
        without(&jwk, "alg"),
        with(&jwk, "alg", json!("none")),
        with(&jwk, "alg", json!("HS256")),
        with(&jwk, "alg", json!("EdDSA")),
        with(&jwk, "alg", json!("RS256")),
        with(&jwk, "x", json!("AAAA")),
        json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}),
        json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA",
               "x": "1CXXvflN_LVVsIsYXsUvB03JmlGWeCHqQVuouCF92bg"}),
        private,
        of_p384,
    ] {
        let error = refused(jwk.clone());
        assert!(matches!(error, WitError::Confirmation(_)), "{jwk}: {error}");
    }
    for cnf in [json!({}), json!(null), json!({"jkt": "x"})] {
        let error = issuer.refused(&header(), &with(&claims, "cnf", cnf));
        assert!(matches!(error, WitError::Confirmation(_)), "{error}");
    }
    assert!(matches!(
        issuer.refused(&header(), &without(&claims, "cnf")),
        WitError::Confirmation(_)
    ));
}

/// The example of WIT-SVID, appendix A, and those of draft-ietf-wimse-workload-creds and
/// draft-ietf-wimse-wpt: the latter are signed with what WIT-SVIDs exclude, and their hashes hold.
#[test]
fn published_examples_are_read() {
    let example = include_str!("data/wit-svid-example.txt").trim();
    let none = verify(example, UnixTime::from_seconds(1_765_452_903), |_| None).unwrap_err();
    assert!(matches!(none, WitError::NoBundle(domain) if domain.as_str() == "example.com"));
    let other = Issuer::new();
    let kid = "lQSi3hZFnda2D-XJkj1zl7foJouiwI4nrAyhy4jZiJg";
    let wrong = |_: &TrustDomain| Some(vec![authority(kid, other.key.public_key())]);
    let wrong = verify(example, UnixTime::from_seconds(1_765_452_903), wrong).unwrap_err();
    assert_eq!(wrong, JwtError::BadSignature.into());

    let wimse = include_str!("data/wimse-wit.txt").trim();
    let refused = verify(wimse, UnixTime::from_seconds(1_745_510_000), |_| None).unwrap_err();
    assert!(matches!(refused, WitError::Subject(_)), "{refused}");
    let wpt = include_str!("data/wimse-wpt.txt").trim();
    let claims = wpt.split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&B64.decode(claims).unwrap()).unwrap();
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let proof = prove(
        &key,
        &ProofParams {
            wit: wimse,
            algorithm: "ES256".parse().unwrap(),
            audience: "https://workload.example.com/path?q=1#f",
            expires_at: UnixTime::from_seconds(1_745_510_016),
            tokens: Tokens { access_token: Some("16_mAd0GiwaZokU26_0902100"), ..Tokens::default() },
        },
    );
    let proof = proof.unwrap();
    let ours = proof.split('.').nth(1).unwrap();
    let mut ours: Value = serde_json::from_slice(&B64.decode(ours).unwrap()).unwrap();
    assert_eq!(B64.decode(ours["jti"].as_str().unwrap()).unwrap().len(), 16);
    ours["jti"] = claims["jti"].clone();
    assert_eq!(ours, claims);
}

/// A proof as [`prove`] makes it, changed.
fn changed(change: impl Fn(&mut Value, &mut Value)) -> String {
    WIT.with(|(wit, issuer)| {
        let whole = prove(&issuer.workload, &params(wit, Tokens::default())).unwrap();
        let part = |n| {
            let part = whole.split('.').nth(n).unwrap();
            serde_json::from_slice::<Value>(&B64.decode(part).unwrap()).unwrap()
        };
        let (mut header, mut claims) = (part(0), part(1));
        change(&mut header, &mut claims);
        signed(&issuer.workload, &header, &claims)
    })
}

fn params<'a>(wit: &'a str, tokens: Tokens<'a>) -> ProofParams<'a> {
    ProofParams {
        wit,
        algorithm: "ES256".parse().unwrap(),
        audience: TARGET,
        expires_at: NOW + 60,
        tokens,
    }
}

fn checked(proof: &str, tokens: Tokens<'_>) -> Result<String, ProofError> {
    WIT.with(|(_, issuer)| issuer.proof(proof, tokens))
}

#[test]
fn a_proof_authenticates_whoever_has_the_key_and_nobody_else() {
    WIT.with(|(wit, issuer)| {
        let proof = prove(&issuer.workload, &params(wit, Tokens::default())).unwrap();
        assert_eq!(issuer.proof(&proof, Tokens::default()), Ok(ID.to_owned()));
        let thief = PrivateKey::generate(KeyType::EcP256).unwrap();
        let forged = prove(&thief, &params(wit, Tokens::default())).unwrap();
        let refused = issuer.proof(&forged, Tokens::default());
        assert_eq!(refused, Err(JwtError::BadSignature.into()));
        // The WIT-SVID is no proof of itself, and a proof is no WIT-SVID.
        assert_eq!(issuer.proof(wit, Tokens::default()), Err(ProofError::Type));
        let error = verify(&proof, NOW, |domain| issuer.authorities(domain)).unwrap_err();
        assert_eq!(error, WitError::Type);
        // Nor is a proof for another WIT-SVID of the same key.
        let other = format!("{wit}x");
        let proof = prove(&issuer.workload, &params(&other, Tokens::default())).unwrap();
        assert_eq!(issuer.proof(&proof, Tokens::default()), Err(ProofError::Hash("wth")));
    });
}

#[test]
fn proofs_that_the_draft_forbids_are_refused() {
    let none = Tokens::default();
    let refused = |change: &dyn Fn(&mut Value, &mut Value)| checked(&changed(change), none);
    assert!(refused(&|_, _| ()).is_ok());
    for typ in [json!("JWT"), json!("wit+jwt"), json!(null), json!("")] {
        assert_eq!(refused(&|header, _| header["typ"] = typ.clone()), Err(ProofError::Type));
    }
    for typ in ["WPT+jwt", "application/wpt+jwt"] {
        assert!(refused(&|header, _| header["typ"] = json!(typ)).is_ok(), "a media type");
    }
    for alg in ["none", "ES384", "es256", "EdDSA"] {
        assert_eq!(refused(&|header, _| header["alg"] = json!(alg)), Err(ProofError::Algorithm));
    }
    for aud in [
        json!("https://b.test/path"),
        json!("https://a.test/path/"),
        json!("https://a.test"),
        json!("https://A.test/path"),
        json!([TARGET, "https://b.test/path"]),
        json!([]),
        json!(""),
        json!(null),
        json!(1),
    ] {
        assert_eq!(refused(&|_, c| c["aud"] = aud.clone()), Err(ProofError::Audience), "{aud}");
    }
    for aud in [json!([TARGET]), json!(format!("{TARGET}?a=b#c")), json!("https://alias.test/path")]
    {
        assert!(refused(&|_, claims| claims["aud"] = aud.clone()).is_ok(), "{aud}");
    }
    assert_eq!(refused(&|_, c| c["exp"] = json!(NOW - 31)), Err(JwtError::Expired.into()));
    assert!(refused(&|_, claims| claims["exp"] = json!(NOW - 30)).is_ok());
    assert_eq!(refused(&|_, c| c["exp"] = json!(NOW + 331)), Err(ProofError::LongLived));
    assert_eq!(refused(&|_, c| c["exp"] = json!(null)), Err(JwtError::Missing("exp").into()));
    assert_eq!(refused(&|_, c| c["nbf"] = json!(NOW + 31)), Err(JwtError::NotYetValid.into()));
    for jti in [json!(null), json!(""), json!(1), json!("a".repeat(257))] {
        let error = refused(&|_, claims| claims["jti"] = jti.clone());
        assert_eq!(error, Err(JwtError::Missing("jti").into()), "{jti}");
    }
    for wth in [json!(null), json!("AaYUfC34D1di2FxQLpiIJJ7Sg8VZ6o8OCdwSf9IToLg")] {
        assert_eq!(refused(&|_, c| c["wth"] = wth.clone()), Err(ProofError::Hash("wth")));
    }
    assert!(refused(&|_, claims| claims["x"] = json!(1)).is_ok(), "unknown claims are ignored");
}

#[test]
fn a_proof_binds_every_token_of_the_request_and_no_other() {
    WIT.with(|(wit, issuer)| {
        let others = [("x-user", " user-token "), ("x-tenant", "t")];
        let all = Tokens {
            access_token: Some("access"),
            transaction_token: Some("txn"),
            others: &others,
        };
        let proof = prove(&issuer.workload, &params(wit, all)).unwrap();
        assert!(issuer.proof(&proof, all).is_ok());
        let trimmed = [("x-tenant", "t"), ("x-user", "user-token")];
        assert!(issuer.proof(&proof, Tokens { others: &trimmed, ..all }).is_ok());
        let bare = prove(&issuer.workload, &params(wit, Tokens::default())).unwrap();
        let changed_other = [("x-user", "root-token"), ("x-tenant", "t")];
        for (tokens, name) in [
            (Tokens { access_token: Some("other"), ..all }, "ath"),
            (Tokens { access_token: None, ..all }, "ath"),
            (Tokens { transaction_token: Some("other"), ..all }, "tth"),
            (Tokens { transaction_token: None, ..all }, "tth"),
            (Tokens { others: &changed_other, ..all }, "oth"),
            (Tokens { others: &others[..1], ..all }, "oth"),
            (Tokens { others: &[], ..all }, "oth"),
        ] {
            assert_eq!(issuer.proof(&proof, tokens), Err(ProofError::Hash(name)));
        }
        for tokens in [
            Tokens { access_token: Some("access"), ..Tokens::default() },
            Tokens { transaction_token: Some("txn"), ..Tokens::default() },
            Tokens { others: &others, ..Tokens::default() },
        ] {
            assert!(matches!(issuer.proof(&bare, tokens), Err(ProofError::Hash(_))));
        }
    });
    let shape = changed(|_, claims| claims["oth"] = json!(["x"]));
    assert_eq!(checked(&shape, Tokens::default()), Err(ProofError::Hash("oth")));
}

#[test]
fn a_proof_is_good_for_one_use_as_long_as_it_could_be_used() {
    WIT.with(|(wit, issuer)| {
        let replays = Replays::new(16);
        let proof = prove(&issuer.workload, &params(wit, Tokens::default())).unwrap();
        let take = |now| issuer.proof_at(now, &proof, Tokens::default(), Some(&replays));
        assert!(take(NOW).is_ok());
        assert_eq!(take(NOW), Err(ProofError::Replayed));
        assert_eq!(take(NOW + 90), Err(ProofError::Replayed));
        assert_eq!(take(NOW + 91), Err(JwtError::Expired.into()));
        // What is refused takes no room.
        let forged = {
            let thief = PrivateKey::generate(KeyType::EcP256).unwrap();
            prove(&thief, &params(wit, Tokens::default())).unwrap()
        };
        issuer.proof_at(NOW, &forged, Tokens::default(), Some(&replays)).unwrap_err();
        assert_eq!(replays.len(), 1);
        let another = prove(&issuer.workload, &params(wit, Tokens::default())).unwrap();
        assert!(issuer.proof_at(NOW, &another, Tokens::default(), Some(&replays)).is_ok());
        let third = prove(&issuer.workload, &params(wit, Tokens::default())).unwrap();
        let third = issuer.proof_at(NOW, &third, Tokens::default(), Some(&replays));
        assert!(matches!(third, Err(ProofError::Busy(_))), "{third:?}");
    });
}

#[test]
fn every_kind_of_key_binds_and_proves() {
    for (kind, names) in [
        (KeyType::EcP256, &["ES256"][..]),
        (KeyType::EcP384, &["ES384"]),
        (KeyType::Rsa2048, &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
    ] {
        let issuer = Issuer {
            key: PrivateKey::generate(KeyType::EcP256).unwrap(),
            workload: PrivateKey::generate(kind).unwrap(),
        };
        for name in names {
            let mut claims = issuer.claims();
            claims["cnf"] = WitClaims {
                spiffe_id: &ID.parse().unwrap(),
                key: issuer.workload.public_key(),
                algorithm: name.parse().unwrap(),
                issued_at: NOW,
                expires_at: NOW + 60,
                issuer: Some("x"),
            }
            .to_map()
            .unwrap()["cnf"]
                .clone();
            let token = issuer.token(&header(), &claims);
            let wit = verify(&token, NOW, |domain| issuer.authorities(domain)).unwrap();
            let algorithm = name.parse().unwrap();
            let params = ProofParams { algorithm, ..params(&token, Tokens::default()) };
            let proof = prove(&issuer.workload, &params).unwrap();
            let expected = Expected { audiences: &[TARGET], tokens: Tokens::default(), now: NOW };
            assert_eq!(wit.authenticate(&proof, &expected, None).unwrap().to_string(), ID);
        }
    }
}

#[test]
fn tokens_that_were_tampered_with_never_authenticate() {
    WIT.with(|(wit, issuer)| {
        let proof = prove(&issuer.workload, &params(wit, Tokens::default())).unwrap();
        for (n, byte) in wit.bytes().enumerate() {
            let mut bytes = wit.clone().into_bytes();
            bytes[n] = if byte == b'A' { b'B' } else { b'A' };
            let text = String::from_utf8(bytes).unwrap();
            // The last character of a part may carry bits that are not used.
            if let Ok(wit) = verify(&text, NOW, |domain| issuer.authorities(domain)) {
                let expected =
                    Expected { audiences: &[TARGET], tokens: Tokens::default(), now: NOW };
                wit.authenticate(&proof, &expected, None).unwrap_err();
            }
        }
    });
}
