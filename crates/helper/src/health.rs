//! Health over HTTP, in spiffe-helper's form.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::any,
};
use serde_json::json;
use signet_base::Tasks;
use signet_daemon::{http::HttpServer, listen::bind_host};

use crate::config::{Config, Health};

/// How the writing of a file fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was not tried yet.
    Not,
    /// The last time it failed.
    Failed,
    /// It is there.
    Done,
}

impl Written {
    fn as_str(self) -> &'static str {
        match self {
            Self::Not => "unwritten",
            Self::Failed => "failed",
            Self::Done => "written",
        }
    }
}

/// How all files fare. Clones share it.
#[derive(Clone, Debug)]
pub struct State(Arc<Mutex<Files>>);

#[derive(Debug)]
struct Files {
    x509: Option<Written>,
    jwt: BTreeMap<String, Written>,
}

impl State {
    /// Nothing is written.
    pub fn new(config: &Config) -> Self {
        let tokens = config.jwt_svids.iter().map(|token| &token.path);
        let paths = tokens.chain(config.jwt_bundle.as_ref().map(|(path, _)| path));
        Self(Arc::new(Mutex::new(Files {
            x509: (!config.outputs.is_empty()).then_some(Written::Not),
            jwt: paths.map(|path| (path.display().to_string(), Written::Not)).collect(),
        })))
    }

    /// Notes how the files of X.509-SVIDs fare.
    pub fn x509(&self, written: Written) {
        self.lock().x509 = Some(written);
    }

    /// Notes how a file of a token, or of the JWT bundles, fares.
    pub fn jwt(&self, path: &std::path::Path, written: Written) {
        self.lock().jwt.insert(path.display().to_string(), written);
    }

    fn answer(&self, good: fn(Written) -> bool) -> impl IntoResponse + use<> {
        let files = self.lock();
        let all = files.x509.iter().chain(files.jwt.values());
        let good = all.copied().all(good);
        let (status, text) = match good {
            true => (StatusCode::OK, "OK"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable"),
        };
        let jwt: BTreeMap<_, _> = files.jwt.iter().map(|(path, w)| (path, w.as_str())).collect();
        let mut statuses = json!({ "jwt_write_status": jwt });
        if let (Some(x509), Some(members)) = (files.x509, statuses.as_object_mut()) {
            members.insert("x509_write_status".to_owned(), x509.as_str().into());
        }
        let body = json!({ "status": text, "health": { "file_write_statuses": statuses } });
        (status, [(CONTENT_TYPE, "application/json")], body.to_string())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves `state` until the tasks end.
///
/// # Errors
/// When the port cannot be bound.
pub async fn serve(settings: &Health, state: State, tasks: &Tasks) -> anyhow::Result<()> {
    let listener = match bind_host("::", settings.port).await {
        Ok(listener) => listener,
        // Where there is no IPv6.
        Err(_) => bind_host("0.0.0.0", settings.port).await.context("health_checks")?,
    };
    let live = state.clone();
    let router = Router::new()
        .route(
            &settings.live_path,
            any(move || {
                let answer = live.answer(|written| written != Written::Failed);
                async move { answer }
            }),
        )
        .route(
            &settings.ready_path,
            any(move || {
                let answer = state.answer(|written| written == Written::Done);
                async move { answer }
            }),
        );
    HttpServer::new("health_checks", listener).context("health_checks")?.spawn(tasks, router);
    Ok(())
}
