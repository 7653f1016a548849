//! Following the Workload API: each update becomes files, and programs are told.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use signet_api::{
    pb::workload::{
        JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, X509svidRequest, X509svidResponse,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
    workload,
};
use signet_base::{Backoff, CancellationToken, SharedClock, chain};
use signet_time::UnixTime;
use tonic::{Code, Status, transport::Channel};

use crate::{
    command::{Program, signal_pid_file},
    config::{Config, JwtSvidFile},
    context::{X509Context, token},
    health::{State, Written},
    material::{File, Files, files, fingerprint, jwt_bundles},
    place::{place, replace},
};

/// How long a call may take that has one answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a pid file is tried, and how long the first pause is; each is twice as long as the one
/// before. With spiffe-helper's numbers.
const PID_TRIES: u32 = 10;
const PID_PAUSE: Duration = Duration::from_millis(100);
/// The pauses after a failed token.
const TOKEN_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The pauses after a broken stream.
const STREAM_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What keeps the files up to date.
pub struct Follower {
    config: Arc<Config>,
    client: SpiffeWorkloadApiClient<Channel>,
    state: State,
    clock: SharedClock,
    stop: CancellationToken,
}

/// Something that cannot get better by trying again.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The agent refuses requests of this kind.
    #[error("the agent does not take the request: {0}")]
    Refused(Status),
    /// What was fetched once could not be had.
    #[error("{0}")]
    Once(String),
}

impl Follower {
    /// A follower that ends when `stop` is cancelled.
    pub fn new(
        config: Arc<Config>,
        state: State,
        clock: SharedClock,
        stop: CancellationToken,
    ) -> Self {
        let channel = signet_api::connect::unix_lazy(&config.socket);
        Self { config, client: SpiffeWorkloadApiClient::new(channel), state, clock, stop }
    }

    /// Writes X.509-SVIDs, and again at each change.
    ///
    /// # Errors
    /// [`FollowError`] when the agent will never answer.
    pub async fn x509(self) -> Result<(), FollowError> {
        let mut writer = Writer::new(&self);
        let mut backoff = Backoff::new(STREAM_PAUSE.0, STREAM_PAUSE.1);
        loop {
            let mut client = self.client.clone();
            let following = async {
                let mut stream =
                    client.fetch_x509svid(workload::request(X509svidRequest {})).await?;
                while let Some(message) = stream.get_mut().message().await? {
                    backoff.reset();
                    writer.update(message).await;
                }
                Ok(())
            };
            if !self.pause("X.509-SVIDs", following).await? {
                return Ok(());
            }
            if self.rest(backoff.next_delay()).await {
                return Ok(());
            }
        }
    }

    /// Writes the JWT bundles, and again at each change.
    ///
    /// # Errors
    /// [`FollowError`] when the agent will never answer.
    pub async fn jwt_bundles(self, path: PathBuf, mode: u32) -> Result<(), FollowError> {
        let mut backoff = Backoff::new(STREAM_PAUSE.0, STREAM_PAUSE.1);
        loop {
            let mut client = self.client.clone();
            let following = async {
                let mut stream =
                    client.fetch_jwt_bundles(workload::request(JwtBundlesRequest {})).await?;
                while let Some(message) = stream.get_mut().message().await? {
                    backoff.reset();
                    let written = self.write_bundles(&message, &path, mode);
                    if let Err(error) = written {
                        tracing::error!(path = %path.display(), error, "JWT bundle not written");
                    }
                }
                Ok(())
            };
            if !self.pause("JWT bundles", following).await? {
                return Ok(());
            }
            if self.rest(backoff.next_delay()).await {
                return Ok(());
            }
        }
    }

    /// Keeps a token fresh: it is replaced after half of what is left of its life.
    ///
    /// # Errors
    /// Never.
    pub async fn token(self, file: JwtSvidFile) -> Result<(), FollowError> {
        let mut backoff = Backoff::new(TOKEN_PAUSE.0, TOKEN_PAUSE.1);
        loop {
            let fetched = self.stop.run_until_cancelled(self.write_token(&file)).await;
            let Some(fetched) = fetched else { return Ok(()) };
            let pause = match fetched {
                Ok(expires_at) => {
                    backoff.reset();
                    let left = u64::try_from(expires_at - self.clock.unix()).unwrap_or(0);
                    Duration::from_secs(left / 2 + 1)
                }
                Err(error) => {
                    let path = file.path.display();
                    tracing::error!(path = %path, error = error.1, "JWT-SVID not written");
                    backoff.next_delay()
                }
            };
            if self.rest(pause).await {
                return Ok(());
            }
        }
    }

