//! A small DER writer and reader: what issuing and reading need on the hot path, and nothing more.
//!
//! The writer fills in lengths when a constructed value ends. The reader takes one value after the
//! other, refuses indefinite and non-minimal lengths and multi-byte tags, and never recurses.

use signet_time::UnixTime;

pub mod oid;
mod reader;

pub use reader::{Reader, Value};

/// Tags of the types we use.
pub mod tag {
    /// BOOLEAN
    pub const BOOLEAN: u8 = 0x01;
    /// INTEGER
    pub const INTEGER: u8 = 0x02;
    /// BIT STRING
    pub const BIT_STRING: u8 = 0x03;
    /// OCTET STRING
    pub const OCTET_STRING: u8 = 0x04;
    /// NULL
    pub const NULL: u8 = 0x05;
    /// OBJECT IDENTIFIER
    pub const OID: u8 = 0x06;
    /// UTF8String
    pub const UTF8_STRING: u8 = 0x0c;
    /// PrintableString
    pub const PRINTABLE_STRING: u8 = 0x13;
    /// TeletexString
    pub const TELETEX_STRING: u8 = 0x14;
    /// IA5String
    pub const IA5_STRING: u8 = 0x16;
    /// UTCTime
    pub const UTC_TIME: u8 = 0x17;
    /// GeneralizedTime
    pub const GENERALIZED_TIME: u8 = 0x18;
    /// BMPString
    pub const BMP_STRING: u8 = 0x1e;
    /// SEQUENCE
    pub const SEQUENCE: u8 = 0x30;
    /// SET
    pub const SET: u8 = 0x31;

    /// Context-specific, primitive.
    pub const fn context(number: u8) -> u8 {
        0x80 | number
    }

    /// Context-specific, constructed.
    pub const fn context_constructed(number: u8) -> u8 {
        0xa0 | number
    }
}

/// The bytes are not the DER that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the expected DER")]
pub struct DerError;

/// Writes DER.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// A value whose content `fill` writes.
    pub fn constructed(&mut self, tag: u8, fill: impl FnOnce(&mut Self)) {
        self.0.push(tag);
        let length_at = self.0.len();
        self.0.push(0);
        fill(self);
        let length = self.0.len() - length_at - 1;
        let mut octets = [0; 9];
        let used = encode_length(length, &mut octets);
        self.0.splice(length_at..=length_at, octets.into_iter().take(used));
    }

    /// A SEQUENCE whose content `fill` writes.
    pub fn sequence(&mut self, fill: impl FnOnce(&mut Self)) {
        self.constructed(tag::SEQUENCE, fill);
    }

    /// A value with the given content.
    pub fn primitive(&mut self, tag: u8, content: &[u8]) {
        self.0.push(tag);
        let mut octets = [0; 9];
        let used = encode_length(content.len(), &mut octets);
        self.0.extend(octets.into_iter().take(used));
        self.0.extend_from_slice(content);
    }

    /// Bytes that are DER already.
    pub fn raw(&mut self, der: &[u8]) {
        self.0.extend_from_slice(der);
    }

    /// An INTEGER from unsigned big-endian bytes.
    pub fn unsigned(&mut self, bytes: &[u8]) {
        let zeroes = bytes.iter().take_while(|&&b| b == 0).count();
        let bytes = bytes.get(zeroes..).unwrap_or_default();
        let pad = bytes.first().is_none_or(|&b| b & 0x80 != 0);
        self.constructed(tag::INTEGER, |w| {
            if pad {
                w.0.push(0);
            }
            w.0.extend_from_slice(bytes);
        });
    }

    /// An OBJECT IDENTIFIER from its content octets.
    pub fn oid(&mut self, content: &[u8]) {
        self.primitive(tag::OID, content);
    }

    /// A BIT STRING; `unused` bits of the last byte do not count.
    pub fn bit_string(&mut self, unused: u8, bytes: &[u8]) {
        self.constructed(tag::BIT_STRING, |w| {
            w.0.push(unused);
            w.0.extend_from_slice(bytes);
        });
    }

    /// TRUE.
    pub fn boolean_true(&mut self) {
        self.primitive(tag::BOOLEAN, &[0xff]);
    }

    /// A time: UTCTime from 1950 to 2049, else GeneralizedTime (RFC 5280 4.1.2.5). Times that
    /// cannot be written (before year 0, after 9999) become the nearest that can.
    pub fn time(&mut self, unix: UnixTime) {
        const YEAR_9999: i64 = 253_402_300_799;
        let seconds = unix.seconds().clamp(-62_167_219_200, YEAR_9999);
        let at = time::OffsetDateTime::from_unix_timestamp(seconds)
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        let (year, short) = (at.year(), (1950..2050).contains(&at.year()));
        let mut text = [0; 15];
        let fields = [
            (year / 100).unsigned_abs(),
            (year % 100).unsigned_abs(),
            u32::from(u8::from(at.month())),
            u32::from(at.day()),
            u32::from(at.hour()),
            u32::from(at.minute()),
            u32::from(at.second()),
        ];
        for (pair, value) in text.chunks_exact_mut(2).zip(fields) {
            let digits = [b'0' + (value / 10 % 10) as u8, b'0' + (value % 10) as u8];
            pair.copy_from_slice(&digits);
        }
        text[14] = b'Z';
        match text.get(2..) {
            Some(text) if short => self.primitive(tag::UTC_TIME, text),
            _ => self.primitive(tag::GENERALIZED_TIME, &text),
        }
    }

    /// A PrintableString where the characters allow it, else a UTF8String, as Go writes names.
    pub fn string(&mut self, text: &str) {
        let kind =
            if text.bytes().all(is_printable) { tag::PRINTABLE_STRING } else { tag::UTF8_STRING };
        self.primitive(kind, text.as_bytes());
    }

    /// An X.509 extension; `fill` writes the DER inside the OCTET STRING.
    pub fn extension(&mut self, oid: &[u8], critical: bool, fill: impl FnOnce(&mut Self)) {
        self.sequence(|w| {
            w.oid(oid);
            if critical {
                w.boolean_true();
            }
            w.constructed(tag::OCTET_STRING, fill);
        });
    }
}

