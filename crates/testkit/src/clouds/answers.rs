//! Answers as Google Cloud's services give them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::Reply;

/// How many items a page has at most: few, so that there are pages.
const PAGE: usize = 3;

pub(super) fn failure(status: u16, code: &str, message: &str) -> Reply {
    let error = json!({ "code": status, "message": message, "status": code });
    Reply::new(status, json!({ "error": error }))
}

pub(super) fn not_found() -> Reply {
    failure(404, "NOT_FOUND", "Requested entity was not found.")
}

pub(super) fn invalid(message: &str) -> Reply {
    failure(400, "INVALID_ARGUMENT", message)
}

pub(super) fn paged(member: &str, items: Vec<Value>, query: &BTreeMap<String, String>) -> Reply {
    let begin = query.get("pageToken").and_then(|token| token.parse().ok()).unwrap_or(0);
    let page: Vec<_> = items.iter().skip(begin).take(PAGE).cloned().collect();
    let mut answer = json!({ "totalSize": items.len() });
    // An empty list has no such member.
    if !page.is_empty() {
        answer[member] = page.into();
    }
    if begin + PAGE < items.len() {
        answer["nextPageToken"] = (begin + PAGE).to_string().into();
    }
    Reply::new(200, answer)
}
