//! The kubelet's pod list, read over its secure or read-only port.
//!
//! One request is under way at a time, and its answer is shared by everybody who waits. It is
//! parsed as it arrives.

mod files;
mod owner;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use signet_base::{SharedClock, chain};
use signet_http::HttpError;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use self::files::Loaded;
use super::{
    Answer, PodSource, SourceError,
    pods::{PodIndex, PodReader, PodsError},
    polling::Pace,
};
pub use files::{KubeletAuth, KubeletConfig};

/// The largest pod list that is read, bytes.
const MAX_POD_LIST: usize = 256 * 1024 * 1024;
/// How long one answer may take: SPIRE's.
const DEADLINE: Duration = Duration::from_secs(10);
/// How old an answer may be for somebody who comes new.
const FRESH: Duration = Duration::from_millis(100);
/// Pieces of the answer that wait to be parsed.
const PIECES: usize = 4;
/// How often the operator is told that there is no list.
const TELL_INTERVAL: Duration = Duration::from_secs(30);
/// The most of the kubelet's words that is shown.
const MAX_WORDS: usize = 300;

/// Reads pod lists, one request at a time, shared between those who wait.
pub struct Kubelet(Arc<Inner>);

struct Inner {
    config: KubeletConfig,
    clock: SharedClock,
    loaded: Mutex<Option<Loaded>>,
    turn: Mutex<Turn>,
    /// The version of the last answer.
    answered: watch::Sender<u64>,
    waiting: AtomicUsize,
    /// Whether the kubelet has accepted these credentials, or others before them.
    accepted: AtomicBool,
    /// When the operator was last told that there is no list.
    told: Mutex<Option<Instant>>,
}

/// The request under way and the last answer.
struct Turn {
    pace: Pace,
    version: u64,
    started: Option<Instant>,
    /// Kept while somebody waits: a list of pods is not held for nobody.
    last: Option<Answer>,
    running: Option<WeakShared<BoxFuture<'static, Answer>>>,
}

/// What somebody who wants an answer does next.
enum Step {
    Have(Answer),
    Join(Shared<BoxFuture<'static, Answer>>),
    Wait(Instant),
}

impl Kubelet {
    /// A source of pods that asks no more often than `interval`; without one, as often as is good
    /// for both (see [`super::polling`]). Nothing is read yet.
    pub fn new(config: KubeletConfig, interval: Option<Duration>, clock: SharedClock) -> Self {
        let turn = Turn {
            pace: Pace::new(interval),
            version: 0,
            started: None,
            last: None,
            running: None,
        };
        Self(Arc::new(Inner {
            config,
            clock,
            loaded: Mutex::default(),
            turn: Mutex::new(turn),
            answered: watch::Sender::new(0),
            waiting: AtomicUsize::new(0),
            accepted: AtomicBool::new(false),
            told: Mutex::default(),
        }))
    }
}

impl Inner {
    fn step(self: &Arc<Self>, seen: u64) -> Step {
        let now = Instant::now();
        let mut turn = self.turn();
        if let Some(last) = turn.last.as_ref().filter(|last| last.version > seen) {
            let fresh = turn.started.is_some_and(|at| now.duration_since(at) < FRESH);
            if seen > 0 || (fresh && last.pods.is_ok()) {
                return Step::Have(last.clone());
            }
        }
        if let Some(running) = turn.running.as_ref().and_then(WeakShared::upgrade)
            && running.peek().is_none()
        {
            return Step::Join(running);
        }
        let due = turn.pace.due(now);
        if due > now {
            return Step::Wait(due);
        }
        turn.pace.start(now);
        turn.started = Some(now);
        turn.version += 1;
        let version = turn.version;
        let me = Arc::clone(self);
        let request = async move {
            let answer = Answer { version, pods: me.fetch().await };
            me.tell(&answer);
            let mut turn = me.turn();
            turn.pace.answered(Instant::now());
            turn.last = Some(answer.clone());
            turn.running = None;
            drop(turn);
            me.answered.send_replace(version);
            answer
        };
        let running = request.boxed().shared();
        turn.running = running.downgrade();
        Step::Join(running)
    }

    fn turn(&self) -> std::sync::MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the kubelet; once more if what the files said may be the reason of a failure and they
    /// say something else now.
    async fn fetch(&self) -> Result<Arc<PodIndex>, SourceError> {
        let loaded = self.load(false)?;
        match self.ask(&loaded).await {
            Err(Failed { error, stale: true }) => match self.load(true) {
                Ok(again) if !again.same_content(&loaded) => {
                    self.ask(&again).await.map_err(|failed| failed.error)
                }
                _ => Err(error),
            },
            other => other.map_err(|failed| failed.error),
        }
    }

