//! `doctor` and `support-bundle`.

use std::{path::PathBuf, sync::Arc};

use serde_json::json;
use signet_api::{
    connect,
    pb::spire::agent::debug::v1::{GetInfoRequest, GetInfoResponse, debug_client::DebugClient},
};
use signet_attest::workload::k8s::kubelet::{KubeletAuth, KubeletConfig};
use signet_base::{SharedClock, SystemClock};
use signet_config as config;
use signet_daemon::{
    cli::Output,
    doctor::{self, Access, Finding, Report},
    support,
};
use signet_http::Proxies;
use signet_pki::{
    text_file,
    tls::StaticBundles,
    x509::{TrustBundle, parse_chain},
};
use signet_time::UnixTime;

use super::{CliError, Terminal, environment};
use crate::{
    bootstrap::{BundleQuery, fetch_bundle},
    client::{ClientError, ServerClient, Target, tls_config},
    config::{Bootstrap, Config, RunFlags, ServerSet, SvidCache},
    plugins::{key_manager::KeyManager, workload_attestor::WorkloadAttestor},
    state::AgentState,
};

/// What to do when the agent's own SVID is of no use.
const ATTEST: &str = "the agent attests anew by itself if its attestor allows it; with a join token \
                      it needs a new one (`signet-server token generate`)";

/// Flags of `doctor`: those of `run`, and the form of the output.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorFlags {
    #[command(flatten)]
    run: RunFlags,
    /// Form of the output
    #[arg(long = "output", value_name = "FORM", default_value = "pretty")]
    output: Output,
}

/// Flags of `support-bundle`: those of `run`, and the file.
#[derive(Debug, clap::Args)]
pub(super) struct SupportFlags {
    #[command(flatten)]
    run: RunFlags,
    /// File to write; must not exist
    #[arg(long = "write", value_name = "FILE")]
    write: PathBuf,
}

/// Checks what commonly goes wrong, from where the agent runs.
pub(super) async fn doctor(
    flags: &DoctorFlags,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let config = load(&flags.run, terminal)?;
    let (report, _) = examine(&config).await;
    match flags.output {
        Output::Json => writeln!(terminal.out, "{}", json!(report))?,
        Output::Pretty => report.print(terminal.out)?,
    }
    match report.has_failed() {
        true => Err(CliError::Failed("something does not work; see what failed".to_owned())),
        false => Ok(()),
    }
}

/// Writes what somebody else needs to help.
pub(super) async fn support_bundle(
    flags: &SupportFlags,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let config = load(&flags.run, terminal)?;
    let (report, info) = examine(&config).await;
    let expand = flags.run.common.expand_env;
    let lookup: &dyn Fn(&str) -> Option<String> = &environment;
    // With variables in place of what they stand for: these may be secrets.
    let document = config::read(&flags.run.config, None)
        .map(|document| support::configuration(&document))
        .unwrap_or_else(|error| json!(error.to_string()));
    let variables = expand.then(|| lookup("HTTPS_PROXY").is_some());
    let info = info.map(|info| {
        json!({
            "uptime_s": info.uptime,
            "last_sync_success": info.last_sync_success,
            "x509_svids": info.cached_x509_svids_count,
            "jwt_svids": info.cached_jwt_svids_count,
            "own_chain_expires": info.svid_chain.iter().map(|c| c.expires_at).collect::<Vec<_>>(),
        })
    });
    let bundle = json!({
        "program": "signet-agent",
        "version": env!("CARGO_PKG_VERSION"),
        "written_at": SystemClock::shared().unix(),
        "machine": support::machine(),
        "configuration": document,
        "warnings": config.warnings,
        "uses_a_proxy": variables,
        "doctor": report,
        "agent": info,
        "log": config.log.file.as_deref().map(support::log_tail),
    });
    let path = flags.write.display();
    support::write(&flags.write, &bundle)
        .map_err(|error| CliError::Failed(format!("{path}: {error}")))?;
    Ok(writeln!(
        terminal.out,
        "Wrote {path}. It holds names, addresses and SPIFFE IDs, and no keys, tokens or passwords; \
         read it before you pass it on."
    )?)
}

