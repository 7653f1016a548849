//! `postgres://user:password@host:port,host:port/dbname?key=value`.

use percent_encoding::percent_decode_str;

use super::ConnectionStringError;

/// The rest of a URL after its scheme, if `text` is one.
pub(super) fn after_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"))
}

/// Reads what [`after_scheme`] left.
pub(super) fn read(rest: &str) -> Result<Vec<(String, String)>, ConnectionStringError> {
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (userinfo, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let mut pairs = Vec::new();
    let mut add = |key: &str, value: String| {
        if !value.is_empty() {
            pairs.push((key.to_owned(), value));
        }
    };
    add("user", decode("user", user)?);
    add("password", decode("password", password)?);
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for host in hosts.split(',') {
        let (name, port) = split(host)?;
        names.push(decode("host", name)?);
        ports.push(port.to_owned());
    }
    if names.iter().any(|name| !name.is_empty()) {
        add("host", names.join(","));
    }
    if ports.iter().all(|port| port == ports.last().map_or("", String::as_str)) {
        add("port", ports.pop().unwrap_or_default());
    } else if ports.split_last().is_some_and(|(_, others)| others.iter().all(String::is_empty)) {
        // `a,b:5432`: the port of all of them, as lib/pq has it.
        add("port", ports.pop().unwrap_or_default());
    } else {
        add("port", ports.join(","));
    }
    add("dbname", decode("dbname", path)?);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = decode("a parameter", &key.replace('+', " "))?;
        let value = decode(&key, &value.replace('+', " "))?;
        add(&key, value);
    }
    Ok(pairs)
}

/// Name and port of one host; an IPv6 address stands in brackets.
fn split(host: &str) -> Result<(&str, &str), ConnectionStringError> {
    let wrong = || ConnectionStringError::new(format!("host: expected host:port, found {host:?}"));
    match host.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']').ok_or_else(wrong)?;
            match port.strip_prefix(':') {
                Some(port) => Ok((name, port)),
                None if port.is_empty() => Ok((name, "")),
                None => Err(wrong()),
            }
        }
        None => match host.split_once(':') {
            Some((_, port)) if port.contains(':') => Err(wrong()),
            other => Ok(other.unwrap_or((host, ""))),
        },
    }
}

fn decode(what: &str, text: &str) -> Result<String, ConnectionStringError> {
    let is_whole = |escape: &str| matches!(escape.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    let decoded = percent_decode_str(text).decode_utf8();
    match decoded {
        Ok(decoded) if text.split('%').skip(1).all(is_whole) => Ok(decoded.into_owned()),
        _ => {
            let why = format!("{what}: `%` must be followed by two hexadecimal digits (write %25)");
            Err(ConnectionStringError::new(why))
        }
    }
}
