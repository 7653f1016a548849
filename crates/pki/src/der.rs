//! A small DER writer and reader: what issuing and reading need on the hot path, and nothing more.
//!
//! The writer fills in lengths when a constructed value ends. The reader takes one value after the
//! other, refuses indefinite and non-minimal lengths and multi-byte tags, and never recurses.

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

/// Content octets of the object identifiers we use.
pub mod oid {
    /// 1.2.840.10045.2.1
    pub const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    /// 1.2.840.10045.3.1.7
    pub const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    /// 1.3.132.0.34
    pub const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
    /// 1.3.132.0.35
    pub const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
    /// 1.2.840.113549.1.1.1
    pub const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    /// 1.2.840.113549.1.1.11
    pub const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
    /// 1.2.840.113549.1.1.12
    pub const RSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c];
    /// 1.2.840.113549.1.1.13
    pub const RSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d];
    /// 1.2.840.10045.4.3.2
    pub const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    /// 1.2.840.10045.4.3.3
    pub const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
    /// 1.2.840.10045.4.3.4
    pub const ECDSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04];
    /// 1.2.840.113549.1.9.14
    pub const EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
    /// 2.5.29.14
    pub const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 0x0e];
    /// 2.5.29.15
    pub const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
    /// 2.5.29.17
    pub const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
    /// 2.5.29.19
    pub const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
    /// 2.5.29.35
    pub const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];
    /// 2.5.29.37
    pub const EXT_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
    /// 1.3.6.1.5.5.7.3.1
    pub const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
    /// 1.3.6.1.5.5.7.3.2
    pub const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
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
    pub fn time(&mut self, unix: i64) {
        const YEAR_9999: i64 = 253_402_300_799;
        let at = time::OffsetDateTime::from_unix_timestamp(unix.clamp(-62_167_219_200, YEAR_9999))
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

/// One DER value.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    /// Its tag.
    pub tag: u8,
    /// What is inside.
    pub content: &'a [u8],
    /// The whole of it, tag and length too.
    pub raw: &'a [u8],
}

/// Reads DER values one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// At the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Nothing may follow.
    ///
    /// # Errors
    /// [`DerError`] when something does.
    pub fn finish(&self) -> Result<(), DerError> {
        if self.0.is_empty() { Ok(()) } else { Err(DerError) }
    }

    /// The next value.
    ///
    /// # Errors
    /// [`DerError`] when the bytes end too early or are not DER.
    #[allow(clippy::should_implement_trait, reason = "fallible, and an end is an error here")]
    pub fn next(&mut self) -> Result<Value<'a>, DerError> {
        let (&tag, rest) = self.0.split_first().ok_or(DerError)?;
        if tag & 0x1f == 0x1f {
            return Err(DerError);
        }
        let (&first, rest) = rest.split_first().ok_or(DerError)?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (octets, rest) =
                    rest.split_at_checked(usize::from(first & 0x7f)).ok_or(DerError)?;
                let length = octets.iter().fold(0, |sum, &b| sum << 8 | usize::from(b));
                if octets.first() == Some(&0) || length < 0x80 {
                    return Err(DerError);
                }
                (length, rest)
            }
            _ => return Err(DerError),
        };
        let (content, after) = rest.split_at_checked(length).ok_or(DerError)?;
        let raw = self.0.get(..self.0.len() - after.len()).ok_or(DerError)?;
        self.0 = after;
        Ok(Value { tag, content, raw })
    }

    /// The next value, which must have this tag.
    ///
    /// # Errors
    /// [`DerError`].
    pub fn expect(&mut self, tag: u8) -> Result<&'a [u8], DerError> {
        let value = self.next()?;
        if value.tag == tag { Ok(value.content) } else { Err(DerError) }
    }

    /// A reader of the content of the next value, which must have this tag.
    ///
    /// # Errors
    /// [`DerError`].
    pub fn enter(&mut self, tag: u8) -> Result<Self, DerError> {
        self.expect(tag).map(Self)
    }

    /// The next value if it has this tag.
    ///
    /// # Errors
    /// [`DerError`] when it has the tag and is broken.
    pub fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, DerError> {
        if self.0.first() == Some(&tag) { self.expect(tag).map(Some) } else { Ok(None) }
    }

    /// An INTEGER that is not negative, as big-endian bytes without a leading zero.
    ///
    /// # Errors
    /// [`DerError`].
    pub fn unsigned(&mut self) -> Result<&'a [u8], DerError> {
        match self.expect(tag::INTEGER)? {
            [0] => Ok(&[]),
            [0, next, ..] if next & 0x80 == 0 => Err(DerError),
            [0, rest @ ..] => Ok(rest),
            content @ [first, ..] if first & 0x80 == 0 => Ok(content),
            _ => Err(DerError),
        }
    }

    /// An INTEGER that fits 32 bits and is not negative.
    ///
    /// # Errors
    /// [`DerError`].
    pub fn small_unsigned(&mut self) -> Result<u32, DerError> {
        let bytes = self.unsigned()?;
        if bytes.len() > 4 {
            return Err(DerError);
        }
        Ok(bytes.iter().fold(0, |sum, &b| sum << 8 | u32::from(b)))
    }

    /// A BIT STRING of whole bytes.
    ///
    /// # Errors
    /// [`DerError`].
    pub fn bits(&mut self) -> Result<&'a [u8], DerError> {
        match self.expect(tag::BIT_STRING)? {
            [0, rest @ ..] => Ok(rest),
            _ => Err(DerError),
        }
    }

    /// UTCTime or GeneralizedTime as RFC 5280 writes them, in Unix seconds.
    ///
    /// # Errors
    /// [`DerError`].
    pub fn time(&mut self) -> Result<i64, DerError> {
        let value = self.next()?;
        let (text, year_digits) = match value.tag {
            tag::UTC_TIME => (value.content, 2),
            tag::GENERALIZED_TIME => (value.content, 4),
            _ => return Err(DerError),
        };
        let text = text.strip_suffix(b"Z").ok_or(DerError)?;
        if text.len() != year_digits + 10 || !text.iter().all(u8::is_ascii_digit) {
            return Err(DerError);
        }
        let (year, rest) = text.split_at_checked(year_digits).ok_or(DerError)?;
        let number =
            |digits: &[u8]| digits.iter().fold(0_i32, |sum, &d| sum * 10 + i32::from(d - b'0'));
        let mut fields =
            rest.chunks_exact(2).map(|pair| u8::try_from(number(pair)).unwrap_or(u8::MAX));
        let mut field = || fields.next().ok_or(DerError);
        let year = match number(year) {
            short @ 0..50 if year_digits == 2 => 2000 + short,
            short if year_digits == 2 => 1900 + short,
            full => full,
        };
        let month = time::Month::try_from(field()?).map_err(|_| DerError)?;
        let date = time::Date::from_calendar_date(year, month, field()?).map_err(|_| DerError)?;
        let at = date.with_hms(field()?, field()?, field()?).map_err(|_| DerError)?;
        Ok(at.assume_utc().unix_timestamp())
    }
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
pub(crate) fn ecdsa_signature(r: &[u8], s: &[u8]) -> Vec<u8> {
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
            writer.time(unix);
            let der = writer.into_bytes();
            assert_eq!(der[2..], *text.as_bytes());
            assert_eq!(Reader::new(&der).time().unwrap(), unix);
        }
        let mut writer = Writer::default();
        writer.time(i64::MAX);
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