fn load(flags: &RunFlags, terminal: &Terminal<'_>) -> Result<Config, CliError> {
    Config::load(terminal.program, flags, &environment).map_err(|error| {
        CliError::Usage(format!("{error}\n(`validate` checks the configuration alone)"))
    })
}

/// All checks, and what a running agent says of itself.
async fn examine(config: &Config) -> (Report, Option<GetInfoResponse>) {
    let clock = SystemClock::shared();
    let mut report = Report::default();
    report.add(doctor::clock(clock.unix()));
    report.add(doctor::descriptors());
    for set in &config.servers {
        files(config, set, &clock, &mut report);
    }
    let info = sockets(config, &clock, &mut report).await;
    for set in &config.servers {
        server(config, set, &clock, &mut report).await;
    }
    workloads(config, &mut report);
    if let Some(settings) = &config.telemetry.prometheus
        && info.is_some()
    {
        let next = "see the agent's log for why the endpoint was not bound";
        report.add(doctor::port("metrics", &settings.host, settings.port, next));
    }
    (report, info)
}

/// The data directory of a server set and what is in it.
fn files(config: &Config, set: &ServerSet, clock: &SharedClock, report: &mut Report) {
    let dir = &set.data_dir;
    report.add(doctor::directory("data_dir", dir, Access::Write));
    if dir.is_dir() {
        report.add(doctor::disk_space("disk", dir));
    }
    if let KeyManager::Disk { directory } = &set.key_manager {
        let keys = directory.join("keys.json");
        if keys.exists() {
            report.add(doctor::secret_file("keys", &keys));
        }
    }
    if let SvidCache::Sealed { key_file } = &set.svid_cache
        && key_file.exists()
    {
        report.add(doctor::secret_file("svid_cache_key_file", key_file));
    }
    match AgentState::open(dir) {
        Ok(state) => match state.svid() {
            Some(stored) => report.add(own_svid(&stored.chain, clock.unix())),
            None if set.join_token.is_some() || config.plugins.node_attestor.is_some() => {
                report.add(Finding::ok("agent SVID", "none yet: the agent attests at its start"));
            }
            None => {
                report.add(Finding::failed("agent SVID", "none, and no way to get one", ATTEST))
            }
        },
        Err(error) => report.add(Finding::failed(
            "agent SVID",
            signet_base::chain(&error),
            "move agent-data.json away: the agent attests anew",
        )),
    }
}

fn own_svid(chain: &[Vec<u8>], now: UnixTime) -> Finding {
    let chain = match parse_chain(chain) {
        Ok(chain) => chain,
        Err(error) => return Finding::failed("agent SVID", error.to_string(), ATTEST),
    };
    let Some(leaf) = chain.first() else {
        return Finding::failed("agent SVID", "it has no certificate", ATTEST);
    };
    let id = leaf.spiffe_id().map_or_else(|error| error.to_string(), |id| id.to_string());
    doctor::expiry("agent SVID", &id, (leaf.not_before(), leaf.not_after()), now, ATTEST)
}

