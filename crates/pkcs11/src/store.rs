//! The keys of one server on a token.
//!
//! A key pair has the label `signet/<server>/<key id>/<time>`: the first ten hexadecimal digits of
//! the SHA-256 of the server's key identifier, and the Unix time of its making in eight. For the
//! names of the authorities' keys that fits into 40 bytes, which is all that some devices keep.
//! Nothing is read from CKA_ID, which others cut short.

use std::{
    fmt,
    sync::atomic::{AtomicI64, Ordering},
};

use async_trait::async_trait;
use cryptoki::{
    mechanism::{
        Mechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsPssParams},
    },
    object::{Attribute, AttributeType, KeyType as TokenKeyType, ObjectClass, ObjectHandle},
    types::Ulong,
};
use signet_base::{SharedClock, chain};
use signet_pki::{
    KeyAlgorithm, KeyType, PublicKey, SignError, SignatureAlgorithm, digest,
    key_manager::{KeyStore, KeyStoreError, StoredKey},
    random,
};

use crate::{
    Settings, TokenError,
    der::{self, P256, P384},
    pool::Pool,
    session::OpenSession,
};

/// The plugin's name.
const NAME: &str = "pkcs11";
/// How many keys of one server are looked at.
const MAX_OWN: usize = 10_000;

/// The keys of one server on a token.
pub struct TokenKeys {
    pool: Pool,
    prefix: String,
    clock: SharedClock,
    /// The time of the last label: no two are the same.
    last: AtomicI64,
}

impl TokenKeys {
    /// The keys of the server `server_id`. Threads are started; the module is loaded when the first
    /// key is asked for.
    ///
    /// # Errors
    /// [`TokenError::Setting`] when a thread cannot be started.
    pub fn new(
        settings: Settings,
        server_id: &str,
        clock: SharedClock,
    ) -> Result<Self, TokenError> {
        let hash = digest::sha256_hex(server_id.as_bytes());
        let prefix = format!("signet/{}/", hash.get(..10).unwrap_or_default());
        Ok(Self { pool: Pool::new(settings)?, prefix, clock, last: AtomicI64::new(0) })
    }

    /// The name and the time of a label, if it is of this server.
    fn parts<'a>(&self, label: &'a str) -> Option<(&'a str, i64)> {
        let (id, time) = label.strip_prefix(&self.prefix)?.rsplit_once('/')?;
        let time = i64::from_str_radix(time, 16).ok().filter(|_| time.len() == 8)?;
        (!id.is_empty()).then_some((id, time))
    }
}

#[async_trait]
impl KeyStore for TokenKeys {
    fn name(&self) -> &'static str {
        NAME
    }

    fn new_handle(&self, id: &str) -> Result<String, KeyStoreError> {
        let now = self.clock.unix().seconds();
        let next = |last: i64| Some(last.saturating_add(1).max(now));
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let time = last.map_or(now, |last| last.saturating_add(1).max(now));
        Ok(format!("{}{id}/{time:08x}", self.prefix))
    }

    async fn create(
        &self,
        handle: &str,
        _id: &str,
        key_type: KeyType,
    ) -> Result<PublicKey, KeyStoreError> {
        let label = handle.to_owned();
        let token_id = random::bytes::<16>().map_err(KeyStoreError::undone)?;
        let made = self.pool.run(
            move |open| generate(open, &label, &token_id, key_type),
            |open, (_, objects)| {
                for object in objects {
                    // What stays behind is found at the next start.
                    let _ = open.session.destroy_object(*object);
                }
            },
        );
        match made.await {
            Ok((key, _)) => Ok(key),
            Err(error) if error.had_no_effect() => Err(KeyStoreError::undone(chain(&error))),
            Err(error) => Err(KeyStoreError::unknown(chain(&error))),
        }
    }

    async fn list(&self) -> Result<Vec<StoredKey>, KeyStoreError> {
        let prefix = self.prefix.clone();
        let found = self.pool.run(move |open| own_keys(open, &prefix), |_, _| {});
        let found = found.await.map_err(|error| KeyStoreError::undone(chain(&error)))?;
        let keys = found.into_iter().filter_map(|(label, public_key)| {
            let (id, time) = self.parts(&label)?;
            self.last.fetch_max(time, Ordering::Relaxed);
            Some(StoredKey {
                id: id.to_owned(),
                handle: label.clone(),
                public_key,
                made: i128::from(time),
            })
        });
        Ok(keys.collect())
    }

    async fn sign(
        &self,
        key: &StoredKey,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let (label, digest) = (key.handle.clone(), algorithm.digest(message));
        let is_rsa = matches!(key.public_key.algorithm(), KeyAlgorithm::Rsa { .. });
        let work = move |open: &mut OpenSession| {
            let private = open.private_key(&label)?;
            let (mechanism, input) = match (is_rsa, algorithm.is_pss()) {
                (false, _) => (Mechanism::Ecdsa, digest.clone()),
                (true, false) => (Mechanism::RsaPkcs, der::digest_info(algorithm, &digest)),
                (true, true) => (Mechanism::RsaPkcsPss(pss(algorithm)), digest.clone()),
            };
            Ok(open.session.sign(&mechanism, private, &input)?)
        };
        let signed = self.pool.run(work, |_, _| {}).await;
        let signed = signed.map_err(|error| SignError::Failed(chain(&error)))?;
        if is_rsa {
            return Ok(signed);
        }
        der::ecdsa_signature(&signed)
            .ok_or_else(|| SignError::Failed("what the token returned is no signature".to_owned()))
    }

    async fn delete(&self, handle: &str) -> Result<(), KeyStoreError> {
        let label = handle.to_owned();
        let work = move |open: &mut OpenSession| {
            open.forget(&label);
            for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
                for object in open.objects(class, &label)? {
                    open.session.destroy_object(object)?;
                }
            }
            Ok(())
        };
        let deleted = self.pool.run(work, |_, _| {}).await;
        deleted.map_err(|error| KeyStoreError::unknown(chain(&error)))
    }
}

