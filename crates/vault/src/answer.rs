//! What a Vault server answers.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{Response, StatusCode, header::RETRY_AFTER};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;
use signet_http::shown;
use zeroize::Zeroizing;

use crate::VaultError;

/// A successful answer. What it holds may be secret, and is not shown.
#[derive(Clone, Default)]
pub struct Answer {
    /// The server's number of the request, as in its audit log; empty when it gave none.
    pub request_id: String,
    /// What was asked for; null when there is nothing.
    pub data: Value,
    /// The lease of what was given out, if it has one.
    pub lease: Option<Lease>,
    /// The token of a login.
    pub token: Option<NewToken>,
    /// The token that unwraps the answer, where that was asked for.
    pub wrapping_token: Option<Zeroizing<String>>,
    /// What the server warns of.
    pub warnings: Vec<String>,
    path: String,
}

/// How long something that was given out lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: String,
    /// How long it lives from now.
    pub duration: Duration,
    /// Whether that can be made longer.
    pub renewable: bool,
}

/// A token that a login gave.
#[derive(Clone)]
pub struct NewToken {
    /// The token.
    pub token: Zeroizing<String>,
    /// A name for it that is good for nothing but to look it up.
    pub accessor: String,
    /// How long it lives from now; zero for ever.
    pub duration: Duration,
    /// Whether that can be made longer.
    pub renewable: bool,
    /// What it may do.
    pub policies: Vec<String>,
    /// Whom the server takes its holder for.
    pub entity_id: String,
}

/// How a server is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Health {
    /// Whether it was ever set up.
    pub initialized: bool,
    /// Whether it is sealed.
    pub sealed: bool,
    /// Whether another node is the active one.
    #[serde(default)]
    pub standby: bool,
    /// Its version, `2.7.2`.
    #[serde(default)]
    pub version: String,
}

#[derive(Deserialize, Default)]
struct Envelope {
    #[serde(default)]
    request_id: Option<String>,
    #[serde(default)]
    lease_id: Option<String>,
    #[serde(default)]
    lease_duration: Option<u64>,
    #[serde(default)]
    renewable: Option<bool>,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    warnings: Option<Vec<String>>,
    #[serde(default)]
    auth: Option<AuthPart>,
    #[serde(default)]
    wrap_info: Option<WrapPart>,
}

#[derive(Deserialize)]
struct AuthPart {
    #[serde(deserialize_with = "secret")]
    client_token: Zeroizing<String>,
    #[serde(default)]
    accessor: String,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
    #[serde(default)]
    policies: Option<Vec<String>>,
    #[serde(default)]
    entity_id: String,
}

#[derive(Deserialize)]
struct WrapPart {
    #[serde(deserialize_with = "secret")]
    token: Zeroizing<String>,
}

#[derive(Deserialize, Default)]
struct Failure {
    #[serde(default)]
    errors: Vec<String>,
}

impl Answer {
    /// Reads an answer to what was asked at `path`.
    pub(crate) fn of(path: &str, response: &Response<Bytes>) -> Result<Self, VaultError> {
        let status = response.status();
        if !status.is_success() {
            return Err(failure(path, response));
        }
        if response.body().is_empty() || status == StatusCode::NO_CONTENT {
            return Ok(Self { path: path.to_owned(), ..Self::default() });
        }
        let nonsense = |why: String| VaultError::Nonsense { path: path.to_owned(), why };
        let envelope: Envelope =
            serde_json::from_slice(response.body()).map_err(|error| nonsense(kind_of(&error)))?;
        let lease = envelope.lease_id.filter(|id| !id.is_empty()).map(|id| Lease {
            id,
            duration: Duration::from_secs(envelope.lease_duration.unwrap_or_default()),
            renewable: envelope.renewable.unwrap_or_default(),
        });
        let token =
            envelope.auth.filter(|auth| !auth.client_token.is_empty()).map(|auth| NewToken {
                token: auth.client_token,
                accessor: auth.accessor,
                duration: Duration::from_secs(auth.lease_duration),
                renewable: auth.renewable,
                policies: auth.policies.unwrap_or_default(),
                entity_id: auth.entity_id,
            });
        Ok(Self {
            request_id: envelope.request_id.unwrap_or_default(),
            data: envelope.data,
            lease,
            token,
            wrapping_token: envelope.wrap_info.map(|wrap| wrap.token),
            warnings: envelope.warnings.unwrap_or_default(),
            path: path.to_owned(),
        })
    }

