//! Whether a request is signed as Signature Version 4 says: written by the published steps, apart
//! from what signs.

use signet_pki::digest::{hmac_sha256, sha256_hex};
use signet_testkit::Asked;
use time::{PrimitiveDateTime, macros::format_description};

/// How far the time of a request may be from that of the service, seconds.
const SKEW: i64 = 300;

/// # Errors
/// The code that AWS answers with, and what is wrong.
pub fn check(
    asked: &Asked,
    keys: &[(String, String, Option<String>)],
    (region, service): (&str, &str),
    now: i64,
) -> Result<(), (&'static str, String)> {
    let bad = |why: &str| ("IncompleteSignature", why.to_owned());
    let authorization = asked.header("authorization").ok_or_else(|| bad("no Authorization"))?;
    let rest = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or_else(|| bad("algorithm"))?;
    let part = |name: &str| {
        rest.split(", ")
            .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
            .ok_or_else(|| bad(name))
    };
    let (credential, signed, signature) =
        (part("Credential")?, part("SignedHeaders")?, part("Signature")?);
    let [id, day, its_region, its_service, end] = credential.split('/').collect::<Vec<_>>()[..]
    else {
        return Err(bad("the scope"));
    };
    if (its_region, its_service, end) != (region, service, "aws4_request") {
        return Err(("SignatureDoesNotMatch", format!("credential for {credential}")));
    }
    let key = keys.iter().find(|key| key.0 == id);
    let (_, secret, token) = key.ok_or_else(|| ("UnrecognizedClientException", id.to_owned()))?;
    if asked.header("x-amz-security-token") != token.as_deref() {
        return Err(("ExpiredTokenException", "the session token".to_owned()));
    }
    let date = asked.header("x-amz-date").ok_or_else(|| bad("no date"))?;
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let time = PrimitiveDateTime::parse(date, format).map_err(|_| bad("the date"))?;
    if (time.assume_utc().unix_timestamp() - now).abs() > SKEW || !date.starts_with(day) {
        return Err(("RequestTimeTooSkewed", date.to_owned()));
    }
    let names: Vec<&str> = signed.split(';').collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    let needed = asked.headers.iter().filter_map(|line| {
        let name = line.split(':').next()?.to_ascii_lowercase();
        (name.starts_with("x-amz-") || name == "host" || name == "content-type").then_some(name)
    });
    if names != sorted || needed.clone().any(|name| !names.contains(&&*name)) {
        return Err(("SignatureDoesNotMatch", format!("signed headers {signed}")));
    }
    let mut canonical = format!("{}\n", asked.method);
    let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
    // Services other than S3 encode the path once more.
    let path = if service == "s3" { path.to_owned() } else { path.replace('%', "%25") };
    canonical.push_str(&format!("{path}\n{query}\n"));
    for name in &names {
        let value = asked.header(name).ok_or_else(|| bad(name))?;
        canonical.push_str(&format!("{name}:{value}\n"));
    }
    let payload = sha256_hex(&asked.body);
    if service == "s3" && asked.header("x-amz-content-sha256") != Some(&payload) {
        return Err(("XAmzContentSHA256Mismatch", payload));
    }
    canonical.push_str(&format!("\n{signed}\n{payload}"));
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256_hex(canonical.as_bytes()));
    let by_day = hmac_sha256(format!("AWS4{secret}").as_bytes(), day.as_bytes());
    let by_region = hmac_sha256(&by_day, region.as_bytes());
    let by_service = hmac_sha256(&by_region, service.as_bytes());
    let by_end = hmac_sha256(&by_service, b"aws4_request");
    let wanted: String =
        hmac_sha256(&by_end, text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    match wanted == signature {
        true => Ok(()),
        false => Err(("SignatureDoesNotMatch", canonical)),
    }
}
