//! `doctor` and `support-bundle`.

use std::{path::PathBuf, time::Duration};

use serde_json::json;
use signet_api::{
    connect,
    pb::{
        grpc::health::v1::{
            HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
        },
        signet::api::server::localauthority::v1::second_jwt_authority_client::SecondJwtAuthorityClient,
        spire::api::server::{
            agent::v1::{CountAgentsRequest, agent_client::AgentClient},
            debug::v1::{GetInfoRequest, debug_client::DebugClient},
            localauthority::v1::{
                AuthorityState, GetJwtAuthorityStateRequest, GetWitAuthorityStateRequest,
                GetX509AuthorityStateRequest, local_authority_client::LocalAuthorityClient,
            },
        },
    },
};
use signet_base::{SharedClock, SystemClock};
use signet_config as config;
use signet_daemon::{
    cli::Output,
    doctor::{self, Access, Finding, Report},
    support,
};
use signet_time::UnixTime;
use tonic::transport::Channel;

use super::env::{CliError, Env};
use crate::{
    config::{Config, RunFlags},
    plugins::{data_store::DataStore, key_manager::KeyManager},
};

/// The layout of Go that the API takes times in.
const GO_LAYOUT: &[time::format_description::FormatItem<'_>] =
    time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] +0000 +00");
/// How long the server may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(10);
/// An authority with less time left than this should have been replaced, seconds.
const SOON: i64 = 2 * 3600;

/// Flags of `doctor`: those of `run`, and the form of the output.
#[derive(Debug, clap::Args)]
pub struct DoctorFlags {
    #[command(flatten)]
    run: RunFlags,
    /// Form of the output
    #[arg(long = "output", value_name = "FORM", value_enum, default_value = "pretty")]
    output: Output,
}

/// Flags of `support-bundle`: those of `run`, and the file.
#[derive(Debug, clap::Args)]
pub struct SupportFlags {
    #[command(flatten)]
    run: RunFlags,
    /// File to write; must not exist
    #[arg(long = "write", value_name = "FILE")]
    write: PathBuf,
}

/// Checks what commonly goes wrong, from where the server runs.
///
/// # Errors
/// [`CliError`] when something does not work, or the configuration is wrong.
pub async fn doctor(flags: DoctorFlags, env: &mut Env) -> Result<(), CliError> {
    let config = load(&flags.run, env)?;
    let (report, _) = examine(&config).await;
    match flags.output {
        Output::Json => writeln!(env.out, "{}", json!(report))?,
        Output::Pretty => report.print(&mut env.out)?,
    }
    match report.has_failed() {
        true => Err(CliError::failed("something does not work; see what failed")),
        false => Ok(()),
    }
}

/// Writes what somebody else needs to help.
///
/// # Errors
/// [`CliError`] when the file cannot be written, or the configuration is wrong.
pub async fn support_bundle(flags: SupportFlags, env: &mut Env) -> Result<(), CliError> {
    let config = load(&flags.run, env)?;
    let (report, figures) = examine(&config).await;
    // With variables in place of what they stand for: these may be secrets.
    let document = config::read(&flags.run.config, None)
        .map(|document| support::configuration(&document))
        .unwrap_or_else(|error| json!(error.to_string()));
    let bundle = json!({
        "program": "signet-server",
        "version": env!("CARGO_PKG_VERSION"),
        "written_at": SystemClock::shared().unix(),
        "machine": support::machine(),
        "configuration": document,
        "warnings": config.warnings,
        "doctor": report,
        "server": figures,
        "log": config.log.file.as_deref().map(support::log_tail),
    });
    let path = flags.write.display();
    support::write(&flags.write, &bundle)
        .map_err(|error| CliError::failed(format!("{path}: {error}")))?;
    env.line(format!(
        "Wrote {path}. It holds names, addresses and SPIFFE IDs, and no keys, tokens or passwords; \
         read it before you pass it on."
    ))
}

fn load(flags: &RunFlags, env: &Env) -> Result<Config, CliError> {
    Config::load(env.program, flags, &env.variable).map_err(|error| {
        CliError::usage(format!("{error}\n(`validate` checks the configuration alone)"))
    })
}

/// All checks, and what a running server says of itself.
async fn examine(config: &Config) -> (Report, Option<serde_json::Value>) {
    let clock = SystemClock::shared();
    let mut report = Report::default();
    report.add(doctor::clock(clock.unix()));
    report.add(doctor::descriptors());
    files(config, &mut report);
    for problem in config.plugins.check(&config.trust_domain, &clock) {
        let next = "correct the plugin's settings, or the files that they name";
        report.add(Finding::failed("plugins", problem.to_string(), next));
    }
    let shown = config.socket_path.display();
    let channel = match connect::unix(&config.socket_path).await {
        Ok(channel) => channel,
        Err(error) => {
            report.add(Finding::failed(
                "server",
                signet_base::chain(&error),
                format!(
                    "start the server, or run this as a user who may use {shown}; the last line of \
                     its log says why it ended"
                ),
            ));
            return (report, None);
        }
    };
    let asked = tokio::time::timeout(PATIENCE * 3, running(config, &channel, &clock, &mut report));
    let figures = asked.await.unwrap_or_else(|_| {
        report.add(Finding::failed("server", "it does not answer", "see its log"));
        None
    });
    (report, figures)
}

