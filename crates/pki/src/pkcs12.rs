//! PKCS#12 (RFC 7292): what Java and Windows programs read keys and roots from.
//!
//! Keys are encrypted with PBES2 (PBKDF2 with HMAC-SHA256, AES-256-CBC), certificates are not, and
//! everything is authenticated with HMAC-SHA256: what Java 8u301, OpenSSL 1.1 and Windows Server 2019
//! and everything later read. The password is a formality of the format: the file is as secret as
//! the file mode makes it.

use std::num::NonZeroU32;

use aws_lc_rs::{
    cipher::{AES_256, EncryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey},
    hmac, pbkdf2,
};
use zeroize::Zeroizing;

use crate::{
    der::{
        Writer,
        tag::{self, BMP_STRING, NULL, OCTET_STRING, OID, SEQUENCE, SET},
    },
    digest::sha256,
    random,
};

/// How often the password is hashed, for the key and for the authentication: Java's own number.
const ITERATIONS: u32 = 10_000;
const SALT: usize = 20;
/// The longest password, characters.
pub const MAX_PASSWORD: usize = 1024;

const DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 1];
const SHROUDED_KEY: &[u64] = &[1, 2, 840, 113_549, 1, 12, 10, 1, 2];
const CERT_BAG: &[u64] = &[1, 2, 840, 113_549, 1, 12, 10, 1, 3];
const X509_CERTIFICATE: &[u64] = &[1, 2, 840, 113_549, 1, 9, 22, 1];
const FRIENDLY_NAME: &[u64] = &[1, 2, 840, 113_549, 1, 9, 20];
const LOCAL_KEY_ID: &[u64] = &[1, 2, 840, 113_549, 1, 9, 21];
const PBES2: &[u64] = &[1, 2, 840, 113_549, 1, 5, 13];
const PBKDF2: &[u64] = &[1, 2, 840, 113_549, 1, 5, 12];
const HMAC_SHA256: &[u64] = &[1, 2, 840, 113_549, 2, 9];
const AES_256_CBC: &[u64] = &[2, 16, 840, 1, 101, 3, 4, 1, 42];
const SHA256: &[u64] = &[2, 16, 840, 1, 101, 3, 4, 2, 1];
/// By this Java knows a certificate that is trusted from one that only belongs to a key.
const TRUSTED_KEY_USAGE: &[u64] = &[2, 16, 840, 1, 113_894, 746_875, 1, 1];
const ANY_USAGE: &[u64] = &[2, 5, 29, 37, 0];

const CONTEXT_0: u8 = tag::context_constructed(0);

/// Why a file could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Pkcs12Error {
    /// The password is too long, or has characters beyond the basic plane of Unicode.
    #[error("a PKCS#12 password has at most {MAX_PASSWORD} characters, all below U+10000")]
    Password,
    /// The crypto library or the source of random numbers failed.
    #[error("encrypting failed")]
    Crypto,
}

/// A key store: the PKCS#8 DER of a key, and its certificates, DER, leaf first, under the name
/// `alias`.
///
/// # Errors
/// [`Pkcs12Error`] when the password cannot be used, or encrypting fails.
pub fn key_store<'a>(
    alias: &str,
    key: &[u8],
    chain: impl IntoIterator<Item = &'a [u8]>,
    password: &str,
) -> Result<Zeroizing<Vec<u8>>, Pkcs12Error> {
    let chain: Vec<&[u8]> = chain.into_iter().collect();
    let id = sha256(chain.first().copied().unwrap_or_default());
    let named = attributes(&[friendly_name(alias)?, local_key_id(&id)]);
    let shrouded = shroud(key, password)?;
    let key_bag = bag(SHROUDED_KEY, &shrouded, &named);
    let certificates: Vec<u8> = chain
        .iter()
        .enumerate()
        .flat_map(|(at, der)| certificate_bag(der, if at == 0 { &named } else { &[] }))
        .collect();
    let parts = [tlv(SEQUENCE, &certificates), tlv(SEQUENCE, &key_bag)];
    pfx(&parts, password)
}

