//! Serial numbers of certificates.

use crate::{
    PublicKey, digest,
    random::{self, RandomError},
};

/// How many bytes of a serial that commits to a key are random, and how many are the commitment.
const RANDOM: usize = 8;
const COMMITMENT: usize = 11;

/// A serial number: an unsigned integer of at most 20 bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// A random serial in 1..2^128-1.
    ///
    /// # Errors
    /// [`RandomError`] when the system gives no random bytes.
    pub fn random() -> Result<Self, RandomError> {
        loop {
            let serial = Self::from_bytes(&random::bytes::<16>()?);
            if !serial.0.is_empty() {
                return Ok(serial);
            }
        }
    }

    /// A random serial that commits to a key: [`Serial::is_of_key`] tells that it was made for this
    /// key, and that it was not made for another.
    ///
    /// # Errors
    /// [`RandomError`] when the system gives no random bytes.
    pub fn of_key(key: &PublicKey) -> Result<Self, RandomError> {
        loop {
            let random = random::bytes::<RANDOM>()?;
            // Its length is that of all, so that it can be taken apart again.
            if random.first() != Some(&0) {
                return Ok(Self::from_bytes(&committed(&random, key)));
            }
        }
    }

    /// Whether a serial, in decimal, was made for this key.
    pub fn is_of_key(decimal: &str, key: &PublicKey) -> bool {
        let Some(serial) = bytes_of(decimal) else { return false };
        let random = serial.get(..RANDOM).unwrap_or_default();
        serial.len() == RANDOM + COMMITMENT && serial == committed(random, key)
    }

    /// From big-endian bytes; leading zeroes are dropped.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let zeroes = bytes.iter().take_while(|&&b| b == 0).count();
        Self(bytes.get(zeroes..).unwrap_or_default().to_vec())
    }

    /// Big-endian bytes without leading zeroes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The random part and what it makes of a key: the beginning of SHA-256 over both.
fn committed(random: &[u8], key: &PublicKey) -> Vec<u8> {
    let hash = digest::sha256(&[random, key.spki_der()].concat());
    [random, hash.get(..COMMITMENT).unwrap_or_default()].concat()
}

/// The bytes of a decimal number that is no longer than a serial can be.
fn bytes_of(decimal: &str) -> Option<Vec<u8>> {
    // 2^160 has 49 digits.
    if decimal.is_empty() || decimal.len() > 49 {
        return None;
    }
    let mut bytes = Vec::with_capacity(21);
    for digit in decimal.bytes() {
        let mut carry = u32::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
        // Least significant first.
        for byte in &mut bytes {
            let value = u32::from(*byte) * 10 + carry;
            *byte = u8::try_from(value & 0xff).ok()?;
            carry = value >> 8;
        }
        if carry > 0 {
            bytes.push(u8::try_from(carry).ok()?);
        }
    }
    bytes.reverse();
    Some(bytes)
}

impl std::fmt::Display for Serial {
    /// Decimal, as SPIRE stores and prints serials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.len() <= 16 {
            let value = self.0.iter().fold(0_u128, |sum, &b| sum << 8 | u128::from(b));
            return write!(f, "{value}");
        }
        // Schoolbook: digits in base 10^9, most significant last.
        let mut digits: Vec<u64> = vec![0];
        for &byte in &self.0 {
            let mut carry = u64::from(byte);
            for digit in &mut digits {
                let value = *digit * 256 + carry;
                *digit = value % 1_000_000_000;
                carry = value / 1_000_000_000;
            }
            if carry > 0 {
                digits.push(carry);
            }
        }
        let mut digits = digits.into_iter().rev();
        write!(f, "{}", digits.next().unwrap_or_default())?;
        digits.try_for_each(|digit| write!(f, "{digit:09}"))
    }
}

impl std::fmt::Debug for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyType, PrivateKey, Signer as _};

    #[test]
    fn a_serial_commits_to_its_key_and_no_other() {
        let key = || PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
        let (one, other) = (key(), key());
        let (one, other) = (one.public_key(), other.public_key());
        for _ in 0..200 {
            let serial = Serial::of_key(one).unwrap();
            assert_eq!(serial.as_bytes().len(), 19);
            let decimal = serial.to_string();
            assert_eq!(bytes_of(&decimal).unwrap(), serial.as_bytes());
            assert!(Serial::is_of_key(&decimal, one));
            assert!(!Serial::is_of_key(&decimal, other));
        }
        assert_ne!(Serial::of_key(one).unwrap(), Serial::of_key(one).unwrap());
        let random = Serial::random().unwrap().to_string();
        let long = "9".repeat(50);
        for decimal in [&*random, "", "0", "-1", "x", "1 2", &*long] {
            assert!(!Serial::is_of_key(decimal, one), "{decimal}");
        }
    }

    #[test]
    fn serials_print_as_decimal_of_any_length() {
        for (bytes, text) in [
            (&[][..], "0"),
            (&[0, 0, 1, 0], "256"),
            (&[0xff; 16], "340282366920938463463374607431768211455"),
            (&[0xff; 20], "1461501637330902918203684832716283019655932542975"),
            (
                &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                "340282366920938463463374607431768211456",
            ),
        ] {
            assert_eq!(Serial::from_bytes(bytes).to_string(), text);
        }
    }
}
