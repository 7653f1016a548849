//! Passwords that are tokens of AWS IAM: a presigned URL of the action `rds-db:connect`, made for
//! each connection and valid for a quarter of an hour.
//!
//! Source: AWS Signature Version 4 (query parameters), "IAM database authentication" of RDS.

use std::fmt;

use async_trait::async_trait;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use signet_base::{SharedClock, SystemClock};
use signet_pki::digest::{hmac_sha256, sha256_hex};
use signet_store::postgres::Passwords;
use time::{OffsetDateTime, macros::format_description};
use zeroize::Zeroizing;

/// What SigV4 leaves as it is.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// How long a token is valid, seconds: what RDS allows at most.
const VALID: u32 = 900;

/// Who signs.
struct Keys {
    id: String,
    secret: Zeroizing<String>,
    session_token: Option<String>,
}

/// Makes the tokens.
#[derive(Clone)]
pub struct Iam {
    region: String,
    /// Of the configuration; else those of the environment.
    keys: Option<(String, Zeroizing<String>)>,
    clock: SharedClock,
}

impl Iam {
    /// For one region; `keys` are an access key ID and its secret.
    pub fn new(region: String, keys: Option<(String, String)>) -> Self {
        let keys = keys.map(|(id, secret)| (id, Zeroizing::new(secret)));
        Self { region, keys, clock: SystemClock::shared() }
    }

    fn keys(&self) -> Result<Keys, String> {
        if let Some((id, secret)) = &self.keys {
            return Ok(Keys { id: id.clone(), secret: secret.clone(), session_token: None });
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            (Some(id), Some(secret)) => Ok(Keys {
                id,
                secret: Zeroizing::new(secret),
                session_token: variable("AWS_SESSION_TOKEN"),
            }),
            _ => Err("set access_key_id and secret_access_key, or AWS_ACCESS_KEY_ID and \
                      AWS_SECRET_ACCESS_KEY"
                .to_owned()),
        }
    }

    /// The token for `host:port` and `user` at a time.
    fn token(
        &self,
        endpoint: &str,
        user: &str,
        keys: &Keys,
        now: OffsetDateTime,
    ) -> Option<String> {
        let day = now.format(format_description!("[year][month][day]")).ok()?;
        let time = format_description!("[year][month][day]T[hour][minute][second]Z");
        let time = now.format(time).ok()?;
        let scope = format!("{day}/{}/rds-db/aws4_request", self.region);
        let encoded = |text: &str| utf8_percent_encode(text, KEPT).to_string();
        let mut query = format!(
            "Action=connect&DBUser={}&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}\
             &X-Amz-Date={time}&X-Amz-Expires={VALID}",
            encoded(user),
            encoded(&format!("{}/{scope}", keys.id)),
        );
        if let Some(token) = &keys.session_token {
            query.push_str(&format!("&X-Amz-Security-Token={}", encoded(token)));
        }
        query.push_str("&X-Amz-SignedHeaders=host");
        let request = format!("GET\n/\n{query}\nhost:{endpoint}\n\nhost\n{}", sha256_hex(b""));
        let signed =
            format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256_hex(request.as_bytes()));
        let secret = Zeroizing::new(format!("AWS4{}", *keys.secret));
        let mut key = hmac_sha256(secret.as_bytes(), day.as_bytes());
        for part in [self.region.as_str(), "rds-db", "aws4_request"] {
            key = hmac_sha256(&key, part.as_bytes());
        }
        let signature = hmac_sha256(&key, signed.as_bytes());
        let hex: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("{endpoint}/?{query}&X-Amz-Signature={hex}"))
    }
}

impl PartialEq for Iam {
    fn eq(&self, other: &Self) -> bool {
        self.region == other.region && self.keys == other.keys
    }
}

impl Eq for Iam {}

impl fmt::Debug for Iam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iam").field("region", &self.region).finish_non_exhaustive()
    }
}

#[async_trait]
impl Passwords for Iam {
    async fn password(
        &self,
        host: &str,
        port: u16,
        user: &str,
    ) -> Result<Zeroizing<String>, String> {
        let keys = self.keys()?;
        let now = OffsetDateTime::from_unix_timestamp(self.clock.unix().seconds())
            .map_err(|error| error.to_string())?;
        let token = self.token(&format!("{host}:{port}"), user, &keys, now);
        token.map(Zeroizing::new).ok_or_else(|| "the time cannot be written".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_botocore_makes() {
        let iam = Iam::new("us-east-2".to_owned(), None);
        let keys = Keys {
            id: "AKIDEXAMPLE".to_owned(),
            secret: Zeroizing::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned()),
            session_token: None,
        };
        let now = OffsetDateTime::from_unix_timestamp(1_440_938_160).unwrap();
        let token = iam.token("db.example.com:5432", "spire@x", &keys, now).unwrap();
        assert_eq!(token, include_str!("iam_token.txt").trim_end());
    }
}