    /// Writes everything once.
    ///
    /// # Errors
    /// [`FollowError`] when something cannot be had or written.
    pub async fn once(self) -> Result<(), FollowError> {
        let failed = |error| FollowError::Once(error);
        if !self.config.outputs.is_empty() {
            let message = self.patiently(async || {
                let mut client = self.client.clone();
                let mut stream =
                    client.fetch_x509svid(workload::request(X509svidRequest {})).await?;
                first(stream.get_mut().message().await?)
            });
            let message = message.await.map_err(failed)?;
            Writer::new(&self).write(message).map_err(failed)?;
            tracing::info!("Fetched X.509-SVIDs");
        }
        if let Some((path, mode)) = &self.config.jwt_bundle {
            let message = self.patiently(async || {
                let mut client = self.client.clone();
                let mut stream =
                    client.fetch_jwt_bundles(workload::request(JwtBundlesRequest {})).await?;
                first(stream.get_mut().message().await?)
            });
            let message = message.await.map_err(failed)?;
            self.write_bundles(&message, path, *mode).map_err(failed)?;
            tracing::info!("Fetched JWT bundles");
        }
        for file in &self.config.jwt_svids {
            self.patiently(async || {
                let written = self.write_token(file).await;
                written.map_err(|(code, error)| Status::new(code, error))
            })
            .await
            .map_err(failed)?;
            tracing::info!(path = %file.path.display(), "Fetched a JWT-SVID");
        }
        Ok(())
    }

    /// Tries again for a while where the agent has not heard of the entry yet, or is not there.
    async fn patiently<T>(&self, call: impl AsyncFn() -> Result<T, Status>) -> Result<T, String> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let deadline = tokio::time::Instant::now() + 2 * CALL_TIMEOUT;
        loop {
            let answer = tokio::time::timeout(CALL_TIMEOUT, call()).await;
            let late = |_| Err(Status::deadline_exceeded("the agent does not answer"));
            match answer.unwrap_or_else(late) {
                Ok(answer) => return Ok(answer),
                Err(status) => {
                    let later = [Code::PermissionDenied, Code::Unavailable];
                    if !later.contains(&status.code()) || tokio::time::Instant::now() > deadline {
                        return Err(describe(&status));
                    }
                    if self.rest(backoff.next_delay()).await {
                        return Err("told to stop".to_owned());
                    }
                }
            }
        }
    }

    /// Waits for a stream to end. False when the helper is told to stop.
    async fn pause(
        &self,
        what: &'static str,
        following: impl Future<Output = Result<(), Status>>,
    ) -> Result<bool, FollowError> {
        match self.stop.run_until_cancelled(following).await {
            None => Ok(false),
            Some(Ok(())) => Ok(true),
            Some(Err(status)) if status.code() == Code::InvalidArgument => {
                Err(FollowError::Refused(status))
            }
            Some(Err(status)) => {
                tracing::warn!(what, error = describe(&status), "The agent does not answer");
                Ok(true)
            }
        }
    }

    /// Rests; true when the helper is told to stop meanwhile.
    async fn rest(&self, pause: Duration) -> bool {
        self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none()
    }

    fn write_bundles(
        &self,
        message: &JwtBundlesResponse,
        path: &Path,
        mode: u32,
    ) -> Result<(), String> {
        let bundles = message.bundles.iter().map(|(id, jwks)| (id, &**jwks));
        let written = jwt_bundles(bundles).and_then(|text| {
            replace(path, text.as_bytes(), mode).map_err(|error| chain(&error).to_string())
        });
        self.state.jwt(path, if written.is_ok() { Written::Done } else { Written::Failed });
        written
    }

    /// Fetches and writes a token; returns when it expires, Unix seconds.
    async fn write_token(&self, file: &JwtSvidFile) -> Result<UnixTime, (Code, String)> {
        let request = JwtsvidRequest { audience: file.audience.clone(), spiffe_id: String::new() };
        let mut client = self.client.clone();
        let call =
            tokio::time::timeout(CALL_TIMEOUT, client.fetch_jwtsvid(workload::request(request)));
        let late = |_| Err(Status::deadline_exceeded("the agent does not answer"));
        let answer = call.await.unwrap_or_else(late);
        let answer = answer.map_err(|status| (status.code(), describe(&status)))?.into_inner();
        let written = token(&answer, &file.select).and_then(|(token, expires_at)| {
            replace(&file.path, token.as_bytes(), file.mode)
                .map_err(|error| chain(&error).to_string())?;
            Ok(expires_at)
        });
        let state = if written.is_ok() { Written::Done } else { Written::Failed };
        self.state.jwt(&file.path, state);
        written.map_err(|error| (Code::Internal, error))
    }
}

