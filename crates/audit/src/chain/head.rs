//! Signed heads: what the chain had reached, and who says so.

use std::{io, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};
use signet_pki::{
    KeyType, PrivateKey, PublicKey, SignatureAlgorithm, Signer, digest, files, pem, pop,
};

use super::line::{Hash, hex, unhex};

/// The longest key file, bytes.
const MAX_KEY: u64 = 16 * 1024;

/// What the chain had reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Names the log: random, and the same for as long as it is continued.
    pub log: String,
    /// The number of the last record that this covers.
    pub seq: u64,
    /// The hash of that record, lower-case hex.
    pub hash: String,
    /// When it was signed, RFC 3339.
    pub time: String,
    /// SHA-256 of the key's SubjectPublicKeyInfo, lower-case hex.
    pub key: String,
    /// ECDSA over P-256 with SHA-256, DER, lower-case hex.
    pub signature: String,
}

impl Head {
    fn signed_text(&self) -> String {
        let Self { log, seq, hash, time, .. } = self;
        format!("signet audit head v1\n{log}\n{seq}\n{hash}\n{time}\n")
    }

    pub(super) fn hash(&self) -> Option<Hash> {
        unhex(&self.hash)
    }

    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The key that signs heads.
pub struct HeadKey {
    signer: Arc<dyn Signer>,
    fingerprint: String,
}

impl std::fmt::Debug for HeadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HeadKey({})", self.fingerprint)
    }
}

impl HeadKey {
    /// Reads the key from a file, or makes one and keeps it there for nobody else to read; writes
    /// its public half to `public`.
    ///
    /// # Errors
    /// What the disk says; `InvalidData` when the file holds no P-256 key.
    pub fn open(path: &Path, public: &Path) -> io::Result<Self> {
        let failed = |error: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
        };
        let found = files::read_secret(path, MAX_KEY).map_err(io::Error::other)?;
        let key = match found {
            Some(bytes) => {
                let text = std::str::from_utf8(&bytes).map_err(|error| failed(&error))?;
                PrivateKey::from_pem(text).map_err(|error| failed(&error))?
            }
            None => {
                let key = PrivateKey::generate(KeyType::EcP256).map_err(|error| failed(&error))?;
                files::write_atomic(path, key.to_pem().as_bytes(), 0o600)
                    .map_err(io::Error::other)?;
                key
            }
        };
        if key.public_key().algorithm() != KeyType::EcP256.algorithm() {
            return Err(failed(&"expected a P-256 key"));
        }
        let fingerprint = digest::sha256_hex(key.public_key().spki_der());
        let text = pem::encode("PUBLIC KEY", key.public_key().spki_der());
        files::write_atomic(public, text.as_bytes(), 0o644).map_err(io::Error::other)?;
        let signer = key.signer().map_err(|error| failed(&error))?;
        Ok(Self { signer, fingerprint })
    }

    /// SHA-256 of the public half, lower-case hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) fn sign(&self, log: &str, seq: u64, hash: &Hash, time: String) -> io::Result<Head> {
        let mut head = Head {
            log: log.to_owned(),
            seq,
            hash: hex(hash),
            time,
            key: self.fingerprint.clone(),
            signature: String::new(),
        };
        let algorithm = SignatureAlgorithm::EcdsaP256Sha256;
        let signed = self.signer.sign(algorithm, head.signed_text().as_bytes());
        let signed = signed.map_err(io::Error::other)?;
        head.signature = signed.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(head)
    }
}

/// Checks heads against one public key.
#[derive(Clone, Debug)]
pub struct HeadVerifier {
    key: PublicKey,
    fingerprint: String,
}

impl HeadVerifier {
    /// That of a public key in PEM, as [`super::PUBLIC_KEY_FILE`] holds it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_pem(text: &str) -> Result<Self, String> {
        let blocks = pem::decode(text).map_err(|error| error.to_string())?;
        let block = blocks.iter().find(|block| block.label == "PUBLIC KEY");
        let block = block.ok_or("it holds no public key")?;
        let key = PublicKey::from_spki(&block.der).map_err(|error| error.to_string())?;
        Ok(Self { fingerprint: digest::sha256_hex(key.spki_der()), key })
    }

    /// SHA-256 of the key, lower-case hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether the key signed this head.
    pub fn accepts(&self, head: &Head) -> bool {
        let (pairs, rest) = head.signature.as_bytes().as_chunks::<2>();
        let signature: Option<Vec<u8>> = pairs
            .iter()
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        let Some(signature) = signature.filter(|_| rest.is_empty()) else { return false };
        head.key == self.fingerprint
            && pop::verify_ecdsa_der(&self.key, head.signed_text().as_bytes(), &signature).is_ok()
    }
}
