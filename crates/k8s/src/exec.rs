//! Credentials that a program makes: `exec` users of kubeconfig files, as managed clusters hand
//! them out (`client.authentication.k8s.io`, "client-go credential plugins").

use std::{fmt, path::Path, process::Stdio, time::Duration};

use serde::Deserialize;
use serde_json::json;
use signet_base::SharedClock;
use signet_time::UnixTime;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{io::AsyncReadExt, process::Command, sync::Mutex};
use zeroize::Zeroizing;

use super::error::ConfigError;

/// How long the program may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// The most that is read of what it prints, bytes.
const MAX_OUTPUT: u64 = 1024 * 1024;
/// The most that is shown of what it complains about, bytes.
const MAX_COMPLAINT: u64 = 500;
/// How long before it expires a token is replaced.
const EARLY: Duration = Duration::from_secs(30);
/// The versions of the exchange that are understood.
const VERSIONS: [&str; 2] =
    ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"];

/// What a kubeconfig file says of the program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ExecSpec {
    api_version: String,
    command: String,
    #[serde(deserialize_with = "super::objects::null_as_default")]
    args: Vec<String>,
    #[serde(deserialize_with = "super::objects::null_as_default")]
    env: Vec<Variable>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Variable {
    name: String,
    value: String,
}

/// A program that prints tokens, and the token it printed last.
pub(super) struct ExecCredentials {
    spec: ExecSpec,
    clock: SharedClock,
    last: Mutex<Option<Token>>,
}

struct Token {
    text: Zeroizing<String>,
    /// Unix seconds; without it the token counts until it is refused.
    expires_at: Option<UnixTime>,
}

#[derive(Deserialize)]
struct Printed {
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    token: Option<String>,
    expiration_timestamp: Option<String>,
}

impl ExecSpec {
    /// Refuses what is not understood; a command with a slash is looked for from `dir`.
    pub(super) fn resolve(mut self, dir: &Path) -> Result<Self, ConfigError> {
        let invalid = |why: &str| Err(ConfigError::Invalid(format!("exec: {why}")));
        if self.command.is_empty() {
            return invalid("command is not set");
        }
        if !VERSIONS.contains(&self.api_version.as_str()) {
            return invalid(&format!(
                "apiVersion {:?} is not supported, only {}",
                self.api_version,
                VERSIONS.join(" and ")
            ));
        }
        if self.command.contains('/') {
            self.command = dir.join(&self.command).to_string_lossy().into_owned();
        }
        Ok(self)
    }
}

impl ExecCredentials {
    pub(super) fn new(spec: ExecSpec, clock: SharedClock) -> Self {
        Self { spec, clock, last: Mutex::default() }
    }