/// A trust store: certificates, DER, each with a name.
///
/// # Errors
/// [`Pkcs12Error`] when the password cannot be used, or encrypting fails.
pub fn trust_store<'a>(
    authorities: impl IntoIterator<Item = (String, &'a [u8])>,
    password: &str,
) -> Result<Zeroizing<Vec<u8>>, Pkcs12Error> {
    let mut bags = Vec::new();
    for (alias, der) in authorities {
        let trusted = attribute(TRUSTED_KEY_USAGE, &oid(ANY_USAGE));
        let named = attributes(&[friendly_name(&alias)?, trusted]);
        bags.extend(certificate_bag(der, &named));
    }
    pfx(&[tlv(SEQUENCE, &bags)], password)
}

/// The file: its parts, each the contents of safe bags, and what authenticates them.
fn pfx(parts: &[Vec<u8>], password: &str) -> Result<Zeroizing<Vec<u8>>, Pkcs12Error> {
    let infos: Vec<u8> = parts.iter().flat_map(|part| content_info(part)).collect();
    let safe = tlv(SEQUENCE, &infos);
    let salt = random_salt()?;
    let key = Zeroizing::new(mac_key(password, &salt)?);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &*key), &safe);
    let algorithm = tlv(SEQUENCE, &[oid(SHA256), tlv(NULL, &[])].concat());
    let digest = tlv(SEQUENCE, &[algorithm, tlv(OCTET_STRING, tag.as_ref())].concat());
    let mac = [digest, tlv(OCTET_STRING, &salt), integer(ITERATIONS)].concat();
    let whole = [integer(3), content_info(&safe), tlv(SEQUENCE, &mac)].concat();
    Ok(Zeroizing::new(tlv(SEQUENCE, &whole)))
}

fn content_info(content: &[u8]) -> Vec<u8> {
    let octets = tlv(OCTET_STRING, content);
    tlv(SEQUENCE, &[oid(DATA), tlv(CONTEXT_0, &octets)].concat())
}

fn bag(kind: &[u64], value: &[u8], attributes: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, &[&*oid(kind), &*tlv(CONTEXT_0, value), attributes].concat())
}

fn certificate_bag(der: &[u8], attributes: &[u8]) -> Vec<u8> {
    let octets = tlv(CONTEXT_0, &tlv(OCTET_STRING, der));
    bag(CERT_BAG, &tlv(SEQUENCE, &[oid(X509_CERTIFICATE), octets].concat()), attributes)
}

fn attributes(all: &[Vec<u8>]) -> Vec<u8> {
    // DER wants the members of a set in order.
    let mut all = all.to_vec();
    all.sort();
    tlv(SET, &all.concat())
}

fn attribute(kind: &[u64], value: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, &[oid(kind), tlv(SET, value)].concat())
}

fn friendly_name(name: &str) -> Result<Vec<u8>, Pkcs12Error> {
    Ok(attribute(FRIENDLY_NAME, &tlv(BMP_STRING, &bmp(name)?)))
}

fn local_key_id(id: &[u8]) -> Vec<u8> {
    attribute(LOCAL_KEY_ID, &tlv(OCTET_STRING, id))
}

/// An encrypted key (PKCS#8 `EncryptedPrivateKeyInfo`).
fn shroud(key: &[u8], password: &str) -> Result<Vec<u8>, Pkcs12Error> {
    let salt = random_salt()?;
    let mut derived = Zeroizing::new([0; 32]);
    let iterations = NonZeroU32::new(ITERATIONS).ok_or(Pkcs12Error::Crypto)?;
    // Here the password is UTF-8, unlike everywhere else in the format.
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        iterations,
        &salt,
        password.as_bytes(),
        &mut *derived,
    );
    let unbound = UnboundCipherKey::new(&AES_256, &*derived).map_err(|_| Pkcs12Error::Crypto)?;
    let cipher = PaddedBlockEncryptingKey::cbc_pkcs7(unbound).map_err(|_| Pkcs12Error::Crypto)?;
    // Room for the padding, so that it does not move and leave a copy of the key behind.
    let mut encrypted = Vec::with_capacity(key.len() + 16);
    encrypted.extend_from_slice(key);
    let mut iv = vec![0; 16];
    random::fill(&mut iv).map_err(|_| Pkcs12Error::Crypto)?;
    let fixed: [u8; 16] = iv.as_slice().try_into().map_err(|_| Pkcs12Error::Crypto)?;
    cipher
        .less_safe_encrypt(&mut encrypted, EncryptionContext::Iv128(fixed.into()))
        .map_err(|_| Pkcs12Error::Crypto)?;
    let prf = tlv(SEQUENCE, &[oid(HMAC_SHA256), tlv(NULL, &[])].concat());
    let params = [tlv(OCTET_STRING, &salt), integer(ITERATIONS), integer(32), prf].concat();
    let kdf = tlv(SEQUENCE, &[oid(PBKDF2), tlv(SEQUENCE, &params)].concat());
    let scheme = tlv(SEQUENCE, &[oid(AES_256_CBC), tlv(OCTET_STRING, &iv)].concat());
    let algorithm = tlv(SEQUENCE, &[oid(PBES2), tlv(SEQUENCE, &[kdf, scheme].concat())].concat());
    Ok(tlv(SEQUENCE, &[algorithm, tlv(OCTET_STRING, &encrypted)].concat()))
}

