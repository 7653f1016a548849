//! Signature Version 4, the one place where requests to AWS are signed.
//!
//! Source: "Signature Version 4 signing process" of the AWS General Reference.

use percent_encoding::utf8_percent_encode;
use signet_http::UNRESERVED;
use signet_pki::digest::{hmac_sha256, sha256_hex};
use time::{OffsetDateTime, macros::format_description};
use zeroize::Zeroizing;

use crate::Keys;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// For what a signature counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    /// `us-east-1`.
    pub(crate) region: &'a str,
    /// The name under which the service is signed for, `kms`.
    pub(crate) service: &'a str,
}

/// What is signed of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a str,
    /// The path in its canonical form, which is not that of the URL for all services.
    pub(crate) path: &'a str,
    /// Sorted by name; names in lower case; with `host` and `x-amz-date`.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// SHA-256 of the body, lower-case hex.
    pub(crate) digest: &'a str,
}

/// A time as it is signed: `20150830T123600Z`. None beyond the year 9999.
pub(crate) fn amz_date(unix: i64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp(unix).ok()?;
    time.format(format_description!("[year][month][day]T[hour][minute][second]Z")).ok()
}

/// The header `Authorization`.
pub(crate) fn authorization(keys: &Keys, scope: Scope<'_>, request: &Signed<'_>) -> String {
    let header = |name: &str| request.headers.iter().find(|(key, _)| *key == name);
    let date = header("x-amz-date").map_or("", |(_, date)| date);
    let names = request.headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = request
        .headers
        .iter()
        .map(|(name, value)| {
            format!("{name}:{}\n", value.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
        })
        .collect();
    let canonical =
        format!("{}\n{}\n\n{lines}\n{names}\n{}", request.method, request.path, request.digest);
    let credential = credential(scope, date);
    let signature = signature(keys, scope, date, &credential, &canonical);
    format!(
        "{ALGORITHM} Credential={}/{credential}, SignedHeaders={names}, Signature={signature}",
        keys.id
    )
}

/// The URL of a GET of `/` on `host`, without its scheme, whose signature is in its query: who has
/// it may ask for that, once or often, for `valid` seconds. `query` is sorted and encoded.
pub(crate) fn presigned(
    keys: &Keys,
    scope: Scope<'_>,
    host: &str,
    query: &str,
    (date, valid): (&str, u32),
) -> String {
    let credential = credential(scope, date);
    let encoded = |text: &str| utf8_percent_encode(text, UNRESERVED).to_string();
    let mut query = format!(
        "{query}&X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={}&X-Amz-Date={date}\
         &X-Amz-Expires={valid}",
        encoded(&format!("{}/{credential}", keys.id)),
    );
    if let Some(token) = &keys.session_token {
        query.push_str(&format!("&X-Amz-Security-Token={}", encoded(token)));
    }
    query.push_str("&X-Amz-SignedHeaders=host");
    let canonical = format!("GET\n/\n{query}\nhost:{host}\n\nhost\n{}", sha256_hex(b""));
    let signature = signature(keys, scope, date, &credential, &canonical);
    format!("{host}/?{query}&X-Amz-Signature={signature}")
}

/// `20150830/us-east-1/kms/aws4_request`.
fn credential(scope: Scope<'_>, date: &str) -> String {
    let day = date.get(..8).unwrap_or_default();
    format!("{day}/{}/{}/aws4_request", scope.region, scope.service)
}

fn signature(
    keys: &Keys,
    scope: Scope<'_>,
    date: &str,
    credential: &str,
    canonical: &str,
) -> String {
    let text = format!("{ALGORITHM}\n{date}\n{credential}\n{}", sha256_hex(canonical.as_bytes()));
    let secret = Zeroizing::new(format!("AWS4{}", *keys.secret));
    let mut key = Zeroizing::new(hmac_sha256(
        secret.as_bytes(),
        date.get(..8).unwrap_or_default().as_bytes(),
    ));
    for part in [scope.region, scope.service, "aws4_request"] {
        key = Zeroizing::new(hmac_sha256(&*key, part.as_bytes()));
    }
    hmac_sha256(&*key, text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None)
    }

    fn signed(method: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
        let scope = Scope { region: "us-east-1", service: "service" };
        let digest = &sha256_hex(body);
        let all = authorization(&keys(), scope, &Signed { method, path: "/", headers, digest });
        all.rsplit_once("Signature=").unwrap().1.to_owned()
    }

    #[test]
    fn requests_are_signed_as_the_published_examples_are() {
        // Of AWS's test suite for Signature Version 4: post-vanilla, get-vanilla,
        // post-x-www-form-urlencoded, get-header-value-trim.
        let (host, date) = (("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z"));
        assert_eq!(
            signed("POST", &[host, date], b""),
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
        );
        assert_eq!(
            signed("GET", &[host, date], b""),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
        let form = ("content-type", "application/x-www-form-urlencoded");
        assert_eq!(
            signed("POST", &[form, host, date], b"Param1=value1"),
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
        );
        let spaced = [host, ("my-header1", " value1"), ("my-header2", " \"a   b   c\" "), date];
        assert_eq!(
            signed("GET", &spaced, b""),
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"
        );
    }

    #[test]
    fn a_presigned_url_is_what_botocore_makes() {
        let scope = Scope { region: "us-east-2", service: "rds-db" };
        let date = amz_date(1_440_938_160).unwrap();
        let url = presigned(
            &keys(),
            scope,
            "db.example.com:5432",
            "Action=connect&DBUser=spire%40x",
            (&date, 900),
        );
        assert_eq!(url, include_str!("iam_token.txt").trim_end());
    }
}
