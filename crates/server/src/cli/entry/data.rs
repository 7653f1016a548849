//! The JSON files that entry commands read.

use serde::Deserialize;
use serde_json::Value;
use signet_api::pb::spire::api::types::{self, entry::AdditionalAttributes};

use crate::cli::{
    env::{CliError, Env},
    text,
};

/// `{"entries": [...]}`, with the field names of SPIRE's files, which are not those of its API. What
/// `entry show -output json` prints is read as well.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Entries {
    entries: Vec<Entry>,
    #[serde(rename = "next_page_token")]
    _next_page_token: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    entry_id: String,
    /// As `entry show` names it.
    id: String,
    spiffe_id: Id,
    parent_id: Id,
    selectors: Vec<Selector>,
    x509_svid_ttl: i32,
    jwt_svid_ttl: i32,
    federates_with: Vec<String>,
    dns_names: Vec<String>,
    admin: bool,
    downstream: bool,
    store_svid: bool,
    hint: String,
    #[serde(rename = "entryExpiry")]
    entry_expiry: Seconds,
    /// As `entry show` names it.
    expires_at: Seconds,
    additional_attributes: Option<Extras>,
    /// Set by the server; what `entry show` prints has them.
    #[serde(rename = "revision_number")]
    _revision_number: Value,
    #[serde(rename = "created_at")]
    _created_at: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Selector {
    r#type: String,
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Extras {
    disable_x509_svid_prefetch: bool,
    jwt_svid_include_jti: bool,
}

/// A SPIFFE ID as files have it, or in the two parts that the API has it in.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Parts { trust_domain: String, path: String },
}

impl Default for Id {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl Id {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts { trust_domain, path } => format!("spiffe://{trust_domain}{path}"),
        }
    }
}

/// Unix seconds, as a number or, as the API's JSON has 64 bits, as a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(i64),
    Text(String),
}

impl Default for Seconds {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl Seconds {
    fn number(self, name: &str) -> Result<i64, CliError> {
        match self {
            Self::Number(seconds) => Ok(seconds),
            Self::Text(text) => text.parse().map_err(|_| {
                CliError::usage(format!("{name}: found {text:?}, expected Unix seconds"))
            }),
        }
    }
}

/// Reads the entries of a file; none for an empty list, as in SPIRE. Names that mean nothing are
/// pointed out and ignored, as SPIRE ignores them.
///
/// # Errors
/// [`CliError::Usage`] that names the file and what is wrong in it.
pub(super) fn entries(
    json: &[u8],
    file: &str,
    env: &mut Env,
) -> Result<Vec<types::Entry>, CliError> {
    let read: Entries = env.parse_json(json, file)?;
    let entries = read.entries.into_iter().enumerate().map(|(at, entry)| {
        to_pb(entry).map_err(|error| CliError::usage(format!("{file}: entries[{at}]: {error}")))
    });
    entries.collect()
}

/// Reads the IDs of a file, `{"ids": [...]}`; none for an empty list, as in SPIRE.
///
/// # Errors
/// [`CliError::Usage`] that names the file and what is wrong in it.
pub(super) fn ids(json: &[u8], file: &str, env: &mut Env) -> Result<Vec<String>, CliError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Ids {
        ids: Vec<String>,
    }
    let read: Ids = env.parse_json(json, file)?;
    Ok(read.ids)
}

