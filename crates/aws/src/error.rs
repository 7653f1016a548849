//! What can go wrong with a service of AWS.

use http::Response;
use serde_json::Value;
use signet_http::{HttpError, shown};

/// Why a call was not answered as hoped. Nothing secret is in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AwsError {
    /// There is nothing to sign with.
    #[error("no AWS credentials: {0}")]
    Credentials(String),
    /// A file cannot be used.
    #[error("{0}")]
    File(String),
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The answer is not what the service says.
    #[error("the answer to {action} is not understood: {why}")]
    Nonsense {
        /// What was asked for.
        action: String,
        /// What is wrong with it.
        why: String,
    },
    /// The service refuses the call.
    #[error("{action}: {code} (status {status}){}", said(.message))]
    Refused {
        /// What was asked for.
        action: String,
        /// The HTTP status.
        status: u16,
        /// The service's name for the reason, `AccessDeniedException`.
        code: String,
        /// What it says besides.
        message: String,
    },
    /// The service failed.
    #[error("{action} fails with status {status} {code}{}", said(.message))]
    Server {
        /// What was asked for.
        action: String,
        /// The HTTP status.
        status: u16,
        /// The service's name for the reason; may be empty.
        code: String,
        /// What it says besides.
        message: String,
    },
    /// A setting cannot be used.
    #[error("{0}")]
    Setting(String),
    /// The service wants fewer calls.
    #[error("{action}: the service asks for fewer calls ({code})")]
    Throttled {
        /// What was asked for.
        action: String,
        /// Its name for that.
        code: String,
    },
}

impl AwsError {
    /// The service's name for the reason; empty when it did not answer or gave none.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. }
            | Self::Server { code, .. }
            | Self::Throttled { code, .. } => code,
            _ => "",
        }
    }

    /// Whether the caller may not do that.
    pub fn is_denied(&self) -> bool {
        matches!(self.code(), "AccessDeniedException" | "AccessDenied" | "UnauthorizedOperation")
    }

    /// Whether there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self.code(), "NotFoundException" | "ResourceNotFoundException")
    }

    /// Whether the credentials are not, or no longer, good: others may be.
    pub(crate) fn is_of_credentials(&self) -> bool {
        matches!(
            self.code(),
            "ExpiredToken"
                | "ExpiredTokenException"
                | "InvalidAccessKeyId"
                | "InvalidClientTokenId"
                | "InvalidToken"
                | "RequestExpired"
                | "UnrecognizedClientException"
        )
    }

    /// Whether the call certainly had no effect, so that it can be made again whatever it is.
    pub fn had_no_effect(&self) -> bool {
        match self {
            Self::Http(error) => error.had_no_effect(),
            Self::Server { .. } | Self::Nonsense { .. } => false,
            _ => true,
        }
    }

    /// Whether it may go well a moment later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Http(error) => !matches!(
                error,
                HttpError::BadUrl(_) | HttpError::TooLarge { .. } | HttpError::Trust(_)
            ),
            Self::Throttled { .. } | Self::Server { .. } => true,
            Self::Refused { code, .. } => matches!(&**code, "RequestTimeout"),
            _ => false,
        }
    }

    /// Reads an answer that is no success, JSON or XML.
    pub(crate) fn of(action: &str, response: &Response<bytes::Bytes>) -> Self {
        let text = String::from_utf8_lossy(response.body());
        let json: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        let field = |name: &str| json.get(name).and_then(Value::as_str).map(str::to_owned);
        let header = response.headers().get("x-amzn-errortype").and_then(|v| v.to_str().ok());
        let code = field("__type")
            .or_else(|| header.map(str::to_owned))
            .or_else(|| field("code"))
            .or_else(|| element(&text, "Code"))
            .unwrap_or_default();
        // A namespace may be before it, and a URL behind it.
        let code = code.rsplit('#').next().unwrap_or_default().split(':').next();
        let code = shown(code.unwrap_or_default());
        let message = field("message")
            .or_else(|| field("Message"))
            .or_else(|| element(&text, "Message"))
            .unwrap_or_else(|| if code.is_empty() { text.into_owned() } else { String::new() });
        let (action, status, message) =
            (action.to_owned(), response.status().as_u16(), shown(&message));
        if status == 429 || is_throttling(&code) {
            return Self::Throttled { action, code };
        }
        match status {
            500.. => Self::Server { action, status, code, message },
            _ => Self::Refused { action, status, code, message },
        }
    }
}

fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "BandwidthLimitExceeded"
            | "PriorRequestNotComplete"
            | "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "SlowDown"
            | "ThrottledException"
            | "Throttling"
            | "ThrottlingException"
            | "TooManyRequestsException"
    )
}

/// The text of the first element of this name, which holds no others.
pub(crate) fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    if text.contains('<') {
        return None;
    }
    let named = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#39;", "'")];
    let text = named.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    Some(text.replace("&amp;", "&"))
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn of(status: u16, body: &str) -> AwsError {
        let response = Response::builder().status(status);
        AwsError::of("Do", &response.body(Bytes::from(body.to_owned())).unwrap())
    }

    #[test]
    fn answers_in_json_and_xml_are_told_apart_by_their_codes() {
        let json = r#"{"__type":"com.amazon#NotFoundException","message":"no  \n key"}"#;
        let error = of(400, json);
        assert!(error.is_not_found());
        assert_eq!(error.to_string(), "Do: NotFoundException (status 400): no key");
        let xml = "<?xml version=\"1.0\"?><ErrorResponse><Error><Code>AccessDenied</Code>\
                   <Message>a &lt;b&gt; &amp;amp;</Message></Error></ErrorResponse>";
        let error = of(403, xml);
        assert!(error.is_denied());
        assert_eq!(error.to_string(), "Do: AccessDenied (status 403): a <b> &amp;");
        let slow = of(503, "<Error><Code>SlowDown</Code></Error>");
        assert!(matches!(slow, AwsError::Throttled { .. }) && slow.had_no_effect());
        let failing = of(500, "<html>oh</html>");
        assert!(!failing.had_no_effect() && failing.is_passing());
        assert_eq!(failing.to_string(), "Do fails with status 500 : <html>oh</html>");
        let header = Response::builder().status(400);
        let header = header.header("x-amzn-errortype", "ValidationException:http://x/");
        let error = AwsError::of("Do", &header.body(Bytes::from("{\"message\":\"m\"}")).unwrap());
        assert_eq!(error.code(), "ValidationException");
    }
}
