//! A fixed number of threads that call the module.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use tokio::sync::oneshot;

use crate::{
    Settings, TokenError,
    session::{OpenSession, Shared, ThreadSession},
};

/// How many calls may wait for a thread.
const MAX_WAITING: usize = 1024;

type Job = Box<dyn FnOnce(&mut ThreadSession) + Send>;

/// The threads of one token. They end when this is dropped, each after its call.
pub(crate) struct Pool {
    jobs: SyncSender<Job>,
    shared: Arc<Shared>,
}

impl Pool {
    pub(crate) fn new(settings: Settings) -> Result<Self, TokenError> {
        let (jobs, receiver) = sync_channel::<Job>(MAX_WAITING);
        let receiver = Arc::new(Mutex::new(receiver));
        let shared = Arc::new(Shared::new(settings));
        for number in 0..shared.settings.max_sessions.max(1) {
            let (receiver, shared) = (Arc::clone(&receiver), Arc::clone(&shared));
            thread::Builder::new()
                .name(format!("pkcs11-{number}"))
                .spawn(move || serve(&receiver, ThreadSession::new(shared)))
                .map_err(|error| TokenError::Setting(format!("starting a thread: {error}")))?;
        }
        Ok(Self { jobs, shared })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Does `work` on one of the threads. Nothing is done that nobody waits for any more; what was
    /// done by the time that nobody waits is handed to `undo`.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Fn(&mut OpenSession) -> Result<T, TokenError> + Send + 'static,
        undo: impl FnOnce(&mut OpenSession, &T) + Send + 'static,
    ) -> Result<T, TokenError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |session| {
            if reply.is_closed() {
                return;
            }
            let outcome = session.work(work);
            if let Err(Ok(done)) = reply.send(outcome) {
                let undo = std::cell::Cell::new(Some(undo));
                let undone = session.work(|open| {
                    if let Some(undo) = undo.take() {
                        undo(open, &done);
                    }
                    Ok(())
                });
                if let Err(error) = undone {
                    tracing::warn!(%error, "What came too late could not be undone");
                }
            }
        });
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => TokenError::Busy,
            TrySendError::Disconnected(_) => TokenError::Stopped,
        })?;
        answer.await.map_err(|_| TokenError::Stopped)?
    }
}

fn serve(jobs: &Mutex<Receiver<Job>>, mut session: ThreadSession) {
    loop {
        // The lock is held while waiting: the others wait for the lock instead.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(&mut session),
            Err(_) => return,
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.settings.fmt(f)
    }
}
