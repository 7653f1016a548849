//! Health over HTTP (`health_checks` block) and as values for the gRPC health service.
//!
//! As SPIRE answers: `GET /live` and `GET /ready` give 200 or 500 and a JSON object with the
//! details of each checked part, `{"agent":{}}`.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::any,
};
use serde_json::{Map, Value};
use signet_base::{Readiness, Tasks};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    http::HttpServer,
    listen::{ListenError, bind_host},
    metrics::{Gauge, Metrics},
};
use signet_config::HealthSettings;

/// How long one check may take before it counts as failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// For how long an answer is given again, so that callers cannot make work.
const ANSWER_LIFE: Duration = Duration::from_secs(1);

/// How often the parts are asked for metrics.
const LOOK: Duration = Duration::from_secs(15);

/// How a part of the program fares.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Works, or can get better by itself.
    pub live: bool,
    /// Does its job.
    pub ready: bool,
    /// What `/live` shows of it; an object.
    pub live_details: Value,
    /// What `/ready` shows of it; an object.
    pub ready_details: Value,
}

impl State {
    /// Live and ready, nothing to tell.
    pub fn good() -> Self {
        Self::of(true, true)
    }

    /// Live and ready, with what there is to say of it all the same.
    pub fn good_despite(complaints: &[String]) -> Self {
        match complaints.is_empty() {
            true => Self::good(),
            false => Self {
                ready_details: serde_json::json!({ "message": complaints.join("; ") }),
                ..Self::good()
            },
        }
    }

    /// Live but not ready yet, nothing to tell.
    pub fn starting() -> Self {
        Self::of(true, false)
    }

    /// Neither live nor ready, with a message.
    pub fn failed(message: impl Into<String>) -> Self {
        let details = serde_json::json!({ "message": message.into() });
        Self { live: false, ready: false, live_details: details.clone(), ready_details: details }
    }

    fn of(live: bool, ready: bool) -> Self {
        let none = || Value::Object(Map::new());
        Self { live, ready, live_details: none(), ready_details: none() }
    }
}

/// A part of the program that can be asked how it fares.
#[async_trait]
pub trait HealthCheck: Send + Sync {
    /// Looks; at most five seconds.
    async fn check(&self) -> State;
}

#[async_trait]
impl HealthCheck for Readiness {
    async fn check(&self) -> State {
        if self.is_ready() { State::good() } else { State::starting() }
    }
}

/// The checked parts of a program. Clones share them.
#[derive(Clone, Default)]
pub struct Health(Arc<Shared>);

#[derive(Default)]
struct Shared {
    checks: Mutex<Vec<(String, Arc<dyn HealthCheck>)>>,
    last: tokio::sync::Mutex<Option<(Instant, Report)>>,
    shown: OnceLock<Shown>,
}

/// As metrics show it, by part.
struct Shown {
    live: Gauge,
    ready: Gauge,
}

/// How all parts fare together.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Whether every part is live.
    pub live: bool,
    /// Whether every part is ready.
    pub ready: bool,
    /// The `/live` details by part.
    pub live_details: Map<String, Value>,
    /// The `/ready` details by part.
    pub ready_details: Map<String, Value>,
}

impl Health {
    /// No parts: live and ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part under SPIRE's name for it (`server`, `agent`, `catalog.datastore`).
    pub fn add(&self, name: impl Into<String>, check: Arc<dyn HealthCheck>) {
        self.checks().push((name.into(), check));
    }

    /// Registers `health_live` and `health_ready`, which show how each part fared when it was last
    /// asked.
    pub fn show(&self, metrics: &Metrics) {
        let gauge = |what: &str, help: &str| metrics.gauge(&["health", what], help, &["check"]);
        let _ = self.0.shown.set(Shown {
            live: gauge("live", "Whether a part of the program can get better by itself"),
            ready: gauge("ready", "Whether a part of the program does its job"),
        });
    }

    /// Asks all parts time and again, so that metrics are right although nobody else asks.
    pub fn watch(&self, tasks: &Tasks) {
        let (health, token) = (self.clone(), tasks.token().clone());
        tasks.spawn("health_metrics", async move {
            loop {
                let look = async {
                    health.report().await;
                    tokio::time::sleep(LOOK).await;
                };
                if token.run_until_cancelled(look).await.is_none() {
                    return;
                }
            }
        });
    }

