//! Extensions of certificates and CSRs: those that are read, and others as they are.

use std::net::IpAddr;

use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};

use super::Oid;
use crate::der::{DerError, Writer, oid};

const MAX_EXTENSIONS: usize = 64;

/// An extension added as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Which.
    pub oid: Oid,
    /// Whether a reader that does not know it must refuse the certificate.
    pub critical: bool,
    /// DER of the value.
    pub value: Vec<u8>,
}

impl Extension {
    pub(super) fn write(&self, w: &mut Writer) {
        w.extension(self.oid.content(), self.critical, |w| w.raw(&self.value));
    }
}

/// Extensions of a certificate or a CSR that we look at.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) uris: Vec<String>,
    pub(super) dns_names: Vec<String>,
    pub(super) ip_addresses: Vec<IpAddr>,
    pub(super) is_ca: bool,
    pub(super) key_usage: Option<u16>,
    pub(super) subject_key_id: Vec<u8>,
    pub(super) authority_key_id: Vec<u8>,
    pub(super) emails: Vec<String>,
    /// Whether there are SANs of other kinds than URI, DNS, IP address and email.
    pub(super) has_other_names: bool,
    /// Whether the SANs must be understood.
    pub(super) has_critical_names: bool,
    pub(super) has_basic_constraints: bool,
    pub(super) max_path_len: Option<u32>,
    /// All others.
    pub(super) others: Vec<Extension>,
}

impl Extensions {
    /// Takes what we look at; an extension that comes twice, or one of ours that is malformed, is
    /// refused.
    pub(super) fn read(list: &[X509Extension<'_>]) -> Result<Self, DerError> {
        if list.len() > MAX_EXTENSIONS {
            return Err(DerError);
        }
        let mut out = Self::default();
        for (at, extension) in list.iter().enumerate() {
            if list.iter().take(at).any(|earlier| earlier.oid == extension.oid) {
                return Err(DerError);
            }
            out.take(extension)?;
        }
        Ok(out)
    }

    fn take(&mut self, extension: &X509Extension<'_>) -> Result<(), DerError> {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    self.take_name(name)?;
                }
                self.has_critical_names = extension.critical;
            }
            ParsedExtension::BasicConstraints(constraints) => {
                self.is_ca = constraints.ca;
                self.has_basic_constraints = true;
                self.max_path_len = constraints.path_len_constraint;
            }
            ParsedExtension::KeyUsage(usage) => self.key_usage = Some(usage.flags),
            ParsedExtension::SubjectKeyIdentifier(id) => self.subject_key_id = id.0.to_vec(),
            ParsedExtension::AuthorityKeyIdentifier(ids) => {
                self.authority_key_id =
                    ids.key_identifier.as_ref().map(|id| id.0.to_vec()).unwrap_or_default();
            }
            ParsedExtension::ParseError { .. } if is_read(extension) => return Err(DerError),
            _ => self.others.push(Extension {
                oid: Oid::from_content(extension.oid.as_bytes()),
                critical: extension.critical,
                value: extension.value.to_vec(),
            }),
        }
        Ok(())
    }

    fn take_name(&mut self, name: &GeneralName<'_>) -> Result<(), DerError> {
        match name {
            GeneralName::URI(uri) => self.uris.push(ascii(uri)?),
            GeneralName::DNSName(name) => self.dns_names.push(ascii(name)?),
            GeneralName::IPAddress(bytes) => self.ip_addresses.push(ip_address(bytes)?),
            GeneralName::RFC822Name(email) => self.emails.push(ascii(email)?),
            GeneralName::Invalid(..) => return Err(DerError),
            _ => self.has_other_names = true,
        }
        Ok(())
    }
}

/// Whether [`Extensions`] reads this extension.
fn is_read(extension: &X509Extension<'_>) -> bool {
    matches!(
        extension.oid.as_bytes(),
        oid::SUBJECT_ALT_NAME
            | oid::BASIC_CONSTRAINTS
            | oid::KEY_USAGE
            | oid::SUBJECT_KEY_ID
            | oid::AUTHORITY_KEY_ID
    )
}

fn ip_address(bytes: &[u8]) -> Result<IpAddr, DerError> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .map_err(|_| DerError)
}

fn ascii(text: &str) -> Result<String, DerError> {
    if text.is_ascii() { Ok(text.to_owned()) } else { Err(DerError) }
}
