//! Name constraints (RFC 5280 4.2.1.10), with the meaning that Go gives them.
//!
//! DNS, URI and email domains match a constraint when they are it or below it; a constraint with a
//! leading period matches only what is below. What cannot be compared is refused, and so is what
//! would take too many comparisons.

pub(super) mod check;

use std::net::IpAddr;

use crate::der::{DerError, Reader, tag};

/// The name constraints of one CA certificate.
#[derive(Debug, Default)]
pub(super) struct NameConstraints {
    permitted: Subtrees,
    excluded: Subtrees,
}

#[derive(Debug, Default)]
struct Subtrees {
    dns: Vec<String>,
    uris: Vec<String>,
    emails: Vec<String>,
    /// Network and mask.
    ips: Vec<(IpAddr, IpAddr)>,
    /// Directory names: every certificate has one, and none is compared.
    has_directory: bool,
    /// Other kinds that are not compared.
    has_others: bool,
}

impl NameConstraints {
    /// Reads the value of the extension. A lower or upper bound of a subtree is refused, as RFC
    /// 5280 asks for; so is a constraint that is no name.
    pub(super) fn read(der: &[u8]) -> Result<Self, DerError> {
        let mut outer = Reader::new(der);
        let mut parts = outer.enter(tag::SEQUENCE)?;
        outer.finish()?;
        let permitted = parts.optional(tag::context_constructed(0))?.unwrap_or_default();
        let excluded = parts.optional(tag::context_constructed(1))?.unwrap_or_default();
        parts.finish()?;
        if permitted.is_empty() && excluded.is_empty() {
            return Err(DerError);
        }
        Ok(Self { permitted: Subtrees::read(permitted)?, excluded: Subtrees::read(excluded)? })
    }

    /// Whether names of kinds are constrained that are not compared.
    pub(super) fn has_other_kinds(&self) -> bool {
        [&self.permitted, &self.excluded].into_iter().any(|s| s.has_directory || s.has_others)
    }
}

impl Subtrees {
    fn read(der: &[u8]) -> Result<Self, DerError> {
        let mut out = Self::default();
        let mut list = Reader::new(der);
        while !list.is_empty() {
            let mut subtree = list.enter(tag::SEQUENCE)?;
            let base = subtree.next()?;
            subtree.finish()?;
            const EMAIL: u8 = tag::context(1);
            const DNS: u8 = tag::context(2);
            const DIRECTORY: u8 = tag::context_constructed(4);
            const URI: u8 = tag::context(6);
            const IP: u8 = tag::context(7);
            match base.tag {
                DNS => out.dns.push(domain_constraint(base.content)?),
                EMAIL => out.emails.push(email_constraint(base.content)?),
                IP => out.ips.push(network(base.content)?),
                URI => {
                    let domain = domain_constraint(base.content)?;
                    if domain.parse::<IpAddr>().is_ok() {
                        return Err(DerError);
                    }
                    out.uris.push(domain);
                }
                DIRECTORY => out.has_directory = true,
                _ => out.has_others = true,
            }
        }
        Ok(out)
    }
}

/// Visible ASCII in labels that are not empty, no period at the end.
fn is_domain(name: &str) -> bool {
    !name.is_empty()
        && name.split('.').all(|label| !label.is_empty())
        && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Local part and domain. Quoted local parts are not read.
fn mailbox(email: &str) -> Option<(&str, &str)> {
    let (local, domain) = email.split_once('@')?;
    let is_atom = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
    let is_local = local.split('.').all(|atom| !atom.is_empty() && atom.bytes().all(is_atom));
    (is_local && is_domain(domain)).then_some((local, domain))
}

/// A domain, which may start with a period or be empty.
fn domain_constraint(content: &[u8]) -> Result<String, DerError> {
    let text = std::str::from_utf8(content).map_err(|_| DerError)?;
    let domain = text.strip_prefix('.').unwrap_or(text);
    if text.is_empty() || is_domain(domain) { Ok(text.to_owned()) } else { Err(DerError) }
}

fn email_constraint(content: &[u8]) -> Result<String, DerError> {
    match std::str::from_utf8(content) {
        Ok(text) if text.contains('@') => mailbox(text).map(|_| text.to_owned()).ok_or(DerError),
        _ => domain_constraint(content),
    }
}

/// An address and a mask without holes, of one family.
fn network(content: &[u8]) -> Result<(IpAddr, IpAddr), DerError> {
    let (address, mask) = content.split_at_checked(content.len() / 2).ok_or(DerError)?;
    let read = |bytes: &[u8]| {
        <[u8; 4]>::try_from(bytes)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
            .map_err(|_| DerError)
    };
    let ones: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let leading = mask.iter().position(|&byte| byte != 0xff).map_or(mask.len() * 8, |at| {
        at * 8 + mask.get(at).map_or(0, |byte| byte.leading_ones() as usize)
    });
    if usize::try_from(ones) != Ok(leading) {
        return Err(DerError);
    }
    Ok((read(address)?, read(mask)?))
}