/// What the server keeps on disk.
fn files(config: &Config, report: &mut Report) {
    report.add(doctor::directory("data_dir", &config.data_dir, Access::Write));
    if config.data_dir.is_dir() {
        report.add(doctor::disk_space("disk", &config.data_dir));
    }
    if let KeyManager::Disk(keys) = &config.plugins.key_manager.settings
        && keys.keys_path.exists()
    {
        report.add(doctor::secret_file("keys", &keys.keys_path));
    }
    if let DataStore::Sqlite(sqlite) = &config.plugins.data_store.settings
        && let Some(path) = &sqlite.path
    {
        if path.exists() {
            report.add(doctor::file("database", path, Access::Write));
        } else {
            let found = format!("{} is not there yet", path.display());
            let next = "it is made at the start; if there was one, restore it first";
            report.add(Finding::warning("database", found, next));
        }
        if let Some(dir) = path.parent().filter(|dir| dir.is_dir()) {
            report.add(doctor::directory("database directory", dir, Access::Write));
            report.add(doctor::disk_space("database disk", dir));
        }
    }
}

/// What a running server says of itself.
async fn running(
    config: &Config,
    channel: &Channel,
    clock: &SharedClock,
    report: &mut Report,
) -> Option<serde_json::Value> {
    let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await;
    report.add(match health {
        Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => {
            Finding::ok("server", "it says that it is well")
        }
        Ok(answer) => Finding::failed(
            "server",
            format!("it says {}", answer.get_ref().status().as_str_name()),
            "`GET /ready` of health_checks, and the log, say which part is not well",
        ),
        Err(status) => Finding::failed("server", status.message(), "see its log"),
    });
    let host = match config.bind_address.as_str() {
        "0.0.0.0" | "::" | "" => "127.0.0.1",
        host => host,
    };
    let next = "another program may hold the port, or bind_address is not of this machine";
    report.add(doctor::port("API port", host, config.bind_port, next));
    if let Some(settings) = &config.telemetry.prometheus {
        let next = "see the server's log for why the endpoint was not bound";
        report.add(doctor::port("metrics", &settings.host, settings.port, next));
    }
    authorities(channel, clock, report).await;
    let expired = CountAgentsRequest {
        filter: Some(signet_api::pb::spire::api::server::agent::v1::count_agents_request::Filter {
            by_expires_before: expired_before(clock.unix()),
            ..Default::default()
        }),
    };
    let mut agents = AgentClient::new(channel.clone());
    let all = agents.count_agents(CountAgentsRequest::default()).await.ok()?.into_inner().count;
    match agents.count_agents(expired).await.map(|answer| answer.into_inner().count) {
        Ok(0) => report.add(Finding::ok("agents", format!("{all}, none of them expired"))),
        Ok(expired) => report.add(Finding::warning(
            "agents",
            format!("{expired} of {all} have expired"),
            "`signet-server agent list` shows which; evict those that are gone for good, and run \
             `signet-agent doctor` on the nodes of the others",
        )),
        Err(status) => report.add(Finding::failed("agents", status.message(), "see the log")),
    }
    let info =
        DebugClient::new(channel.clone()).get_info(GetInfoRequest {}).await.ok()?.into_inner();
    Some(json!({
        "uptime_s": info.uptime,
        "agents": info.agents_count,
        "entries": info.entries_count,
        "federated_bundles": info.federated_bundles_count,
        "own_chain_expires": info.svid_chain.iter().map(|c| c.expires_at).collect::<Vec<_>>(),
    }))
}

fn expired_before(now: UnixTime) -> String {
    time::OffsetDateTime::from_unix_timestamp(now.seconds())
        .ok()
        .and_then(|at| at.format(GO_LAYOUT).ok())
        .unwrap_or_default()
}

async fn authorities(channel: &Channel, clock: &SharedClock, report: &mut Report) {
    let mut client = LocalAuthorityClient::new(channel.clone());
    let until = |active: Option<AuthorityState>| {
        active.map(|active| UnixTime::from_seconds(active.expires_at))
    };
    let x509 = client.get_x509_authority_state(GetX509AuthorityStateRequest {}).await;
    let x509 = x509.map(|answer| until(answer.into_inner().active));
    report.add(authority("X.509 authority", x509, clock.unix()));
    let jwt = client.get_jwt_authority_state(GetJwtAuthorityStateRequest {}).await;
    let jwt = jwt.map(|answer| until(answer.into_inner().active));
    let mut seconds = SecondJwtAuthorityClient::new(channel.clone());
    let second = seconds.get_state(GetJwtAuthorityStateRequest {}).await;
    let second = second.map(|answer| until(answer.into_inner().active));
    let wit = client.get_wit_authority_state(GetWitAuthorityStateRequest {}).await;
    let wit = wit.map(|answer| until(answer.into_inner().active));
    let keys = [("JWT authority", jwt), ("second JWT authority", second), ("WIT authority", wit)];
    for (check, state) in keys {
        let is_off =
            state.as_ref().is_err_and(|status| status.code() == tonic::Code::Unimplemented);
        if !is_off {
            report.add(authority(check, state, clock.unix()));
        }
    }
}

fn authority(
    check: &'static str,
    expires_at: Result<Option<UnixTime>, tonic::Status>,
    now: UnixTime,
) -> Finding {
    let next = "the log has \"Unable to rotate authorities\" with the cause; see docs/runbooks.md, \
                SignetAuthorityRotationFailing";
    match expires_at {
        Ok(Some(at)) if at <= now => Finding::failed(check, "it has expired", next),
        Ok(Some(at)) if at - now < SOON => {
            Finding::warning(check, format!("it expires in {} s", at - now), next)
        }
        Ok(Some(at)) => Finding::ok(check, format!("it expires in {} s", at - now)),
        Ok(None) => Finding::failed(check, "none is active", next),
        Err(status) => Finding::failed(check, status.message(), next),
    }
}
