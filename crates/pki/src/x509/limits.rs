//! What a certificate says about the paths it may be part of.

use super::{constraints::NameConstraints, extension::Extensions};
use crate::der::{DerError, Reader, oid, tag};

/// Read once with the certificate, looked at by path validation alone.
#[derive(Debug)]
pub(super) struct Limits {
    /// Version 3: without basic constraints it may not sign.
    pub(super) is_v3: bool,
    /// Whether there are basic constraints.
    pub(super) has_basic_constraints: bool,
    /// How many CA certificates may follow below it.
    pub(super) max_path_len: Option<u32>,
    /// Whether it may be used for a TLS server; `None` without extended key usage.
    pub(super) is_for_servers: Option<bool>,
    /// Whether it may be used for a TLS client; `None` without extended key usage.
    pub(super) is_for_clients: Option<bool>,
    /// An extension that must be understood is not.
    pub(super) has_unknown_critical: bool,
    /// Limits to the names below it. Boxed: hardly any certificate has them.
    pub(super) name_constraints: Option<Box<NameConstraints>>,
    /// The email SANs.
    pub(super) emails: Box<[String]>,
    /// Whether there are SANs of other kinds than URI, DNS, IP address and email.
    pub(super) has_other_names: bool,
}

impl Limits {
    /// Takes what `extensions` hold.
    ///
    /// Handled are the extensions that Go handles, but those that make policies a condition: a
    /// certificate in which these are critical is refused. A critical SAN without a name that is
    /// read counts as not understood, as in Go.
    pub(super) fn take(is_v3: bool, extensions: &mut Extensions) -> Result<Self, DerError> {
        let emails = std::mem::take(&mut extensions.emails).into_boxed_slice();
        let has_names = !extensions.uris.is_empty()
            || !extensions.dns_names.is_empty()
            || !extensions.ip_addresses.is_empty()
            || !emails.is_empty();
        let mut limits = Self {
            is_v3,
            has_basic_constraints: extensions.has_basic_constraints,
            max_path_len: extensions.max_path_len,
            is_for_servers: None,
            is_for_clients: None,
            has_unknown_critical: extensions.has_critical_names && !has_names,
            name_constraints: None,
            emails,
            has_other_names: extensions.has_other_names,
        };
        for extension in &extensions.others {
            match extension.oid.content() {
                oid::NAME_CONSTRAINTS => {
                    let constraints = NameConstraints::read(&extension.value)?;
                    limits.has_unknown_critical |=
                        extension.critical && constraints.has_other_kinds();
                    limits.name_constraints = Some(Box::new(constraints));
                }
                oid::EXT_KEY_USAGE => {
                    let usage = |wanted| has_usage(&extension.value, wanted);
                    limits.is_for_servers = Some(usage(oid::SERVER_AUTH)?);
                    limits.is_for_clients = Some(usage(oid::CLIENT_AUTH)?);
                }
                // Policies that nobody requires, and where to find revocations: nothing to check.
                oid::CERTIFICATE_POLICIES | oid::CRL_DISTRIBUTION_POINTS => {}
                _ => limits.has_unknown_critical |= extension.critical,
            }
        }
        Ok(limits)
    }
}

/// Whether an extended key usage, which must not be empty, names this one or anything.
fn has_usage(der: &[u8], wanted: &[u8]) -> Result<bool, DerError> {
    let mut outer = Reader::new(der);
    let mut usages = outer.enter(tag::SEQUENCE)?;
    outer.finish()?;
    let is_wanted = |usage: &[u8]| usage == wanted || usage == oid::ANY_USAGE;
    let mut found = is_wanted(usages.expect(tag::OID)?);
    while !usages.is_empty() {
        found |= is_wanted(usages.expect(tag::OID)?);
    }
    Ok(found)
}