fn first<T>(message: Option<T>) -> Result<T, Status> {
    message.ok_or_else(|| Status::unavailable("the stream ended unanswered"))
}

fn describe(status: &Status) -> String {
    match signet_api::connect::connection_failure(status) {
        Some(error) => format!("connecting: {error}"),
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}

/// Writes the files of X.509-SVIDs, and tells programs of it.
struct Writer<'a> {
    follower: &'a Follower,
    program: Option<Program>,
    /// What each directory holds.
    written: HashMap<PathBuf, [u8; 32]>,
}

impl<'a> Writer<'a> {
    fn new(follower: &'a Follower) -> Self {
        let config = &follower.config;
        let program = config.command.clone().filter(|_| config.daemon_mode);
        let program = program.map(|command| Program::new(command, config.renew_signal));
        Self { follower, program, written: HashMap::new() }
    }

    async fn update(&mut self, message: X509svidResponse) {
        match self.write(message) {
            Ok(false) => tracing::debug!("The update changes no file"),
            Ok(true) => {
                tracing::info!("X.509-SVIDs updated");
                self.tell().await;
            }
            Err(error) => tracing::error!(error, "X.509-SVIDs not written"),
        }
    }

    /// Writes what has changed; whether there was something.
    fn write(&mut self, message: X509svidResponse) -> Result<bool, String> {
        let follower = self.follower;
        let (made, mut errors) = match X509Context::from_message(message) {
            Ok(context) => files(&context, &follower.config.outputs, follower.clock.unix()),
            Err(error) => (Files::new(), vec![error]),
        };
        let mut changed = false;
        for (dir, files) in made {
            match self.place(&dir, &files) {
                Ok(new) => changed |= new,
                Err(error) => errors.push(error),
            }
        }
        let state = if errors.is_empty() { Written::Done } else { Written::Failed };
        follower.state.x509(state);
        match errors.is_empty() {
            true => Ok(changed),
            // What was written nevertheless is told.
            false if changed => {
                tracing::error!(error = errors.join("; "), "Some X.509-SVIDs not written");
                Ok(true)
            }
            false => Err(errors.join("; ")),
        }
    }

    fn place(&mut self, dir: &Path, files: &[File]) -> Result<bool, String> {
        let new = fingerprint(dir, files);
        if self.written.get(dir) == Some(&new) {
            return Ok(false);
        }
        place(dir, files).map_err(|error| chain(&error).to_string())?;
        self.written.insert(dir.to_owned(), new);
        Ok(true)
    }

    async fn tell(&mut self) {
        if let Some(program) = &mut self.program
            && let Err(error) = program.renewed()
        {
            tracing::error!(error, "The program was not told");
        }
        let config = &self.follower.config;
        let (Some(path), Some(signal)) = (&config.pid_file, config.renew_signal) else { return };
        let mut pause = PID_PAUSE;
        for left in (0..PID_TRIES).rev() {
            match signal_pid_file(path, signal) {
                Ok(()) => return,
                Err(error) if left == 0 => tracing::error!(error, "The process was not told"),
                Err(error) => {
                    tracing::debug!(error, "Trying the pid file again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
            }
        }
    }
}