/// The sockets, and the agent behind them.
async fn sockets(
    config: &Config,
    clock: &SharedClock,
    report: &mut Report,
) -> Option<GetInfoResponse> {
    let mut runs = false;
    if let Some(path) = &config.socket_path {
        if let Some(dir) = path.parent().filter(|dir| dir.is_dir()) {
            report.add(doctor::directory("socket directory", dir, Access::Read));
        }
        let shown = path.display();
        match connect::unix(path).await {
            Ok(_) => {
                runs = true;
                report.add(Finding::ok("Workload API", format!("{shown} answers")));
            }
            Err(error) => report.add(Finding::failed(
                "Workload API",
                signet_base::chain(&error),
                "start the agent; if it runs, it has nothing to serve yet: its log and the checks \
                 of the server say why",
            )),
        }
    }
    let Some(path) = &config.admin_socket_path else {
        let next = "set admin_socket_path: explain, debug and this program can say more then";
        report.add(Finding::warning("admin socket", "none is configured", next));
        return None;
    };
    let info = async {
        let channel = connect::unix(path).await.map_err(|error| signet_base::chain(&error))?;
        let answer = DebugClient::new(channel).get_info(GetInfoRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
    };
    let info = match tokio::time::timeout(std::time::Duration::from_secs(10), info).await {
        Ok(Ok(info)) => info,
        Ok(Err(_)) if !runs => return None,
        Ok(Err(error)) => {
            let next = "run this as root, or as a user who may use the admin socket";
            report.add(Finding::warning("admin socket", error, next));
            return None;
        }
        Err(_) => {
            report.add(Finding::failed("admin socket", "no answer in 10 s", "see the agent's log"));
            return None;
        }
    };
    let age = clock.unix() - UnixTime::from_seconds(info.last_sync_success);
    let next =
        "the agent's log has \"Synchronize failed\" with the cause; see the checks of the server";
    report.add(match info.last_sync_success {
        0 => Finding::failed("sync", "the agent has never synced", next),
        _ if age > 900 => Finding::failed("sync", format!("the last was {age} s ago"), next),
        _ => Finding::ok("sync", format!("the last was {age} s ago")),
    });
    Some(info)
}

/// Name, connection, TLS and trust, one by one.
async fn server(config: &Config, set: &ServerSet, clock: &SharedClock, report: &mut Report) {
    let (host, port) = (set.server_address.clone(), set.server_port);
    let proxies = match Proxies::from_env() {
        Ok(proxies) => proxies,
        Err(error) => {
            let next = "correct HTTPS_PROXY in the environment of the agent";
            report.add(Finding::failed("proxy", error.to_string(), next));
            return;
        }
    };
    let uses_proxy = std::env::vars_os().any(|(name, _)| name.eq_ignore_ascii_case("https_proxy"));
    if !uses_proxy {
        let next = "is the server up, and do firewalls and network policies let this node through?";
        let (name, found) = (
            host.clone(),
            tokio::task::spawn_blocking(move || doctor::port("server", &host, port, next)),
        );
        let found = found.await.unwrap_or_else(|_| Finding::failed("server", name, next));
        let is_there = found.level == doctor::Level::Ok;
        report.add(found);
        if !is_there {
            return;
        }
    }
    let Some(roots) = bundle(config, set, clock, report).await else { return };
    let trust = match TrustBundle::new(config.trust_domain.clone(), &roots) {
        Ok(trust) => Arc::new(trust),
        Err(error) => {
            let next = "give the agent the server's bundle (`signet-server bundle show`)";
            report.add(Finding::failed("trust bundle", error.to_string(), next));
            return;
        }
    };
    let bundles = Arc::new(StaticBundles(vec![Arc::clone(&trust)]));
    let pq = config.experimental.require_pq_kem;
    let tls = tls_config(&config.trust_domain, Some(bundles as _), None, Arc::clone(clock), pq);
    let target = Target { host: set.server_address.clone(), port, proxies };
    let asked = match tls {
        Ok(tls) => ServerClient::new(target, tls).bundle().await,
        Err(error) => Err(error),
    };
    report.add(match asked {
        Ok(now) => {
            let ours = trust.authorities();
            let all = now.x509_authorities.len();
            let known = now
                .x509_authorities
                .iter()
                .filter(|authority| ours.iter().any(|one| one.der() == &authority.der))
                .count();
            Finding::ok(
                "TLS",
                format!("the server is trusted; {known} of its {all} authorities are known here"),
            )
        }
        Err(error @ ClientError::UnknownAuthority { .. }) => Finding::failed(
            "TLS",
            error.to_string(),
            "the server's authority was replaced, or this is another server: give the agent the \
             new bundle, or set rebootstrap_mode",
        ),
        Err(error) => Finding::failed(
            "TLS",
            error.to_string(),
            "compare clock and trust_domain of both sides; a proxy that opens TLS must not stand \
             between them",
        ),
    });
}

/// The authorities (DER) that the agent knows its server by, or will.
async fn bundle(
    config: &Config,
    set: &ServerSet,
    clock: &SharedClock,
    report: &mut Report,
) -> Option<Vec<Vec<u8>>> {
    let stored = AgentState::open(&set.data_dir).map(|state| state.bundle()).unwrap_or_default();
    if !stored.is_empty() {
        report.add(Finding::ok("trust bundle", format!("{} stored authorities", stored.len())));
        return Some(stored);
    }
    let query = BundleQuery {
        rebootstrap: false,
        attempts: 1,
        since: clock.unix(),
        server_address: set.server_address.clone(),
        server_port: set.server_port,
        trust_domain: config.trust_domain.clone(),
    };
    match fetch_bundle(&set.bootstrap, &query).await {
        Ok(Some(roots)) => {
            report.add(Finding::ok("trust bundle", format!("{} authorities", roots.len())));
            Some(roots)
        }
        Ok(None) => {
            debug_assert_eq!(set.bootstrap, Bootstrap::Insecure);
            let next = "use trust_bundle_path or trust_bundle_url in production";
            let found = "insecure_bootstrap: the first server that answers is believed";
            report.add(Finding::warning("trust bundle", found, next));
            None
        }
        Err(error) => {
            let next = "put the server's bundle there (`signet-server bundle show`); the agent waits \
                        for it";
            report.add(Finding::failed("trust bundle", signet_base::chain(&error), next));
            None
        }
    }
}

/// The kubelet, and what the agent shows it.
fn kubelet(kubelet: &KubeletConfig, report: &mut Report) {
    let (host, port) = kubelet.address();
    let next = "is a kubelet running on this node, and do kubelet_secure_port (or \
                kubelet_read_only_port) and node_name say where?";
    report.add(doctor::port("kubelet", host, port, next));
    let KubeletConfig::Secure { auth: KubeletAuth::Token(token), .. } = kubelet else { return };
    report.add(match text_file::text(token) {
        Ok(_) => Finding::ok("kubelet token", token.display().to_string()),
        Err(error) => Finding::failed(
            "kubelet token",
            error.to_string(),
            "mount a service account token into the agent's pod, or let token_path say where it is",
        ),
    });
}

/// What the workload attestors need.
fn workloads(config: &Config, report: &mut Report) {
    let kinds = config.plugins.workload_attestors.iter().map(|plugin| &plugin.settings);
    let mut needs_host = false;
    for kind in kinds {
        match kind {
            WorkloadAttestor::K8s(k8s) => {
                needs_host = true;
                if let Some(config) = k8s.kubelet() {
                    kubelet(&config, report);
                }
            }
            WorkloadAttestor::Docker(_) => needs_host = true,
            WorkloadAttestor::Slurm | WorkloadAttestor::Systemd | WorkloadAttestor::Unix(_) => {}
        }
    }
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let is_private = own.trim() == "0::/";
    let init = std::fs::read_to_string("/proc/1/comm").unwrap_or_default();
    let sees_host = std::process::id() != 1 && !init.trim().contains("signet-agent");
    report.add(match (needs_host, sees_host, is_private) {
        (true, false, _) => Finding::failed(
            "process view",
            "the agent does not see the processes of the host",
            "give its pod hostPID: true, or its container --pid=host",
        ),
        (true, true, true) => Finding::warning(
            "cgroup view",
            "this process has a cgroup namespace of its own",
            "run this where the agent runs; with hostPID the agent reads the cgroups of others as \
             they are on the host",
        ),
        _ => Finding::ok("process view", format!("process 1 is {}", init.trim())),
    });
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_kubelet_is_looked_for_where_the_configuration_says() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut report = Report::default();
        kubelet(&KubeletConfig::ReadOnly { port }, &mut report);
        let config = KubeletConfig::Secure {
            port,
            node_name: Some("127.0.0.1".to_owned()),
            ca_path: None,
            auth: KubeletAuth::Token("/nonexistent/token".into()),
            reload_interval: std::time::Duration::from_secs(60),
        };
        kubelet(&config, &mut report);
        let found: Vec<_> = report.findings.iter().map(|it| (it.check, it.level)).collect();
        let (ok, failed) = (doctor::Level::Ok, doctor::Level::Failed);
        assert_eq!(found, [("kubelet", ok), ("kubelet", ok), ("kubelet token", failed)]);
    }
}
