//! Secrets Manager.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use crate::{AwsError, Client};

/// The value of a secret, as text.
///
/// # Errors
/// [`AwsError`]; a secret that is no UTF-8 text is one.
pub(crate) async fn text(client: &Client, id: &str) -> Result<Zeroizing<String>, AwsError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Value {
        #[serde(default)]
        secret_string: Option<String>,
        #[serde(default)]
        secret_binary: Option<String>,
    }
    let action = "GetSecretValue";
    let value: Value = client.call(action, &json!({ "SecretId": id })).await?;
    let wrong = |why: &str| AwsError::Nonsense { action: action.to_owned(), why: why.to_owned() };
    if let Some(text) = value.secret_string {
        return Ok(Zeroizing::new(text));
    }
    let binary = value.secret_binary.ok_or_else(|| wrong("it has no value"))?;
    let binary = Zeroizing::new(binary);
    let bytes = STANDARD.decode(&*binary).map_err(|_| wrong("what should be base64 is not"))?;
    let bytes = Zeroizing::new(bytes);
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("its value is no text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}
