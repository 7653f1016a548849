//! Comparing the names of certificates with the constraints above them.

use std::net::IpAddr;

use super::{NameConstraints, is_domain, mailbox};
use crate::x509::{
    Certificate,
    shown::{shown, subject},
};

/// How often a name may be compared with a constraint in one path.
const MAX_COMPARISONS: usize = 250_000;

/// Checks the names of every certificate of a path (leaf first) by the constraints of all above.
///
/// # Errors
/// Which name is refused, and why.
pub(in crate::x509) fn check_chain(chain: &[Certificate]) -> Result<(), String> {
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

impl NameConstraints {
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

fn is_in_network(ip: IpAddr, (network, mask): &(IpAddr, IpAddr)) -> bool {
    match (ip, network, mask) {
        (IpAddr::V4(ip), IpAddr::V4(network), IpAddr::V4(mask)) => ip & *mask == *network & *mask,
        (IpAddr::V6(ip), IpAddr::V6(network), IpAddr::V6(mask)) => ip & *mask == *network & *mask,
        _ => false,
    }
}
