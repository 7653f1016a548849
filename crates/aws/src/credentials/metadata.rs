//! Keys that the container's or the instance's own service gives out.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri, header::AUTHORIZATION};
use serde::Deserialize;
use signet_http::{HttpClient, Proxies, Trust, is_loopback, shown};
use signet_time::UnixTime;
use zeroize::Zeroizing;

use super::{Keys, Place, file, time};
use crate::{AwsError, Environment};

/// Where containers of ECS ask.
const ECS: &str = "http://169.254.170.2";
/// Hosts that are asked in the clear: of ECS, and of EKS Pod Identity.
const IN_THE_CLEAR: &[&str] = &["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];
/// Where instances ask.
const IMDS: &str = "http://169.254.169.254";
const IMDS_V6: &str = "http://[fd00:ec2::254]";
/// How long an answer of the same machine may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The largest answer, bytes.
const MAX_BODY: usize = 64 * 1024;
/// How often is asked at most.
const ATTEMPTS: u32 = 3;
/// How long the token of IMDSv2 is to live: it is used at once.
const TOKEN_SECONDS: &str = "60";

const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const TOKEN: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";
const TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";

/// What both services answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    code: Option<String>,
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: String,
}

/// Whether the environment says where a container asks.
pub(super) fn names_container(environment: &Environment) -> bool {
    environment.get(RELATIVE).is_some() || environment.get(FULL).is_some()
}

/// Keys of the container's role.
pub(super) async fn container(place: &Place) -> Result<Keys, AwsError> {
    let environment = &place.environment;
    let (url, http) = match environment.get(FULL) {
        Some(url) => {
            let is_tls = check_full(&url)?;
            (url, if is_tls { place.http()? } else { plain()? })
        }
        None => (format!("{ECS}{}", environment.get(RELATIVE).unwrap_or_default()), plain()?),
    };
    // The file is replaced while the container runs.
    let token = match environment.get(TOKEN_FILE) {
        Some(path) => Some(file(path.as_ref()).await?),
        None => environment.get(TOKEN).map(Zeroizing::new),
    };
    let header = token.as_ref().map(|token| (AUTHORIZATION.as_str(), &***token));
    let body = ask(&http, "GET", &url, header).await?;
    keys_of(&body, "the container's service of credentials")
}

/// Keys of the instance's role, by IMDSv2.
pub(super) async fn instance(place: &Place) -> Result<Keys, AwsError> {
    let environment = &place.environment;
    if environment.is_on("AWS_EC2_METADATA_DISABLED") {
        return Err(AwsError::Credentials(nowhere("AWS_EC2_METADATA_DISABLED is set")));
    }
    let v6 = environment
        .get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE")
        .is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"));
    let base = environment
        .get("AWS_EC2_METADATA_SERVICE_ENDPOINT")
        .unwrap_or_else(|| if v6 { IMDS_V6 } else { IMDS }.to_owned());
    let base = format!("{}/latest", base.trim_end_matches('/'));
    let http = plain()?;
    let lifetime = Some(("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS));
    let token = ask(&http, "PUT", &format!("{base}/api/token"), lifetime).await;
    let token = token.map_err(|error| {
        let why = format!("the EC2 metadata service: {}", signet_base::chain(&error));
        AwsError::Credentials(nowhere(&why))
    })?;
    let token = Some(("x-aws-ec2-metadata-token", token.trim()));
    let roles = format!("{base}/meta-data/iam/security-credentials/");
    let role = ask(&http, "GET", &roles, token).await?;
    let role = role.lines().next().unwrap_or_default().trim();
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
    if role.is_empty() || !role.bytes().all(inside) {
        return Err(AwsError::Credentials("the instance has no role".to_owned()));
    }
    let body = ask(&http, "GET", &format!("{roles}{role}"), token).await?;
    keys_of(&body, "the EC2 metadata service")
}

fn nowhere(last: &str) -> String {
    format!(
        "none are in the configuration, the environment (AWS_ACCESS_KEY_ID, \
         AWS_WEB_IDENTITY_TOKEN_FILE, {FULL}) or the shared files, and {last}"
    )
}

/// A client that never asks a proxy: what it asks is on this machine.
fn plain() -> Result<HttpClient, AwsError> {
    let builder = HttpClient::builder().trust(Trust::Roots(Vec::new())).proxies(Proxies::none());
    Ok(builder.timeout(TIMEOUT).max_body(MAX_BODY).build()?)
}

/// Whether the URL is one of TLS; in the clear only some hosts are asked, as AWS's SDKs do.
fn check_full(url: &str) -> Result<bool, AwsError> {
    let uri: Option<Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    match uri.as_ref().and_then(Uri::scheme_str) {
        Some("https") => Ok(true),
        Some("http") if is_loopback(host) || IN_THE_CLEAR.contains(&host) => Ok(false),
        _ => Err(AwsError::Credentials(format!(
            "{FULL} names {:?}, expected https://, or an address of this machine, ECS or EKS",
            shown(host)
        ))),
    }
}

async fn ask(
    http: &HttpClient,
    method: &str,
    url: &str,
    header: Option<(&str, &str)>,
) -> Result<Zeroizing<String>, AwsError> {
    let mut attempt = 1;
    loop {
        let mut request = Request::builder().method(method).uri(url);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request
            .body(Bytes::new())
            .map_err(|_| AwsError::Credentials(format!("cannot ask {}", shown(url))))?;
        let error = match http.send(request).await {
            Ok(response) if response.status().is_success() => {
                return Ok(Zeroizing::new(String::from_utf8_lossy(response.body()).into_owned()));
            }
            Ok(response) => AwsError::of(url, &response),
            Err(error) => error.into(),
        };
        if attempt >= ATTEMPTS || !error.is_passing() {
            return Err(error);
        }
        attempt += 1;
    }
}

fn keys_of(body: &str, who: &str) -> Result<Keys, AwsError> {
    let wrong = |why: &str| AwsError::Credentials(format!("{who} answers {why}"));
    let answer: Answer = serde_json::from_str(body).map_err(|_| wrong("something else"))?;
    if let Some(code) = answer.code.filter(|code| code != "Success") {
        return Err(wrong(&shown(&code)));
    }
    let expires: Option<UnixTime> = time(&answer.expiration);
    Ok(Keys {
        id: answer.access_key_id,
        secret: Zeroizing::new(answer.secret_access_key),
        session_token: Some(Zeroizing::new(answer.token)),
        expires: Some(expires.ok_or_else(|| wrong("with an end that is no time"))?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_in_the_clear_to_known_hosts_only() {
        for good in ["http://127.0.0.1:1/", "http://169.254.170.23/v1", "http://[fd00:ec2::23]/v1"]
        {
            assert!(!check_full(good).unwrap(), "{good}");
        }
        assert!(check_full("https://anywhere.example.org/").unwrap());
        for bad in ["http://10.0.0.1/", "http://evil.example.org/", "ftp://127.0.0.1/", "/creds"] {
            assert!(check_full(bad).unwrap_err().to_string().contains("expected"), "{bad}");
        }
    }
}
