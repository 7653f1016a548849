//! JWTs that must not be believed.

use std::fs;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use e2e::{Node, Output, eventually};
use rcgen::{KeyPair, SigningKey};
use serde_json::{Value, json};

/// The server's own JWT key, so that only what is meant to be wrong is.
struct Forger {
    node: Node,
    key: KeyPair,
    kid: String,
}

impl Forger {
    fn new() -> Self {
        let node = Node::start();
        node.register_caller("/workload", "");
        eventually("the identity is served", || {
            (node.agent.cli().line("api fetch x509").code == 0).then_some(())
        });
        let bundle = node.server.cli().json("bundle show");
        let kid = bundle["jwt_authorities"][0]["key_id"].as_str().expect("a key ID").to_owned();
        let keys = fs::read_to_string(node.server.data().join("keys.json")).expect("the keys");
        let keys: Value = serde_json::from_str(&keys).expect("JSON");
        let key = keys["keys"]["JWT-Signer-A"].as_str().expect("the JWT key");
        let key = STANDARD.decode(key).expect("base64");
        let key = KeyPair::try_from(key.as_slice()).expect("a PKCS#8 key");
        Self { node, key, kid }
    }

    fn header(&self) -> Value {
        json!({"alg": "ES256", "kid": self.kid, "typ": "JWT"})
    }

    fn claims() -> Value {
        let now = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
        json!({"sub": "spiffe://example.org/workload", "aud": ["aud"], "exp": now + 300, "iat": now})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(header, claims.to_string().as_bytes())
    }

    fn sign_text(&self, header: &Value, claims: &[u8]) -> String {
        let text = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = raw(&self.key.sign(text.as_bytes()).expect("a signature"));
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn validate(&self, token: &str) -> Output {
        let args = ["api", "validate", "jwt", "-audience", "aud", "-svid", token];
        self.node.agent.cli().run(args)
    }
}

/// An ECDSA signature as two numbers of 32 bytes, from two ASN.1 integers.
fn raw(der: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 2);
    for _ in 0..2 {
        let length = usize::from(der[at + 1]);
        let number = &der[at + 2..at + 2 + length];
        let number = &number[number.len().saturating_sub(32)..];
        out.extend(vec![0; 32 - number.len()]);
        out.extend(number);
        at += 2 + length;
    }
    out
}

fn with(mut value: Value, key: &str, new: Value) -> Value {
    match new {
        Value::Null => drop(value.as_object_mut().expect("an object").remove(key)),
        new => value[key] = new,
    }
    value
}

#[test]
fn forged_stale_and_misdirected_tokens_are_refused() {
    let forger = Forger::new();
    let (header, claims) = (forger.header(), Forger::claims());
    let good = forger.sign(&header, &claims);
    forger.validate(&good).ok();

    let unsigned = |header: Value| {
        let text = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        format!("{}.{}.", text(&header), text(&claims))
    };
    let (body, signature) = good.rsplit_once('.').expect("three parts");
    let tampered = {
        let other = with(claims.clone(), "sub", json!("spiffe://example.org/admin"));
        let parts: Vec<&str> = good.split('.').collect();
        format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(other.to_string()), parts[2])
    };
    let claim = |key: &str, new: Value| forger.sign(&header, &with(claims.clone(), key, new));
    let head = |key: &str, new: Value| forger.sign(&with(header.clone(), key, new), &claims);
    let now = claims["iat"].as_u64().expect("a time");
    let bad = [
        ("no algorithm", unsigned(with(header.clone(), "alg", json!("none")))),
        ("no algorithm, signed", head("alg", json!("none"))),
        ("a symmetric algorithm", head("alg", json!("HS256"))),
        ("another algorithm", head("alg", json!("ES384"))),
        ("no key ID", head("kid", Value::Null)),
        ("an unknown key ID", head("kid", json!("nosuch"))),
        ("another type", head("typ", json!("at+jwt"))),
        ("a tampered claim", tampered),
        ("a signature of zeros", format!("{body}.{}", URL_SAFE_NO_PAD.encode([0; 64]))),
        ("half a signature", format!("{body}.{}", &signature[..40])),
        ("no signature", format!("{body}.")),
        ("two parts", body.to_owned()),
        ("four parts", format!("{good}.x")),
        ("another audience", claim("aud", json!(["other"]))),
        ("no audience", claim("aud", Value::Null)),
        ("an empty audience", claim("aud", json!([]))),
        ("an expired token", claim("exp", json!(now - 3600))),
        ("no expiry", claim("exp", Value::Null)),
        ("a token of the future", claim("nbf", json!(now + 3600))),
        ("no subject", claim("sub", Value::Null)),
        ("a subject that is no SPIFFE ID", claim("sub", json!("workload"))),
        ("a subject of another trust domain", claim("sub", json!("spiffe://other.test/w"))),
        (
            "a token in a token",
            forger.sign_text(&with(header.clone(), "cty", json!("JWT")), good.as_bytes()),
        ),
        ("claims that are no object", forger.sign_text(&header, b"[1]")),
        ("a long one", format!("{}.{good}", "x".repeat(100_000))),
    ];
    for (what, token) in bad {
        let refused = forger.validate(&token);
        assert_eq!(refused.code, 1, "{what}: {refused}");
        assert!(!refused.stdout.contains("is valid"), "{what}: {refused}");
    }
    forger.validate(&good).ok();
}
