//! By what Azure knows who asks: the part of "DefaultAzureCredential" that a server has, and the
//! secret of an application that is configured.

use std::{fmt, path::PathBuf, time::Duration};

use async_trait::async_trait;
use http::HeaderName;
use serde_json::Value;
use signet_http::{
    is_confidential,
    rest::{Call, Rest, RestError, Token, TokenSource, form},
};
use signet_pki::text_file;
use zeroize::Zeroizing;

/// The authority of the public cloud, which gives tokens.
pub const AUTHORITY: &str = "https://login.microsoftonline.com";
/// The instance metadata service, which every machine of Azure has.
const METADATA: &str = "http://169.254.169.254";
const METADATA_VERSION: &str = "2018-02-01";
const APP_SERVICE_VERSION: &str = "2019-08-01";
/// How long it may take.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// How long a token lives whose answer does not say.
const DEFAULT_LIFE: u64 = 3600;

/// By what one is known. Secrets print as `..`.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// The managed identity of a web app or function.
    AppService {
        /// Its URL, `IDENTITY_ENDPOINT`.
        endpoint: String,
        /// What shows that one runs there, `IDENTITY_HEADER`.
        header: Zeroizing<String>,
        /// Which identity, where there are several.
        client_id: Option<String>,
    },
    /// The managed identity of the machine.
    Instance {
        /// The metadata service's URL.
        url: String,
        /// Which identity, where there are several.
        client_id: Option<String>,
    },
    /// The secret of an application.
    Secret {
        /// Who gives tokens, [`AUTHORITY`].
        authority: String,
        /// The tenant's ID.
        tenant_id: String,
        /// The application's ID.
        client_id: String,
        /// Its secret.
        secret: Zeroizing<String>,
    },
    /// Workload identity: a token of another provider in a file, which is read for each new token.
    Workload {
        /// Who gives tokens, [`AUTHORITY`].
        authority: String,
        /// The tenant's ID.
        tenant_id: String,
        /// The application's or identity's ID.
        client_id: String,
        /// The file.
        token_file: PathBuf,
    },
}

/// Gets access tokens.
pub(crate) struct Source {
    credentials: Credentials,
    /// For whom the tokens are, `https://vault.azure.net`.
    resource: String,
    rest: Rest,
    /// Without proxies, for what is in this machine.
    direct: Rest,
}

impl Credentials {
    /// What the environment says, as "DefaultAzureCredential" looks at it: the secret of an
    /// application, workload identity, else managed identity. `authority` is used where the
    /// environment names none.
    pub fn from_env(authority: &str) -> Self {
        Self::from_variables(authority, |name| std::env::var(name).ok())
    }

    fn from_variables(authority: &str, variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let authority = variable("AZURE_AUTHORITY_HOST").unwrap_or_else(|| authority.to_owned());
        let (tenant, client) = (variable("AZURE_TENANT_ID"), variable("AZURE_CLIENT_ID"));
        if let (Some(tenant_id), Some(client_id)) = (&tenant, &client) {
            let (tenant_id, client_id) = (tenant_id.clone(), client_id.clone());
            if let Some(secret) = variable("AZURE_CLIENT_SECRET") {
                let secret = Zeroizing::new(secret);
                return Self::Secret { authority, tenant_id, client_id, secret };
            }
            if let Some(token_file) = variable("AZURE_FEDERATED_TOKEN_FILE") {
                let token_file = token_file.into();
                return Self::Workload { authority, tenant_id, client_id, token_file };
            }
        }
        match (variable("IDENTITY_ENDPOINT"), variable("IDENTITY_HEADER")) {
            (Some(endpoint), Some(header)) => {
                Self::AppService { endpoint, header: Zeroizing::new(header), client_id: client }
            }
            _ => {
                let url = variable("AZURE_POD_IDENTITY_AUTHORITY_HOST");
                let url = url.unwrap_or_else(|| METADATA.to_owned());
                Self::Instance { url, client_id: client }
            }
        }
    }

    /// Finds out whether it can be used: the file is read, nothing is sent.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::AppService { .. } | Self::Instance { .. } => Ok(()),
            Self::Secret { authority, tenant_id, .. } => safe(authority, tenant_id),
            Self::Workload { authority, tenant_id, token_file, .. } => {
                safe(authority, tenant_id)?;
                text_file::text(token_file).map(drop).map_err(|error| error.to_string())
            }
        }
    }
}

