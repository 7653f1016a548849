//! What every command works with: its streams, its connection, its errors.

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use prost::{Message, Name};
use serde::de::DeserializeOwned;
use signet_api::{connect, json};
use signet_base::files::read_regular;
use signet_daemon::{
    cli::{EXIT_FAILED, EXIT_USAGE, Output, socket_path},
    go_json,
    program::Program,
};
use tonic::{Code, Status, transport::Channel};

/// The variable with the socket path's template, in which `-instance` replaces `%i`.
const TEMPLATE_VARIABLE: &str = "SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE";
/// The variable with the socket path.
const SOCKET_VARIABLE: &str = "SPIRE_SERVER_PRIVATE_SOCKET";
/// The longest answer that a list command takes, bytes: some lists are not paged, and a person
/// waits for them.
pub const MAX_ANSWER: usize = 256 * 1024 * 1024;
/// The most that is read from a file or standard input, bytes.
const MAX_INPUT: u64 = 64 * 1024 * 1024;

/// The surroundings of a command.
pub struct Env {
    /// Under which name the program was started.
    pub program: Program,
    /// Standard output.
    pub out: Box<dyn Write + Send>,
    /// Standard error.
    pub err: Box<dyn Write + Send>,
    /// Standard input.
    pub input: Box<dyn Read + Send>,
    /// Reads environment variables.
    pub variable: fn(&str) -> Option<String>,
}

/// Which socket to talk to.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SocketFlags {
    /// Socket of the server's local API [default: /run/signet-server/private/api.sock, or SPIRE's
    /// path when invoked as spire-server]
    #[arg(long = "socketPath", value_name = "PATH", help_heading = "Connection")]
    pub socket_path: Option<PathBuf>,
    /// Put this name for %i into the socket path of $SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE
    #[arg(long = "instance", value_name = "NAME", help_heading = "Connection")]
    pub instance: Option<String>,
}

/// The flags of every command that talks to the server.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CommonFlags {
    /// Which socket.
    #[command(flatten)]
    pub socket: SocketFlags,
    /// Form of the output
    #[arg(long = "output", value_name = "FORM", value_enum, default_value = "pretty")]
    pub output: Output,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The server refused, or the call failed.
    #[error("{}{}", prefix(.what), described(.status))]
    Call {
        /// What was being done; may be empty.
        what: String,
        /// What the server said.
        status: Box<Status>,
    },
    /// The server cannot be reached.
    #[error("{0}")]
    Connect(String),
    /// Something else went wrong.
    #[error("{0}")]
    Failed(String),
    /// Nothing can be printed any more.
    #[error("printing the result: {0}")]
    Print(#[from] io::Error),
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
}

impl CliError {
    /// A failure in plain words.
    pub fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }

    /// A wrong command line.
    pub fn usage(why: impl Into<String>) -> Self {
        Self::Usage(why.into())
    }

    /// Names what was being done when a call failed.
    pub fn call(what: impl Into<String>) -> impl FnOnce(Status) -> Self {
        let what = what.into();
        move |status| Self::Call { what, status: Box::new(status) }
    }

    /// The exit code that the program ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            _ => EXIT_FAILED,
        }
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::Call { what: String::new(), status: Box::new(status) }
    }
}

impl Env {
    /// The real streams of the process.
    pub fn process(program: Program) -> Self {
        Self {
            program,
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            input: Box::new(io::stdin()),
            variable: |name| std::env::var(name).ok(),
        }
    }

    /// Connects to the server.
    ///
    /// # Errors
    /// [`CliError`] that names the socket.
    pub async fn connect(&self, flags: &SocketFlags) -> Result<Channel, CliError> {
        let path = socket_path(
            flags.socket_path.as_deref(),
            flags.instance.as_deref(),
            TEMPLATE_VARIABLE,
            SOCKET_VARIABLE,
            self.program.server_socket(),
            self.variable,
        )
        .map_err(CliError::Usage)?;
        connect::unix(&path).await.map_err(|error| {
            let why = signet_base::chain(&error);
            CliError::Connect(format!(
                "{why}; is the server running? Another socket is named with -socketPath"
            ))
        })
    }

    /// Prints a line of text.
    ///
    /// # Errors
    /// [`CliError::Print`].
    pub fn line(&mut self, text: impl std::fmt::Display) -> Result<(), CliError> {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Prints a line of complaint.
    ///
    /// # Errors
    /// [`CliError::Print`].
    pub fn complain(&mut self, text: impl std::fmt::Display) -> Result<(), CliError> {
        Ok(writeln!(self.err, "{text}")?)
    }

    /// Prints a message as one line of JSON.
    ///
    /// # Errors
    /// [`CliError::Print`].
    pub fn json<M: Message + Name>(&mut self, message: &M) -> Result<(), CliError> {
        self.json_value(&json::to_value(message))
    }

    /// Prints a value as one line of JSON.
    ///
    /// # Errors
    /// [`CliError::Print`].
    pub fn json_value(&mut self, value: &serde_json::Value) -> Result<(), CliError> {
        self.line(json::to_line(value))
    }

    /// Reads the file `path`, or standard input for `-`.
    ///
    /// # Errors
    /// [`CliError::Failed`] that names the file.
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>, CliError> {
        let failed = |error: io::Error| CliError::failed(format!("open {path}: {error}"));
        let mut data = Vec::new();
        let too_large = || CliError::failed(format!("{path} is larger than 64 MiB"));
        if path != "-" {
            return read_regular(Path::new(path), MAX_INPUT).map_err(|error| match error.kind() {
                io::ErrorKind::FileTooLarge => too_large(),
                _ => failed(error),
            });
        }
        let mut limited = (&mut self.input).take(MAX_INPUT + 1);
        limited.read_to_end(&mut data).map_err(failed)?;
        if data.len() as u64 > MAX_INPUT { Err(too_large()) } else { Ok(data) }
    }

    /// Reads the JSON of a file as SPIRE's command line does, and warns of names in it that mean
    /// nothing.
    ///
    /// # Errors
    /// [`CliError::Usage`] that names the file, the line and what is wrong.
    pub fn parse_json<T: DeserializeOwned>(
        &mut self,
        json: &[u8],
        file: &str,
    ) -> Result<T, CliError> {
        let (value, unknown) = go_json::from_slice(json)
            .map_err(|error| CliError::usage(format!("{file}: {error}")))?;
        for name in unknown {
            self.complain(format_args!("warning: {file}: \"{name}\" is unknown and ignored"))?;
        }
        Ok(value)
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("program", &self.program).finish_non_exhaustive()
    }
}

/// The name of a status code, as in SPIRE's output.
pub fn code_name(code: Code) -> String {
    if code == Code::Ok { "OK".to_owned() } else { format!("{code:?}") }
}

fn prefix(what: &str) -> String {
    if what.is_empty() { String::new() } else { format!("{what}: ") }
}

fn described(status: &Status) -> String {
    match connect::connection_failure(status) {
        Some(cause) => format!("the connection to the server broke: {cause}"),
        // What tonic and grpc-go answer where nothing is registered under the name.
        None if status.code() == Code::Unimplemented
            && (status.message().is_empty() || status.message().starts_with("unknown service")) =>
        {
            "the program that listens there does not have this call: is -socketPath the server's \
             socket, and not the agent's? (Unimplemented)"
                .to_owned()
        }
        None => format!("{} ({})", status.message(), code_name(status.code())),
    }
}
