//! What can go wrong with a service.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use serde_json::Value;

use super::Call;
use crate::{HttpError, shown};

/// Why a request was not answered as hoped. Nothing secret is in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestError {
    /// The answer is a failure.
    #[error("{what} is answered with {status}{}", said(.code, .message))]
    Answer {
        /// What was asked for: method, host and path.
        what: String,
        /// The HTTP status.
        status: u16,
        /// The service's name for the failure, `PERMISSION_DENIED`; empty when it gave none.
        code: String,
        /// What it says.
        message: String,
        /// For how long it wants to be left alone, if it says.
        retry_after: Option<Duration>,
    },
    /// There is no token, or what it is made from cannot be used.
    #[error("{0}")]
    Credentials(String),
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The answer is not what such a service says.
    #[error("the answer to {what} is not understood: {why}")]
    Nonsense {
        /// What was asked for: method, host and path.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A setting cannot be used.
    #[error("{0}")]
    Setting(String),
}

impl RestError {
    /// An answer that is a failure.
    pub(super) fn answer(
        call: &Call,
        answer: &Response<Bytes>,
        retry_after: Option<Duration>,
    ) -> Self {
        let json: Option<Value> = serde_json::from_slice(answer.body()).ok();
        let error = json.as_ref().and_then(|json| json.get("error"));
        let text = |value: Option<&Value>, key: &str| {
            value.and_then(|value| value.get(key)).and_then(Value::as_str).map(shown)
        };
        let code = text(error, "status")
            .or_else(|| text(error, "code"))
            .or_else(|| error.and_then(Value::as_str).map(shown));
        let message = text(error, "message").or_else(|| text(json.as_ref(), "error_description"));
        // A proxy's page, perhaps.
        let page = || match json {
            Some(_) => String::new(),
            None => shown(&String::from_utf8_lossy(answer.body())),
        };
        Self::Answer {
            what: call.what(),
            status: answer.status().as_u16(),
            code: code.unwrap_or_default(),
            message: message.unwrap_or_else(page),
            retry_after,
        }
    }

    /// An answer to `call` that makes no sense.
    pub fn nonsense(call: &Call, why: &str) -> Self {
        Self::Nonsense { what: call.what(), why: why.to_owned() }
    }

    /// The HTTP status of an answer that is a failure.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answer { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether there is no such thing.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// Whether what was asked for was certainly not done.
    pub fn had_no_effect(&self) -> bool {
        match self {
            Self::Answer { status, .. } => (400..500).contains(status) && *status != 408,
            Self::Credentials(_) | Self::Setting(_) => true,
            Self::Http(error) => error.had_no_effect(),
            Self::Nonsense { .. } => false,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Answer { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether it may go well a moment later.
    pub(super) fn is_worth_another(&self, repeatable: bool) -> bool {
        match self {
            Self::Answer { status: 429, .. } => true,
            Self::Answer { status: 408 | 500 | 502 | 503 | 504, .. } => repeatable,
            Self::Http(error) => {
                error.had_no_effect() || (repeatable && matches!(error, HttpError::Exchange { .. }))
            }
            _ => false,
        }
    }
}

/// What a server said, for a message.
fn said(code: &str, message: &str) -> String {
    match (code, message) {
        ("", "") => String::new(),
        ("", text) | (text, "") => format!(": {text}"),
        (code, message) => format!(": {code}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> RestError {
        let response = Response::builder().status(status);
        let response = response.body(Bytes::from(body.to_owned())).unwrap();
        RestError::answer(&Call::post("https://kms.example/v1/a?key=hush"), &response, None)
    }

    #[test]
    fn failures_are_read_in_the_forms_of_the_clouds() {
        let google = answer(
            403,
            r#"{"error":{"code":403,"message":"not\nyou","status":"PERMISSION_DENIED"}}"#,
        );
        assert_eq!(
            google.to_string(),
            "POST kms.example/v1/a is answered with 403: PERMISSION_DENIED: not you"
        );
        let azure = answer(429, r#"{"error":{"code":"Throttled","message":"later"}}"#);
        assert!(azure.to_string().ends_with("429: Throttled: later"), "{azure}");
        assert!(azure.is_worth_another(false));
        let oauth = answer(400, r#"{"error":"invalid_grant","error_description":"expired"}"#);
        assert!(oauth.to_string().ends_with("400: invalid_grant: expired"), "{oauth}");
        let page = answer(502, &format!("<html>{}", "x".repeat(1_000)));
        assert!(page.to_string().chars().count() < 400, "{page}");
        assert!(page.is_worth_another(true) && !page.is_worth_another(false));
        assert!(!page.had_no_effect() && google.had_no_effect());
    }
}
