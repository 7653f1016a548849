//! What blocks `acme` of configuration files have in common.

use std::{fmt, str::FromStr};

use signet_config::Block;

use crate::{LETS_ENCRYPT, Settings};

/// The longest domain name (RFC 1035, section 2.3.4).
const MAX_DOMAIN: usize = 253;

/// A domain that a certificate may be for: lower case, without the dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DomainName(String);

/// A text that is no domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a domain name without scheme, port and path, and no address; one that is not ASCII as \
     punycode (xn--…)"
)]
pub struct BadDomainName;

impl DomainName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the world can know the domain: `oidc.example.org`, and not `localhost`.
    pub fn has_parent(&self) -> bool {
        self.0.contains('.')
    }
}

impl FromStr for DomainName {
    type Err = BadDomainName;

    fn from_str(text: &str) -> Result<Self, BadDomainName> {
        let is_good = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let is_label = |label: &str| {
            let hyphen = label.starts_with('-') || label.ends_with('-');
            (1..=63).contains(&label.len()) && !hyphen && label.chars().all(is_good)
        };
        let is_address = text.parse::<std::net::Ipv4Addr>().is_ok();
        if text.len() > MAX_DOMAIN || is_address || !text.split('.').all(is_label) {
            return Err(BadDomainName);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads `directory_url`, `email` and `tos_accepted` for certificates of these domains; the rest of
/// the block is the caller's. Terms that are not accepted are an error of the configuration: SPIRE's
/// server starts, and gets no certificate.
pub fn settings(block: &Block<'_>, domains: Vec<DomainName>) -> Option<Settings> {
    let directory_url = block.text("directory_url");
    let directory_url = directory_url.unwrap_or_else(|| LETS_ENCRYPT.to_owned());
    let is_https =
        directory_url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
    if !is_https {
        block.error(
            "directory_url",
            format_args!("found {directory_url:?}, expected an https:// URL"),
        );
    }
    let email = block.text("email");
    let is_address = email.as_deref().is_none_or(is_address);
    if !is_address {
        block.error("email", "expected one address, name@example.org");
    }
    let accepted = block.boolean("tos_accepted");
    if accepted != Some(true) {
        let message = "it must be true: no certificate is issued to those who do not accept the \
                       authority's terms of service";
        block.error("tos_accepted", message);
    }
    let fits = is_https && is_address && accepted == Some(true) && !domains.is_empty();
    let domains = domains.into_iter().map(|DomainName(name)| name).collect();
    fits.then_some(Settings { directory_url, email, domains })
}

/// Whether a text can be written behind `mailto:` (RFC 6068): an address, and no more of a URL.
fn is_address(text: &str) -> bool {
    let is_good = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '&' | ',' | '%' | '#');
    text.contains('@') && text.len() <= 320 && text.chars().all(is_good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_a_host_name_and_nothing_else() {
        for (text, shown, public) in [
            ("Web.Example.org", "web.example.org", true),
            ("xn--bcher-kva.test", "xn--bcher-kva.test", true),
            ("localhost", "localhost", false),
        ] {
            let read: DomainName = text.parse().unwrap();
            assert_eq!((read.as_str(), read.has_parent()), (shown, public));
        }
        let long = ["a"; 130].join(".");
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "-a.test",
            "a-.test",
            "a b",
            "https://a.test",
            "a.test:443",
            "a/b",
            "../a",
            "*.a.test",
            "127.0.0.1",
            "::1",
            "bücher.test",
            &long,
        ] {
            assert!(bad.parse::<DomainName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_is_one_address() {
        assert!(is_address("admin@example.org"));
        for bad in ["admin", "a@b.test?cc=c@d.test", "a@b, c@d", "a @b", "a@b\n"] {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
