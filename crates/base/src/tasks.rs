//! One tracker and one cancellation token for all tasks of a program.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::Instrument;

/// Starts the tasks of a program and ends them together.
///
/// Every task must end soon after [`Tasks::token`] is cancelled. Clones share tracker and token.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    running: BTreeMap<&'static str, usize>,
    failure: Option<String>,
}

/// Why a program did not end well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShutdownError {
    /// A task that the program cannot do without has failed.
    #[error("{0}")]
    TaskFailed(String),
    /// Tasks were still running when the grace period ended; their names.
    #[error("tasks did not stop in time: {}", .0.join(", "))]
    Unfinished(Vec<&'static str>),
}

impl Tasks {
    /// An empty set with a new token.
    pub fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            token: CancellationToken::new(),
            shared: Arc::default(),
        }
    }

    /// The token that ends the tasks.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// A set whose token is cancelled with this one or alone; its tasks count as this set's too.
    pub fn child(&self) -> Self {
        Self {
            tracker: self.tracker.clone(),
            token: self.token.child_token(),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Starts a task. A panic in it is logged by its name and ends nothing else.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let guard = Running::start(name, &self.shared, None);
        // Whoever takes a future and awaits it has it twice.
        let task = Box::pin(task);
        self.tracker.spawn(
            async move {
                task.await;
                guard.finish();
            }
            .in_current_span(),
        );
    }

    /// Starts a task that ends, wherever it stands, when the token is cancelled.
    pub fn spawn_until_end<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token.clone();
        self.spawn(name, async move {
            token.run_until_cancelled(task).await;
        });
    }

    /// Starts a task that the program cannot do without: if it returns an error or panics, the
    /// token is cancelled and [`Tasks::shutdown`] reports it.
    pub fn spawn_critical<F, E>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        let guard = Running::start(name, &self.shared, Some(self.token.clone()));
        let shared = Arc::clone(&self.shared);
        let token = self.token.clone();
        let task = Box::pin(task);
        self.tracker.spawn(
            async move {
                if let Err(error) = task.await {
                    // Whoever shuts down is told, and tells.
                    tracing::debug!(task = name, %error, "Task failed");
                    record_failure(&shared, format!("{name}: {error:#}"));
                    token.cancel();
                }
                guard.finish();
            }
            .in_current_span(),
        );
    }

    /// Starts a task that ends when the returned handle is dropped, or with the set.
    pub fn spawn_scoped<F>(&self, name: &'static str, task: F) -> AbortOnDropHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let guard = Running::start(name, &self.shared, None);
        let task = Box::pin(task);
        AbortOnDropHandle::new(
            self.tracker.spawn(
                async move {
                    task.await;
                    guard.finish();
                }
                .in_current_span(),
            ),
        )
    }

    /// How many tasks are running.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Cancels the token and waits up to `grace` for all tasks.
    ///
    /// # Errors
    /// The first failure of a critical task, else the names of the tasks that did not end in time.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), ShutdownError> {
        self.token.cancel();
        self.tracker.close();
        let ended = tokio::time::timeout(grace, self.tracker.wait()).await;
        let shared = lock(&self.shared);
        if let Some(failure) = &shared.failure {
            return Err(ShutdownError::TaskFailed(failure.clone()));
        }
        match ended {
            Ok(()) => Ok(()),
            Err(_) => Err(ShutdownError::Unfinished(shared.running.keys().copied().collect())),
        }
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("running", &lock(&self.shared).running)
            .field("cancelled", &self.token.is_cancelled())
            .finish()
    }
}

/// Counts a task while it runs, and notices when it ends by a panic.
struct Running {
    name: &'static str,
    shared: Arc<Mutex<Shared>>,
    on_panic: Option<CancellationToken>,
}

impl Running {
    fn start(
        name: &'static str,
        shared: &Arc<Mutex<Shared>>,
        on_panic: Option<CancellationToken>,
    ) -> Self {
        *lock(shared).running.entry(name).or_default() += 1;
        Self { name, shared: Arc::clone(shared), on_panic }
    }

    fn finish(self) {}
}

impl Drop for Running {
    fn drop(&mut self) {
        {
            let mut shared = lock(&self.shared);
            if let Some(count) = shared.running.get_mut(self.name) {
                *count -= 1;
                if *count == 0 {
                    shared.running.remove(self.name);
                }
            }
        }
        if std::thread::panicking() {
            tracing::error!(task = self.name, "Task panicked");
            if let Some(token) = &self.on_panic {
                record_failure(&self.shared, format!("{}: panicked", self.name));
                token.cancel();
            }
        }
    }
}

fn record_failure(shared: &Mutex<Shared>, failure: String) {
    lock(shared).failure.get_or_insert(failure);
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn shutdown_cancels_and_joins_all_tasks() {
        let tasks = Tasks::new();
        for _ in 0..3 {
            let token = tasks.token().clone();
            tasks.spawn("loop", async move { token.cancelled().await });
        }
        assert_eq!(tasks.running(), 3);
        assert_eq!(tasks.shutdown(GRACE).await, Ok(()));
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_names_the_tasks_that_do_not_stop() {
        let tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending());
        tasks.spawn("quick", async {});
        assert_eq!(tasks.shutdown(GRACE).await, Err(ShutdownError::Unfinished(vec!["deaf"])));
    }

    #[tokio::test(start_paused = true)]
    async fn failure_of_a_critical_task_ends_the_program_and_is_reported() {
        let tasks = Tasks::new();
        tasks.spawn_critical("ca", async { Err::<(), _>("no key") });
        tasks.token().cancelled().await;
        let error = tasks.shutdown(GRACE).await.unwrap_err();
        assert_eq!(error.to_string(), "ca: no key");
    }

    #[tokio::test(start_paused = true)]
    async fn panic_of_a_critical_task_ends_the_program_and_of_another_does_not() {
        let tasks = Tasks::new();
        tasks.spawn("side", async { panic!("on purpose") });
        while tasks.running() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(!tasks.token().is_cancelled());
        tasks.spawn_critical("main", async {
            if true {
                panic!("on purpose")
            }
            Ok::<_, String>(())
        });
        tasks.token().cancelled().await;
        let error = tasks.shutdown(GRACE).await.unwrap_err();
        assert_eq!(error, ShutdownError::TaskFailed("main: panicked".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn child_sets_end_alone_but_are_waited_for() {
        let tasks = Tasks::new();
        let child = tasks.child();
        let token = child.token().clone();
        child.spawn("part", async move { token.cancelled().await });
        child.token().cancel();
        while tasks.running() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(!tasks.token().is_cancelled());
        let other = tasks.child();
        tasks.token().cancel();
        assert!(other.token().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn scoped_tasks_end_with_their_handle() {
        let tasks = Tasks::new();
        let handle = tasks.spawn_scoped("stream", std::future::pending());
        assert_eq!(tasks.running(), 1);
        drop(handle);
        assert_eq!(tasks.shutdown(GRACE).await, Ok(()));
    }
}
