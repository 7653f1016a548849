//! URLs as Go's net/url reads and writes them, as far as sprig shows it.

use std::{borrow::Cow, fmt, net::Ipv6Addr};

use percent_encoding::{AsciiSet, percent_decode_str, utf8_percent_encode};

use crate::UNRESERVED;

#[derive(Debug, Default)]
pub(super) struct Url {
    pub scheme: String,
    pub user: Option<User>,
    pub host: String,
    pub path: String,
    pub query: String,
    pub opaque: String,
    pub fragment: String,
}

#[derive(Debug)]
pub(super) struct User {
    name: String,
    password: Option<String>,
}

/// What stands without escape besides letters, digits and `-_.~`.
const IN_FRAGMENT: &AsciiSet = &UNRESERVED
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'?')
    .remove(b'@')
    .remove(b'!')
    .remove(b'(')
    .remove(b')')
    .remove(b'*');
const IN_HOST: &AsciiSet = &UNRESERVED
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'[')
    .remove(b']')
    .remove(b'<')
    .remove(b'>')
    .remove(b'"');
const IN_PATH: &AsciiSet = &UNRESERVED
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');
const IN_USER: &AsciiSet =
    &UNRESERVED.remove(b'$').remove(b'&').remove(b'+').remove(b',').remove(b';').remove(b'=');
/// The characters of [`IN_HOST`].
const HOST_CHARS: &str = "!$&'()*+,;=:[]<>\"";

impl Url {
    pub fn parse(whole: &str) -> Result<Self, String> {
        let (text, fragment) = whole.split_once('#').unwrap_or((whole, ""));
        let mut url = Self { fragment: unescape(fragment)?, ..Self::default() };
        if text.bytes().any(|b| b < b' ' || b == 0x7f) {
            return Err("invalid control character in URL".to_owned());
        }
        if text == "*" {
            url.path = "*".to_owned();
            return Ok(url);
        }
        let (scheme, rest) = scheme(text)?;
        url.scheme = scheme.to_ascii_lowercase();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        url.query = query.to_owned();
        if !rest.starts_with('/') {
            if !url.scheme.is_empty() {
                url.opaque = rest.to_owned();
                return Ok(url);
            }
            if rest.split('/').next().unwrap_or_default().contains(':') {
                return Err("first path segment in URL cannot contain colon".to_owned());
            }
        }
        let has_authority = !url.scheme.is_empty() || !rest.starts_with("///");
        let path = match rest.strip_prefix("//").filter(|_| has_authority) {
            Some(rest) => {
                let end = rest.find('/').unwrap_or(rest.len());
                let (authority, path) = rest.split_at(end);
                url.authority(authority)?;
                path
            }
            None => rest,
        };
        url.path = unescape(path)?;
        Ok(url)
    }

    fn authority(&mut self, authority: &str) -> Result<(), String> {
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        self.host = parse_host(&self.scheme, host)?;
        let Some(user) = user else { return Ok(()) };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
        if !user.chars().all(allowed) {
            return Err("invalid userinfo".to_owned());
        }
        let (name, password) = match user.split_once(':') {
            Some((name, password)) => (name, Some(unescape(password)?)),
            None => (user, None),
        };
        self.user = Some(User { name: unescape(name)?, password });
        Ok(())
    }