/// Makes a key pair; its public half and its objects.
fn generate(
    open: &mut OpenSession,
    label: &str,
    token_id: &[u8],
    key_type: KeyType,
) -> Result<(PublicKey, [ObjectHandle; 2]), TokenError> {
    let common = [
        Attribute::Token(true),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(token_id.to_vec()),
    ];
    let mut public = common.to_vec();
    public.extend([Attribute::Verify(true)]);
    let mechanism = match key_type {
        KeyType::EcP256 | KeyType::EcP384 => {
            let curve = if key_type == KeyType::EcP256 { P256 } else { P384 };
            public.push(Attribute::EcParams(curve.to_vec()));
            Mechanism::EccKeyPairGen
        }
        KeyType::Rsa2048 | KeyType::Rsa4096 => {
            let bits = if key_type == KeyType::Rsa2048 { 2048 } else { 4096 };
            public.push(Attribute::ModulusBits(Ulong::new(bits)));
            public.push(Attribute::PublicExponent(vec![1, 0, 1]));
            Mechanism::RsaPkcsKeyPairGen
        }
    };
    let mut private = common.to_vec();
    private.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ]);
    let (public, private) = open.session.generate_key_pair(&mechanism, &public, &private)?;
    match public_key(open, label, public) {
        Ok(key) => Ok((key, [private, public])),
        Err(error) => {
            for object in [private, public] {
                let _ = open.session.destroy_object(object);
            }
            Err(error)
        }
    }
}

/// The labels and public halves of the private keys whose labels begin with `prefix`.
fn own_keys(open: &mut OpenSession, prefix: &str) -> Result<Vec<(String, PublicKey)>, TokenError> {
    let private = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Token(true)];
    let mut keys = Vec::new();
    for handle in open.session.find_objects(&private)? {
        let Some(label) = label_of(open, handle)?.filter(|label| label.starts_with(prefix)) else {
            continue;
        };
        if keys.len() >= MAX_OWN {
            let why = format!("the token has more than {MAX_OWN} keys of this server");
            return Err(TokenError::Setting(why));
        }
        // Some tokens keep the private half alone, and say of it what the public one would.
        let public = open.objects(ObjectClass::PUBLIC_KEY, &label)?.into_iter().next();
        match public_key(open, &label, public.unwrap_or(handle)) {
            Ok(key) => keys.push((label, key)),
            Err(TokenError::Nonsense(label, why)) => {
                tracing::warn!(label, why, "A key on the token is left alone");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(keys)
}

fn label_of(open: &OpenSession, object: ObjectHandle) -> Result<Option<String>, TokenError> {
    let found = open.session.get_attributes(object, &[AttributeType::Label])?;
    Ok(found.into_iter().find_map(|attribute| match attribute {
        Attribute::Label(label) => String::from_utf8(label).ok(),
        _ => None,
    }))
}

/// The public key that an object tells of.
fn public_key(
    open: &OpenSession,
    label: &str,
    object: ObjectHandle,
) -> Result<PublicKey, TokenError> {
    let wanted = [
        AttributeType::KeyType,
        AttributeType::EcParams,
        AttributeType::EcPoint,
        AttributeType::Modulus,
        AttributeType::PublicExponent,
        AttributeType::PublicKeyInfo,
    ];
    let (mut kind, mut params, mut point) = (None, None, None);
    let (mut modulus, mut exponent, mut info) = (None, None, None);
    // What an object does not have is left out of the answer.
    for attribute in open.session.get_attributes(object, &wanted)? {
        match attribute {
            Attribute::KeyType(found) => kind = Some(found),
            Attribute::EcParams(found) => params = Some(found),
            Attribute::EcPoint(found) => point = Some(found),
            Attribute::Modulus(found) => modulus = Some(found),
            Attribute::PublicExponent(found) => exponent = Some(found),
            Attribute::PublicKeyInfo(found) => info = Some(found),
            _ => {}
        }
    }
    let nonsense = |why| TokenError::Nonsense(label.to_owned(), why);
    let key = match (kind, params, point, modulus, exponent) {
        (Some(TokenKeyType::EC), Some(params), Some(point), ..) => der::ec_key(&params, &point),
        (Some(TokenKeyType::RSA), _, _, Some(modulus), Some(exponent)) => {
            PublicKey::from_rsa_numbers(&modulus, &exponent).ok()
        }
        (Some(TokenKeyType::EC | TokenKeyType::RSA), ..) => None,
        _ => return Err(nonsense("it is neither EC nor RSA")),
    };
    let key = key.or_else(|| PublicKey::from_spki(&info.filter(|info| !info.is_empty())?).ok());
    key.ok_or_else(|| nonsense("its public half is missing or of another kind"))
}

fn pss(algorithm: SignatureAlgorithm) -> PkcsPssParams {
    let (hash_alg, mgf) = match algorithm.digest_bits() {
        256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
        _ => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
    };
    PkcsPssParams { hash_alg, mgf, s_len: Ulong::new(u64::from(algorithm.digest_bits() / 8)) }
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKeys({}, {})", self.pool.settings().token, self.prefix)
    }
}
