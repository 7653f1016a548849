//! Distinguished names, with the fields and order that SPIRE writes.

use std::fmt;

use x509_parser::{
    asn1_rs::{Any, Tag},
    x509::X509Name,
};

use super::error::CertError;
use crate::der::{DerError, Writer, tag};

/// An object identifier: the content octets of its DER encoding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Oid(Vec<u8>);

impl Oid {
    /// From content octets that are known to be right.
    pub(crate) fn from_content(content: &[u8]) -> Self {
        Self(content.to_vec())
    }

    /// Reads dotted text, `2.5.4.45`.
    ///
    /// # Errors
    /// [`CertError::Malformed`] when it is not an object identifier.
    pub fn from_dotted(text: &str) -> Result<Self, CertError> {
        const MALFORMED: CertError = CertError::Malformed("object identifier");
        let mut arcs = text.split('.').map(|arc| arc.parse::<u64>().map_err(|_| MALFORMED));
        let mut arc = || arcs.next().ok_or(MALFORMED)?;
        let (first, second) = (arc()?, arc()?);
        if first > 2 || (first < 2 && second > 39) || text.len() > 256 {
            return Err(MALFORMED);
        }
        let mut content = Vec::new();
        push_arc(&mut content, second.checked_add(first * 40).ok_or(MALFORMED)?);
        for arc in arcs {
            push_arc(&mut content, arc?);
        }
        Ok(Self(content))
    }

    /// DER content octets.
    pub fn content(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value: u64 = 0;
        let mut first = true;
        for &octet in &self.0 {
            value = value.saturating_mul(128) | u64::from(octet & 0x7f);
            if octet & 0x80 != 0 {
                continue;
            }
            if first {
                let root = (value / 40).min(2);
                write!(f, "{root}.{}", value - root * 40)?;
            } else {
                write!(f, ".{value}")?;
            }
            (value, first) = (0, false);
        }
        Ok(())
    }
}

/// A distinguished name. Written in the order country, organization, unit, locality, province,
/// street, postal code, common name, serial number, extra; several values of one field share one
/// RDN. The `Display` form is the one of Go's `pkix.Name` (RFC 2253, last RDN first).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// C
    pub country: Vec<String>,
    /// O
    pub organization: Vec<String>,
    /// OU
    pub organizational_unit: Vec<String>,
    /// L
    pub locality: Vec<String>,
    /// ST
    pub province: Vec<String>,
    /// STREET
    pub street_address: Vec<String>,
    /// POSTALCODE
    pub postal_code: Vec<String>,
    /// CN; empty for none.
    pub common_name: String,
    /// SERIALNUMBER; empty for none.
    pub serial_number: String,
    /// Further attributes to write, each an RDN of its own; one of a field above takes its place.
    pub extra: Vec<(Oid, String)>,
    /// Further attributes that reading found: shown, but not written again, as in Go.
    pub unknown: Vec<(Oid, String)>,
}

/// The type, the last arc under 2.5.4 and the values of a field.
type Field<'a> = (&'static str, u8, &'a [String]);

impl Name {
    /// C and O, one of each.
    pub fn country_organization(country: &str, organization: &str) -> Self {
        Self {
            country: vec![country.to_owned()],
            organization: vec![organization.to_owned()],
            ..Self::default()
        }
    }

    /// SPIRE's subject for SVIDs: C=US, O=SPIRE.
    pub fn spire_svid() -> Self {
        Self::country_organization("US", "SPIRE")
    }

    /// SPIRE's default subject for CAs: C=US, O=SPIFFE.
    pub fn spiffe_ca() -> Self {
        Self::country_organization("US", "SPIFFE")
    }

    /// Whether no field is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// DER of the RDNSequence.
    pub fn to_der(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(128);
        writer.sequence(|w| {
            for (_, arc, values) in self.fields() {
                write_rdn(w, &[0x55, 0x04, arc], values);
            }
            for (oid, value) in &self.extra {
                write_rdn(w, oid.content(), std::slice::from_ref(value));
            }
        });
        writer.into_bytes()
    }

