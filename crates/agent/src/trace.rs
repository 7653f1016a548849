//! What each call did, and what each step of it took: the last ones are remembered, for whoever
//! asks why a workload waits ([`Traces`]).
//!
//! While a call is answered it is the *current* one of its task: whatever works for it says what it
//! did with [`step`] or [`timed`], and the logs and requests to the server carry its ID.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::Instrument as _;

/// How many calls are remembered.
const MAX_CALLS: usize = 256;
/// How many of one process: one that asks all the time leaves what others did in memory.
const MAX_OF_PROCESS: usize = 16;
/// How many steps of a call are remembered.
const MAX_STEPS: usize = 24;
/// The longest detail or message, bytes.
const MAX_TEXT: usize = 256;

tokio::task_local! {
    static CURRENT: Arc<Trace>;
}

/// One call.
#[derive(Debug)]
pub struct Trace {
    /// Names it in the logs and audit events of agent and server.
    pub request_id: Arc<str>,
    /// The process that called; 0 when it could not be pinned.
    pub pid: i32,
    /// Its user, if it could be pinned.
    pub uid: Option<u32>,
    /// The service as logs have it.
    pub service: &'static str,
    /// The method.
    pub method: &'static str,
    /// When it began, Unix milliseconds.
    pub at: i64,
    begun: Instant,
    state: Mutex<State>,
}

/// What became of a call so far.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// What was done for it.
    pub steps: Vec<Step>,
    /// How it was answered, once it was.
    pub answer: Option<Answer>,
}

/// Something that was done for a call.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it was.
    pub name: &'static str,
    /// What came of it.
    pub detail: String,
    /// When it began, since the call began.
    pub offset: Duration,
    /// How long it took.
    pub took: Duration,
}

/// How a call was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The name of the gRPC code.
    pub status: &'static str,
    /// The text of the status.
    pub message: String,
    /// How long that took.
    pub took: Duration,
}

impl Trace {
    /// A call that begins now, at `at` Unix milliseconds.
    pub fn new(
        (service, method): (&'static str, &'static str),
        (pid, uid): (i32, Option<u32>),
        at: i64,
    ) -> Arc<Self> {
        let request_id = uuid::Uuid::new_v4().to_string().into();
        let (begun, state) = (Instant::now(), Mutex::default());
        Arc::new(Self { request_id, pid, uid, service, method, at, begun, state })
    }

    /// Does `work` for this call.
    pub async fn scope<F: Future>(self: &Arc<Self>, work: F) -> F::Output {
        let span = tracing::error_span!("call", request_id = &*self.request_id);
        CURRENT.scope(Arc::clone(self), work.instrument(span)).await
    }

    /// The call is answered with this status, or its stream has begun well.
    pub fn answered(&self, status: &'static str, message: &str) {
        let took = self.begun.elapsed();
        self.state().answer = Some(Answer { status, message: cut(message), took });
    }

    /// What became of it so far.
    pub fn state_now(&self) -> State {
        self.state().clone()
    }

    fn step(&self, name: &'static str, detail: String, took: Duration) {
        let offset = self.begun.elapsed().saturating_sub(took);
        let mut state = self.state();
        if state.steps.len() < MAX_STEPS {
            state.steps.push(Step { name, detail: cut(&detail), offset, took });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ID of the call that is being answered, if one is.
pub fn current_request_id() -> Option<Arc<str>> {
    CURRENT.try_with(|trace| Arc::clone(&trace.request_id)).ok()
}

/// Notes that a step of the current call has just ended; `detail` is asked for only when there is
/// one.
pub fn step(name: &'static str, took: Duration, detail: impl FnOnce() -> String) {
    let _ = CURRENT.try_with(|trace| trace.step(name, detail(), took));
}

/// Does `work` as a step of the current call; `detail` says what came of it.
pub async fn timed<F: Future>(
    name: &'static str,
    work: F,
    detail: impl FnOnce(&F::Output) -> String,
) -> F::Output {
    let begun = Instant::now();
    let output = work.await;
    step(name, begun.elapsed(), || detail(&output));
    output
}

/// The last calls.
#[derive(Debug, Default)]
pub struct Traces(Mutex<Remembered>);

/// The oldest first, each beside its process: whoever looks for one follows no pointer.
type Remembered = VecDeque<(i32, Arc<Trace>)>;

impl Traces {
    /// Remembers a call.
    pub fn note(&self, trace: &Arc<Trace>) {
        let mut all = self.lock();
        let mut own = all.iter().enumerate().filter(|(_, (pid, _))| *pid == trace.pid);
        let (oldest, newer) = (own.next().map(|(at, _)| at), own.count());
        match oldest {
            Some(at) if 1 + newer >= MAX_OF_PROCESS => drop(all.remove(at)),
            _ if all.len() >= MAX_CALLS => drop(all.pop_front()),
            _ => {}
        }
        all.push_back((trace.pid, Arc::clone(trace)));
    }

    /// The calls of a process, or of all; newest first.
    pub fn of(&self, pid: Option<i32>) -> Vec<Arc<Trace>> {
        let all = self.lock();
        let wanted = all.iter().rev().filter(|(of, _)| pid.is_none_or(|pid| *of == pid));
        wanted.map(|(_, trace)| Arc::clone(trace)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_TEXT);
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(pid: i32) -> Arc<Trace> {
        Trace::new(("WorkloadAPI", "FetchX509SVID"), (pid, Some(0)), 1)
    }

    #[tokio::test(start_paused = true)]
    async fn steps_are_noted_for_the_call_that_they_belong_to() {
        let trace = call(7);
        trace
            .scope(async {
                timed("attest", tokio::time::sleep(Duration::from_millis(5)), |()| "2".into())
                    .await;
                step("subscribe", Duration::ZERO, String::new);
                assert_eq!(current_request_id().unwrap(), trace.request_id);
            })
            .await;
        step("of nobody", Duration::ZERO, || panic!("there is no call"));
        trace.answered("PermissionDenied", "no identity issued");
        let state = trace.state_now();
        let steps: Vec<_> = state.steps.iter().map(|s| (s.name, s.took.as_millis())).collect();
        assert_eq!(steps, [("attest", 5), ("subscribe", 0)]);
        assert_eq!(state.steps[0].offset, Duration::ZERO);
        assert_eq!(state.answer.unwrap().took.as_millis(), 5);
    }

    #[test]
    fn however_much_is_called_little_is_remembered() {
        let traces = Traces::default();
        traces.note(&call(1));
        for _ in 0..1_000 {
            traces.note(&call(2));
        }
        assert_eq!(traces.of(Some(2)).len(), MAX_OF_PROCESS);
        assert_eq!(traces.of(Some(1)).len(), 1, "one process does not displace the others");
        for pid in 3..2_000 {
            traces.note(&call(pid));
        }
        assert_eq!(traces.of(None).len(), MAX_CALLS);
        let trace = call(1);
        for _ in 0..1_000 {
            trace.step("s", "x".repeat(10_000), Duration::ZERO);
        }
        let steps = trace.state_now().steps;
        assert_eq!(steps.len(), MAX_STEPS);
        assert!(steps.iter().all(|step| step.detail.len() <= MAX_TEXT));
    }
}
