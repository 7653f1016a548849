//! Records in the terms of the Open Cybersecurity Schema Framework, version 1.3: API Activity
//! (class 6003).

use serde_json::{Map, Value as Json, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::chain::Recorded;

const CLASS: u64 = 6003;
/// Fields of a record that have a place of their own; the others are `unmapped`.
const MAPPED: [&str; 19] = [
    "caller_addr",
    "caller_as",
    "caller_gid",
    "caller_id",
    "caller_pid",
    "caller_uid",
    "code",
    "correlation_id",
    "decision",
    "hash",
    "message",
    "method",
    "prev",
    "reason",
    "reason_code",
    "seq",
    "service",
    "tenant",
    "time",
];

/// The record as an event of OCSF.
pub fn event(record: &Recorded, product: &str, version: &str) -> Json {
    let text = |name: &str| record.text(name);
    let activity = activity(text("method"));
    let decision = text("decision");
    let (status_id, status) = match decision {
        "allow" => (1, "Success"),
        "deny" | "fail" => (2, "Failure"),
        _ => (0, "Unknown"),
    };
    let severity = if decision == "deny" { 2 } else { 1 };
    let time = OffsetDateTime::parse(text("time"), &Rfc3339)
        .map_or(0, |time| (time.unix_timestamp_nanos() / 1_000_000) as i64);
    let mut event = json!({
        "category_uid": 6,
        "class_uid": CLASS,
        "activity_id": activity,
        "type_uid": CLASS * 100 + activity,
        "time": time,
        "severity_id": severity,
        "status_id": status_id,
        "status": status,
        "metadata": {
            "version": "1.3.0",
            "product": { "name": product, "vendor_name": "Signet", "version": version },
            "sequence": record.seq,
            "uid": text("hash"),
            "log_name": "audit",
        },
        "api": {
            "operation": if text("method").is_empty() { text("message") } else { text("method") },
            "service": { "name": text("service") },
        },
        "actor": { "user": { "name": caller(record), "type": text("caller_as") } },
        "src_endpoint": endpoint(text("caller_addr")),
    });
    let mut put = |path: &[&str], value: Json| {
        let mut at = &mut event;
        for name in path {
            at = &mut at[*name];
        }
        *at = value;
    };
    if !text("correlation_id").is_empty() {
        put(&["metadata", "correlation_uid"], text("correlation_id").into());
        put(&["api", "request"], json!({ "uid": text("correlation_id") }));
    }
    if !text("tenant").is_empty() {
        put(&["metadata", "tenant_uid"], text("tenant").into());
    }
    if !text("code").is_empty() {
        put(&["status_code"], text("code").into());
        put(&["api", "response"], json!({ "error": text("code"), "message": text("reason") }));
    }
    if !text("reason").is_empty() {
        put(&["status_detail"], text("reason").into());
    }
    if let Some(pid) = record.json.get("caller_pid") {
        put(&["actor", "process"], json!({ "pid": pid }));
    }
    let mut unmapped: Map<String, Json> = record
        .json
        .iter()
        .filter(|(name, _)| !MAPPED.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !text("reason_code").is_empty() {
        unmapped.insert("reason_code".to_owned(), text("reason_code").into());
    }
    put(&["unmapped"], Json::Object(unmapped));
    event
}

fn caller(record: &Recorded) -> String {
    let id = record.text("caller_id");
    match record.json.get("caller_uid") {
        _ if !id.is_empty() => id.to_owned(),
        Some(uid) => format!("uid:{uid}"),
        None => "unknown".to_owned(),
    }
}

fn endpoint(addr: &str) -> Json {
    match addr.parse::<std::net::SocketAddr>() {
        Ok(addr) => json!({ "ip": addr.ip().to_string(), "port": addr.port() }),
        Err(_) => json!({ "name": "local" }),
    }
}

/// Create 1, Read 2, Update 3, Delete 4, Other 99.
fn activity(method: &str) -> u64 {
    let method = method.strip_prefix("Batch").unwrap_or(method);
    let begins = |words: &[&str]| words.iter().any(|word| method.starts_with(word));
    if begins(&["Create", "New", "Mint", "Attest", "Prepare", "Append", "Publish"]) {
        1
    } else if begins(&["Get", "List", "Count", "Sync", "Explain", "Subscribe"]) {
        2
    } else if begins(&["Update", "Set", "Renew", "Activate", "Taint", "Post", "Refresh", "Reset"]) {
        3
    } else if begins(&["Delete", "Ban", "Revoke"]) {
        4
    } else {
        99
    }
}
