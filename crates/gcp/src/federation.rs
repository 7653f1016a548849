//! Workload identity federation (`external_account`): a token of another provider, from a file or a
//! URL, is exchanged for one of Google's (RFC 8693), and that for a service account's on request.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use http::HeaderName;
use serde::Deserialize;
use serde_json::{Value, json};
use signet_base::SharedClock;
use signet_http::{
    HttpClient,
    rest::{Call, Rest, RestError, Token},
};
use signet_pki::text_file;
use signet_time::UnixTime;
use zeroize::Zeroizing;

use crate::token::{SCOPE, TOKEN_LIFE, read_token, safe_url};

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// What such a file holds.
#[derive(Deserialize)]
pub(crate) struct External {
    audience: String,
    subject_token_type: String,
    token_url: String,
    credential_source: Subject,
    #[serde(default)]
    service_account_impersonation_url: Option<String>,
}

/// Where the other provider's token is.
#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    file: Option<PathBuf>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    format: Format,
}

/// How it is written.
#[derive(Default, Deserialize)]
struct Format {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    subject_token_field_name: String,
}

impl External {
    /// Whether it can be used.
    pub(crate) fn check(&self, path: &Path) -> Result<(), String> {
        let at = |what: &str| Err(format!("{}: {what}", path.display()));
        match (&self.credential_source.file, &self.credential_source.url) {
            (None, None) => at("credential_source: expected file or url; programs are not run"),
            (Some(_), Some(_)) => at("credential_source: only one of file and url can be used"),
            _ if !matches!(&*self.credential_source.format.kind, "" | "text" | "json") => {
                at("credential_source: format: type: expected text or json")
            }
            _ => {
                let all = [Some(&self.token_url), self.service_account_impersonation_url.as_ref()];
                all.into_iter().flatten().try_for_each(|url| safe_url(path, url))
            }
        }
    }

    /// The service account whose token is asked for.
    pub(crate) fn email(&self) -> Option<String> {
        let url = self.service_account_impersonation_url.as_deref()?;
        let (_, rest) = url.rsplit_once('/')?;
        rest.strip_suffix(":generateAccessToken").map(str::to_owned)
    }

    pub(crate) async fn token(
        &self,
        rest: &Rest,
        direct: &HttpClient,
        clock: &SharedClock,
    ) -> Result<Token, RestError> {
        self.check(Path::new("external_account")).map_err(RestError::Credentials)?;
        let subject = self.subject(direct).await?;
        let exchange = Zeroizing::new(
            json!({
                "grant_type": EXCHANGE,
                "audience": self.audience,
                "scope": SCOPE,
                "requested_token_type": ACCESS_TOKEN,
                "subject_token": &**subject,
                "subject_token_type": self.subject_token_type,
            })
            .to_string(),
        );
        let call = Call::post(&*self.token_url).body("application/json", exchange.as_bytes());
        let federated = read_token(&rest.json(call.repeatable()).await?)?;
        let Some(url) = &self.service_account_impersonation_url else { return Ok(federated) };
        let bearer = Zeroizing::new(format!("Bearer {}", *federated.value));
        let call = Call::post(url.as_str())
            .json(&json!({ "scope": [SCOPE], "lifetime": format!("{TOKEN_LIFE}s") }))
            .header(http::header::AUTHORIZATION, &bearer)
            .repeatable();
        let answer = rest.json(call.clone()).await?;
        let text = |key: &str| answer.get(key).and_then(Value::as_str);
        let (Some(token), Some(end)) = (text("accessToken"), text("expireTime")) else {
            return Err(RestError::nonsense(&call, "it holds no accessToken and expireTime"));
        };
        let end: UnixTime =
            end.parse().map_err(|_| RestError::nonsense(&call, "expireTime is no time"))?;
        let life = u64::try_from(end - clock.unix()).unwrap_or_default().min(24 * 3600);
        let value = Zeroizing::new(token.to_owned());
        Ok(Token { value, life: Duration::from_secs(life) })
    }

    /// The other provider's token.
    async fn subject(&self, direct: &HttpClient) -> Result<Zeroizing<String>, RestError> {
        let source = &self.credential_source;
        let failed = |what: String| RestError::Credentials(what);
        let text = match (&source.file, &source.url) {
            (Some(file), _) => {
                let file = file.clone();
                let read = tokio::task::spawn_blocking(move || text_file::text(&file)).await;
                read.map_err(|error| failed(error.to_string()))?
                    .map_err(|error| failed(error.to_string()))?
            }
            (None, Some(url)) => {
                let mut call = Call::get(url.as_str());
                for (name, value) in &source.headers {
                    let name: HeaderName = name
                        .parse()
                        .map_err(|_| failed(format!("credential_source: bad header {name:?}")))?;
                    call = call.header(name, value);
                }
                let answer = Rest::new(direct.clone(), None).send(&call).await?;
                Zeroizing::new(String::from_utf8_lossy(answer.body()).into_owned())
            }
            (None, None) => return Err(failed("credential_source names nothing".to_owned())),
        };
        if source.format.kind != "json" {
            return Ok(Zeroizing::new(text.trim().to_owned()));
        }
        let json: Value = serde_json::from_str(&text)
            .map_err(|_| failed("the subject token's source is no JSON".to_owned()))?;
        let field = &source.format.subject_token_field_name;
        let token = json.get(field).and_then(Value::as_str);
        let token = token
            .ok_or_else(|| failed(format!("the subject token's source has no field {field:?}")))?;
        Ok(Zeroizing::new(token.to_owned()))
    }
}
