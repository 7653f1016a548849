//! Name constraints (RFC 5280 4.2.1.10), with the meaning that Go gives them.
//!
//! DNS, URI and email domains match a constraint when they are it or below it; a constraint with a
//! leading period matches only what is below. What cannot be compared is refused, and so is what
//! would take too many comparisons.

use std::net::IpAddr;

use super::{
    Certificate,
    path::{shown, subject},
};
use crate::der::{DerError, Reader, tag};

/// How often a name may be compared with a constraint in one path.
const MAX_COMPARISONS: usize = 250_000;

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

    /// Checks the names of a certificate below; `budget` is what [`check_chain`] still grants.
    fn check(&self, certificate: &Certificate, budget: &mut usize) -> Result<(), String> {
        let (permitted, excluded) = (&self.permitted, &self.excluded);
        let limits = certificate.limits();
        let has_unknown = permitted.has_directory
            || excluded.has_directory
            || limits.has_other_names && (permitted.has_others || excluded.has_others);
        if has_unknown {
            return Err("they name kinds of names that are not supported".to_owned());
        }
        for ip in certificate.ip_addresses() {
            let is_in = |network: &(IpAddr, IpAddr)| is_in_network(*ip, network);
            apply(budget, (&permitted.ips, is_in), (&excluded.ips, is_in))
                .map_err(|why| format!("IP address {ip} {why}"))?;
        }
        for name in certificate.dns_names() {
            let bad = |why: &str| format!("DNS name {} {why}", shown(name));
            if !is_domain(name) {
                return Err(bad("is malformed"));
            }
            let is_below = |constraint: &String| is_at_or_below(name, constraint);
            let covers = |constraint: &String| {
                is_at_or_below(name, constraint) || is_beside_wildcard(name, constraint)
            };
            apply(budget, (&permitted.dns, is_below), (&excluded.dns, covers)).map_err(bad)?;
        }
        for uri in certificate.uris() {
            let bad = |why: &str| format!("URI {} {why}", shown(uri));
            let host = host_of(uri).ok_or_else(|| bad("has no host name to compare"))?;
            let is_below = |constraint: &String| is_at_or_below(host, constraint);
            apply(budget, (&permitted.uris, is_below), (&excluded.uris, is_below)).map_err(bad)?;
        }
        for email in &limits.emails {
            let bad = |why: &str| format!("email address {} {why}", shown(email));
            let (local, domain) = mailbox(email).ok_or_else(|| bad("is malformed"))?;
            let is_of = |constraint: &String| match mailbox(constraint) {
                Some((wanted, at)) => wanted == local && at.eq_ignore_ascii_case(domain),
                None => is_at_or_below(domain, constraint),
            };
            apply(budget, (&permitted.emails, is_of), (&excluded.emails, is_of)).map_err(bad)?;
        }
        Ok(())
    }
}

/// Checks the names of every certificate of a path (leaf first) by the constraints of all above.
///
/// # Errors
/// Which name is refused, and why.
pub(super) fn check_chain(chain: &[Certificate]) -> Result<(), String> {
    let mut budget = MAX_COMPARISONS;
    for (at, ca) in chain.iter().enumerate() {
        let Some(constraints) = &ca.limits().name_constraints else { continue };
        for below in chain.iter().take(at) {
            constraints
                .check(below, &mut budget)
                .map_err(|why| format!("name constraints of \"{}\": {why}", subject(ca)))?;
        }
    }
    Ok(())
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

/// Something must permit the name where there are constraints of its kind, and nothing exclude it.
fn apply<T>(
    budget: &mut usize,
    (permitted, permits): (&[T], impl Fn(&T) -> bool),
    (excluded, excludes): (&[T], impl Fn(&T) -> bool),
) -> Result<(), &'static str> {
    *budget = budget
        .checked_sub(permitted.len().saturating_add(excluded.len()))
        .ok_or("needs too many comparisons")?;
    if !permitted.is_empty() && !permitted.iter().any(permits) {
        return Err("is not permitted");
    }
    if excluded.iter().any(excludes) { Err("is excluded") } else { Ok(()) }
}

/// Whether the name is the constraint or ends with it at a label; everything is below the empty
/// constraint.
fn is_at_or_below(name: &str, constraint: &str) -> bool {
    let (name, constraint) = (name.as_bytes(), constraint.as_bytes());
    let Some(split) = name.len().checked_sub(constraint.len()) else { return false };
    let Some((before, end)) = name.split_at_checked(split) else { return false };
    end.eq_ignore_ascii_case(constraint)
        && (before.is_empty()
            || constraint.is_empty()
            || constraint.first() == Some(&b'.')
            || before.last() == Some(&b'.'))
}

/// Whether a wildcard name covers an excluded name: `*.a.example` and `b.a.example`.
fn is_beside_wildcard(name: &str, constraint: &str) -> bool {
    let parent = |text: &str| text.find('.').and_then(|at| text.get(at..)).map(str::to_owned);
    match (name.strip_prefix('*').map(str::to_owned), parent(constraint)) {
        (Some(name), Some(constraint)) => name.eq_ignore_ascii_case(&constraint),
        _ => false,
    }
}

/// Visible ASCII in labels that are not empty, no period at the end.
fn is_domain(name: &str) -> bool {
    !name.is_empty()
        && name.split('.').all(|label| !label.is_empty())
        && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The host name of a URI; `None` when it has none that can be compared: no authority, an IP
/// address, an escaped name.
fn host_of(uri: &str) -> Option<&str> {
    let (_, rest) = uri.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.split_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) => return None,
        None => host,
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let comparable = is_domain(host) && host.bytes().all(is_plain);
    (comparable && host.parse::<IpAddr>().is_err()).then_some(host)
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

fn is_in_network(ip: IpAddr, (network, mask): &(IpAddr, IpAddr)) -> bool {
    match (ip, network, mask) {
        (IpAddr::V4(ip), IpAddr::V4(network), IpAddr::V4(mask)) => ip & *mask == *network & *mask,
        (IpAddr::V6(ip), IpAddr::V6(network), IpAddr::V6(mask)) => ip & *mask == *network & *mask,
        _ => false,
    }
}