    /// Takes over a name that was read; attributes without a field here go to
    /// [`Name::unknown`].
    ///
    /// # Errors
    /// [`CertError::Malformed`] when a value is not text of its type.
    pub(super) fn from_parsed(parsed: &X509Name<'_>) -> Result<Self, CertError> {
        let mut name = Self::default();
        for attribute in parsed.iter_attributes() {
            let value = text_of(attribute.attr_value())
                .map_err(|_| CertError::Malformed("distinguished name"))?;
            name.add(attribute.attr_type().as_bytes(), value);
        }
        Ok(name)
    }

    fn add(&mut self, oid: &[u8], value: String) {
        match oid {
            [0x55, 0x04, 3] => self.common_name = value,
            [0x55, 0x04, 5] => self.serial_number = value,
            [0x55, 0x04, 6] => self.country.push(value),
            [0x55, 0x04, 7] => self.locality.push(value),
            [0x55, 0x04, 8] => self.province.push(value),
            [0x55, 0x04, 9] => self.street_address.push(value),
            [0x55, 0x04, 10] => self.organization.push(value),
            [0x55, 0x04, 11] => self.organizational_unit.push(value),
            [0x55, 0x04, 17] => self.postal_code.push(value),
            _ => self.unknown.push((Oid::from_content(oid), value)),
        }
    }

    /// Fields with values, in the order they are written, without those that `extra` replaces.
    fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        let one = |text: &'_ String| !text.is_empty();
        let common_name = if one(&self.common_name) { 1 } else { 0 };
        let serial_number = if one(&self.serial_number) { 1 } else { 0 };
        let all: [Field<'_>; 9] = [
            ("C", 6, &self.country),
            ("O", 10, &self.organization),
            ("OU", 11, &self.organizational_unit),
            ("L", 7, &self.locality),
            ("ST", 8, &self.province),
            ("STREET", 9, &self.street_address),
            ("POSTALCODE", 17, &self.postal_code),
            ("CN", 3, std::slice::from_ref(&self.common_name).get(..common_name).unwrap_or(&[])),
            (
                "SERIALNUMBER",
                5,
                std::slice::from_ref(&self.serial_number).get(..serial_number).unwrap_or(&[]),
            ),
        ];
        all.into_iter().filter(|(_, arc, values)| {
            !values.is_empty()
                && !self.extra.iter().any(|(oid, _)| oid.content() == [0x55, 0x04, *arc])
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unknown = if self.extra.is_empty() { &*self.unknown } else { &[] };
        let hidden = unknown.iter().map(|(oid, value)| (other_type(oid), value));
        let extra = self.extra.iter().map(|(oid, value)| (other_type(oid), value));
        let mut rdns: Vec<String> = hidden.map(|(kind, value)| attribute(&kind, value)).collect();
        rdns.extend(self.fields().map(|(kind, _, values)| {
            let each = values.iter().map(|value| format!("{kind}={}", escape(value)));
            each.collect::<Vec<_>>().join("+")
        }));
        rdns.extend(extra.map(|(kind, value)| attribute(&kind, value)));
        rdns.reverse();
        f.write_str(&rdns.join(","))
    }
}

fn push_arc(content: &mut Vec<u8>, arc: u64) {
    let groups = (1..10).rev().filter(|&group| arc >> (7 * group) != 0);
    content.extend(groups.map(|group| (arc >> (7 * group)) as u8 | 0x80));
    content.push((arc & 0x7f) as u8);
}

/// One RDN; several values are sorted by their encoding, as DER wants of a SET OF.
fn write_rdn(w: &mut Writer, oid: &[u8], values: &[String]) {
    let mut attributes: Vec<Vec<u8>> = values
        .iter()
        .map(|value| {
            let mut attribute = Writer::with_capacity(value.len() + 16);
            attribute.sequence(|w| {
                w.oid(oid);
                w.string(value);
            });
            attribute.into_bytes()
        })
        .collect();
    attributes.sort();
    w.constructed(tag::SET, |w| attributes.iter().for_each(|attribute| w.raw(attribute)));
}

fn text_of(value: &Any<'_>) -> Result<String, DerError> {
    let latin1 = |bytes: &[u8]| bytes.iter().map(|&b| char::from(b)).collect();
    let content = value.data;
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => {
            String::from_utf8(content.to_vec()).map_err(|_| DerError)
        }
        Tag::BmpString if content.len().is_multiple_of(2) => {
            let units = content.chunks_exact(2).map(|pair| match pair {
                &[high, low] => u16::from_be_bytes([high, low]),
                _ => 0,
            });
            char::decode_utf16(units).collect::<Result<_, _>>().map_err(|_| DerError)
        }
        // Teletex, numeric and other strings: shown, never compared.
        Tag::TeletexString | Tag::NumericString => Ok(latin1(content)),
        _ => Ok(hex::encode(content)),
    }
}