    /// The data as a type.
    ///
    /// # Errors
    /// [`VaultError::Nonsense`] when they are something else.
    pub fn data<T: DeserializeOwned>(self) -> Result<T, VaultError> {
        let Self { data, path, .. } = self;
        serde_json::from_value(data)
            .map_err(|error| VaultError::Nonsense { path, why: shown(&error.to_string()) })
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("request_id", &self.request_id)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewToken")
            .field("accessor", &self.accessor)
            .field("duration", &self.duration)
            .field("renewable", &self.renewable)
            .field("policies", &self.policies)
            .finish_non_exhaustive()
    }
}

fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(from).map(Zeroizing::new)
}

fn failure(path: &str, response: &Response<Bytes>) -> VaultError {
    let (status, path) = (response.status(), path.to_owned());
    let errors = match serde_json::from_slice::<Failure>(response.body()) {
        Ok(failure) => failure.errors,
        // A proxy's page, perhaps.
        Err(_) => {
            let text = String::from_utf8_lossy(response.body());
            if text.trim().is_empty() { Vec::new() } else { vec![shown(&text)] }
        }
    };
    let is_sealed = || errors.iter().any(|error| error.to_lowercase().contains("sealed"));
    match status.as_u16() {
        403 => VaultError::Denied { path, errors },
        404 => VaultError::NotFound { path, errors },
        429 => VaultError::Throttled { retry_after: retry_after(response) },
        503 if is_sealed() => VaultError::Sealed,
        status @ (500..=599 | 472 | 473) => VaultError::Server { path, status, errors },
        status => VaultError::Refused { path, status, errors },
    }
}

fn retry_after(response: &Response<Bytes>) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// What is wrong with JSON, without what it holds.
fn kind_of(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data => "its fields are of other types".to_owned(),
        _ => "it is not JSON".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Result<Answer, VaultError> {
        let response = Response::builder().status(status);
        Answer::of("a/b", &response.body(Bytes::from(body.to_owned())).unwrap())
    }

    #[test]
    fn failures_are_told_apart() {
        let sealed = answer(503, r#"{"errors":["Vault is sealed"]}"#).unwrap_err();
        assert!(matches!(sealed, VaultError::Sealed));
        let gateway = answer(503, "<html>no upstream</html>").unwrap_err();
        assert!(matches!(&gateway, VaultError::Server { status: 503, .. }), "{gateway}");
        assert!(matches!(answer(404, r#"{"errors":[]}"#), Err(VaultError::NotFound { .. })));
        assert!(matches!(answer(429, ""), Err(VaultError::Throttled { .. })));
        assert!(matches!(answer(400, "{}"), Err(VaultError::Refused { status: 400, .. })));
        for nonsense in ["<html>log in</html>", "[1]", r#"{"lease_duration":"x"}"#] {
            let error = answer(200, nonsense).unwrap_err();
            assert!(matches!(error, VaultError::Nonsense { .. }), "{nonsense}: {error}");
        }
        assert!(answer(204, "").unwrap().data.is_null());
    }

    #[test]
    fn a_login_and_a_lease_are_read() {
        let login = answer(
            200,
            r#"{"request_id":"r","auth":{"client_token":"s.x","accessor":"a","lease_duration":60,
                "renewable":true,"policies":["default"],"entity_id":"e","mfa":null}}"#,
        );
        let token = login.unwrap().token.unwrap();
        assert_eq!((token.token.as_str(), token.duration.as_secs()), ("s.x", 60));
        assert!(!format!("{token:?}").contains("s.x"));
        let lease = answer(
            200,
            r#"{"lease_id":"db/x","lease_duration":5,"renewable":false,"data":{"a":"b"},"auth":null}"#,
        );
        let lease = lease.unwrap();
        assert!(!format!("{lease:?}").contains('b') || !format!("{lease:?}").contains("\"a\""));
        assert_eq!(lease.lease.unwrap().id, "db/x");
    }
}