    /// What the files say; they are read again after the reload interval, when they have changed,
    /// or when `anyhow`.
    fn load(&self, anyhow: bool) -> Result<Loaded, SourceError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = loaded.as_ref().filter(|held| !anyhow && !held.is_due(&self.config))
        {
            return Ok(current.clone());
        }
        match Loaded::read(&self.config, &self.clock, loaded.as_ref()) {
            Ok(fresh) => {
                *loaded = Some(fresh.clone());
                Ok(fresh)
            }
            Err(error) => match loaded.as_mut() {
                Some(old) => {
                    tracing::warn!(
                        error,
                        "Reading the kubelet's settings again; the last ones stay"
                    );
                    old.read_at = Instant::now();
                    Ok(old.clone())
                }
                None => Err(SourceError::lasting(error)),
            },
        }
    }

    async fn ask(&self, loaded: &Loaded) -> Result<Arc<PodIndex>, Failed> {
        let url = self.config.url();
        let request = loaded.request(&url).map_err(SourceError::lasting)?;
        let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES);
        // Parsed here, between the pieces: no thread has to be woken for each of them.
        let reading = async move {
            let mut reader = PodReader::default();
            while let Some(piece) = pieces.recv().await {
                reader.push(&piece)?;
            }
            reader.finish()
        };
        let (answer, parsed): (_, Result<PodIndex, PodsError>) =
            tokio::join!(loaded.client.stream(request, sender), reading);
        let answer = answer.map_err(|error| {
            let stale = matches!(error, HttpError::Tls { .. });
            let text = format!("unable to perform request: {}", chain(&error));
            Failed { error: SourceError::passing(text), stale }
        })?;
        if !answer.status().is_success() {
            let accepted = self.accepted.load(Ordering::Acquire);
            return Err(refused(answer.status().as_u16(), answer.body(), accepted));
        }
        self.accepted.store(true, Ordering::Release);
        parsed.map(Arc::new).map_err(|error| {
            let text = format!("unable to decode kubelet response: {}", chain(&error));
            SourceError::passing(text).into()
        })
    }
}

impl Inner {
    /// Tells the operator that pods cannot be identified, once in an interval however many of them
    /// ask, and when that is over.
    fn tell(&self, answer: &Answer) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match &answer.pods {
            Ok(_) => {
                if told.take().is_some() {
                    tracing::info!("The kubelet lists its pods again");
                }
            }
            Err(error) => {
                if told.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
                    *told = Some(Instant::now());
                    tracing::error!(%error, "The kubelet does not list its pods; no pod can be \
                                             identified until it does");
                }
            }
        }
    }
}

/// A failed request, and whether old files may be the reason.
struct Failed {
    error: SourceError,
    stale: bool,
}

impl From<SourceError> for Failed {
    fn from(error: SourceError) -> Self {
        Self { error, stale: false }
    }
}

/// What a status that is not a success means, from a kubelet that has accepted the agent before or
/// never.
fn refused(status: u16, body: &[u8], accepted: bool) -> Failed {
    let words = String::from_utf8_lossy(body);
    let words: String = words.trim().chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect();
    let advice = match status {
        401 if accepted => {
            "; the kubelet has accepted the agent before: it asks the API server whether a token is \
             good, and most likely cannot reach it now"
        }
        401 => {
            "; the kubelet does not accept the agent's token or certificate (for tokens it must run \
             with --authentication-token-webhook)"
        }
        403 => {
            "; give the agent's account the permission to get nodes/pods, or nodes/proxy where the \
             kubelet does not know that one"
        }
        404 => "; this is not a kubelet's port",
        _ => "",
    };
    let text = format!("unexpected status code on pods response: {status} {words}{advice}");
    // A kubelet that cannot reach the API server answers 401 as well; nothing about the pods is in
    // doubt then, and who waits is served as soon as it can.
    let lasting = matches!(status, 400..=404) && !(status == 401 && accepted);
    let error = if lasting { SourceError::lasting(text) } else { SourceError::passing(text) };
    Failed { error, stale: status == 401 }
}

#[async_trait::async_trait]
impl PodSource for Kubelet {
    async fn next(&self, seen: u64) -> Answer {
        let _waiting = Waiting::new(&self.0);
        loop {
            // Before looking: an answer that comes in between is noticed.
            let mut answered = self.0.answered.subscribe();
            match self.0.step(seen) {
                Step::Have(answer) => return answer,
                Step::Join(running) => return running.await,
                Step::Wait(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    changed = answered.changed() => drop(changed),
                },
            }
        }
    }
}

/// Counts a caller for as long as it waits, also when it is dropped.
struct Waiting<'a>(&'a Inner);

impl<'a> Waiting<'a> {
    fn new(inner: &'a Inner) -> Self {
        inner.waiting.fetch_add(1, Ordering::AcqRel);
        Self(inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.turn().last = None;
        }
    }
}

impl fmt::Debug for Kubelet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubelet").field("config", &self.0.config).finish_non_exhaustive()
    }
}