/// Refuses what secrets may not be sent to.
fn safe(authority: &str, tenant_id: &str) -> Result<(), String> {
    if !is_confidential(authority) {
        return Err(format!("the authority {authority:?} is no https:// URL"));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-.".contains(&b);
    if tenant_id.is_empty() || !tenant_id.bytes().all(allowed) {
        return Err(format!("{tenant_id:?} is no ID of a tenant"));
    }
    Ok(())
}

impl Source {
    pub(crate) fn new(
        credentials: Credentials,
        resource: String,
        rest: Rest,
        direct: Rest,
    ) -> Self {
        Self { credentials, resource, rest, direct }
    }

    /// The token endpoint of a tenant, with what shows who asks.
    fn grant(
        &self,
        authority: &str,
        tenant_id: &str,
        client_id: &str,
        proof: &[(&str, &str)],
    ) -> Result<Call, RestError> {
        safe(authority, tenant_id).map_err(RestError::Credentials)?;
        let scope = format!("{}/.default", self.resource);
        let mut fields =
            vec![("grant_type", "client_credentials"), ("client_id", client_id), ("scope", &scope)];
        fields.extend_from_slice(proof);
        let url = format!("{}/{tenant_id}/oauth2/v2.0/token", authority.trim_end_matches('/'));
        Ok(Call::post(url).form(&fields).repeatable())
    }

    fn managed(&self, url: &str, version: &str, client_id: Option<&str>) -> Call {
        let mut fields = vec![("api-version", version), ("resource", &self.resource)];
        fields.extend(client_id.map(|id| ("client_id", id)));
        Call::get(format!("{url}?{}", *form(&fields))).within(METADATA_TIMEOUT)
    }
}

#[async_trait]
impl TokenSource for Source {
    async fn fetch(&self) -> Result<Token, RestError> {
        let answer = match &self.credentials {
            Credentials::Secret { authority, tenant_id, client_id, secret } => {
                let proof = [("client_secret", secret.as_str())];
                let call = self.grant(authority, tenant_id, client_id, &proof)?;
                self.rest.json(call).await?
            }
            Credentials::Workload { authority, tenant_id, client_id, token_file } => {
                let file = token_file.clone();
                let read = tokio::task::spawn_blocking(move || text_file::text(&file)).await;
                let token = read
                    .map_err(|error| RestError::Credentials(error.to_string()))?
                    .map_err(|error| RestError::Credentials(error.to_string()))?;
                let proof =
                    [("client_assertion_type", JWT_BEARER), ("client_assertion", token.trim())];
                let call = self.grant(authority, tenant_id, client_id, &proof)?;
                self.rest.json(call).await?
            }
            Credentials::Instance { url, client_id } => {
                let url = format!("{}/metadata/identity/oauth2/token", url.trim_end_matches('/'));
                let call = self.managed(&url, METADATA_VERSION, client_id.as_deref());
                let call = call.header(HeaderName::from_static("metadata"), "true");
                self.direct.json(call).await?
            }
            Credentials::AppService { endpoint, header, client_id } => {
                let call = self.managed(endpoint, APP_SERVICE_VERSION, client_id.as_deref());
                let name = HeaderName::from_static("x-identity-header");
                self.direct.json(call.header(name, header)).await?
            }
        };
        read_token(&answer)
    }
}

/// A token from an answer, whose numbers may be text.
fn read_token(json: &Value) -> Result<Token, RestError> {
    let value = json.get("access_token").and_then(Value::as_str).filter(|text| !text.is_empty());
    let value = value.ok_or_else(|| {
        RestError::Credentials("what was answered holds no access_token".to_owned())
    })?;
    let life = json.get("expires_in");
    let life = life.and_then(|life| life.as_u64().or_else(|| life.as_str()?.parse().ok()));
    let life = Duration::from_secs(life.unwrap_or(DEFAULT_LIFE).min(48 * 3600));
    Ok(Token { value: Zeroizing::new(value.to_owned()), life })
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AppService { endpoint, .. } => write!(f, "AppService({endpoint}, ..)"),
            Self::Instance { url, client_id } => write!(f, "Instance({url}, {client_id:?})"),
            Self::Secret { tenant_id, client_id, .. } => {
                write!(f, "Secret({tenant_id}, {client_id}, ..)")
            }
            Self::Workload { tenant_id, client_id, token_file, .. } => {
                write!(f, "Workload({tenant_id}, {client_id}, {})", token_file.display())
            }
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} for {}", self.credentials, self.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_looked_at_in_the_known_order() {
        let of = |set: &[(&str, &str)]| {
            let find = |name: &str| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            };
            format!("{:?}", Credentials::from_variables(AUTHORITY, find))
        };
        let ids = [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c")];
        let file = ("AZURE_FEDERATED_TOKEN_FILE", "/f");
        let secret = ("AZURE_CLIENT_SECRET", "hush");
        assert_eq!(of(&[]), "Instance(http://169.254.169.254, None)");
        assert_eq!(of(&[ids[1], file]), "Instance(http://169.254.169.254, Some(\"c\"))");
        assert_eq!(of(&[ids[0], ids[1], file]), "Workload(t, c, /f)");
        assert_eq!(of(&[ids[0], ids[1], file, secret]), "Secret(t, c, ..)");
        let app = [("IDENTITY_ENDPOINT", "http://e"), ("IDENTITY_HEADER", "hush")];
        assert_eq!(of(&app), "AppService(http://e, ..)");
    }

    #[test]
    fn secrets_go_to_no_other_place() {
        safe(AUTHORITY, "11111111-2222-3333-4444-555555555555").unwrap();
        for (authority, tenant) in [("http://login", "t"), (AUTHORITY, "a/b"), (AUTHORITY, "")] {
            assert!(safe(authority, tenant).is_err(), "{authority} {tenant}");
        }
    }
}
