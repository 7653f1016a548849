//! `signet-agent csi`: the CSI driver as a program of its own, with spiffe-csi-driver's flags.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use signet_api::{
    connect,
    pb::csi::v1::{ProbeRequest, identity_client::IdentityClient},
};
use signet_attest::procfs::ProcRoot;
use signet_base::{ShutdownError, SystemClock, Tasks};
use signet_config::{LogFormat, LogLevel, LogSettings, log_format};
use signet_daemon::{
    cli::{EXIT_FAILED, EXIT_USAGE},
    logging, process, signal,
};

use super::settings::{
    CsiSettings, DEFAULT_NODE_ID_ENV, DEFAULT_PLUGIN_NAME, DEFAULT_SOCKET, GivenSettings,
};

/// How long open calls may take to end after the signal to stop.
const GRACE: Duration = Duration::from_secs(10);
/// How long the driver may take to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Flags of `signet-agent csi`.
#[derive(Clone, Debug, clap::Args)]
pub struct CsiRunFlags {
    /// Unix socket for the kubelet and the node-driver-registrar
    #[arg(long = "csi-socket-path", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    csi_socket_path: PathBuf,
    /// Directory of the kubelet: volumes are mounted below it only
    #[arg(long = "kubelet-dir", value_name = "DIR")]
    kubelet_dir: Option<PathBuf>,
    /// Form of log lines: text or json
    #[arg(long = "log-format", value_name = "FORMAT", value_parser = parse_format,
        default_value = "text")]
    log_format: LogFormat,
    /// Least severe level to log: error, warn, info, debug or trace
    #[arg(long = "log-level", value_name = "LEVEL", default_value = "info")]
    log_level: LogLevel,
    /// Name of this node as Kubernetes knows it; otherwise the environment tells it
    #[arg(long = "node-id", value_name = "NAME")]
    node_id: Option<String>,
    /// Environment variable that holds the name of this node
    #[arg(long = "node-id-env", value_name = "VARIABLE", default_value = DEFAULT_NODE_ID_ENV)]
    node_id_env: String,
    /// Name of the driver
    #[arg(long = "plugin-name", value_name = "NAME", default_value = DEFAULT_PLUGIN_NAME)]
    plugin_name: String,
    /// Ask the driver that listens on the socket whether it can serve, and exit
    #[arg(long = "probe")]
    probe: bool,
    /// Directory with the Workload API's socket, which pods are given
    #[arg(long = "workload-api-socket-dir", value_name = "DIR")]
    workload_api_socket_dir: Option<PathBuf>,
}

fn parse_format(text: &str) -> Result<LogFormat, String> {
    log_format(text).ok_or_else(|| "expected text or json".to_owned())
}

/// Runs the driver until it is told to stop, or asks another one how it is.
pub fn run(flags: &CsiRunFlags) -> ExitCode {
    if flags.probe {
        return ended(blocking(probe(flags)));
    }
    match settings(flags, &|name| std::env::var(name).ok()) {
        Ok(settings) => ended(blocking(live(flags, settings))),
        Err(sentences) => {
            for sentence in sentences {
                eprintln!("signet-agent csi: {sentence}");
            }
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// The settings that the flags and the environment tell, or all that is wrong.
fn settings(
    flags: &CsiRunFlags,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<CsiSettings, Vec<String>> {
    let node_id = flags.node_id.clone().filter(|id| !id.is_empty());
    let set = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
    let given = GivenSettings {
        socket_path: Some(flags.csi_socket_path.clone()),
        node_id: node_id.or_else(|| env(&flags.node_id_env)),
        plugin_name: Some(flags.plugin_name.clone()),
        workload_api_socket_dir: set(&flags.workload_api_socket_dir),
        kubelet_dir: set(&flags.kubelet_dir),
    };
    given.check().map_err(|problems| {
        problems
            .into_iter()
            .map(|problem| format!("{}: {}", problem.setting.flag(), problem.sentence))
            .collect()
    })
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("signet-agent csi: {error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn blocking(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .context("starting threads")?;
    let result = runtime.block_on(work);
    // A mount that hangs must not keep the program.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn live(flags: &CsiRunFlags, settings: CsiSettings) -> anyhow::Result<()> {
    let log =
        LogSettings { level: flags.log_level, format: flags.log_format, ..LogSettings::default() };
    logging::init(&log, Arc::clone(&SystemClock::shared()))?;
    process::restrict_umask();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "Starting CSI driver");
    let tasks = Tasks::new();
    signal::end_on_signal(&tasks).context("handling signals")?;
    if let Err(error) = super::serve(&settings, ProcRoot::from_env(), &tasks).await {
        tracing::error!(error = %error, "The CSI driver cannot start");
        return Err(error.into());
    }
    process::notify_ready();
    tasks.token().cancelled().await;
    process::notify_stopping();
    match tasks.shutdown(GRACE).await {
        Ok(()) | Err(ShutdownError::Unfinished(_)) => {
            tracing::info!("CSI driver stopped");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

async fn probe(flags: &CsiRunFlags) -> anyhow::Result<()> {
    let path = &flags.csi_socket_path;
    let ask = async {
        let channel = connect::unix(path).await?;
        let answer = IdentityClient::new(channel).probe(ProbeRequest {}).await?;
        anyhow::Ok(answer.into_inner().ready.unwrap_or(true))
    };
    match tokio::time::timeout(PROBE_TIMEOUT, ask).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => bail!("the directory of the Workload API's socket is not there"),
        Ok(Err(error)) => Err(error.context(format!("asking {}", path.display()))),
        Err(_) => bail!("no answer on {} within {PROBE_TIMEOUT:?}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: CsiRunFlags,
    }

    fn of(line: &str) -> Result<CsiSettings, Vec<String>> {
        let args = line.split(' ').map(std::ffi::OsString::from);
        let cli: Cli = signet_daemon::cli::try_parse("x", args).unwrap();
        settings(&cli.flags, &|name| (name == "MY_NODE_NAME").then(|| "n1".to_owned()))
    }

    #[test]
    fn the_flags_are_those_of_spiffe_csi_driver() {
        let settings = of("x -workload-api-socket-dir /w").unwrap();
        assert_eq!(settings.node_id(), "n1");
        assert_eq!(settings.socket_path(), std::path::Path::new("/spiffe-csi/csi.sock"));
        let settings = of("x -workload-api-socket-dir=/w -csi-socket-path=/c/csi.sock \
                           --node-id n2 -node-id-env OTHER -plugin-name csi.example.org \
                           -kubelet-dir /k")
        .unwrap();
        assert_eq!((settings.node_id(), settings.plugin_name()), ("n2", "csi.example.org"));
        let wrong = of("x -node-id-env OTHER").unwrap_err();
        assert!(wrong[0].starts_with("-node-id: it must be set"), "{wrong:?}");
        assert!(wrong[1].starts_with("-workload-api-socket-dir: it must be set"), "{wrong:?}");
    }
}
