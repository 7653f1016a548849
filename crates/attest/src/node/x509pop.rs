//! Node attestor `x509pop`: an X.509 certificate and the proof of its private key.
//!
//! Wire (SPIRE): payload `{"certificates":[leaf, intermediates…]}` (base64 of DER); one challenge
//! `{"rsa_signature":{"nonce"},"ecdsa_signature":null}` or the mirror; the response signs the
//! server's nonce followed by the agent's, 32 bytes each, hashed with SHA-256: RSA-PSS, or ECDSA
//! with r and s as big-endian bytes.

pub mod agent;
#[cfg(feature = "server")]
pub mod server;

use serde::{Deserialize, Serialize};

/// The attestation type.
pub const KIND: &str = "x509pop";
/// Length of each side's nonce, bytes.
pub const NONCE_LEN: usize = 32;

/// Byte strings as standard base64 text, Go's JSON form of `[]byte`.
mod base64_bytes {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = <Option<std::borrow::Cow<'de, str>>>::deserialize(d)?.unwrap_or_default();
        STANDARD.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}

/// One byte string as base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Base64Bytes(#[serde(with = "base64_bytes")] pub Vec<u8>);

/// What the agent sends first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// DER certificates, leaf first.
    pub certificates: Vec<Base64Bytes>,
}

/// A nonce to sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NonceChallenge {
    /// The server's nonce.
    #[serde(with = "base64_bytes")]
    pub nonce: Vec<u8>,
}

/// The server's challenge: one of the two is set, by the leaf's key algorithm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// For RSA keys.
    #[serde(default)]
    pub rsa_signature: Option<NonceChallenge>,
    /// For EC keys.
    #[serde(default)]
    pub ecdsa_signature: Option<NonceChallenge>,
}

/// An RSA answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RsaAnswer {
    /// The agent's nonce.
    #[serde(with = "base64_bytes")]
    pub nonce: Vec<u8>,
    /// RSA-PSS over SHA-256, any salt length.
    #[serde(with = "base64_bytes")]
    pub signature: Vec<u8>,
}

/// An ECDSA answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EcdsaAnswer {
    /// The agent's nonce.
    #[serde(with = "base64_bytes")]
    pub nonce: Vec<u8>,
    /// r, big endian.
    #[serde(with = "base64_bytes")]
    pub r: Vec<u8>,
    /// s, big endian.
    #[serde(with = "base64_bytes")]
    pub s: Vec<u8>,
}

/// The agent's response, the mirror of the challenge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// For RSA keys.
    #[serde(default)]
    pub rsa_signature: Option<RsaAnswer>,
    /// For EC keys.
    #[serde(default)]
    pub ecdsa_signature: Option<EcdsaAnswer>,
}

/// What is signed: the server's nonce, then the agent's.
fn message(server: &[u8], agent: &[u8]) -> Option<Vec<u8>> {
    (server.len() == NONCE_LEN && agent.len() == NONCE_LEN).then(|| [server, agent].concat())
}
