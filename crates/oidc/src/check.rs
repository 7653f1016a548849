//! `signet-oidc check`: whether a relying party would take the tokens of an issuer.
//!
//! The documents are fetched as the relying party would, and each of its rules is a line. The limits
//! are those that the providers publish; a rule that is not met by a wide margin of the documentation
//! is a note, not a failure.

mod policy;
mod rules;

use std::{
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use signet_base::{Clock as _, SystemClock, chain, files::read_regular};
use signet_daemon::cli::{EXIT_FAILED, EXIT_USAGE, Output};
use signet_http::{HttpClient, Trust};
use signet_time::UnixTime;

pub use self::rules::{Finding, Verdict};

/// How long one document may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// The largest document, bytes.
const MAX_DOCUMENT: usize = 1024 * 1024;
/// The longest token, bytes.
const MAX_TOKEN: u64 = 64 * 1024;

/// Who would verify the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// AWS: an IAM OIDC provider, and AssumeRoleWithWebIdentity
    Aws,
    /// Microsoft Entra: a federated identity credential
    Entra,
    /// GCP: workload identity federation
    Gcp,
    /// OpenBao or Vault: the JWT auth method
    #[value(alias = "vault")]
    Openbao,
}

/// The flags of `check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example: signet-oidc check -for aws https://oidc.example.org sts.amazonaws.com token.jwt")]
pub struct CheckFlags {
    /// Who is to take the tokens
    #[arg(long = "for", value_name = "WHO", value_enum)]
    target: Target,
    /// PEM file with the certificate authorities that the relying party trusts, in place of the
    /// machine's
    #[arg(long = "caCert", value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Form of the output
    #[arg(long = "output", value_name = "FORM", value_enum, default_value = "pretty")]
    output: Output,
    /// The issuer, as the tokens have it
    #[arg(value_name = "ISSUER")]
    issuer: String,
    /// The audience that is asked for
    #[arg(value_name = "AUDIENCE")]
    audience: String,
    /// A file with a JWT-SVID, or - for standard input, to check it as well
    #[arg(value_name = "SVID")]
    svid: Option<PathBuf>,
}

/// What is known of an issuer.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What tokens have as `iss`.
    pub issuer: String,
    /// What they are to have as `aud`.
    pub audience: String,
    /// The provider configuration.
    pub configuration: Result<Fetched, String>,
    /// The keys.
    pub keys: Result<Fetched, String>,
    /// A token.
    pub token: Option<Token>,
    /// Now, Unix seconds.
    pub now: UnixTime,
}

/// A document as it was fetched.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Where.
    pub url: String,
    /// Its `Content-Type`.
    pub content_type: String,
    /// Its bytes.
    pub text: Vec<u8>,
    /// Its members.
    pub members: Map<String, Value>,
    /// How long it took.
    pub took: Duration,
}

/// A token, read and not verified.
#[derive(Clone, Debug)]
pub struct Token {
    /// As it was given.
    pub text: String,
    /// Its header.
    pub header: Map<String, Value>,
    /// Its claims.
    pub claims: Map<String, Value>,
}

