//! The web console: pages for people, on the same use cases as the API.
//!
//! Off unless configured, on an address of its own, over TLS. Someone is let in by an X.509-SVID that
//! is an administrator's, or by a one-time code that `signet-server console login` gets on the local
//! socket; what they may do is decided as for any other caller, for each request anew. It has no
//! database: what it shows is what the API shows.

mod authorities;
mod caller;
mod confirm;
mod federation;
mod forms;
mod listen;
pub mod logins;
mod lookup;
mod problems;
mod read;
mod recent;
mod scan;
mod write;

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::future::join_all;
use signet_console::{
    Frame, Page, Section, assets,
    guard::{self, COOKIE},
    page::{Login, Message},
    session::{CODE_LIFE, Sessions},
};
use tokio::sync::Semaphore;

pub use listen::{ConsoleError, ConsoleServer};
pub use logins::Logins;
pub use recent::Recent;

use self::{
    caller::Caller,
    forms::{Form, Query},
};
use crate::{
    audit::Auditor,
    context::Context,
    usecase::{
        UseCases,
        authorization::{Action, Authorizer},
        error::{Error, ErrorKind},
        principal::Peer,
    },
};

/// Requests that are answered at a time: the console never takes what agents need.
const AT_A_TIME: usize = 8;
/// The largest form, bytes: an entry with its longest lists.
const MAX_FORM: usize = 256 * 1024;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the pages are made of. Cheap to clone.
#[derive(Clone)]
pub struct Console(Arc<Inner>);

struct Inner {
    context: Context,
    use_cases: UseCases,
    authorizer: Authorizer,
    auditor: Auditor,
    recent: Arc<Recent>,
    logins: Logins,
    /// What forms of those who have a certificate and no session send along.
    csrf: String,
    hosts: Vec<String>,
    permits: Semaphore,
    scan: scan::LastScan,
}

/// An answer: a page, or where to go.
enum Answer {
    Page(Page),
    Redirect(String),
}

type Answered = Result<Answer, Error>;

impl Console {
    /// The console of a server with these parts. It answers to the names of `hosts`.
    pub fn new(
        context: &Context,
        use_cases: UseCases,
        authorizer: Authorizer,
        auditor: Auditor,
        recent: Arc<Recent>,
        hosts: Vec<String>,
    ) -> Self {
        Self(Arc::new(Inner {
            context: context.clone(),
            use_cases,
            authorizer,
            auditor,
            recent,
            logins: Arc::clone(&context.logins),
            csrf: uuid::Uuid::new_v4().to_string(),
            hosts: hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect(),
            permits: Semaphore::new(AT_A_TIME),
            scan: scan::LastScan::default(),
        }))
    }

    /// Everything it serves.
    pub fn router(self) -> Router {
        Router::new().fallback(move |request: Request| {
            let console = self.clone();
            async move { console.answer(request).await }
        })
    }

    async fn answer(&self, request: Request) -> Response {
        let mut response = self.unsafe_answer(request).await;
        for (name, value) in guard::headers() {
            response.headers_mut().entry(name).or_insert(value);
        }
        response
    }

