//! Under which name a program was started.

use std::{ffi::OsStr, path::Path};

/// The family of names, hence of default paths, that a program answers with.
///
/// Both programs also answer to SPIRE's names (a link or a rename), and then use SPIRE's default
/// paths, so that tools which know those paths go on working.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Program {
    /// `signet-server`, `signet-agent` or any other name.
    #[default]
    Signet,
    /// `spire-server` or `spire-agent`.
    Spire,
}

impl Program {
    /// Reads the name from `argv[0]`, which may be a path.
    pub fn from_argv0(argv0: &OsStr) -> Self {
        let name = Path::new(argv0).file_name().and_then(OsStr::to_str);
        if name.is_some_and(|name| name.starts_with("spire-")) { Self::Spire } else { Self::Signet }
    }

    /// The server's name.
    pub fn server_name(self) -> &'static str {
        match self {
            Self::Signet => "signet-server",
            Self::Spire => "spire-server",
        }
    }

    /// The agent's name.
    pub fn agent_name(self) -> &'static str {
        match self {
            Self::Signet => "signet-agent",
            Self::Spire => "spire-agent",
        }
    }

    /// Where the server's local API socket is unless configured.
    pub fn server_socket(self) -> &'static str {
        match self {
            Self::Signet => "/run/signet-server/private/api.sock",
            Self::Spire => "/tmp/spire-server/private/api.sock",
        }
    }

    /// Where the agent's Workload API socket is unless configured.
    pub fn agent_socket(self) -> &'static str {
        match self {
            Self::Signet => "/run/signet-agent/public/api.sock",
            Self::Spire => "/tmp/spire-agent/public/api.sock",
        }
    }

    /// Where the commands look for the agent's admin socket unless told.
    ///
    /// The agent opens it only when `admin_socket_path` is configured.
    pub fn agent_admin_socket(self) -> &'static str {
        match self {
            Self::Signet => "/run/signet-agent/private/admin.sock",
            Self::Spire => "/tmp/spire-agent/private/admin.sock",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_last_part_of_argv0() {
        let of = |argv0: &str| Program::from_argv0(OsStr::new(argv0));
        assert_eq!(of("/opt/spire/bin/spire-server"), Program::Spire);
        assert_eq!(of("spire-agent"), Program::Spire);
        assert_eq!(of("./signet-agent"), Program::Signet);
        assert_eq!(of("/opt/spire-1.15/bin/signet-server"), Program::Signet);
        assert_eq!(of(""), Program::Signet);
    }
}
