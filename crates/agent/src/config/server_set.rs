//! Where the servers are: one set of them (`server_address`, as in SPIRE), or several independent
//! ones of one trust domain (`server_set`, our own blocks).

use std::path::{Path, PathBuf};

use signet_config::{Block, text_over};

use super::{Bootstrap, JoinTokenText, RebootstrapMode, RunFlags, SvidCache, bootstrap};
use crate::plugins::key_manager::KeyManager;

/// The most sets that an agent takes: each has a connection, keys and files of its own.
const MAX_SETS: usize = 4;
/// The longest name of a set; it is a directory's name.
const MAX_NAME: usize = 32;
/// Below `data_dir` and the directory of the key manager: a directory for each set.
const DIRECTORY: &str = "server_sets";

/// Servers that share one store, and what the agent keeps of its session with them.
#[derive(Clone, Debug)]
pub struct ServerSet {
    /// The label of its block; none for the only set, which `server_address` names.
    pub name: Option<String>,
    /// `server_address`, required: a host name or an address without brackets.
    pub server_address: String,
    /// `server_port`, required.
    pub server_port: u16,
    /// How the agent first learns whom to trust.
    pub bootstrap: Bootstrap,
    /// `join_token`, or what `join_token_file` holds; it overrides the configured node attestor.
    pub join_token: Option<JoinTokenText>,
    /// Where the agent keeps what it knows of this set.
    pub data_dir: PathBuf,
    /// Where the agent's private key for this set is.
    pub key_manager: KeyManager,
    /// What of this set outlasts a restart.
    pub svid_cache: SvidCache,
}

/// A set as it is read, before it is known where its files lie.
pub(super) struct Reached {
    name: Option<String>,
    server_address: String,
    server_port: u16,
    bootstrap: Bootstrap,
    pub(super) join_token: Option<JoinTokenText>,
}

/// The blocks `server_set "name" {}`; none where `server_address` says where the server is.
pub(super) fn blocks<'a>(agent: &Block<'a>, flags: &RunFlags) -> Vec<(String, Block<'a>)> {
    let blocks = agent.labelled("server_set");
    if blocks.is_empty() {
        return blocks;
    }
    if blocks.len() > MAX_SETS {
        let message = format!("found {} sets, expected at most {MAX_SETS}", blocks.len());
        agent.error("server_set", message);
    }
    for (name, block) in &blocks {
        let is_good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_good) {
            let message = format!(
                "server_set: found the name {name:?}, expected 1 to {MAX_NAME} lower case letters, \
                 digits and hyphens"
            );
            block.context().error(block.pos(), message);
        }
    }
    for key in ["server_address", "server_port", "join_token", "join_token_file"] {
        agent.refuse(key, "with server_set blocks it belongs into each of them");
    }
    let given = [
        ("-serverAddress", flags.server_address.is_some()),
        ("-serverPort", flags.server_port.is_some()),
        ("-joinToken", flags.join_token.as_ref().is_some_and(|it| !it.expose().is_empty())),
        ("-joinTokenFile", flags.join_token_file.is_some()),
    ];
    for (flag, _) in given.into_iter().filter(|(_, given)| *given) {
        agent.error("server_set", format_args!("{flag} cannot say for which of the sets it is"));
    }
    blocks
}

/// The one set of `server_address`.
pub(super) fn only(
    agent: &Block<'_>,
    flags: &RunFlags,
    join_token: Option<JoinTokenText>,
) -> Option<Vec<Reached>> {
    let address = text_over(flags.server_address.as_ref(), agent, "server_address");
    let address = agent.required("server_address", address);
    let port = agent.port("server_port");
    let port = flags.server_port.filter(|port| *port != 0).or(port);
    let port = agent.required("server_port", port);
    let bootstrap = bootstrap::bootstrap(agent, flags);
    Some(vec![Reached {
        name: None,
        server_address: without_brackets(&address?),
        server_port: port?,
        bootstrap: bootstrap?,
        join_token,
    }])
}

/// The sets of `blocks`, with a join token for each that has one. A set that does not say how it is
/// first trusted is trusted as the agent's own block says.
pub(super) fn all(
    agent: &Block<'_>,
    flags: &RunFlags,
    blocks: Vec<(String, Block<'_>)>,
    join_tokens: Vec<Option<JoinTokenText>>,
) -> Option<Vec<Reached>> {
    let lacks = blocks.iter().any(|(_, block)| !bootstrap::is_in(block));
    let common = (lacks || bootstrap::is_in(agent)).then(|| bootstrap::bootstrap(agent, flags));
    let none = RunFlags::default();
    let sets: Vec<Option<Reached>> = blocks
        .into_iter()
        .zip(join_tokens)
        .map(|((name, block), join_token)| {
            let address = block.required_text("server_address");
            let port = block.required("server_port", block.port("server_port"));
            let bootstrap = match bootstrap::is_in(&block) {
                true => bootstrap::bootstrap(&block, &none),
                false => common.clone().flatten(),
            };
            block.finish();
            Some(Reached {
                name: Some(name),
                server_address: without_brackets(&address?),
                server_port: port?,
                bootstrap: bootstrap?,
                join_token,
            })
        })
        .collect();
    sets.into_iter().collect()
}

/// Refuses what no set may be combined with.
pub(super) fn check(agent: &Block<'_>, sets: &[Reached], mode: RebootstrapMode) {
    let insecure =
        sets.iter().any(|set| set.name.is_some() && set.bootstrap == Bootstrap::Insecure);
    if insecure && mode != RebootstrapMode::Never {
        let message = "a server_set with insecure_bootstrap cannot be bootstrapped again, anyone \
                       would be believed at any time";
        agent.error("rebootstrap_mode", message);
    }
}

impl Reached {
    /// The label of its block.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The set with the places of its files: those that are configured where it is the only one,
    /// else a directory below them.
    pub(super) fn placed(
        self,
        data_dir: &Path,
        key_manager: &KeyManager,
        svid_cache: impl Fn(&Path) -> SvidCache,
    ) -> ServerSet {
        let below = |dir: &Path| match &self.name {
            Some(name) => dir.join(DIRECTORY).join(name),
            None => dir.to_owned(),
        };
        let data_dir = below(data_dir);
        let key_manager = match key_manager {
            KeyManager::Disk { directory } => KeyManager::Disk { directory: below(directory) },
            KeyManager::Memory => KeyManager::Memory,
        };
        ServerSet {
            svid_cache: svid_cache(&data_dir),
            data_dir,
            key_manager,
            name: self.name,
            server_address: self.server_address,
            server_port: self.server_port,
            bootstrap: self.bootstrap,
            join_token: self.join_token,
        }
    }
}

fn without_brackets(address: &str) -> String {
    address.trim_matches(['[', ']']).to_owned()
}