    async fn unsafe_answer(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        if let Err(refusal) = guard::check(&parts.method, &parts.headers, &self.0.hosts) {
            return (StatusCode::FORBIDDEN, refusal.message()).into_response();
        }
        let path = parts.uri.path().to_owned();
        if let Some(asset) = assets::find(&path) {
            let media_type = HeaderValue::from_static(asset.media_type);
            let keep = HeaderValue::from_static("public, max-age=31536000, immutable");
            let headers = [(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, keep)];
            return (headers, asset.body).into_response();
        }
        let is_write = match parts.method {
            Method::GET | Method::HEAD => false,
            Method::POST => true,
            _ => return (StatusCode::METHOD_NOT_ALLOWED, "GET or POST").into_response(),
        };
        let Ok(_permit) = self.0.permits.try_acquire() else {
            let again = [(header::RETRY_AFTER, HeaderValue::from_static("1"))];
            return (StatusCode::SERVICE_UNAVAILABLE, again, "the console is busy").into_response();
        };
        let form = if is_write {
            match tokio::time::timeout(PATIENCE, axum::body::to_bytes(body, MAX_FORM)).await {
                Ok(Ok(bytes)) => Form::read(&bytes),
                Ok(Err(_)) => {
                    return (StatusCode::PAYLOAD_TOO_LARGE, "the form is too long").into_response();
                }
                Err(_) => return (StatusCode::REQUEST_TIMEOUT, "too slow").into_response(),
            }
        } else {
            Form::read(&Bytes::new())
        };
        if is_write && path == "/login" {
            return self.log_in(&form).await;
        }
        let Some(caller) = self.caller(&parts) else {
            let page = Page::Login(Login::default());
            return self.show(None, &page, StatusCode::UNAUTHORIZED, false).await;
        };
        if is_write && !caller.made(&form) {
            let message = Message {
                status: 403,
                title: "Not done".to_owned(),
                text: "The form is not of this session: open the page again and repeat.".to_owned(),
            };
            return self
                .show(Some(&caller), &Page::Message(message), StatusCode::FORBIDDEN, false)
                .await;
        }
        if is_write && path == "/logout" {
            if let Some(cookie) = guard::cookie(&parts.headers, COOKIE) {
                self.sessions().end(cookie);
            }
            return with_cookie(&guard::unset_cookie());
        }
        let wants_json = path.ends_with(".json");
        let place = path.strip_suffix(".json").unwrap_or(&path).to_owned();
        let query = Query::read(parts.uri.query().unwrap_or_default());
        let answered = async {
            match is_write {
                true => self.write(&caller, &place, &form).await,
                false => self.read(&caller, &place, &query).await,
            }
        };
        let answered = tokio::time::timeout(PATIENCE, answered)
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::TimedOut, "the answer takes too long")));
        match answered {
            Ok(Answer::Page(page)) => {
                self.show(Some(&caller), &page, StatusCode::OK, wants_json).await
            }
            Ok(Answer::Redirect(to)) => redirect(&to),
            Err(error) => {
                let status = status(error.kind());
                let title = status.canonical_reason().unwrap_or("Failed").to_owned();
                let message = Message { status: status.as_u16(), title, text: error.to_string() };
                self.show(Some(&caller), &Page::Message(message), status, wants_json).await
            }
        }
    }

    /// Exchanges a code for a session.
    async fn log_in(&self, form: &Form) -> Response {
        let exchanged = self.sessions().exchange(form.get("code").trim(), Instant::now());
        match exchanged {
            Some(secret) => with_cookie(&guard::set_cookie(secret.reveal())),
            None => {
                let error = format!(
                    "This code is not known, was used already, or is older than {} seconds.",
                    CODE_LIFE.as_secs()
                );
                let page = Page::Login(Login { error });
                self.show(None, &page, StatusCode::UNAUTHORIZED, false).await
            }
        }
    }

    async fn show(
        &self,
        caller: Option<&Caller>,
        page: &Page,
        status: StatusCode,
        json: bool,
    ) -> Response {
        if json {
            let text = serde_json::to_string_pretty(page).unwrap_or_default();
            let media_type = HeaderValue::from_static("application/json");
            return (status, [(header::CONTENT_TYPE, media_type)], text).into_response();
        }
        let sections = match caller {
            Some(caller) => self.sections(caller).await,
            None => Vec::new(),
        };
        let frame = Frame {
            sections,
            trust_domain: self.0.context.parts.trust_domain.to_string(),
            now: self.0.context.parts.clock.unix(),
            user: caller.map(Caller::name).unwrap_or_default(),
            csrf: caller.map(|caller| caller.csrf.clone()).unwrap_or_default(),
            can_log_out: caller.is_some_and(|caller| caller.by_session),
        };
        let media_type = HeaderValue::from_static("text/html; charset=utf-8");
        let html = signet_console::html(&frame, page);
        (status, [(header::CONTENT_TYPE, media_type)], html).into_response()
    }

    /// Waits until memory has everything, what was done before this request included, so that whoever
    /// has just changed something sees it. While the store is away pages show what is known.
    async fn current(&self) {
        let _ = self.0.context.parts.cache.current().await;
    }

    /// The parts of the console that are anything to the caller.
    async fn sections(&self, caller: &Caller) -> Vec<Section> {
        let all = [
            (Section::Agents, Action::ReadAgents),
            (Section::Entries, Action::ReadEntries),
            (Section::Explain, Action::ExplainEntries),
            (Section::Authorities, Action::ReadAuthorities),
            (Section::Federation, Action::ReadFederation),
            (Section::Activity, Action::FollowEntries),
            (Section::Server, Action::ReadAuthorities),
        ];
        // All at once: then they share what the database is asked for it.
        let allowed = join_all(all.map(|(section, action)| async move {
            let scope = self.scope(caller, action).await?;
            // What the server as a whole is like is for those who may see everything.
            (section != Section::Server || scope.is_none()).then_some(section)
        }));
        let mut sections = vec![Section::Problems];
        sections.extend(allowed.await.into_iter().flatten());
        sections
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions<Peer>> {
        self.0.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Console(..)")
    }
}

fn redirect(to: &str) -> Response {
    match HeaderValue::from_str(to) {
        Ok(to) => (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// To the first page, with another cookie.
fn with_cookie(cookie: &str) -> Response {
    let mut response = redirect("/");
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Exists | ErrorKind::Precondition => StatusCode::CONFLICT,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::Exhausted => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
