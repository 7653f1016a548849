//! Access tokens of Google Cloud.

use std::{path::Path, time::Duration};

use serde_json::Value;
use signet_http::{
    is_confidential,
    rest::{RestError, Token},
};
use zeroize::Zeroizing;

/// What a token is for: everything that the account may do.
pub(crate) const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How long an access token is asked for, seconds.
pub(crate) const TOKEN_LIFE: i64 = 3600;

/// Refuses a URL that secrets may not be sent to.
pub(crate) fn safe_url(path: &Path, url: &str) -> Result<(), String> {
    if is_confidential(url) {
        return Ok(());
    }
    Err(format!("{}: {url:?}: expected an https:// URL", path.display()))
}

/// A token from the answer of an OAuth 2.0 token endpoint.
pub(crate) fn read_token(json: &Value) -> Result<Token, RestError> {
    let value = json.get("access_token").and_then(Value::as_str).filter(|text| !text.is_empty());
    let value = value.ok_or_else(|| {
        RestError::Credentials("what was answered holds no access_token".to_owned())
    })?;
    let life = json.get("expires_in").and_then(Value::as_u64);
    let life = life.unwrap_or(TOKEN_LIFE.unsigned_abs()).min(24 * 3600);
    Ok(Token { value: Zeroizing::new(value.to_owned()), life: Duration::from_secs(life) })
}
