//! Making a [`Config`] from a file.

use std::path::{Component, Path, PathBuf};

use nix::sys::signal::Signal;
use signet_base::files::read_regular;
use signet_config::{Block, Context, Document, LogFlags, log_settings};
use signet_identity::SpiffeId;
use signet_pki::pkcs12::MAX_PASSWORD;

use super::{Command, Config, FileContent, Health, JwtSvidFile, Output, Password, Select, socket};
use crate::{Flags, args::split_args};

const DEFAULT_SOCKET: &str = "/tmp/spire-agent/public/api.sock";
const DEFAULT_PORT: u16 = 8081;
/// The names of SPIFFE Filesystem Delivery.
pub(crate) const CREDENTIAL_BUNDLE: &str = "credential-bundle.private-key.x509.pem";
/// What the name of a trust domain is followed by there.
pub(crate) const TRUST_BUNDLE_SUFFIX: &str = ".spiffe-trust-bundle.x509.pem";

pub(super) fn decode(
    flags: &Flags,
    log: &LogFlags,
    env: &dyn Fn(&str) -> Option<String>,
    context: &Context,
    document: &Document,
) -> Option<Config> {
    let root = Block::root(context, document);
    let socket = address(&root, env);
    let daemon_mode = root.boolean("daemon_mode");
    let daemon_mode = flags.daemon_mode.or(daemon_mode).unwrap_or(true);
    let command = command(&root);
    let pid_file = root.path("pid_file_name");
    let renew_signal = signal(&root);
    if !daemon_mode {
        for key in ["cmd", "renew_signal"] {
            if root.text(key).is_some() {
                root.warn(key, "it has no effect without daemon_mode");
            }
        }
        if pid_file.is_some() {
            root.error("pid_file_name", "it is only for daemon_mode = true");
        }
    }
    if pid_file.is_some() && root.text("renew_signal").is_none() {
        root.error("pid_file_name", "renew_signal must be set as well");
    }
    let shared = Shared::read(&root);
    let select = select(&root);
    let mut outputs = Vec::new();
    let dir = root.path("cert_dir").unwrap_or_default();
    x509(&root, &shared, &dir, &select, &mut outputs);
    folder(&root, &shared, &select, &mut outputs);
    let mut jwt_svids = tokens(&root, &shared, &dir, &select);
    for block in root.blocks("identities") {
        let select = select_one(&block);
        let dir = block.path("cert_dir").unwrap_or_else(|| dir.clone());
        x509(&block, &shared, &dir, &select, &mut outputs);
        folder(&block, &shared, &select, &mut outputs);
        jwt_svids.extend(tokens(&block, &shared, &dir, &select));
        block.finish();
    }
    let jwt_bundle =
        name(&root, "jwt_bundle_file_name").map(|file| (dir.join(file), shared.jwt_bundle_mode));
    if outputs.is_empty() && jwt_svids.is_empty() && jwt_bundle.is_none() {
        let message = "nothing is to be written: set svid_file_name, svid_key_file_name and \
                       svid_bundle_file_name, or jwt_svids, or jwt_bundle_file_name";
        context.error(root.pos(), message);
    }
    twice(&root, &outputs, &jwt_svids, jwt_bundle.as_ref());
    let health = root.block("health_checks").and_then(health);
    let log = log_settings(&root, log);
    root.finish();
    Some(Config {
        socket: socket?,
        daemon_mode,
        command,
        pid_file,
        renew_signal,
        outputs,
        jwt_svids,
        jwt_bundle,
        health,
        log,
        warnings: Vec::new(),
    })
}

/// What all identities have in common.
struct Shared {
    cert_mode: u32,
    key_mode: u32,
    jwt_bundle_mode: u32,
    jwt_svid_mode: u32,
    intermediates_in_bundle: bool,
    federated: bool,
    omit_expired: bool,
    password: Option<Password>,
}

impl Shared {
    fn read(root: &Block<'_>) -> Self {
        let mode = |key, default| match root.integer::<u32>(key) {
            None | Some(0) => default,
            Some(mode) if mode <= 0o777 => mode,
            Some(mode) => {
                root.error(key, format_args!("{mode:#o} is not a file mode; write 0600, say"));
                default
            }
        };
        Self {
            cert_mode: mode("cert_file_mode", 0o644),
            key_mode: mode("key_file_mode", 0o600),
            jwt_bundle_mode: mode("jwt_bundle_file_mode", 0o600),
            jwt_svid_mode: mode("jwt_svid_file_mode", 0o600),
            intermediates_in_bundle: root.flag("add_intermediates_to_bundle"),
            federated: root.flag("include_federated_domains"),
            omit_expired: root.flag("omit_expired"),
            password: password(root),
        }
    }