/// The key that authenticates the file (RFC 7292, appendix B.2, with SHA-256 and one block of it).
fn mac_key(password: &str, salt: &[u8]) -> Result<[u8; 32], Pkcs12Error> {
    const BLOCK: usize = 64;
    const FOR_MAC: u8 = 3;
    let repeated = |bytes: &[u8]| {
        let length = bytes.len().div_ceil(BLOCK) * BLOCK;
        bytes.iter().copied().cycle().take(length).collect::<Vec<u8>>()
    };
    let mut secret = Zeroizing::new(bmp(password)?);
    secret.extend([0, 0]);
    let mut input = Zeroizing::new(vec![FOR_MAC; BLOCK]);
    input.extend(repeated(salt));
    input.extend(Zeroizing::new(repeated(&secret)).iter());
    let mut key = sha256(&input);
    for _ in 1..ITERATIONS {
        key = sha256(&key);
    }
    Ok(key)
}

fn random_salt() -> Result<Vec<u8>, Pkcs12Error> {
    let mut salt = vec![0; SALT];
    random::fill(&mut salt).map_err(|_| Pkcs12Error::Crypto)?;
    Ok(salt)
}

/// Two bytes for each character.
fn bmp(text: &str) -> Result<Vec<u8>, Pkcs12Error> {
    if text.chars().count() > MAX_PASSWORD || text.chars().any(|c| c.len_utf16() > 1) {
        return Err(Pkcs12Error::Password);
    }
    Ok(text.encode_utf16().flat_map(u16::to_be_bytes).collect())
}

fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut body = Vec::new();
    let (first, rest) = match arcs {
        [a, b, rest @ ..] => (a * 40 + b, rest),
        _ => (0, arcs),
    };
    for arc in std::iter::once(&first).chain(rest) {
        let mut groups = vec![u8::try_from(arc & 0x7f).unwrap_or(0)];
        let mut left = arc >> 7;
        while left > 0 {
            groups.push(u8::try_from(left & 0x7f).unwrap_or(0) | 0x80);
            left >>= 7;
        }
        body.extend(groups.iter().rev());
    }
    tlv(OID, &body)
}

fn integer(number: u32) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.unsigned(&number.to_be_bytes());
    writer.into_bytes()
}

fn tlv(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(body.len() + 10);
    writer.primitive(tag, body);
    writer.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_numbers_and_names_are_der() {
        assert_eq!(tlv(4, &[7; 3]), [4, 3, 7, 7, 7]);
        assert_eq!(tlv(4, &[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(tlv(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
        assert_eq!(integer(3), [2, 1, 3]);
        assert_eq!(integer(128), [2, 2, 0, 128]);
        assert_eq!(integer(10_000), [2, 2, 0x27, 0x10]);
        assert_eq!(oid(DATA), [6, 9, 42, 134, 72, 134, 247, 13, 1, 7, 1]);
        assert_eq!(bmp("a\u{e9}").unwrap(), [0, 97, 0, 0xe9]);
        assert_eq!(bmp("\u{1f600}").unwrap_err(), Pkcs12Error::Password);
    }
}
