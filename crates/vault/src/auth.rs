//! The ways to log in.

use std::{fmt, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use serde_json::json;
use signet_base::chain;
use signet_pki::text_file;
use zeroize::Zeroizing;

use crate::{Request, VaultError, request::path};

/// How one logs in. Secrets print as `(..)`.
#[derive(Clone)]
#[non_exhaustive]
pub enum Auth {
    /// With a role ID and a secret ID.
    AppRole {
        /// Where the method is mounted, `approle`.
        mount: String,
        /// The role ID.
        role_id: String,
        /// The secret ID; empty where the role asks for none.
        secret_id: Zeroizing<String>,
    },
    /// With a TLS client certificate. Both files are read anew when they change, and a changed
    /// certificate logs in again: a token is bound to the certificate that it was issued to.
    Certificate {
        /// Where the method is mounted, `cert`.
        mount: String,
        /// The role; without it the server tries all.
        role: Option<String>,
        /// PEM: the certificate, then intermediates.
        cert_path: PathBuf,
        /// PEM: its private key.
        key_path: PathBuf,
    },
    /// With a JWT, such as a JWT-SVID.
    Jwt {
        /// Where the method is mounted, `jwt`.
        mount: String,
        /// The role; without it the server's default one.
        role: Option<String>,
        /// Where the JWT comes from, at each login.
        source: Arc<dyn JwtSource>,
    },
    /// With the token of a Kubernetes service account.
    Kubernetes {
        /// Where the method is mounted, `kubernetes`.
        mount: String,
        /// The role.
        role: String,
        /// The token's file, read at each login.
        token_path: PathBuf,
    },
    /// Not at all: for what needs no token, or for requests that carry their own
    /// ([`Request::header`]).
    None,
    /// With a token that somebody made. It is renewed while that is possible.
    Token(Zeroizing<String>),
}

/// Hands out a JWT that is fit for a login now.
#[async_trait]
pub trait JwtSource: Send + Sync + fmt::Debug {
    /// The JWT.
    ///
    /// # Errors
    /// Why there is none, without secrets.
    async fn jwt(&self) -> Result<Zeroizing<String>, String>;
}

impl Auth {
    /// The request that logs in; `None` where there is none to make.
    pub(crate) async fn login(&self) -> Result<Option<Request>, VaultError> {
        let request = match self {
            Self::None | Self::Token(_) => return Ok(None),
            Self::AppRole { mount, role_id, secret_id } => {
                let body = json!({ "role_id": role_id, "secret_id": &**secret_id });
                login_at(mount).json(&body)
            }
            Self::Certificate { mount, role, .. } => {
                login_at(mount).json(&json!({ "name": role.as_deref().unwrap_or_default() }))
            }
            Self::Jwt { mount, role, source } => {
                let jwt = source.jwt().await.map_err(VaultError::File)?;
                let role = role.as_deref().unwrap_or_default();
                login_at(mount).json(&json!({ "role": role, "jwt": &**jwt }))
            }
            Self::Kubernetes { mount, role, token_path } => {
                let file = token_path.clone();
                let read = tokio::task::spawn_blocking(move || text_file::text(&file)).await;
                let jwt = read
                    .map_err(|error| VaultError::File(error.to_string()))?
                    .map_err(|error| VaultError::File(chain(&error)))?;
                login_at(mount).json(&json!({ "role": role, "jwt": jwt.trim() }))
            }
        };
        Ok(Some(request))
    }

    /// Whether a token that is gone can be replaced.
    pub(crate) fn can_log_in(&self) -> bool {
        !matches!(self, Self::None | Self::Token(_))
    }
}

fn login_at(mount: &str) -> Request {
    Request::post(path(&["auth", mount, "login"])).without_token().repeatable()
}

impl PartialEq for Auth {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::AppRole { mount, role_id, secret_id },
                Self::AppRole { mount: m, role_id: r, secret_id: s },
            ) => (mount, role_id, secret_id) == (m, r, s),
            (
                Self::Certificate { mount, role, cert_path, key_path },
                Self::Certificate { mount: m, role: r, cert_path: c, key_path: k },
            ) => (mount, role, cert_path, key_path) == (m, r, c, k),
            (Self::Jwt { mount, role, source }, Self::Jwt { mount: m, role: r, source: s }) => {
                (mount, role) == (m, r) && Arc::ptr_eq(source, s)
            }
            (
                Self::Kubernetes { mount, role, token_path },
                Self::Kubernetes { mount: m, role: r, token_path: t },
            ) => (mount, role, token_path) == (m, r, t),
            (Self::None, Self::None) => true,
            (Self::Token(token), Self::Token(other)) => token == other,
            _ => false,
        }
    }
}

impl Eq for Auth {}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AppRole { mount, .. } => write!(f, "AppRole({mount:?}, ..)"),
            Self::Certificate { mount, role, cert_path, .. } => {
                write!(f, "Certificate({mount:?}, {role:?}, {})", cert_path.display())
            }
            Self::Jwt { mount, role, source } => write!(f, "Jwt({mount:?}, {role:?}, {source:?})"),
            Self::Kubernetes { mount, role, token_path } => {
                write!(f, "Kubernetes({mount:?}, {role:?}, {})", token_path.display())
            }
            Self::None => f.write_str("None"),
            Self::Token(_) => f.write_str("Token(..)"),
        }
    }
}
