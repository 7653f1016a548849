//! `audit`: the log in a chain of hashes, checked and searched. Reads files, and talks to no server.

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};
use signet_audit::{
    chain::{
        Broken, Expected, Head, HeadVerifier, LogError, PUBLIC_KEY_FILE, Recorded, records, verify,
    },
    ocsf,
};
use signet_daemon::cli::Output;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::env::{CliError, Env};

/// How long the line that is being written may take.
const SETTLE: Duration = Duration::from_millis(300);
/// The fields of a record that may hold a SPIFFE ID.
const IDS: [&str; 4] = ["caller_id", "spiffe_id", "agent_id", "parent_id"];

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Write records for another program
    Export(ExportFlags),
    /// Find records
    Query(QueryFlags),
    /// Check that the log is what was written
    Verify(VerifyFlags),
}

/// Which log.
#[derive(Clone, Debug, clap::Args)]
pub struct LogFlags {
    /// Directory of the log: audit { directory } of the server's configuration
    #[arg(long = "directory", value_name = "DIR", required = true)]
    directory: PathBuf,
}

/// Which records.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct FilterFlags {
    /// Only of this kind: attestation, issuance, registration, policy, authority, broker, read, system
    #[arg(long = "kind", value_name = "KIND")]
    kind: Option<String>,
    /// Only with this decision: allow, deny or fail
    #[arg(long = "decision", value_name = "DECISION")]
    decision: Option<String>,
    /// Only with this reason code
    #[arg(long = "reason", value_name = "CODE")]
    reason: Option<String>,
    /// Only of this tenant
    #[arg(long = "tenant", value_name = "TENANT")]
    tenant: Option<String>,
    /// Only with this SPIFFE ID: of the caller, the agent or the identity
    #[arg(long = "id", value_name = "ID")]
    id: Option<String>,
    /// Only of the request with this ID
    #[arg(long = "correlation", value_name = "ID")]
    correlation: Option<String>,
    /// Only from this time on, like 2027-01-31T12:00:00Z
    #[arg(long = "since", value_name = "TIME", value_parser = time)]
    since: Option<OffsetDateTime>,
    /// Only before this time
    #[arg(long = "until", value_name = "TIME", value_parser = time)]
    until: Option<OffsetDateTime>,
}

/// The flags of `audit verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyFlags {
    #[command(flatten)]
    log: LogFlags,
    /// The public key of the log's heads, PEM, from where you keep it [default: the one beside the log]
    #[arg(long = "key", value_name = "FILE")]
    key: Option<PathBuf>,
    /// Heads that were published, a line of JSON each
    #[arg(long = "heads", value_name = "FILE")]
    heads: Option<String>,
    /// Form of the output
    #[arg(long = "output", value_name = "FORM", value_enum, default_value = "pretty")]
    output: Output,
}

/// The flags of `audit query`.
#[derive(Debug, clap::Args)]
pub struct QueryFlags {
    #[command(flatten)]
    log: LogFlags,
    #[command(flatten)]
    filter: FilterFlags,
    /// Show so many at most, the newest ones
    #[arg(long = "limit", value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Form of the output
    #[arg(long = "output", value_name = "FORM", value_enum, default_value = "pretty")]
    output: Output,
}

/// The form of exported records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// As they are, a line of JSON each
    Jsonl,
    /// API Activity of OCSF 1.3, a line of JSON each
    Ocsf,
}

/// The flags of `audit export`.
#[derive(Debug, clap::Args)]
pub struct ExportFlags {
    #[command(flatten)]
    log: LogFlags,
    #[command(flatten)]
    filter: FilterFlags,
    /// Form of the records
    #[arg(long = "format", value_name = "FORMAT", value_enum, default_value = "jsonl")]
    format: Format,
}

/// Runs a command.
///
/// # Errors
/// [`CliError`] when a file cannot be read, the log does not hold together, or the output cannot be
/// written.
pub fn run(command: Command, env: &mut Env) -> Result<(), CliError> {
    match command {
        Command::Export(flags) => export(&flags, env),
        Command::Query(flags) => query(&flags, env),
        Command::Verify(flags) => check(&flags, env),
    }
}

