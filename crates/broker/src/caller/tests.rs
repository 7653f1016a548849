use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;
use signet_identity::JwtAuthority;
use signet_pki::{KeyType, PrivateKey, SignatureAlgorithm, Signer as _};
use signet_time::UnixTime;

use super::*;

const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);

struct Issuer {
    key: PrivateKey,
    bundle: JwtBundle,
}

impl Issuer {
    fn new() -> Self {
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let authority = JwtAuthority {
            key_id: "k".into(),
            public_key: Arc::from(key.public_key().spki_der()),
            expires_at: NOW + 1_000,
            tainted: false,
        };
        let bundle = JwtBundle::new("example.org".parse().unwrap(), &[authority]);
        Self { key, bundle }
    }

    /// A token of the usual claims with some replaced, or taken away by `null`.
    fn token(&self, changes: Value) -> String {
        let mut claims = json!({
            "sub": "spiffe://example.org/t/acme/orders",
            "aud": ["broker"],
            "iss": "https://issuer",
            "iat": NOW - 10,
            "exp": NOW + 200,
            "jti": "one",
            "tenant": "acme",
        });
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({ "alg": "ES256", "kid": "k", "typ": "JWT" });
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signer = self.key.signer().unwrap();
        let signature = signer.sign(SignatureAlgorithm::EcdsaP256Sha256, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(numbers(&signature.unwrap())))
    }
}

/// The two numbers of an ECDSA signature, 32 bytes each, out of its DER.
fn numbers(der: &[u8]) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut both = Vec::new();
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number = rest[2..2 + length].iter().skip_while(|byte| **byte == 0);
        let number: Vec<u8> = number.copied().collect();
        both.extend(std::iter::repeat_n(0, 32 - number.len()));
        both.extend(number);
        rest = &rest[2 + length..];
    }
    both
}

fn rules() -> TokenRules {
    TokenRules {
        trust_domain: "example.org".parse().unwrap(),
        issuer: Some("https://issuer".to_owned()),
        audience: "broker".to_owned(),
        max_lifetime: 600,
        max_uses: 1,
    }
}

fn read(issuer: &Issuer, token: &str) -> Result<Caller, Denial> {
    Caller::from_token(&rules(), token, NOW, |td| {
        (td == issuer.bundle.trust_domain()).then_some(&issuer.bundle)
    })
}

#[test]
fn a_good_token_is_its_subject_with_its_tenant() {
    let issuer = Issuer::new();
    let caller = read(&issuer, &issuer.token(json!({}))).unwrap();
    assert_eq!(caller.id.to_string(), "spiffe://example.org/t/acme/orders");
    assert_eq!((caller.tenant.as_deref(), caller.issued_at), (Some("acme"), NOW - 10));
}

#[test]
fn every_claim_that_is_not_right_has_a_reason_of_its_own() {
    let issuer = Issuer::new();
    for (changes, reason) in [
        (json!({"iss": "https://issuer/"}), Reason::Issuer),
        (json!({"iss": "https://other"}), Reason::Issuer),
        (json!({"iss": ["https://issuer"]}), Reason::Issuer),
        (json!({"iss": null}), Reason::IssuerMissing),
        (json!({"aud": ["other"]}), Reason::Audience),
        (json!({"aud": ["broker", "other"]}), Reason::Audience),
        (json!({"exp": NOW - 6}), Reason::TokenExpired),
        (json!({"exp": NOW - 600}), Reason::TokenExpired),
        (json!({"exp": null}), Reason::TokenMalformed),
        (json!({"iat": null}), Reason::IssuedAtMissing),
        (json!({"iat": NOW + 6}), Reason::TokenNotYetValid),
        (json!({"nbf": NOW + 6}), Reason::TokenNotYetValid),
        (json!({"exp": NOW + 591}), Reason::LifetimeTooLong),
        (json!({"sub": "spiffe://other.org/t/acme/orders"}), Reason::TrustDomain),
        (json!({"sub": "spiffe://example.org/spire/agent/x"}), Reason::ReservedPath),
        (json!({"sub": "not an ID"}), Reason::TokenMalformed),
        (json!({"tenant": ["acme"]}), Reason::TenantUnknown),
        (json!({"tenant": 7}), Reason::TenantUnknown),
    ] {
        let found = read(&issuer, &issuer.token(changes.clone())).map(|_| ());
        assert_eq!(found.map_err(|denial| denial.reason), Err(reason), "{changes}");
    }
    let stranger = Issuer::new().token(json!({}));
    assert_eq!(read(&issuer, &stranger).unwrap_err().reason, Reason::TokenSignature);
    assert_eq!(read(&issuer, "a.b.c").unwrap_err().reason, Reason::TokenMalformed);
}

#[test]
fn a_token_is_known_by_its_jti_or_else_by_its_digest() {
    let issuer = Issuer::new();
    let token = issuer.token(json!({}));
    let caller = read(&issuer, &token).unwrap();
    let (id, expires) = caller.token_id(&token, true).unwrap();
    assert!(id.ends_with(" one") && expires == NOW + 200, "{id}");
    let token = issuer.token(json!({"jti": null}));
    let caller = read(&issuer, &token).unwrap();
    assert_eq!(caller.token_id(&token, true).unwrap_err().reason, Reason::JtiMissing);
    assert_eq!(caller.token_id(&token, false).unwrap().0.len(), 64);
}

#[test]
fn certificate_and_token_have_to_name_the_same_identity() {
    let issuer = Issuer::new();
    let token = |changes| read(&issuer, &issuer.token(changes)).unwrap();
    let certificate = Caller { via: "x509", claims: None, tenant: None, ..token(json!({})) };
    assert_eq!(Caller::both(&certificate, token(json!({}))).unwrap().via, "jwt");
    let other = token(json!({"sub": "spiffe://example.org/t/acme/other"}));
    let denial = Caller::both(&certificate, other).unwrap_err();
    assert_eq!(denial.reason, Reason::EvidenceDisagrees);
}