/// Runs the command; `name` is what the program was called by.
pub fn main(name: &'static str, flags: &CheckFlags) -> ExitCode {
    let usage = |why: String| {
        eprintln!("{name}: {why}");
        ExitCode::from(EXIT_USAGE)
    };
    let token = match flags.svid.as_deref().map(read_token).transpose() {
        Ok(token) => token,
        Err(why) => return usage(why),
    };
    let client = match client(flags) {
        Ok(client) => client,
        Err(why) => return usage(why),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let facts = match runtime {
        Ok(runtime) => runtime.block_on(gather(flags, &client, token)),
        Err(error) => {
            eprintln!("{name}: starting: {error}");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let findings = rules::apply(flags.target, &facts);
    let policy = policy::text(flags.target, &facts);
    let text = match flags.output {
        Output::Json => json(&findings, &policy),
        Output::Pretty => pretty(&findings, &policy),
    };
    if io::stdout().lock().write_all(text.as_bytes()).is_err() {
        return ExitCode::from(EXIT_FAILED);
    }
    match findings.iter().any(|finding| finding.verdict == Verdict::Bad) {
        true => ExitCode::from(EXIT_FAILED),
        false => ExitCode::SUCCESS,
    }
}

fn client(flags: &CheckFlags) -> Result<HttpClient, String> {
    let trust = match &flags.ca_cert {
        None => Trust::System,
        Some(path) => Trust::file(path).map_err(|error| error.to_string())?,
    };
    let builder = HttpClient::builder().trust(trust).timeout(DEADLINE).max_body(MAX_DOCUMENT);
    builder.build().map_err(|error| chain(&error).to_string())
}

async fn gather(flags: &CheckFlags, client: &HttpClient, token: Option<Token>) -> Facts {
    let base = flags.issuer.trim_end_matches('/');
    let configuration = fetch(client, &format!("{base}/.well-known/openid-configuration")).await;
    let uri = configuration.as_ref().ok().and_then(|found| found.members.get("jwks_uri"));
    let keys = match uri.and_then(Value::as_str) {
        Some(uri) => fetch(client, uri).await,
        None if configuration.is_err() => Err("nobody says where they are".to_owned()),
        None => Err("the provider configuration names no jwks_uri".to_owned()),
    };
    Facts {
        issuer: flags.issuer.clone(),
        audience: flags.audience.clone(),
        configuration,
        keys,
        token,
        now: SystemClock.unix(),
    }
}

async fn fetch(client: &HttpClient, url: &str) -> Result<Fetched, String> {
    let begun = Instant::now();
    let answer = client.get(url).await.map_err(|error| chain(&error).to_string())?;
    let content_type = answer.headers().get("content-type");
    let content_type = content_type.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let content_type = content_type.to_owned();
    let text = signet_http::expect_success(answer, url).map_err(|e| chain(&e).to_string())?;
    let members = serde_json::from_slice(&text).map_err(|e| format!("{url} is no JSON: {e}"))?;
    let took = begun.elapsed();
    Ok(Fetched { url: url.to_owned(), content_type, text: text.to_vec(), members, took })
}

fn read_token(path: &Path) -> Result<Token, String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        let read = io::stdin().lock().take(MAX_TOKEN).read_to_end(&mut bytes);
        read.map_err(|error| format!("standard input: {error}"))?;
    } else {
        bytes = read_regular(path, MAX_TOKEN).map_err(|error| format!("{shown}: {error}"))?;
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown}: not text"))?;
    Token::read(text.trim()).ok_or_else(|| format!("{shown}: not a JWT"))
}

impl Token {
    /// Takes a compact serialisation apart.
    pub fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut part = || serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts.next()?).ok()?).ok();
        let (header, claims) = (part()?, part()?);
        Some(Self { text: text.to_owned(), header, claims })
    }

    /// A text of the claims.
    pub fn claim(&self, name: &str) -> Option<&str> {
        self.claims.get(name).and_then(Value::as_str)
    }

    /// A time of the claims, Unix seconds.
    pub fn time(&self, name: &str) -> Option<UnixTime> {
        let value = self.claims.get(name)?;
        value
            .as_i64()
            .or_else(|| value.as_f64().map(|seconds| seconds as i64))
            .map(UnixTime::from_seconds)
    }

    /// The audience, as a list.
    pub fn audience(&self) -> Vec<&str> {
        match self.claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }
}

fn pretty(findings: &[Finding], policy: &str) -> String {
    let mut text = String::new();
    for Finding { verdict, rule, detail } in findings {
        let verdict = match verdict {
            Verdict::Good => "ok  ",
            Verdict::Doubt => "note",
            Verdict::Bad => "FAIL",
        };
        text.push_str(&format!("{verdict}  {rule}: {detail}\n"));
    }
    format!("{text}\n{policy}")
}

fn json(findings: &[Finding], policy: &str) -> String {
    let findings = findings.iter().map(|Finding { verdict, rule, detail }| {
        let verdict = match verdict {
            Verdict::Good => "ok",
            Verdict::Doubt => "note",
            Verdict::Bad => "fail",
        };
        serde_json::json!({ "verdict": verdict, "rule": rule, "detail": detail })
    });
    let findings: Vec<_> = findings.collect();
    format!("{}\n", serde_json::json!({ "findings": findings, "policy": policy }))
}