    /// Whether both run the same program in the same way.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.spec == other.spec
    }

    /// The token is not accepted any more.
    pub(super) async fn forget(&self) {
        *self.last.lock().await = None;
    }

    /// The token to use now; the program is run when there is none that is still good.
    pub(super) async fn token(&self) -> Result<Zeroizing<String>, ConfigError> {
        let mut last = self.last.lock().await;
        let soon = self.clock.unix() + EARLY.as_secs().cast_signed();
        if let Some(token) = &*last
            && token.expires_at.is_none_or(|at| at > soon)
        {
            return Ok(token.text.clone());
        }
        let token = tokio::time::timeout(DEADLINE, self.run()).await.map_err(|_| {
            self.failed(format!("it printed no credentials within {} s", DEADLINE.as_secs()))
        })??;
        let text = token.text.clone();
        *last = Some(token);
        Ok(text)
    }

    async fn run(&self) -> Result<Token, ConfigError> {
        let info = json!({
            "apiVersion": self.spec.api_version,
            "kind": "ExecCredential",
            "spec": { "interactive": false },
        });
        let mut child = Command::new(&self.spec.command)
            .args(&self.spec.args)
            .envs(self.spec.env.iter().map(|one| (&one.name, &one.value)))
            .env("KUBERNETES_EXEC_INFO", info.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| self.failed(error.to_string()))?;
        let mut printed = Zeroizing::new(Vec::new());
        let mut complaint = Vec::new();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let reading = async {
            if let Some(out) = out {
                out.take(MAX_OUTPUT).read_to_end(&mut printed).await?;
            }
            std::io::Result::Ok(())
        };
        let complaining = async {
            if let Some(mut err) = err {
                (&mut err).take(MAX_COMPLAINT).read_to_end(&mut complaint).await?;
                // Read to its end, so that nobody waits for room.
                tokio::io::copy(&mut err, &mut tokio::io::sink()).await?;
            }
            std::io::Result::Ok(())
        };
        let (read, complained, ended) = tokio::join!(reading, complaining, child.wait());
        let ended =
            read.and(complained).and(ended).map_err(|error| self.failed(error.to_string()))?;
        if !ended.success() {
            let complaint = String::from_utf8_lossy(&complaint);
            return Err(self.failed(format!("{ended}: {}", complaint.trim())));
        }
        // What it printed holds a secret: only where it is wrong is said, not what stands there.
        let Printed { status } = serde_json::from_slice(&printed).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            self.failed(format!("it prints no ExecCredential (line {line}, column {column})"))
        })?;
        let Some(token) = status.token.filter(|token| !token.is_empty()) else {
            let why = "it prints no token; client certificates from a program are not supported";
            return Err(self.failed(why.to_owned()));
        };
        let expires_at = match status.expiration_timestamp {
            None => None,
            Some(text) => {
                let at = OffsetDateTime::parse(&text, &Rfc3339);
                let wrong = |_| self.failed(format!("expirationTimestamp {text:?} is no time"));
                Some(at.map_err(wrong)?.into())
            }
        };
        Ok(Token { text: Zeroizing::new(token), expires_at })
    }

    fn failed(&self, why: String) -> ConfigError {
        ConfigError::Invalid(format!("exec {:?}: {why}", self.spec.command))
    }
}

impl fmt::Debug for ExecCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExecCredentials({:?}, ..)", self.spec.command)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use signet_base::SystemClock;

    use super::*;

    fn shell(script: &str) -> ExecCredentials {
        let spec = ExecSpec {
            api_version: VERSIONS[0].to_owned(),
            command: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: vec![Variable { name: "WHAT".to_owned(), value: "ab".to_owned() }],
        };
        ExecCredentials::new(spec.resolve(Path::new("/")).unwrap(), Arc::new(SystemClock))
    }

    #[tokio::test]
    async fn a_program_is_run_again_only_when_its_token_is_not_good_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count");
        let printing = |rest: &str| {
            format!(
                "echo x >> {0}; echo \"{{\\\"status\\\":{{\\\"token\\\":\\\"$WHAT-$(wc -l < {0})\\\"{rest}}}}}\"",
                count.display()
            )
        };
        let lasting = shell(&printing(""));
        for _ in 0..3 {
            assert_eq!(*lasting.token().await.unwrap(), "ab-1");
        }
        lasting.forget().await;
        assert_eq!(*lasting.token().await.unwrap(), "ab-2");
        let expired = shell(&printing(r#",\"expirationTimestamp\":\"2020-01-01T00:00:00Z\""#));
        assert_eq!(*expired.token().await.unwrap(), "ab-3");
        assert_eq!(*expired.token().await.unwrap(), "ab-4");
    }

    #[tokio::test]
    async fn a_program_that_prints_nothing_usable_is_named_with_the_reason_and_without_its_secret()
    {
        for (script, why) in [
            ("echo no such profile >&2; exit 3", "no such profile"),
            ("echo '{\"status\": \"s3cret\"}'", "prints no ExecCredential (line 1"),
            ("echo '{\"status\":{\"clientCertificateData\":\"x\"}}'", "prints no token"),
            ("true", "prints no ExecCredential"),
            (
                "echo '{\"status\":{\"token\":\"t\",\"expirationTimestamp\":\"soon\"}}'",
                "\"soon\" is no time",
            ),
        ] {
            let error = shell(script).token().await.unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("/bin/sh"), "{why}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
