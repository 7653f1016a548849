//! Serial numbers of certificates.

use crate::random::{self, RandomError};

/// A serial number: an unsigned integer of at most 20 bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// A random serial in 1..2^128-1.
    ///
    /// # Errors
    /// [`RandomError`].
    pub fn random() -> Result<Self, RandomError> {
        loop {
            let serial = Self::from_bytes(&random::bytes::<16>()?);
            if !serial.0.is_empty() {
                return Ok(serial);
            }
        }
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
