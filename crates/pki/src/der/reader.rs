//! Reading: one value after the other.

use signet_time::UnixTime;

use super::{DerError, tag};

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
    /// [`DerError`] when the next value has another tag or is malformed, or there is none.
    pub fn expect(&mut self, tag: u8) -> Result<&'a [u8], DerError> {
        let value = self.next()?;
        if value.tag == tag { Ok(value.content) } else { Err(DerError) }
    }

    /// A reader of the content of the next value, which must have this tag.
    ///
    /// # Errors
    /// [`DerError`] when the next value has another tag or is malformed, or there is none.
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
    /// [`DerError`] when the next value is no such number.
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
    /// [`DerError`] when the next value is no such number.
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
    /// [`DerError`] when the next value is no such string.
    pub fn bits(&mut self) -> Result<&'a [u8], DerError> {
        match self.expect(tag::BIT_STRING)? {
            [0, rest @ ..] => Ok(rest),
            _ => Err(DerError),
        }
    }

    /// UTCTime or GeneralizedTime as RFC 5280 writes them, in Unix seconds.
    ///
    /// # Errors
    /// [`DerError`] when the next value is no such time.
    pub fn time(&mut self) -> Result<UnixTime, DerError> {
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
        Ok(UnixTime::from_seconds(at.assume_utc().unix_timestamp()))
    }
}
