//! gRPC statuses: SPIRE's details on refusals, and the statuses of batch items.

use std::fmt::Display;

use bytes::Bytes;
use prost::Message as _;
use tonic::{Code, Status};

pub use crate::pb::spire::api::types::permission_denied_details::Reason;
use crate::pb::{google::rpc, spire::api::types};

const DETAILS_TYPE_URL: &str = "type.googleapis.com/spire.api.types.PermissionDeniedDetails";

/// The longest text that goes into a `grpc-message` header, bytes: clients bound their headers.
const MAX_MESSAGE_LEN: usize = 4096;

/// `PermissionDenied` with the reason an agent acts on, in `grpc-status-details-bin`.
///
/// An agent that is told `AgentNotAttested`, `AgentExpired` or `AgentNotActive` attests anew;
/// without the detail it neither does that nor stops.
pub fn permission_denied(message: impl Into<String>, reason: Reason) -> Status {
    let message = message.into();
    let detail = types::PermissionDeniedDetails { reason: reason.into() };
    let status = rpc::Status {
        code: Code::PermissionDenied.into(),
        message: message.clone(),
        details: vec![prost_types::Any {
            type_url: DETAILS_TYPE_URL.to_owned(),
            value: detail.encode_to_vec(),
        }],
    };
    Status::with_details(Code::PermissionDenied, message, Bytes::from(status.encode_to_vec()))
}

/// The reason in a status made by [`permission_denied`] or by a SPIRE server; `None` when the
/// status is another one, has no readable detail, or names an unknown reason.
pub fn denied_reason(status: &Status) -> Option<Reason> {
    if status.code() != Code::PermissionDenied || status.details().is_empty() {
        return None;
    }
    let decoded = rpc::Status::decode(status.details()).ok()?;
    let detail = decoded.details.iter().find(|any| any.type_url == DETAILS_TYPE_URL)?;
    let detail = types::PermissionDeniedDetails::decode(detail.value.as_slice()).ok()?;
    Reason::try_from(detail.reason).ok().filter(|reason| *reason != Reason::Unknown)
}

/// `<what>: <cause>`, as SPIRE words its errors; bounded in length.
pub fn wrap(code: Code, what: &str, cause: impl Display) -> Status {
    Status::new(code, bounded(format!("{what}: {cause}")))
}

/// The status of a batch item that went well.
pub fn item_ok() -> types::Status {
    types::Status { code: Code::Ok.into(), message: "OK".to_owned() }
}

/// The status of a batch item that did not.
pub fn item(code: Code, message: impl Into<String>) -> types::Status {
    types::Status { code: code.into(), message: bounded(message.into()) }
}

/// A batch item's status as a call's: its code and message.
pub fn from_item(status: &types::Status) -> Status {
    Status::new(Code::from(status.code), status.message.clone())
}

/// Whether a batch item went well; a missing status counts as success, as it does in protobuf.
pub fn is_ok(status: Option<&types::Status>) -> bool {
    status.is_none_or(|status| status.code == i32::from(Code::Ok))
}

/// A text that fits into a `grpc-message` header: what is longer is cut.
pub fn bounded(mut text: String) -> String {
    if text.len() > MAX_MESSAGE_LEN {
        let cut = (0..=MAX_MESSAGE_LEN).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_the_wire() {
        for reason in [Reason::AgentBanned, Reason::AgentExpired, Reason::AgentMustReattest] {
            let status = permission_denied("no", reason);
            let mut headers = http::HeaderMap::new();
            status.add_header(&mut headers).unwrap();
            let received = Status::from_header_map(&headers).unwrap();
            assert_eq!(denied_reason(&received), Some(reason));
            assert_eq!(received.message(), "no");
        }
    }

    #[test]
    fn other_statuses_have_no_reason() {
        assert_eq!(denied_reason(&Status::permission_denied("no")), None);
        assert_eq!(denied_reason(&Status::unavailable("no")), None);
        let garbage = Status::with_details(Code::PermissionDenied, "no", Bytes::from_static(b"x"));
        assert_eq!(denied_reason(&garbage), None);
        assert_eq!(denied_reason(&permission_denied("no", Reason::Unknown)), None);
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let status = wrap(Code::Internal, "x", "ä".repeat(5000));
        assert!(status.message().len() <= MAX_MESSAGE_LEN + 3);
        assert!(status.message().ends_with("ä..."));
    }
}