    fn output(
        &self,
        dir: &Path,
        select: &Select,
        files: Vec<(PathBuf, FileContent, u32)>,
    ) -> Output {
        Output {
            select: select.clone(),
            dir: dir.to_owned(),
            files,
            intermediates_in_bundle: self.intermediates_in_bundle,
            federated: self.federated,
            omit_expired: self.omit_expired,
            password: self.password.clone().unwrap_or_default(),
        }
    }
}

fn address(root: &Block<'_>, env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let variable = |name| env(name).filter(|value| !value.is_empty());
    let (spire, spiffe) = (variable("SPIRE_AGENT_ADDRESS"), variable("SPIFFE_ENDPOINT_SOCKET"));
    let address = match (root.text("agent_address"), spire, spiffe) {
        (Some(address), ..) | (None, None, Some(address)) | (None, Some(address), None) => address,
        (None, None, None) => DEFAULT_SOCKET.to_owned(),
        (None, Some(_), Some(_)) => {
            let message = "SPIRE_AGENT_ADDRESS and SPIFFE_ENDPOINT_SOCKET are both set; keep \
                           SPIFFE_ENDPOINT_SOCKET";
            root.error("agent_address", message);
            return None;
        }
    };
    socket(&address).map_err(|error| root.error("agent_address", error)).ok()
}

fn command(root: &Block<'_>) -> Option<Command> {
    let args = root.text("cmd_args").unwrap_or_default();
    let args = split_args(&args).map_err(|error| root.error("cmd_args", error)).ok()?;
    let program = root.text("cmd");
    if program.is_none() && !args.is_empty() {
        root.warn("cmd_args", "they have no effect without cmd");
    }
    Some(Command { program: program?, args })
}

fn signal(root: &Block<'_>) -> Option<Signal> {
    let text = root.text("renew_signal")?;
    let signal = text.parse();
    if signal.is_err() {
        root.error("renew_signal", format_args!("{text:?} is no signal; write SIGHUP, say"));
    }
    signal.ok()
}

fn select(block: &Block<'_>) -> Select {
    block.text("hint").map_or(Select::Default, Select::Hint)
}

fn select_one(block: &Block<'_>) -> Select {
    match (block.parsed::<SpiffeId>("spiffe_id"), block.text("hint")) {
        (Some(id), None) => Select::Id(id),
        (None, Some(hint)) => Select::Hint(hint),
        (Some(_), Some(_)) => {
            block.error("hint", "only one of hint and spiffe_id can be set");
            Select::Default
        }
        (None, None) => {
            block.missing("spiffe_id (or hint)");
            Select::Default
        }
    }
}

/// A file's name below the directory.
fn name(block: &Block<'_>, key: &'static str) -> Option<PathBuf> {
    let path = block.path(key)?;
    let relative = path.strip_prefix("/").unwrap_or(&path).to_owned();
    let plain = |part| matches!(part, Component::Normal(name) if !name.as_encoded_bytes().starts_with(b".."));
    if !relative.components().all(plain) {
        block.error(key, "it must name a file in or below the directory");
        return None;
    }
    Some(relative)
}

fn x509(
    block: &Block<'_>,
    shared: &Shared,
    dir: &Path,
    select: &Select,
    outputs: &mut Vec<Output>,
) {
    let keys = ["svid_file_name", "svid_key_file_name", "svid_bundle_file_name"];
    let [svid, key, bundle] = keys.map(|key| name(block, key));
    let stores = ["pkcs12_file_name", "trust_store_file_name"].map(|key| name(block, key));
    let map = name(block, "bundle_map_file_name");
    let some = [&svid, &key, &bundle].iter().filter(|file| file.is_some()).count();
    if some != 0 && some != 3 {
        let lacking = keys.into_iter().find(|key| block.text(key).is_none()).unwrap_or_default();
        block.missing(lacking);
    }
    if stores.iter().any(Option::is_some) && shared.password.is_none() {
        let message = "store_password or store_password_file must be set for it";
        block.error(
            if stores.first().is_some_and(Option::is_some) {
                "pkcs12_file_name"
            } else {
                "trust_store_file_name"
            },
            message,
        );
    }
    let [pkcs12, trust_store] = stores;
    let files: Vec<_> = [
        (svid, FileContent::Certificates, shared.cert_mode),
        (key, FileContent::Key, shared.key_mode),
        (bundle, FileContent::Bundle, shared.cert_mode),
        (pkcs12, FileContent::KeyStore, shared.key_mode),
        (trust_store, FileContent::TrustStore, shared.cert_mode),
        (map, FileContent::BundleMap, shared.cert_mode),
    ]
    .into_iter()
    .filter_map(|(file, what, mode)| Some((file?, what, mode)))
    .collect();
    if !files.is_empty() {
        outputs.push(shared.output(dir, select, files));
    }
}