enum Kind {
    Named(&'static str),
    Dotted(String),
}

fn other_type(oid: &Oid) -> Kind {
    match oid.content() {
        [0x55, 0x04, 3] => Kind::Named("CN"),
        [0x55, 0x04, 5] => Kind::Named("SERIALNUMBER"),
        [0x55, 0x04, 6] => Kind::Named("C"),
        [0x55, 0x04, 7] => Kind::Named("L"),
        [0x55, 0x04, 8] => Kind::Named("ST"),
        [0x55, 0x04, 9] => Kind::Named("STREET"),
        [0x55, 0x04, 10] => Kind::Named("O"),
        [0x55, 0x04, 11] => Kind::Named("OU"),
        [0x55, 0x04, 17] => Kind::Named("POSTALCODE"),
        _ => Kind::Dotted(oid.to_string()),
    }
}

/// Attributes without a short name show the hex of their DER.
fn attribute(kind: &Kind, value: &str) -> String {
    match kind {
        Kind::Named(name) => format!("{name}={}", escape(value)),
        Kind::Dotted(oid) => {
            let mut writer = Writer::default();
            writer.string(value);
            format!("{oid}=#{}", hex::encode(writer.into_bytes()))
        }
    }
}

fn escape(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut out = String::with_capacity(value.len());
    for (at, c) in value.chars().enumerate() {
        let special = match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => true,
            '#' => at == 0,
            ' ' => at == 0 || at == last,
            _ => false,
        };
        if special {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::FromDer;

    use super::*;

    fn read(der: &[u8]) -> Result<Name, CertError> {
        Name::from_parsed(&X509Name::from_der(der).unwrap().1)
    }

    #[test]
    fn object_identifiers_read_back() {
        for text in ["2.5.4.45", "1.2.840.113549.1.1.11", "0.9.2342.19200300.100.1.25", "2.999.3"] {
            assert_eq!(Oid::from_dotted(text).unwrap().to_string(), text);
        }
        assert_eq!(Oid::from_dotted("2.5.4.45").unwrap().content(), [0x55, 0x04, 45]);
        for bad in ["", "1", "3.1", "1.40", "1.a", "1..2", "1.2.-3", "1.2."] {
            assert!(Oid::from_dotted(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_look_as_go_prints_them_and_read_back() {
        let mut name = Name::spire_svid();
        name.common_name = "a,b.example".to_owned();
        name.serial_number = "123".to_owned();
        assert_eq!(name.to_string(), r"SERIALNUMBER=123,CN=a\,b.example,O=SPIRE,C=US");
        assert_eq!(read(&name.to_der()).unwrap(), name);
        let unique = Name {
            extra: vec![(Oid::from_dotted("2.5.4.45").unwrap(), "ab".to_owned())],
            ..Name::default()
        };
        assert_eq!(unique.to_string(), "2.5.4.45=#13026162");
        let read = read(&unique.to_der()).unwrap();
        assert_eq!(read.to_string(), "2.5.4.45=#13026162");
        assert!(!read.is_empty() && read.to_der() == [0x30, 0]);
    }

    #[test]
    fn values_of_one_field_share_a_sorted_rdn() {
        let name = Name { organization: vec!["b".to_owned(), "a".to_owned()], ..Name::default() };
        let der = name.to_der();
        assert_eq!(der[2], tag::SET);
        assert_eq!(read(&der).unwrap().organization, ["a", "b"]);
        let wide = Name { common_name: "ä&".to_owned(), ..Name::default() };
        assert_eq!(read(&wide.to_der()).unwrap(), wide);
    }

    #[test]
    fn an_extra_attribute_replaces_the_field_it_names() {
        let mut name = Name::spire_svid();
        name.extra.push((Oid::from_dotted("2.5.4.10").unwrap(), "Other".to_owned()));
        assert_eq!(read(&name.to_der()).unwrap().organization, ["Other"]);
    }
}