/// Whether `der` is exactly one signed structure in DER: a SEQUENCE of what is signed, the
/// algorithm and the signature. x509-parser also takes BER forms of these outer headers, which no
/// signature covers.
pub(crate) fn is_signed_structure(der: &[u8]) -> bool {
    let check = || {
        let mut outer = Reader::new(der);
        let mut parts = outer.enter(tag::SEQUENCE)?;
        outer.finish()?;
        parts.expect(tag::SEQUENCE)?;
        parts.enter(tag::SEQUENCE)?.expect(tag::OID)?;
        parts.bits()?;
        parts.finish()
    };
    check().is_ok()
}

/// Splits an ECDSA signature (SEQUENCE of r and s) into its numbers, big endian, no leading zero.
pub(crate) fn ecdsa_numbers(signature: &[u8]) -> Result<(&[u8], &[u8]), DerError> {
    let mut outer = Reader::new(signature);
    let mut inner = outer.enter(tag::SEQUENCE)?;
    outer.finish()?;
    let numbers = (inner.unsigned()?, inner.unsigned()?);
    inner.finish()?;
    Ok(numbers)
}

/// Joins r and s (big endian) to an ECDSA signature.
pub fn ecdsa_signature(r: &[u8], s: &[u8]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(r.len() + s.len() + 9);
    writer.sequence(|w| {
        w.unsigned(r);
        w.unsigned(s);
    });
    writer.into_bytes()
}

fn encode_length(length: usize, out: &mut [u8; 9]) -> usize {
    if length < 0x80 {
        out[0] = length as u8;
        return 1;
    }
    let bytes = length.to_be_bytes();
    let skip = bytes.iter().take_while(|&&b| b == 0).count();
    let used = bytes.len() - skip;
    out[0] = 0x80 | used as u8;
    for (to, from) in out.iter_mut().skip(1).zip(bytes.iter().skip(skip)) {
        *to = *from;
    }
    used + 1
}

fn is_printable(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_minimal_at_each_edge() {
        for (length, header) in [
            (0, vec![4, 0]),
            (127, vec![4, 127]),
            (128, vec![4, 0x81, 128]),
            (255, vec![4, 0x81, 255]),
            (256, vec![4, 0x82, 1, 0]),
            (65_536, vec![4, 0x83, 1, 0, 0]),
        ] {
            let content = vec![7; length];
            let mut plain = Writer::default();
            plain.primitive(tag::OCTET_STRING, &content);
            let mut nested = Writer::default();
            nested.constructed(tag::OCTET_STRING, |w| w.raw(&content));
            let (plain, nested) = (plain.into_bytes(), nested.into_bytes());
            assert_eq!(plain, nested);
            assert!(plain.starts_with(&header), "{length}");
            let mut reader = Reader::new(&plain);
            assert_eq!(reader.expect(tag::OCTET_STRING).unwrap(), content);
            reader.finish().unwrap();
        }
    }

    #[test]
    fn integers_are_unsigned_and_minimal() {
        for (bytes, der) in [
            (&[0_u8, 0][..], &[2_u8, 1, 0][..]),
            (&[0x7f], &[2, 1, 0x7f]),
            (&[0x80], &[2, 2, 0, 0x80]),
            (&[0, 1, 2], &[2, 2, 1, 2]),
        ] {
            let mut writer = Writer::default();
            writer.unsigned(bytes);
            assert_eq!(writer.into_bytes(), der);
        }
        for bad in [&[2_u8, 0][..], &[2, 1, 0x80], &[2, 2, 0, 1], &[3, 1, 0]] {
            assert!(Reader::new(bad).unsigned().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_change_form_in_2050_and_read_back() {
        for (unix, text) in [
            (0, "700101000000Z"),
            (-631_152_000, "500101000000Z"),
            (-631_152_001, "19491231235959Z"),
            (1_700_000_000, "231114221320Z"),
            (2_524_607_999, "491231235959Z"),
            (2_524_608_000, "20500101000000Z"),
            (253_402_300_799, "99991231235959Z"),
        ] {
            let mut writer = Writer::default();
            writer.time(UnixTime::from_seconds(unix));
            let der = writer.into_bytes();
            assert_eq!(der[2..], *text.as_bytes());
            assert_eq!(Reader::new(&der).time().unwrap(), UnixTime::from_seconds(unix));
        }
        let mut writer = Writer::default();
        writer.time(UnixTime::MAX);
        assert_eq!(writer.into_bytes()[2..], *b"99991231235959Z");
    }

    #[test]
    fn refuses_what_is_not_der() {
        for bad in [
            &[][..],
            &[0x30],
            &[0x30, 1],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x81, 1, 0],
            &[0x30, 0x82, 0, 0x80],
            &[0x1f, 0x81, 0],
            &[0x30, 0x85, 1, 0, 0, 0, 0],
        ] {
            assert!(Reader::new(bad).next().is_err(), "{bad:?}");
        }
        for bad in [&b"231114221320"[..], b"231314221320Z", b"231114221360Z", b"2311142213Z"] {
            let mut writer = Writer::default();
            writer.primitive(tag::UTC_TIME, bad);
            assert!(Reader::new(&writer.into_bytes()).time().is_err());
        }
    }
}