fn folder(block: &Block<'_>, shared: &Shared, select: &Select, outputs: &mut Vec<Output>) {
    let Some(dir) = block.path("credential_folder") else { return };
    let files = vec![
        (CREDENTIAL_BUNDLE.into(), FileContent::CredentialBundle, shared.key_mode),
        (TRUST_BUNDLE_SUFFIX.into(), FileContent::TrustBundles, shared.cert_mode),
    ];
    outputs.push(shared.output(&dir, select, files));
}

fn tokens(block: &Block<'_>, shared: &Shared, dir: &Path, select: &Select) -> Vec<JwtSvidFile> {
    let mut tokens = Vec::new();
    for token in block.blocks("jwt_svids") {
        let audience = token.required_text("jwt_audience");
        let file = name(&token, "jwt_svid_file_name");
        let file = token.required("jwt_svid_file_name", file);
        let more = token.texts("jwt_extra_audiences");
        token.finish();
        let (Some(audience), Some(file)) = (audience, file) else { continue };
        tokens.push(JwtSvidFile {
            audience: std::iter::once(audience).chain(more).collect(),
            path: dir.join(file),
            select: select.clone(),
            mode: shared.jwt_svid_mode,
        });
    }
    tokens
}

fn password(root: &Block<'_>) -> Option<Password> {
    let text = match (root.text("store_password"), root.path("store_password_file")) {
        (Some(text), None) => text,
        (None, Some(path)) => match read_regular(&path, 8192) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => text.trim_end_matches(['\n', '\r']).to_owned(),
                Err(_) => {
                    root.error("store_password_file", "the file is not UTF-8");
                    return None;
                }
            },
            Err(error) => {
                let message = format_args!("reading {}: {error}", path.display());
                root.error("store_password_file", message);
                // It is set, after all.
                return Some(Password::default());
            }
        },
        (Some(_), Some(_)) => {
            let message = "only one of store_password and store_password_file can be set";
            root.error("store_password", message);
            return None;
        }
        (None, None) => return None,
    };
    if text.is_empty() || text.chars().count() > MAX_PASSWORD {
        let message = format_args!("a password has 1 to {MAX_PASSWORD} characters");
        root.error("store_password", message);
    }
    Some(Password::new(text))
}

/// Two contents for one file would overwrite each other for ever.
fn twice(
    root: &Block<'_>,
    outputs: &[Output],
    tokens: &[JwtSvidFile],
    jwt_bundle: Option<&(PathBuf, u32)>,
) {
    let mut seen = std::collections::HashSet::new();
    let files = outputs
        .iter()
        .flat_map(|output| output.files.iter().map(|(name, ..)| output.dir.join(name)))
        .chain(tokens.iter().map(|token| token.path.clone()))
        .chain(jwt_bundle.map(|(path, _)| path.clone()));
    for path in files {
        if !seen.insert(path.clone()) {
            let message = format!("{} is named for two contents", path.display());
            root.context().error(root.pos(), message);
        }
    }
}

fn health(block: Block<'_>) -> Option<Health> {
    let enabled = block.flag("listener_enabled");
    let port = block.port("bind_port").unwrap_or(DEFAULT_PORT);
    let path = |key, default: &str| match block.text(key) {
        Some(path) if !path.starts_with('/') => {
            block.error(key, "a path of a URL begins with a slash");
            path
        }
        path => path.unwrap_or_else(|| default.to_owned()),
    };
    let live_path = path("liveness_path", "/live");
    let ready_path = path("readiness_path", "/ready");
    if live_path == ready_path {
        block.error("readiness_path", "it must differ from liveness_path");
    }
    block.finish();
    enabled.then_some(Health { port, live_path, ready_path })
}
