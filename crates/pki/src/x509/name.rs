//! Distinguished names, with the fields and order that SPIRE writes.

use std::fmt;

use super::CertError;

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
        let _ = text;
        todo!()
    }

    /// DER content octets.
    pub fn content(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = f;
        todo!()
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
    /// Further attributes, each an RDN of its own. Not filled by parsing, as in Go.
    pub extra: Vec<(Oid, String)>,
}

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
        todo!()
    }

    /// Reads an RDNSequence; attributes without a field here are dropped.
    ///
    /// # Errors
    /// [`CertError::Malformed`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertError> {
        let _ = der;
        todo!()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = f;
        todo!()
    }
}