fn to_pb(entry: Entry) -> Result<types::Entry, CliError> {
    let expiry = entry.entry_expiry.number("entryExpiry")?;
    let expires_at = entry.expires_at.number("expires_at")?;
    let federates_with = entry.federates_with.into_iter();
    Ok(types::Entry {
        id: if entry.entry_id.is_empty() { entry.id } else { entry.entry_id },
        spiffe_id: Some(text::parse_id("spiffe_id", &entry.spiffe_id.text())?),
        parent_id: Some(text::parse_id("parent_id", &entry.parent_id.text())?),
        selectors: entry
            .selectors
            .into_iter()
            .map(|one| types::Selector { r#type: one.r#type, value: one.value })
            .collect(),
        x509_svid_ttl: entry.x509_svid_ttl,
        federates_with: federates_with
            .map(|name| name.strip_prefix("spiffe://").map(ToOwned::to_owned).unwrap_or(name))
            .collect(),
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at: if expiry == 0 { expires_at } else { expiry },
        dns_names: entry.dns_names,
        store_svid: entry.store_svid,
        jwt_svid_ttl: entry.jwt_svid_ttl,
        hint: entry.hint,
        additional_attributes: entry.additional_attributes.map(|extras| AdditionalAttributes {
            disable_x509_svid_prefetch: extras.disable_x509_svid_prefetch,
            jwt_svid_include_jti: extras.jwt_svid_include_jti,
        }),
        revision_number: 0,
        created_at: 0,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use signet_api::{json, pb::spire::api::server::entry::v1 as pb};
    use signet_daemon::program::Program;

    use super::*;

    /// Standard error, for a test to look at.
    #[derive(Clone, Default)]
    struct SharedText(Arc<Mutex<Vec<u8>>>);

    impl SharedText {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl std::io::Write for SharedText {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_file_of_spire_is_read_and_unknown_names_do_not_stop_it() {
        let json = br#"{"entries":[
            {"selectors":[{"type":"unix","value":"uid:1111"}],
             "spiffe_id":"spiffe://example.org/Blog","parent_id":"spiffe://example.org/node1",
             "x509_svid_ttl":200,"jwt_svid_ttl":30,"admin":true,"ttl":7},
            {"entry_id":"db-1","selectors":[{"type":"unix","value":"uid:1111"}],
             "spiffe_id":"spiffe://example.org/Database","parent_id":"spiffe://example.org/node1",
             "federates_with":["spiffe://domain.test"],"dns_names":["db"],"store_svid":true,
             "hint":"h","entryExpiry":9,
             "additional_attributes":{"jwt_svid_include_jti":true}}]}"#;
        let mut env = Env::process(Program::Signet);
        env.err = Box::new(std::io::sink());
        let read = entries(json, "f", &mut env).unwrap();
        assert_eq!((read[0].x509_svid_ttl, read[0].admin, read[0].id.as_str()), (200, true, ""));
        assert_eq!(read[1].federates_with, ["domain.test"]);
        assert_eq!((read[1].expires_at, read[1].id.as_str()), (9, "db-1"));
        assert!(read[1].additional_attributes.unwrap().jwt_svid_include_jti);
        for bad in ["junk", r#"{"entries":[{"spiffe_id":"bad"}]}"#] {
            let refused = entries(bad.as_bytes(), "f", &mut env).unwrap_err();
            assert!(refused.to_string().starts_with("f: "), "{refused}");
        }
        assert_eq!(ids(br#"{"ids":["a","b"]}"#, "f", &mut env).unwrap(), ["a", "b"]);
        assert!(ids(b"junk", "f", &mut env).is_err());
    }

    #[test]
    fn files_mean_what_they_mean_to_spire() {
        let mut env = Env::process(Program::Signet);
        env.err = Box::new(std::io::sink());
        let id = "\"parent_id\":\"spiffe://td/n\",\"selectors\":[{\"type\":\"a\",\"value\":\"b\"}]";
        let mut one = |fields: &str| {
            let json = format!("{{\"entries\":[{{{id},{fields}}}]}}");
            entries(json.as_bytes(), "f", &mut env).unwrap().remove(0)
        };
        let nulls =
            one(r#""spiffe_id":"spiffe://td/w","hint":null,"x509_svid_ttl":null,"admin":null,
               "entryExpiry":null,"dns_names":null,"additional_attributes":null"#);
        assert_eq!((nulls.hint.as_str(), nulls.x509_svid_ttl, nulls.expires_at), ("", 0, 0));
        assert_eq!(nulls.additional_attributes, None);
        assert_eq!(one(r#""SPIFFE_ID":"spiffe://td/w","Hint":"h""#).hint, "h");
        let last = one(r#""spiffe_id":"spiffe://td/a","spiffe_id":"spiffe://td/b""#);
        assert_eq!(last.spiffe_id.unwrap().path, "/b");
        assert_eq!(one(r#""spiffe_id":"spiffe://td/w","entry_expiry":4102444800"#).expires_at, 0);
        for empty in ["{\"entries\":[]}", "{\"entries\":null}", "{}"] {
            assert_eq!(entries(empty.as_bytes(), "f", &mut env).unwrap(), []);
        }
        assert_eq!(ids(br#"{"IDs":["x"]}"#, "f", &mut env).unwrap(), ["x"]);
        assert_eq!(ids(br#"{"ids":null}"#, "f", &mut env).unwrap(), [] as [&str; 0]);
    }

    #[test]
    fn what_entry_show_prints_can_be_read_back() {
        let entry = types::Entry {
            id: "one".into(),
            spiffe_id: Some(types::Spiffeid { trust_domain: "td".into(), path: "/w".into() }),
            parent_id: Some(types::Spiffeid { trust_domain: "td".into(), path: "/n".into() }),
            selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:0".into() }],
            x509_svid_ttl: 60,
            federates_with: vec!["b.test".into()],
            expires_at: 4_000_000_000,
            dns_names: vec!["db".into()],
            hint: "h".into(),
            additional_attributes: Some(AdditionalAttributes {
                jwt_svid_include_jti: true,
                ..AdditionalAttributes::default()
            }),
            revision_number: 7,
            created_at: 9,
            ..types::Entry::default()
        };
        let shown = pb::ListEntriesResponse {
            entries: vec![entry.clone()],
            next_page_token: String::new(),
        };
        let json = json::to_value(&shown).to_string();
        let told = SharedText::default();
        let mut env = Env::process(Program::Signet);
        env.err = Box::new(told.clone());
        let read = entries(json.as_bytes(), "f", &mut env).unwrap();
        assert_eq!(read, [types::Entry { revision_number: 0, created_at: 0, ..entry }]);
        assert_eq!(told.text(), "", "no name in it is unknown");
    }
}
