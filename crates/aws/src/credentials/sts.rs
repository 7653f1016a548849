//! The Security Token Service: it gives keys of a role, and says who one is.

use std::path::Path;

use bytes::Bytes;
use http::{Method, Request as HttpRequest, header::CONTENT_TYPE};
use zeroize::Zeroizing;

use super::{Keys, Place, file, sts_endpoint, time};
use crate::{
    AwsError, Service,
    client::{Request, signed},
    error::element,
    sign::Scope,
};

const FORM: &str = "application/x-www-form-urlencoded";
const VERSION: (&str, &str) = ("Version", "2011-06-15");

/// Who one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerIdentity {
    /// The number of the account.
    pub account: String,
    /// The ARN of the user, or of the session of a role.
    pub arn: String,
}

/// Keys of a role, got with other keys.
pub(super) async fn assume_role(place: &Place, keys: &Keys, arn: &str) -> Result<Keys, AwsError> {
    let name = session_name(place);
    let form = [("RoleArn", arn), ("RoleSessionName", &*name)];
    let answer = ask(place, "AssumeRole", &form, Some(keys)).await?;
    keys_of("AssumeRole", &answer)
}

/// Keys of a role, got with the token that is in a file now.
pub(super) async fn web_identity(place: &Place, path: &Path, arn: &str) -> Result<Keys, AwsError> {
    let (name, token) = (session_name(place), file(path).await?);
    let form = [("RoleArn", arn), ("RoleSessionName", &*name), ("WebIdentityToken", &**token)];
    let answer = ask(place, "AssumeRoleWithWebIdentity", &form, None).await?;
    keys_of("AssumeRoleWithWebIdentity", &answer)
}

/// Whose keys these are.
pub(super) async fn caller_identity(
    place: &Place,
    keys: &Keys,
) -> Result<CallerIdentity, AwsError> {
    let action = "GetCallerIdentity";
    let answer = ask(place, action, &[], Some(keys)).await?;
    match (element(&answer, "Account"), element(&answer, "Arn")) {
        (Some(account), Some(arn)) => Ok(CallerIdentity { account, arn }),
        _ => Err(nonsense(action, "it names no account or no ARN")),
    }
}

/// Asks, signed where there are keys, and once more when the service itself fails.
async fn ask(
    place: &Place,
    action: &'static str,
    form: &[(&str, &str)],
    keys: Option<&Keys>,
) -> Result<Zeroizing<String>, AwsError> {
    let body = encoded(action, form);
    let base = sts_endpoint(place)?;
    let http = place.http()?;
    let message = || match keys {
        Some(keys) => {
            let request = Request {
                method: Method::POST,
                action,
                base: None,
                path: "/".to_owned(),
                headers: vec![("content-type", FORM.to_owned())],
                body: body.clone(),
                is_repeatable: true,
            };
            let scope = Scope { region: &place.region, service: Service::STS.name };
            signed(scope, place.clock.unix().seconds(), &base, &request, keys)
        }
        None => HttpRequest::post(format!("{base}/"))
            .header(CONTENT_TYPE, FORM)
            .body(body.clone())
            .map_err(|error| AwsError::Setting(error.to_string())),
    };
    let mut attempt = 1;
    loop {
        let error = match http.send(message()?).await {
            Ok(response) if response.status().is_success() => {
                let text = String::from_utf8_lossy(response.body()).into_owned();
                return Ok(Zeroizing::new(text));
            }
            Ok(response) => AwsError::of(action, &response),
            Err(error) => error.into(),
        };
        if attempt > 1 || !error.is_passing() {
            return Err(error);
        }
        attempt += 1;
    }
}

fn encoded(action: &str, form: &[(&str, &str)]) -> Bytes {
    let mut body = form_urlencoded::Serializer::new(String::new());
    body.append_pair("Action", action).append_pair(VERSION.0, VERSION.1);
    body.extend_pairs(form);
    Bytes::from_owner(Zeroizing::new(body.finish().into_bytes()))
}

fn keys_of(action: &str, answer: &str) -> Result<Keys, AwsError> {
    let part = |name: &str| {
        let why = || nonsense(action, &format!("it has no {name}"));
        element(answer, name).filter(|text| !text.is_empty()).ok_or_else(why)
    };
    let ends = time(&part("Expiration")?);
    Ok(Keys {
        id: part("AccessKeyId")?,
        secret: Zeroizing::new(part("SecretAccessKey")?),
        session_token: Some(Zeroizing::new(part("SessionToken")?)),
        expires: Some(ends.ok_or_else(|| nonsense(action, "its Expiration is no time"))?),
    })
}

/// Under which name the session is seen in logs of AWS.
fn session_name(place: &Place) -> String {
    if let Some(name) = place.environment.get("AWS_ROLE_SESSION_NAME") {
        return name;
    }
    format!("signet-{}", place.clock.unix().seconds())
}

fn nonsense(action: &str, why: &str) -> AwsError {
    AwsError::Nonsense { action: action.to_owned(), why: why.to_owned() }
}
