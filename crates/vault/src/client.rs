//! The client.

use std::{sync::Arc, time::Duration};

use http::Method;
use serde::{Deserialize, Serialize};
use signet_base::SharedClock;

use crate::{
    Answer, Auth, Health, Request, Settings, VaultError, session::Session, transport::Transport,
};

/// How often [`Client::keep_alive`] looks at least.
const LONGEST_REST: Duration = Duration::from_secs(300);
/// And at most.
const SHORTEST_REST: Duration = Duration::from_secs(1);
/// How many names a list may have.
const MAX_LIST: usize = 100_000;

/// A client of one Vault server. Clones share the token.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Arc<Transport>,
    session: Arc<Session>,
}

impl Client {
    /// Reads the files that the settings name. Nothing is sent before the first request.
    ///
    /// # Errors
    /// [`VaultError::Setting`] and [`VaultError::File`], with what is wrong.
    pub fn open(settings: &Settings, clock: SharedClock) -> Result<Self, VaultError> {
        let transport = Transport::open(settings, clock)?;
        let session = Session::new(settings.auth.clone());
        Ok(Self { transport: Arc::new(transport), session: Arc::new(session) })
    }

    /// The same server, with another login: for a client that acts for others.
    #[must_use]
    pub fn with_auth(&self, auth: Auth) -> Self {
        Self { transport: Arc::clone(&self.transport), session: Arc::new(Session::new(auth)) }
    }

    /// Logs in unless there is a good token already.
    ///
    /// # Errors
    /// [`VaultError`] when Vault cannot be reached, is sealed or refuses, no login succeeds, or its
    /// answer cannot be read.
    pub async fn log_in(&self) -> Result<(), VaultError> {
        self.session.token(&self.transport).await.map(drop)
    }

    /// Sends a request, logging in before where that is needed, and once more when the token turns
    /// out to have been revoked.
    ///
    /// # Errors
    /// [`VaultError`] when Vault cannot be reached, is sealed or refuses, no login succeeds, or its
    /// answer cannot be read.
    pub async fn send(&self, request: Request) -> Result<Answer, VaultError> {
        if !request.with_token {
            self.transport.refresh().await;
            return self.transport.ask(&request, None).await;
        }
        let Some(token) = self.session.token(&self.transport).await? else {
            return self.transport.ask(&request, None).await;
        };
        let outcome = self.transport.ask(&request, Some(&token.value)).await;
        // What is denied may be denied for good; only a token that is gone is worth a login.
        let Err(VaultError::Denied { path, errors }) = outcome else { return outcome };
        if self.session.is_good(&self.transport, &token).await {
            return Err(VaultError::Denied { path, errors });
        }
        let Some(token) = self.session.token(&self.transport).await? else {
            return Err(VaultError::TokenGone);
        };
        self.transport.ask(&request, Some(&token.value)).await
    }

    /// Reads what is at a path (see [`path`](crate::path())).
    ///
    /// # Errors
    /// [`VaultError`]; [`VaultError::is_not_found`] when there is nothing.
    pub async fn read(&self, path: impl Into<String>) -> Result<Answer, VaultError> {
        self.send(Request::get(path)).await
    }

    /// Writes to a path.
    ///
    /// # Errors
    /// [`VaultError`] when Vault cannot be reached, is sealed or refuses, no login succeeds, or its
    /// answer cannot be read.
    pub async fn write(
        &self,
        path: impl Into<String>,
        body: &impl Serialize,
    ) -> Result<Answer, VaultError> {
        self.send(Request::post(path).json(body)).await
    }

    /// Deletes what is at a path.
    ///
    /// # Errors
    /// [`VaultError`] when Vault cannot be reached, is sealed or refuses, no login succeeds, or its
    /// answer cannot be read.
    pub async fn delete(&self, path: impl Into<String>) -> Result<Answer, VaultError> {
        self.send(Request::new(Method::DELETE, path)).await
    }

    /// The names below a path; none when there is nothing.
    ///
    /// # Errors
    /// [`VaultError`]; more than 100,000 names are an error.
    pub async fn list(&self, path: impl Into<String>) -> Result<Vec<String>, VaultError> {
        #[derive(Deserialize)]
        struct Names {
            keys: Vec<String>,
        }
        let path = path.into();
        let names: Names = match self.send(Request::get(format!("{path}?list=true"))).await {
            Ok(answer) => answer.data()?,
            Err(VaultError::NotFound { errors, .. }) if errors.is_empty() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        if names.keys.len() > MAX_LIST {
            let why = format!("it has more than {MAX_LIST} names");
            return Err(VaultError::Nonsense { path, why });
        }
        Ok(names.keys)
    }

    /// How the server is; a sealed one answers too.
    ///
    /// # Errors
    /// [`VaultError`] when there is no answer, or not a Vault server's.
    pub async fn health(&self) -> Result<Health, VaultError> {
        let path = "sys/health?standbyok=true&perfstandbyok=true&sealedcode=200&uninitcode=200";
        let request = Request::get(path).without_token().in_namespace("");
        self.transport.refresh().await;
        let response = self.transport.once(&request, None).await?;
        serde_json::from_slice(response.body()).map_err(|_| VaultError::Nonsense {
            path: "sys/health".to_owned(),
            why: format!("status {} and not how a Vault server is", response.status().as_u16()),
        })
    }

    /// Renews the token if there is one and it is time.
    pub async fn keep_fresh(&self) {
        // What goes wrong is said there, or by whoever asks for something.
        if self.session.rest().await.is_some() {
            let _ = self.session.token(&self.transport).await;
        }
    }

    /// Keeps the token alive for as long as this is polled, whether it is used or not. Ends never.
    pub async fn keep_alive(&self) {
        loop {
            let rest = self.session.rest().await;
            let rest = rest.unwrap_or(LONGEST_REST).clamp(SHORTEST_REST, LONGEST_REST);
            tokio::time::sleep(rest).await;
            self.keep_fresh().await;
        }
    }
}
