//! `support-bundle`: what somebody else needs to help, in one JSON file, without a secret.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde_json::{Map, Value as Json, json};
use signet_config::{Document, Item, Value};

/// How much of the end of a log file is taken, bytes.
const LOG_TAIL: u64 = 512 * 1024;
/// What stands in the place of what is not shown.
pub const MASKED: &str = "(masked)";

/// Words in the name of a key whose value is not shown.
const SECRET_WORDS: &[&str] = &[
    "access_key",
    "account_key",
    "api_key",
    "apikey",
    "auth",
    "connection_string",
    "credential",
    "dsn",
    "passphrase",
    "passwd",
    "password",
    "pin",
    "private",
    "secret",
    "token",
];
/// Endings of names whose value is a path, a name or a time and no secret, whatever else they hold.
const HARMLESS_ENDINGS: &[&str] = &[
    "_audience",
    "_dir",
    "_file",
    "_mode",
    "_name",
    "_path",
    "_policies",
    "_rotation",
    "_service_account_allow_list",
    "_ttl",
    "_type",
    "_validation",
];
/// Keys that hold no secret though a word of them says otherwise.
const HARMLESS: &[&str] = &["authorized_delegates", "authorized_spiffe_ids", "socket_path"];

/// A configuration file as JSON, without secrets: values of keys whose names speak of one, texts
/// that look like one (PEM, a UUID, a URL with a password), and everything below `plugin_cmd`.
pub fn configuration(document: &Document) -> Json {
    object(&document.items)
}

fn object(items: &[Item]) -> Json {
    let mut all = Map::new();
    for item in items {
        let value = match is_secret(&item.key) && !matches!(item.value.value, Value::Object(_)) {
            true => Json::from(MASKED),
            false => value(&item.value.value),
        };
        // Keys may come several times.
        match all.get_mut(&item.key) {
            None => {
                all.insert(item.key.clone(), value);
            }
            Some(Json::Array(list)) => list.push(value),
            Some(one) => *one = json!([one.clone(), value]),
        }
    }
    Json::Object(all)
}

fn value(found: &Value) -> Json {
    match found {
        Value::Bool(flag) => Json::from(*flag),
        Value::Object(items) => object(items),
        Value::List(list) => list.iter().map(|node| value(&node.value)).collect(),
        other => {
            let text = scalar(other);
            Json::from(if looks_secret(&text) { MASKED.to_owned() } else { text })
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Number(text) | Value::String(text) => text.clone(),
        Value::Bool(_) | Value::List(_) | Value::Null | Value::Object(_) => String::new(),
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    if HARMLESS.contains(&key.as_str()) || HARMLESS_ENDINGS.iter().any(|end| key.ends_with(end)) {
        return false;
    }
    // A block of the name of a plugin (`join_token`) is no value.
    SECRET_WORDS.iter().any(|word| key.contains(word))
}

fn looks_secret(text: &str) -> bool {
    let is_uuid = text.len() == 36
        && text.chars().enumerate().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        });
    let has_user = text.split_once("://").is_some_and(|(_, rest)| {
        rest.split(['/', '?']).next().is_some_and(|host| host.contains('@'))
    });
    let is_pem = text.contains("-----BEGIN");
    let is_token = text.matches('.').count() == 2 && text.starts_with("eyJ");
    is_uuid || has_user || is_pem || is_token || text.contains("password=")
}

/// The machine, as far as it matters.
pub fn machine() -> Json {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let status = read("/proc/self/status");
    let interesting = ["CapEff", "NSpid", "Seccomp", "Uid"];
    let own: Vec<&str> = status
        .lines()
        .filter(|line| interesting.iter().any(|name| line.starts_with(name)))
        .collect();
    json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "os": read("/etc/os-release").lines().next().unwrap_or_default(),
        "load": read("/proc/loadavg"),
        "memory": read("/proc/meminfo").lines().take(3).collect::<Vec<_>>(),
        "cgroup": read("/proc/self/cgroup").lines().take(20).collect::<Vec<_>>(),
        "self": own,
    })
}

/// The end of a log file. Logs hold no secrets; what looks like one is masked all the same.
pub fn log_tail(path: &Path) -> Json {
    match tail(path) {
        Ok(text) => text.lines().map(masked_line).collect(),
        Err(error) => Json::from(format!("{}: {error}", path.display())),
    }
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn masked_line(line: &str) -> String {
    let words = line.split_inclusive([' ', '"']);
    words
        .map(|word| {
            let bare = word.trim_end_matches([' ', '"']);
            let (name, text) = bare.split_once('=').unwrap_or(("_id", bare));
            // Request and entry IDs are UUIDs, and are what one looks for.
            let is_id = name.ends_with("_id") && !text.contains("://") && !text.contains("-----");
            match looks_secret(text) && !is_id {
                true => word.replace(text, MASKED),
                false => word.to_owned(),
            }
        })
        .collect()
}

/// Writes a bundle to a new file that only its owner can read.
///
/// # Errors
/// Those of the file; one that is there is not overwritten.
pub fn write(path: &Path, bundle: &Json) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    serde_json::to_writer_pretty(&mut file, bundle)?;
    file.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_configuration_are_not_shown_and_the_rest_is() {
        let text = r#"
            agent { join_token = "2f8f9d0c-7b1e-4b7c-8a53-0f8d2b1c3d4e" trust_domain = "example.org"
                    join_token_file = "/run/token" }
            plugins {
                DataStore "sql" { plugin_data {
                    connection_string = "postgres://u:hunter2@db/x" database_type = "postgres" } }
                KeyManager "hashicorp_vault" { plugin_data {
                    vault_addr = "https://me:hunter2@vault.example.org:8200"
                    token_auth { token = "hvs.hunter2" } approle_auth { approle_secret_id = "hunter2" } } }
                NodeAttestor "join_token" { plugin_data {} }
                BundlePublisher "azure_blob" { plugin_data { storage_account_key = "hunter2" } }
            }"#;
        let document = signet_config::parse("a.conf", text).unwrap();
        let shown = configuration(&document).to_string();
        for secret in ["hunter2", "2f8f9d0c"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        for kept in ["example.org", "/run/token", "postgres", "join_token", "hashicorp_vault"] {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
    }

    #[test]
    fn what_looks_like_a_secret_in_a_log_is_masked_and_request_ids_are_kept() {
        let id = "2f8f9d0c-7b1e-4b7c-8a53-0f8d2b1c3d4e";
        let line =
            masked_line(&format!("msg=x request_id={id} url=https://a:hunter2@b/ token={id}"));
        assert_eq!(line, format!("msg=x request_id={id} url={MASKED} token={MASKED}"));
    }

    #[test]
    fn a_bundle_is_for_its_owner_and_overwrites_nothing() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.json");
        write(&path, &json!({"a": 1})).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(write(&path, &json!({})).is_err());
    }
}