fn check(flags: &VerifyFlags, env: &mut Env) -> Result<(), CliError> {
    let directory = &flags.log.directory;
    let beside = directory.join(PUBLIC_KEY_FILE);
    let key_file = flags.key.as_ref().unwrap_or(&beside);
    let text = std::fs::read_to_string(key_file)
        .map_err(|error| CliError::failed(format!("{}: {error}", key_file.display())))?;
    let key = HeadVerifier::from_pem(&text)
        .map_err(|error| CliError::failed(format!("{}: {error}", key_file.display())))?;
    let fingerprint = key.fingerprint().to_owned();
    let mut published = Vec::new();
    if let Some(file) = &flags.heads {
        let bytes = env.read(file)?;
        for (n, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let head: Head = serde_json::from_slice(line).map_err(|error| {
                CliError::failed(format!("{file}: line {}: no head: {error}", n + 1))
            })?;
            published.push(head);
        }
    }
    let heads = published.len();
    let expected = Expected { key, published };
    let mut report = verify(directory, &expected).map_err(unreadable)?;
    // Of a server that runs, the last line may be being written.
    if matches!(report.broken[..], [Broken::NotARecord { .. }]) {
        std::thread::sleep(SETTLE);
        report = verify(directory, &expected).map_err(unreadable)?;
    }
    let intact = report.broken.is_empty() && report.records > 0;
    if flags.output == Output::Json {
        let broken: Vec<String> = report.broken.iter().map(ToString::to_string).collect();
        env.json_value(&json!({
            "intact": intact, "records": report.records, "first": report.first,
            "last": report.last, "heads": report.heads, "covered": report.covered,
            "lost": report.lost, "broken": broken, "key": fingerprint,
            "published_heads": heads,
        }))?;
    } else {
        env.line(format_args!(
            "{} records, {} to {}; {} signed heads, the last one for record {}",
            report.records, report.first, report.last, report.heads, report.covered
        ))?;
        env.line(format_args!("Signed by the key {fingerprint}"))?;
        if flags.key.is_none() {
            env.complain(
                "Note: the key beside the log was used; name the one that you keep with -key",
            )?;
        }
        if heads == 0 {
            env.complain(
                "Note: no published heads were given (-heads): an end that was cut back to an \
                 older head is not found",
            )?;
        }
        if report.lost > 0 {
            env.complain(format_args!(
                "Note: the log says that {} records could not be written",
                report.lost
            ))?;
        }
        for broken in &report.broken {
            env.complain(broken)?;
        }
        if intact {
            env.line("The log is intact")?;
        }
    }
    match (intact, report.records) {
        (true, _) => Ok(()),
        (false, 0) => Err(CliError::failed("the log is empty")),
        (false, _) => Err(CliError::failed("the log is not what was written")),
    }
}

fn query(flags: &QueryFlags, env: &mut Env) -> Result<(), CliError> {
    let mut found = std::collections::VecDeque::new();
    let limit = flags.limit.max(1);
    records(&flags.log.directory, |record| {
        if flags.filter.accepts(&record) {
            if found.len() == limit {
                found.pop_front();
            }
            found.push_back(record);
        }
        true
    })
    .map_err(unreadable)?;
    if flags.output == Output::Json {
        let all: Vec<Value> = found.into_iter().map(|it| Value::Object(it.json)).collect();
        return env.json_value(&json!({ "records": all }));
    }
    for record in &found {
        env.line(line(record))?;
    }
    match found.is_empty() {
        true => env.line("No records"),
        false => Ok(()),
    }
}

/// A record as a line for people.
fn line(record: &Recorded) -> String {
    let text = |name: &str| record.text(name);
    let what = match text("method") {
        "" => text("message"),
        method => method,
    };
    let who = match (text("caller_id"), record.json.get("caller_uid")) {
        ("", Some(uid)) => format!("uid {uid}"),
        ("", None) => text("caller_addr").to_owned(),
        (id, _) => id.to_owned(),
    };
    let mut out = format!("{} #{} {} {what}", text("time"), record.seq, text("kind"));
    for (name, value) in [
        ("by", who.as_str()),
        ("for", text("spiffe_id")),
        ("tenant", text("tenant")),
        ("", text("decision")),
        ("", text("reason_code")),
        ("", text("reason")),
        ("request", text("correlation_id")),
    ] {
        if value.is_empty() {
            continue;
        }
        out.push(' ');
        if !name.is_empty() {
            out.push_str(name);
            out.push(' ');
        }
        // What others wrote stays on its line.
        out.extend(value.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
    }
    out
}

fn export(flags: &ExportFlags, env: &mut Env) -> Result<(), CliError> {
    let mut printed = Ok(());
    let product = env.program.server_name();
    records(&flags.log.directory, |record| {
        if !flags.filter.accepts(&record) {
            return true;
        }
        let value = match flags.format {
            Format::Jsonl => Value::Object(record.json),
            Format::Ocsf => ocsf::event(&record, product, env!("CARGO_PKG_VERSION")),
        };
        printed = env.line(value);
        printed.is_ok()
    })
    .map_err(unreadable)?;
    printed
}

impl FilterFlags {
    fn accepts(&self, record: &Recorded) -> bool {
        let is = |name: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| record.text(name) == wanted)
        };
        let has_id = |wanted: &String| IDS.iter().any(|name| record.text(name) == wanted.as_str());
        let at = || OffsetDateTime::parse(record.text("time"), &Rfc3339).ok();
        is("kind", &self.kind)
            && is("decision", &self.decision)
            && is("reason_code", &self.reason)
            && is("tenant", &self.tenant)
            && is("correlation_id", &self.correlation)
            && self.id.as_ref().is_none_or(has_id)
            && self.since.is_none_or(|since| at().is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| at().is_some_and(|at| at < until))
    }
}

fn time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "expected a time like 2027-01-31T12:00:00Z".to_owned())
}

fn unreadable(error: LogError) -> CliError {
    CliError::failed(signet_base::chain(&error).to_string())
}
