//! The agent's half of `x509pop`: presents a certificate chain and proves its key.

use std::{fmt, path::PathBuf, sync::Arc};

use signet_pki::{
    KeyAlgorithm, PrivateKey, Signer, pop, random,
    text_file::{self, TextFileError},
};

use super::{
    Answer, Base64Bytes, Challenge, EcdsaAnswer, KIND, NONCE_LEN, Payload, RsaAnswer, message,
};
use crate::node::{Answerer, NodeAttestError, NodeAttestorAgent};

/// A certificate chain and its key, as one attestation uses them.
pub struct KeyPair {
    /// DER certificates, leaf first.
    pub certificates: Vec<Vec<u8>>,
    /// The leaf's key.
    pub key: PrivateKey,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({} certificates, ..)", self.certificates.len())
    }
}

/// Where the chain and its key come from; asked anew for each attestation.
#[async_trait::async_trait]
pub trait KeyPairSource: Send + Sync + fmt::Debug {
    /// Loads the chain and its key.
    ///
    /// # Errors
    /// [`NodeAttestError`] when they cannot be had or do not belong together.
    async fn load(&self) -> Result<KeyPair, NodeAttestError>;
}

/// PEM files, with SPIRE's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileSource {
    /// The leaf's private key (PKCS#8, PKCS#1 or SEC 1).
    pub private_key_path: PathBuf,
    /// The leaf, and intermediates after it where they are in the same file.
    pub certificate_path: PathBuf,
    /// More intermediates.
    pub intermediates_path: Option<PathBuf>,
}

impl FileSource {
    /// Reads the files: also the check at start that they are usable.
    ///
    /// # Errors
    /// [`NodeAttestError`] that names the file.
    pub fn read(&self) -> Result<KeyPair, NodeAttestError> {
        let failed = |error: TextFileError| NodeAttestError::invalid(error.to_string());
        let key = text_file::private_key(&self.private_key_path).map_err(failed)?;
        let mut certificates = text_file::certificates(&self.certificate_path).map_err(failed)?;
        if let Some(path) = &self.intermediates_path {
            certificates.extend(text_file::certificates(path).map_err(failed)?);
        }
        let pair = KeyPair { certificates, key };
        pair.check()?;
        Ok(pair)
    }
}

impl KeyPair {
    /// Checks that there is a leaf and that the key is its key.
    ///
    /// # Errors
    /// [`NodeAttestError`] when it is not.
    pub fn check(&self) -> Result<(), NodeAttestError> {
        let leaf = self
            .certificates
            .first()
            .ok_or_else(|| NodeAttestError::invalid("no certificate to attest with"))?;
        let leaf = signet_pki::x509::Certificate::from_der(leaf)
            .map_err(|e| NodeAttestError::invalid(format!("unable to parse leaf: {e}")))?;
        let leaf_key = leaf
            .public_key()
            .map_err(|e| NodeAttestError::invalid(format!("the leaf's public key: {e}")))?;
        if leaf_key.spki_der() != self.key.public_key().spki_der() {
            return Err(NodeAttestError::invalid(
                "unable to load keypair: the private key does not match the leaf certificate",
            ));
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl KeyPairSource for FileSource {
    async fn load(&self) -> Result<KeyPair, NodeAttestError> {
        let source = self.clone();
        tokio::task::spawn_blocking(move || source.read())
            .await
            .map_err(|_| NodeAttestError::internal("reading the key pair was cancelled"))?
    }
}

/// The agent's half.
#[derive(Debug)]
pub struct X509PopAgent {
    source: Box<dyn KeyPairSource>,
}

impl X509PopAgent {
    /// An attestor with the given source.
    pub fn new(source: Box<dyn KeyPairSource>) -> Self {
        Self { source }
    }
}

#[async_trait::async_trait]
impl NodeAttestorAgent for X509PopAgent {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn begin(&self) -> Result<(Vec<u8>, Box<dyn Answerer>), NodeAttestError> {
        let pair = self.source.load().await?;
        pair.check()?;
        let signer = pair
            .key
            .signer()
            .map_err(|e| NodeAttestError::internal(format!("using the private key: {e}")))?;
        let payload =
            Payload { certificates: pair.certificates.into_iter().map(Base64Bytes).collect() };
        let payload = serde_json::to_vec(&payload)
            .map_err(|e| NodeAttestError::internal(format!("encoding the payload: {e}")))?;
        Ok((payload, Box::new(Proof { signer })))
    }
}

struct Proof {
    signer: Arc<dyn Signer>,
}

#[async_trait::async_trait]
impl Answerer for Proof {
    async fn answer(&mut self, challenge: &[u8]) -> Result<Vec<u8>, NodeAttestError> {
        let challenge: Challenge = serde_json::from_slice(challenge).map_err(|e| {
            NodeAttestError::internal(format!("unable to unmarshal challenge: {e}"))
        })?;
        let failed = |e: signet_pki::SignError| {
            NodeAttestError::internal(format!("failed to calculate challenge response: {e}"))
        };
        let nonce: [u8; NONCE_LEN] =
            random::bytes().map_err(|e| NodeAttestError::internal(e.to_string()))?;
        let bad = || NodeAttestError::internal("invalid challenge nonce");
        let answer = match self.signer.public_key().algorithm() {
            KeyAlgorithm::Rsa { .. } => {
                let wanted = challenge
                    .rsa_signature
                    .ok_or_else(|| NodeAttestError::internal("expecting RSA challenge"))?;
                let message = message(&wanted.nonce, &nonce).ok_or_else(bad)?;
                let signature =
                    pop::sign_rsa_pss(self.signer.as_ref(), &message).map_err(failed)?;
                Answer {
                    rsa_signature: Some(RsaAnswer { nonce: nonce.to_vec(), signature }),
                    ..Answer::default()
                }
            }
            _ => {
                let wanted = challenge
                    .ecdsa_signature
                    .ok_or_else(|| NodeAttestError::internal("expecting ECDSA challenge"))?;
                let message = message(&wanted.nonce, &nonce).ok_or_else(bad)?;
                let (r, s) = pop::sign_ecdsa_rs(self.signer.as_ref(), &message).map_err(failed)?;
                Answer {
                    ecdsa_signature: Some(EcdsaAnswer { nonce: nonce.to_vec(), r, s }),
                    ..Answer::default()
                }
            }
        };
        serde_json::to_vec(&answer)
            .map_err(|e| NodeAttestError::internal(format!("encoding the response: {e}")))
    }
}
