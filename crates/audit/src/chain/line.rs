//! Records as lines.

use std::time::SystemTime;

use serde_json::{Map, Value as Json};
use signet_pki::digest;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::MAX_RECORD;
use crate::event::{AuditEvent, Digested, Field, Outcome, Value};

/// A hash of the chain.
pub(super) type Hash = [u8; 32];

/// What the first record follows.
pub(super) const NOTHING: Hash = [0; 32];

const BEFORE_HASH: &str = ",\"hash\":\"";
const AFTER_HASH: &str = "\"}";
const HASH_LEN: usize = 64;
const TAIL_LEN: usize = BEFORE_HASH.len() + HASH_LEN + AFTER_HASH.len();

/// A record that was read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Its number: the first is 1.
    pub seq: u64,
    /// The whole record.
    pub json: Map<String, Json>,
}

impl Recorded {
    /// A text of the record; empty when it has none of this name.
    pub fn text(&self, name: &str) -> &str {
        self.json.get(name).and_then(Json::as_str).unwrap_or_default()
    }
}

/// Appends one record to `out`, as a line, and answers with its hash. `body` is what it says, a
/// JSON object.
pub(super) fn write(out: &mut Vec<u8>, seq: u64, prev: &Hash, body: &Map<String, Json>) -> Hash {
    let start = out.len();
    out.extend_from_slice(format!("{{\"seq\":{seq},\"prev\":\"{}\"", hex(prev)).as_bytes());
    let mut object = Vec::with_capacity(512);
    // Maps of texts can be written.
    if serde_json::to_writer(&mut object, body).is_err() || object.len() > MAX_RECORD {
        object = b"{\"message\":\"A record was too long to be kept\"}".to_vec();
    }
    if object.len() > 2 {
        out.push(b',');
        out.extend_from_slice(object.get(1..object.len() - 1).unwrap_or_default());
    }
    let hash = digest::sha256(out.get(start..).unwrap_or_default());
    out.extend_from_slice(BEFORE_HASH.as_bytes());
    out.extend_from_slice(hex(&hash).as_bytes());
    out.extend_from_slice(AFTER_HASH.as_bytes());
    out.push(b'\n');
    hash
}

/// A line taken apart: number, hash of the record before, own hash, and whether that is right.
pub(super) struct Parsed {
    pub(super) record: Recorded,
    pub(super) prev: Hash,
    pub(super) hash: Hash,
    pub(super) is_intact: bool,
}

/// Reads a line without its end; `None` when it is no record.
pub(super) fn parse(line: &[u8]) -> Option<Parsed> {
    let at = line.len().checked_sub(TAIL_LEN)?;
    let (covered, tail) = line.split_at_checked(at)?;
    let claimed = std::str::from_utf8(tail).ok()?;
    let claimed = claimed.strip_prefix(BEFORE_HASH)?.strip_suffix(AFTER_HASH)?;
    let hash = unhex(claimed)?;
    let json: Map<String, Json> = serde_json::from_slice(line).ok()?;
    let seq = json.get("seq")?.as_u64()?;
    let prev = unhex(json.get("prev")?.as_str()?)?;
    let is_intact = digest::sha256(covered) == hash;
    Some(Parsed { record: Recorded { seq, json }, prev, hash, is_intact })
}

/// What a record says of an event.
pub(crate) fn body(event: &AuditEvent, at: SystemTime) -> Map<String, Json> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Json| _ = body.insert(name.to_owned(), value);
    put("time", rfc3339(at).into());
    put("kind", event.kind.name().into());
    if event.message != crate::event::API_ACCESSED {
        put("message", event.message.into());
    }
    for (name, text) in [
        ("service", event.service.as_ref()),
        ("method", event.method.as_ref()),
        ("correlation_id", event.request_id.as_ref()),
        ("tenant", event.tenant.as_deref().unwrap_or_default()),
        ("reason_code", event.reason_code.unwrap_or_default()),
        ("caller_as", event.caller.authorized_as.unwrap_or_default()),
        ("caller_via", event.caller.authorized_via.unwrap_or_default()),
    ] {
        if !text.is_empty() {
            put(name, text.into());
        }
    }
    match &event.outcome {
        Outcome::Success => put("decision", "allow".into()),
        Outcome::Failure { code, reason } => {
            let decision = match *code {
                "Internal" | "Unavailable" | "DeadlineExceeded" | "Canceled" => "fail",
                _ => "deny",
            };
            put("decision", decision.into());
            put("code", (*code).into());
            put("reason", reason.as_str().into());
        }
    }
    let caller = &event.caller;
    if let Some(id) = &caller.id {
        put("caller_id", id.to_string().into());
    }
    if let Some(addr) = caller.addr {
        put("caller_addr", addr.to_string().into());
    }
    for (name, number) in [
        ("caller_pid", caller.pid.map(i64::from)),
        ("caller_uid", caller.uid.map(i64::from)),
        ("caller_gid", caller.gid.map(i64::from)),
        ("suppressed", Some(event.suppressed).filter(|n| *n > 0).and_then(|n| n.try_into().ok())),
    ] {
        if let Some(number) = number {
            put(name, number.into());
        }
    }
    for field in &event.fields {
        let value = match field {
            Field::Selectors(selectors) => {
                put("selectors_sha256", Digested(selectors.clone()).hex().into());
                continue;
            }
            field => field.value(),
        };
        put(
            field.name(),
            match value {
                Value::Bool(value) => value.into(),
                Value::Int(value) => value.into(),
                Value::Uint(value) => value.into(),
                Value::Text(text) => text.into_owned().into(),
            },
        );
    }
    body
}

pub(crate) fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    // To the millisecond.
    let at = at.replace_nanosecond(at.nanosecond() / 1_000_000 * 1_000_000).unwrap_or(at);
    at.format(&Rfc3339).unwrap_or_default()
}

pub(super) fn hex(hash: &Hash) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0'));
    hash.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

pub(super) fn unhex(text: &str) -> Option<Hash> {
    let mut hash = NOTHING;
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != hash.len() || !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    for (to, [high, low]) in hash.iter_mut().zip(pairs) {
        *to = digit(*high)? << 4 | digit(*low)?;
    }
    Some(hash)
}
