//! The JSON files that entry commands read.

use std::collections::BTreeMap;

use serde::Deserialize;
use signet_api::pb::spire::api::types::{self, entry::AdditionalAttributes};

use crate::cli::{
    env::{CliError, Env},
    text,
};

/// `{"entries": [...]}`, with the field names of SPIRE's files, which are not those of its API.
#[derive(Deserialize)]
struct Entries {
    #[serde(default)]
    entries: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    entry_id: String,
    #[serde(default)]
    spiffe_id: String,
    #[serde(default)]
    parent_id: String,
    #[serde(default)]
    selectors: Option<Vec<Selector>>,
    #[serde(default)]
    x509_svid_ttl: i32,
    #[serde(default)]
    jwt_svid_ttl: i32,
    #[serde(default)]
    federates_with: Option<Vec<String>>,
    #[serde(default)]
    dns_names: Option<Vec<String>>,
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    downstream: bool,
    #[serde(default)]
    store_svid: bool,
    #[serde(default)]
    hint: String,
    #[serde(default, rename = "entryExpiry", alias = "entry_expiry")]
    entry_expiry: i64,
    #[serde(default)]
    additional_attributes: Option<Extras>,
    /// Set by the server; a file made from its answers may have them.
    #[serde(default, rename = "revision_number", alias = "revisionNumber")]
    _revision_number: i64,
    #[serde(default, rename = "created_at", alias = "createdAt")]
    _created_at: i64,
    #[serde(flatten)]
    unknown: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Selector {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct Extras {
    #[serde(default)]
    disable_x509_svid_prefetch: bool,
    #[serde(default)]
    jwt_svid_include_jti: bool,
}

/// Reads the entries of a file. Names that mean nothing are pointed out and ignored, as SPIRE
/// ignores them.
///
/// # Errors
/// [`CliError::Usage`] that names the file and what is wrong in it.
pub(super) fn entries(
    json: &[u8],
    file: &str,
    env: &mut Env,
) -> Result<Vec<types::Entry>, CliError> {
    let read: Entries = serde_json::from_slice(json)
        .map_err(|error| CliError::usage(format!("{file}: {error}")))?;
    let mut out = Vec::new();
    for (at, entry) in read.entries.unwrap_or_default().into_iter().enumerate() {
        for name in entry.unknown.keys() {
            let warning = format!("{file}: entries[{at}]: \"{name}\" is unknown and ignored");
            env.complain(format_args!("warning: {warning}"))?;
        }
        out.push(
            to_pb(entry)
                .map_err(|error| CliError::usage(format!("{file}: entries[{at}]: {error}")))?,
        );
    }
    if out.is_empty() {
        return Err(CliError::usage(format!(
            "{file}: no entries: expected {{\"entries\": [...]}}"
        )));
    }
    Ok(out)
}

/// Reads the IDs of a file, `{"ids": [...]}`.
///
/// # Errors
/// [`CliError::Usage`] that names the file and what is wrong in it.
pub(super) fn ids(json: &[u8], file: &str) -> Result<Vec<String>, CliError> {
    #[derive(Deserialize)]
    struct Ids {
        #[serde(default)]
        ids: Vec<String>,
    }
    let read: Ids = serde_json::from_slice(json)
        .map_err(|error| CliError::usage(format!("{file}: {error}")))?;
    if read.ids.is_empty() {
        return Err(CliError::usage(format!("{file}: no IDs: expected {{\"ids\": [\"...\"]}}")));
    }
    Ok(read.ids)
}

fn to_pb(entry: Entry) -> Result<types::Entry, CliError> {
    let selectors = entry.selectors.unwrap_or_default().into_iter();
    Ok(types::Entry {
        id: entry.entry_id,
        spiffe_id: Some(text::parse_id("spiffe_id", &entry.spiffe_id)?),
        parent_id: Some(text::parse_id("parent_id", &entry.parent_id)?),
        selectors: selectors
            .map(|one| types::Selector { r#type: one.r#type, value: one.value })
            .collect(),
        x509_svid_ttl: entry.x509_svid_ttl,
        federates_with: entry
            .federates_with
            .unwrap_or_default()
            .into_iter()
            .map(|name| name.strip_prefix("spiffe://").map(ToOwned::to_owned).unwrap_or(name))
            .collect(),
        admin: entry.admin,
        downstream: entry.downstream,
        expires_at: entry.entry_expiry,
        dns_names: entry.dns_names.unwrap_or_default(),
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
    use signet_daemon::program::Program;

    use super::*;

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
        for bad in ["junk", "{}", r#"{"entries":[{"spiffe_id":"bad"}]}"#] {
            let refused = entries(bad.as_bytes(), "f", &mut env).unwrap_err();
            assert!(refused.to_string().starts_with("f: "), "{refused}");
        }
        assert_eq!(ids(br#"{"ids":["a","b"]}"#, "f").unwrap(), ["a", "b"]);
        assert!(ids(b"junk", "f").is_err() && ids(b"{}", "f").is_err());
    }
}
