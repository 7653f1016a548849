//! Google Cloud and Azure, as far as our plugins use them: fakes that refuse what the published
//! protocols refuse, and can be told to misbehave.

mod answers;
mod azure;
mod cas;
mod gcp;
mod kms;

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_lc_rs::{
    digest::{Digest, SHA256, SHA384, SHA512},
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::{KeySize, PublicKeyComponents},
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
        ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
        RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
        RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;

pub use self::{azure::FakeAzure, gcp::FakeGcp, kms::KEY_RING};
use crate::{Asked, Reply};

/// How long a silent service is silent: longer than anybody waits.
const SILENCE: Duration = Duration::from_secs(60);

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed before anything is done.
    Cut,
    /// It is done, and the answer is lost.
    Lost,
    /// This status, and nothing is done.
    Status(u16),
    /// A proxy's page in place of an answer, with status 200.
    Garbage,
    /// No answer at all.
    Silent,
    /// A byte of the answer is another one; only signatures and public keys.
    Damaged,
}

/// What is to go wrong.
#[derive(Debug, Default)]
struct Faults(Mutex<Vec<(String, usize, usize, Fault)>>);

impl Faults {
    /// After `skip` requests whose method and target contain `part`, `count` more go wrong.
    fn add(&self, part: &str, skip: usize, count: usize, fault: Fault) {
        lock(&self.0).push((part.to_owned(), skip, count, fault));
    }

    fn clear(&self) {
        lock(&self.0).clear();
    }

    fn take(&self, asked: &Asked) -> Option<Fault> {
        let line = format!("{} {}", asked.method, asked.target);
        let mut faults = lock(&self.0);
        let mut found = None;
        for (part, skip, count, fault) in faults.iter_mut().filter(|(.., count, _)| *count > 0) {
            if !line.contains(part.as_str()) {
                continue;
            }
            match *skip {
                0 => {
                    *count -= 1;
                    found = Some(*fault);
                    break;
                }
                _ => *skip -= 1,
            }
        }
        found
    }

    /// Does what is asked, unless it is to go wrong.
    fn answer(&self, asked: &Asked, work: impl FnOnce(bool) -> Reply) -> Reply {
        match self.take(asked) {
            None => work(false),
            Some(Fault::Damaged) => work(true),
            Some(Fault::Cut) => Reply::none(),
            Some(Fault::Lost) => {
                work(false);
                Reply::none()
            }
            Some(Fault::Status(status)) => {
                Reply::new(status, r#"{"error":{"code":"Fault","message":"as told"}}"#)
            }
            Some(Fault::Garbage) => Reply::new(200, "<html>log in</html>"),
            Some(Fault::Silent) => {
                std::thread::sleep(SILENCE);
                Reply::none()
            }
        }
    }
}

/// A private key of a fake.
enum Key {
    Ec256(EcdsaKeyPair, EcdsaKeyPair),
    Ec384(EcdsaKeyPair, EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Key {
    /// `ec-p256`, `ec-p384`, or the size of an RSA key.
    fn generate(kind: &str) -> Self {
        let pair = |asn1, fixed| {
            let key = EcdsaKeyPair::generate(asn1).expect("a key");
            let pkcs8 = key.to_pkcs8v1().expect("a key");
            let fixed = EcdsaKeyPair::from_pkcs8(fixed, pkcs8.as_ref()).expect("a key");
            (key, fixed)
        };
        match kind {
            "ec-p256" => {
                let (asn1, fixed) =
                    pair(&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P256_SHA256_FIXED_SIGNING);
                Self::Ec256(asn1, fixed)
            }
            "ec-p384" => {
                let (asn1, fixed) =
                    pair(&ECDSA_P384_SHA384_ASN1_SIGNING, &ECDSA_P384_SHA384_FIXED_SIGNING);
                Self::Ec384(asn1, fixed)
            }
            "4096" => Self::Rsa(RsaKeyPair::generate(KeySize::Rsa4096).expect("a key")),
            _ => Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key")),
        }
    }

    fn spki(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match self {
            Self::Ec256(key, _) | Self::Ec384(key, _) => key.public_key().as_der(),
            Self::Rsa(key) => key.public_key().as_der(),
        }
        .expect("a public key");
        der.as_ref().to_vec()
    }

    /// Coordinates of a point, or modulus and exponent.
    fn numbers(&self) -> (Vec<u8>, Vec<u8>) {
        match self {
            Self::Ec256(key, _) | Self::Ec384(key, _) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                (x.to_vec(), y.to_vec())
            }
            Self::Rsa(key) => {
                let numbers: PublicKeyComponents<Vec<u8>> = key.public_key().into();
                (numbers.n, numbers.e)
            }
        }
    }

    /// Signs a digest; an EC signature is DER, or r and s one after the other.
    fn sign(&self, digest: &[u8], fixed: bool, pss: bool) -> Vec<u8> {
        let (algorithm, padding): (_, &'static dyn RsaEncoding) = match (digest.len(), pss) {
            (32, false) => (&SHA256, &RSA_PKCS1_SHA256),
            (32, true) => (&SHA256, &RSA_PSS_SHA256),
            (48, false) => (&SHA384, &RSA_PKCS1_SHA384),
            (48, true) => (&SHA384, &RSA_PSS_SHA384),
            (_, false) => (&SHA512, &RSA_PKCS1_SHA512),
            (_, true) => (&SHA512, &RSA_PSS_SHA512),
        };
        let digest = Digest::import_less_safe(digest, algorithm).expect("a digest");
        match self {
            Self::Ec256(asn1, plain) | Self::Ec384(asn1, plain) => {
                let key = if fixed { plain } else { asn1 };
                key.sign_digest(&digest).expect("a signature").as_ref().to_vec()
            }
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign_digest(padding, &digest, &mut signature).expect("a signature");
                signature
            }
        }
    }

    /// The private key of an RSA key, PKCS#8 PEM.
    fn pem(&self) -> String {
        let Self::Rsa(key) = self else { panic!("only RSA keys are handed out") };
        let der: Pkcs8V1Der<'_> = key.as_der().expect("a private key");
        pem("PRIVATE KEY", der.as_ref())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> =
        text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// The path of a target, and its parameters.
fn query(target: &str) -> (String, BTreeMap<String, String>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (path.to_owned(), form(query))
}

/// The fields of a form.
fn form(text: &str) -> BTreeMap<String, String> {
    let decode =
        |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::SecureRandom::fill(&SystemRandom::new(), &mut bytes).expect("randomness");
    bytes
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
