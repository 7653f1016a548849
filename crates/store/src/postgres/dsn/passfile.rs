//! Password files: lines `host:port:dbname:user:password`, each of the first four may be `*`.

use std::path::Path;

use zeroize::Zeroizing;

/// The password of the first line that fits. A host that is a socket is `localhost` there.
pub(super) fn find(
    text: &str,
    host: &str,
    port: u16,
    dbname: &str,
    user: &str,
) -> Option<Zeroizing<String>> {
    let is_socket = host.is_empty() || Path::new(host).is_absolute();
    let port = port.to_string();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let fields = split(line);
        let [in_host, in_port, in_dbname, in_user, password] = fields.as_slice() else { continue };
        let fits = |field: &Zeroizing<String>, wanted: &str| {
            field.as_str() == "*" || field.as_str() == wanted
        };
        if (fits(in_host, host) || (is_socket && in_host.as_str() == "localhost"))
            && fits(in_port, &port)
            && fits(in_dbname, dbname)
            && fits(in_user, user)
        {
            return Some(password.clone());
        }
    }
    None
}

fn split(line: &str) -> Vec<Zeroizing<String>> {
    let mut fields = vec![Zeroizing::new(String::new())];
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        let c = match c {
            ':' => {
                fields.push(Zeroizing::new(String::new()));
                continue;
            }
            '\\' => rest.next(),
            c => Some(c),
        };
        if let Some(field) = fields.last_mut() {
            field.extend(c);
        }
    }
    fields
}