    /// Asks all parts at once; an answer younger than a second is given again.
    pub async fn report(&self) -> Report {
        let mut last = self.0.last.lock().await;
        if let Some((at, report)) = &*last
            && at.elapsed() < ANSWER_LIFE
        {
            return report.clone();
        }
        let checks = self.checks().clone();
        let mut report =
            Report { live: true, ready: true, live_details: Map::new(), ready_details: Map::new() };
        let mut asked = Vec::with_capacity(checks.len());
        for (name, check) in checks {
            asked.push((
                name,
                tokio::spawn(async move {
                    let state = tokio::time::timeout(CHECK_TIMEOUT, check.check()).await;
                    state.unwrap_or_else(|_| State::failed("health check timed out"))
                }),
            ));
        }
        for (name, state) in asked {
            let state = state.await.unwrap_or_else(|_| State::failed("health check failed"));
            if let Some(shown) = self.0.shown.get() {
                shown.live.set(&[&name], f64::from(u8::from(state.live)));
                shown.ready.set(&[&name], f64::from(u8::from(state.ready)));
            }
            report.live &= state.live;
            report.ready &= state.ready;
            report.live_details.insert(name.clone(), state.live_details);
            report.ready_details.insert(name, state.ready_details);
        }
        if let Some((_, before)) = &*last
            && (before.live, before.ready) != (report.live, report.ready)
        {
            tracing::info!(live = report.live, ready = report.ready, "Health changed");
        }
        *last = Some((Instant::now(), report.clone()));
        report
    }

    fn checks(&self) -> std::sync::MutexGuard<'_, Vec<(String, Arc<dyn HealthCheck>)>> {
        self.0.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checks = self.checks();
        f.debug_list().entries(checks.iter().map(|(name, _)| name)).finish()
    }
}

/// The health endpoint, bound but not served yet.
#[derive(Debug)]
pub struct HealthServer {
    server: HttpServer,
    settings: HealthSettings,
    health: Health,
}

impl HealthServer {
    /// Binds the endpoint.
    ///
    /// # Errors
    /// [`ListenError`] when the address cannot be resolved or bound.
    pub async fn bind(settings: &HealthSettings, health: Health) -> Result<Self, ListenError> {
        let listener = bind_host(&settings.bind_address, settings.bind_port).await?;
        Self::on(listener, settings, health)
    }

    /// Takes a listener that is bound already, whatever address the settings name.
    ///
    /// # Errors
    /// [`ListenError`] when the listener does not know its address.
    pub fn on(
        listener: TcpListener,
        settings: &HealthSettings,
        health: Health,
    ) -> Result<Self, ListenError> {
        let server = HttpServer::new("health", listener)?;
        Ok(Self { server, settings: settings.clone(), health })
    }

    /// Where the endpoint listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Serves until the tasks end.
    pub fn spawn(self, tasks: &Tasks) {
        tracing::info!(address = %self.address(), "Serving health checks");
        let Self { server, settings, health } = self;
        server.spawn(
            tasks,
            // Whatever the method, as SPIRE answers.
            Router::new().fallback_service(any(async move |uri: axum::http::Uri| {
                // A table of our own: a router of axum's panics on equal or odd paths.
                let report = health.report().await;
                if uri.path() == settings.ready_path {
                    answer(report.ready, report.ready_details)
                } else if uri.path() == settings.live_path {
                    answer(report.live, report.live_details)
                } else {
                    StatusCode::NOT_FOUND.into_response()
                }
            })),
        );
    }
}

fn answer(good: bool, details: Map<String, Value>) -> axum::response::Response {
    let status = if good { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    let body = format!("{}\n", Value::Object(details));
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Counted(AtomicUsize, State);

    #[async_trait]
    impl HealthCheck for Counted {
        async fn check(&self) -> State {
            self.0.fetch_add(1, Ordering::SeqCst);
            self.1.clone()
        }
    }

    struct Stuck;

    #[async_trait]
    impl HealthCheck for Stuck {
        async fn check(&self) -> State {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_parts_must_be_well_and_each_shows_its_details() {
        let health = Health::new();
        health.add("server", Arc::new(Counted(0.into(), State::good())));
        assert!(health.report().await.ready);
        health.add("server.ca", Arc::new(Counted(0.into(), State::failed("no key"))));
        tokio::time::advance(ANSWER_LIFE).await;
        let report = health.report().await;
        assert!(!report.live && !report.ready);
        assert_eq!(
            Value::Object(report.ready_details),
            serde_json::json!({"server": {}, "server.ca": {"message": "no key"}})
        );
    }

    #[tokio::test(start_paused = true)]
    async fn callers_cannot_make_work_and_a_stuck_part_is_not_well() {
        let health = Health::new();
        let counted = Arc::new(Counted(0.into(), State::good()));
        health.add("agent", counted.clone());
        for _ in 0..100 {
            health.report().await;
        }
        assert_eq!(counted.0.load(Ordering::SeqCst), 1);
        health.add("stuck", Arc::new(Stuck));
        tokio::time::advance(ANSWER_LIFE).await;
        assert!(!health.report().await.live);
    }

    #[tokio::test]
    async fn readiness_is_live_but_not_ready_while_a_guard_is_held() {
        let readiness = Readiness::new();
        let guard = readiness.guard("socket");
        assert_eq!(readiness.check().await, State::starting());
        drop(guard);
        assert_eq!(readiness.check().await, State::good());
    }
}
