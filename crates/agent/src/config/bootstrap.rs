//! How the agent first learns whom to trust, and with which join token it comes.

use std::{io, path::PathBuf, time::Duration};

use signet_base::files::read_regular;
use signet_config::{Block, path_over, text_over};

use super::{Bootstrap, BundleFormat, JoinTokenText, RebootstrapMode, RunFlags};

/// The longest join token file that is read.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Whether a block says how a server is first trusted.
pub(super) fn is_in(block: &Block<'_>) -> bool {
    const KEYS: [&str; 6] = [
        "insecure_bootstrap",
        "trust_bundle_path",
        "trust_bundle_url",
        "trust_bundle_unix_socket",
        "trust_bundle_spiffe_workload_api",
        "trust_bundle_format",
    ];
    KEYS.iter().any(|key| block.pos_of(key).is_some())
}

/// Reads the `trust_bundle_*` keys and `insecure_bootstrap`: exactly one way is configured.
pub(super) fn bootstrap(agent: &Block<'_>, flags: &RunFlags) -> Option<Bootstrap> {
    let insecure = flags.insecure_bootstrap | agent.flag("insecure_bootstrap");
    let path = path_over(flags.trust_bundle.as_ref(), agent, "trust_bundle_path");
    let url = text_over(flags.trust_bundle_url.as_ref(), agent, "trust_bundle_url");
    let unix_socket = agent.path("trust_bundle_unix_socket");
    let workload_api = agent.text("trust_bundle_spiffe_workload_api");
    let format = text_over(flags.trust_bundle_format.as_ref(), agent, "trust_bundle_format");
    let format = match format.as_deref() {
        None | Some("pem") => BundleFormat::Pem,
        Some("spiffe") => BundleFormat::Spiffe,
        Some(other) => {
            let message = format!("found {other:?}, expected pem or spiffe");
            agent.error("trust_bundle_format", message);
            BundleFormat::Pem
        }
    };
    if unix_socket.is_some() && url.is_none() {
        agent.error("trust_bundle_unix_socket", "it needs a trust_bundle_url as well");
    }
    match (insecure, path, url, workload_api) {
        (true, None, None, None) => Some(Bootstrap::Insecure),
        (false, Some(path), None, None) => Some(Bootstrap::Path { path, format }),
        (false, None, Some(url), None) => {
            check_url(agent, &url, unix_socket.is_some());
            Some(Bootstrap::Url { url, unix_socket, format })
        }
        (false, None, None, Some(endpoint)) => {
            let socket = endpoint_socket(&endpoint);
            if socket.is_none() {
                let message = format!("found {endpoint:?}, expected unix:///path/to/socket");
                agent.error("trust_bundle_spiffe_workload_api", message);
            }
            socket.map(|socket| Bootstrap::WorkloadApi { socket })
        }
        (false, None, None, None) => {
            agent.missing(
                "trust_bundle_path, trust_bundle_url, trust_bundle_spiffe_workload_api or \
                 insecure_bootstrap",
            );
            None
        }
        _ => {
            agent.context().error(
                agent.pos(),
                "only one of trust_bundle_path, trust_bundle_url, insecure_bootstrap and \
                 trust_bundle_spiffe_workload_api can be used",
            );
            None
        }
    }
}

/// The socket of a Workload API's address, `unix:///path` or `unix:/path` (SPIFFE Workload Endpoint,
/// section 4). Others are reached without knowing who answers.
fn endpoint_socket(endpoint: &str) -> Option<PathBuf> {
    let path = endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:"))?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

fn check_url(agent: &Block<'_>, url: &str, over_socket: bool) {
    let wanted = if over_socket { "http://" } else { "https://" };
    let found = url.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted));
    if !found {
        let why = if over_socket { " together with trust_bundle_unix_socket" } else { "" };
        let message = format!("found {url:?}, expected a URL that starts with {wanted}{why}");
        agent.error("trust_bundle_url", message);
        return;
    }
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    for pair in query.split('&').filter(|_| over_socket) {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        if name.starts_with("spiffe-") || name.starts_with("spire-") {
            let message = format!("the query parameter {name:?} is reserved");
            agent.error("trust_bundle_url", message);
        }
    }
}

/// Reads `rebootstrap_mode` and `rebootstrap_delay`.
pub(super) fn rebootstrap(agent: &Block<'_>, flags: &RunFlags) -> (RebootstrapMode, Duration) {
    let mode = text_over(flags.rebootstrap_mode.as_ref(), agent, "rebootstrap_mode");
    let mode = match mode.as_deref() {
        None | Some("never") => RebootstrapMode::Never,
        Some("auto") => RebootstrapMode::Auto,
        Some("always") => RebootstrapMode::Always,
        Some(other) => {
            let message = format!("found {other:?}, expected never, auto or always");
            agent.error("rebootstrap_mode", message);
            RebootstrapMode::Never
        }
    };
    let insecure = flags.insecure_bootstrap | agent.flag("insecure_bootstrap");
    if mode != RebootstrapMode::Never && insecure {
        let message = "an agent with insecure_bootstrap cannot bootstrap again, it would believe \
                       anyone at any time; use trust_bundle_path or trust_bundle_url";
        agent.error("rebootstrap_mode", message);
    }
    let file = agent.duration("rebootstrap_delay");
    let flag =
        flags.rebootstrap_delay.as_deref().filter(|text| !text.is_empty()).and_then(|text| {
            signet_config::parse_duration(text)
                .map_err(|error| {
                    agent.error("rebootstrap_delay", format_args!("-rebootstrapDelay: {error}"))
                })
                .ok()
        });
    (mode, flag.or(file).unwrap_or(Duration::from_secs(600)))
}

/// The join token of the flag, the key or the file that one of them names.
pub(super) fn join_token(agent: &Block<'_>, flags: &RunFlags) -> Option<JoinTokenText> {
    let token = agent.text("join_token").map(JoinTokenText::new);
    let token = flags.join_token.clone().filter(|token| !token.expose().is_empty()).or(token);
    let file = path_over(flags.join_token_file.as_ref(), agent, "join_token_file");
    match (token, file) {
        (Some(_), Some(_)) => {
            agent
                .error("join_token_file", "only one of join_token and join_token_file can be used");
            None
        }
        (Some(token), None) => Some(token),
        (None, Some(file)) => read_token(agent, file),
        (None, None) => None,
    }
}

fn read_token(agent: &Block<'_>, file: PathBuf) -> Option<JoinTokenText> {
    match read_regular(&file, MAX_TOKEN_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            let message = format!("{} is too long for a join token", file.display());
            agent.error("join_token_file", message);
            None
        }
        Err(error) => {
            let message = format!("cannot read the join token: {}: {error}", file.display());
            agent.error("join_token_file", message);
            None
        }
        Ok(bytes) => {
            let token = String::from_utf8_lossy(&bytes).trim().to_owned();
            if token.is_empty() {
                let message = format!("{} holds no join token", file.display());
                agent.error("join_token_file", message);
                return None;
            }
            Some(JoinTokenText::new(token))
        }
    }
}