    /// The host without its port and brackets.
    pub fn hostname(&self) -> &str {
        let host = match self.host.rfind(':').and_then(|colon| self.host.split_at_checked(colon)) {
            Some((host, port)) if is_port(port) => host,
            _ => &self.host,
        };
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inner.unwrap_or(host)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        if !self.scheme.is_empty() {
            out = format!("{}:", self.scheme);
        }
        if self.opaque.is_empty() {
            if !self.scheme.is_empty() || !self.host.is_empty() || self.user.is_some() {
                if !self.host.is_empty() || !self.path.is_empty() || self.user.is_some() {
                    out.push_str("//");
                }
                if let Some(user) = &self.user {
                    out.push_str(&format!("{user}@"));
                }
                out.push_str(&escape(&self.host, IN_HOST));
            }
            let path =
                if self.path == "*" { self.path.clone() } else { escape(&self.path, IN_PATH) };
            if !path.is_empty() && !path.starts_with('/') && !self.host.is_empty() {
                out.push('/');
            }
            if out.is_empty() && path.split('/').next().unwrap_or_default().contains(':') {
                out.push_str("./");
            }
            out.push_str(&path);
        } else {
            out.push_str(&self.opaque);
        }
        if !self.query.is_empty() {
            out.push_str(&format!("?{}", self.query));
        }
        if !self.fragment.is_empty() {
            out.push_str(&format!("#{}", escape(&self.fragment, IN_FRAGMENT)));
        }
        f.write_str(&out)
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.name, IN_USER))?;
        match &self.password {
            Some(password) => write!(f, ":{}", escape(password, IN_USER)),
            None => Ok(()),
        }
    }
}

fn scheme(text: &str) -> Result<(&str, &str), String> {
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let end = text.find(|c| !is_scheme(c)).unwrap_or(text.len());
    let (scheme, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    let Some(rest) = rest.strip_prefix(':') else { return Ok(("", text)) };
    match scheme.chars().next() {
        None => Err("missing protocol scheme".to_owned()),
        Some(c) if c.is_ascii_alphabetic() => Ok((scheme, rest)),
        Some(_) => Ok(("", text)),
    }
}

fn is_port(text: &str) -> bool {
    match text.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_digit()),
        None => text.is_empty(),
    }
}

fn parse_host(scheme: &str, host: &str) -> Result<String, String> {
    match host.rfind('[') {
        Some(0) => {
            let (literal, port) =
                host.rsplit_once(']').ok_or_else(|| "missing ']' in host".to_owned())?;
            if !is_port(port) {
                return Err(format!("invalid port {port:?} after host"));
            }
            let literal = literal.strip_prefix('[').unwrap_or(literal);
            let literal = unescape(literal)?;
            let (address, zone) = literal.split_once('%').unwrap_or((&literal, "zone"));
            if address.parse::<Ipv6Addr>().is_err() || zone.is_empty() {
                return Err(format!("invalid host: {literal:?}"));
            }
            return Ok(format!("[{literal}]{port}"));
        }
        Some(_) => return Err("invalid IP-literal".to_owned()),
        None => {}
    }
    let colon = match scheme {
        "http" | "https" => host.find(':'),
        _ => host.rfind(':'),
    };
    if let Some(port) = colon.and_then(|colon| host.get(colon..)).filter(|port| !is_port(port)) {
        return Err(format!("invalid port {port:?} after host"));
    }
    // In a host only bytes beyond ASCII may be escaped.
    let mut rest = host;
    while let Some(at) = rest.find('%') {
        let escape = rest.get(at..at + 3).unwrap_or_default();
        let is_ascii = escape.as_bytes().get(1).is_some_and(|b| (b'0'..=b'7').contains(b));
        if is_ascii && escape != "%25" {
            return Err(format!("invalid URL escape {escape:?}"));
        }
        rest = rest.get(at + 1..).unwrap_or_default();
    }
    let allowed = |c: char| {
        !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~%".contains(c) || HOST_CHARS.contains(c)
    };
    if let Some(wrong) = host.chars().find(|c| !allowed(*c)) {
        return Err(format!("invalid character {wrong:?} in host name"));
    }
    unescape(host)
}

fn unescape(text: &str) -> Result<String, String> {
    let is_whole = |escape: &str| matches!(escape.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    if !text.split('%').skip(1).all(is_whole) {
        return Err(format!("invalid URL escape in {text:?}"));
    }
    let plain = percent_decode_str(text).decode_utf8();
    plain.map(Cow::into_owned).map_err(|_| format!("{text:?} is not UTF-8"))
}

fn escape(text: &str, set: &'static AsciiSet) -> String {
    utf8_percent_encode(text, set).to_string()
}
