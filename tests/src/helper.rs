//! Running signet-helpers, as any user.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    bins,
    cli::{self, Output},
    dir::TestDir,
    process::Process,
    wait::eventually,
};

/// The path of `signet-helper`.
pub fn program() -> PathBuf {
    bins::find("signet-helper")
}

/// A user other than root, whom services insist on: `None` when the test is not run by root, and
/// whoever runs it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// `nobody`, if this is root.
    pub fn unprivileged() -> Option<Self> {
        nix::unistd::geteuid().is_root().then_some(Self { uid: 65534, gid: 65534 })
    }

    /// What a command begins with so that it runs as this user.
    pub fn prefix(self) -> Vec<String> {
        let (uid, gid) = (self.uid, self.gid);
        vec![
            "setpriv".to_owned(),
            format!("--reuid={uid}"),
            format!("--regid={gid}"),
            "--clear-groups".to_owned(),
        ]
    }

    /// Gives a file or directory to this user.
    ///
    /// # Panics
    /// When that is not allowed.
    pub fn own(self, path: &Path) {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid)).expect("chown");
    }
}

/// A command, run by that user if there is one.
pub fn as_user(user: Option<User>, program: impl AsRef<Path>) -> Command {
    crate::process::behind(&user.map(User::prefix).unwrap_or_default(), program.as_ref())
}

/// The selector of that user's processes.
pub fn selector(user: Option<User>) -> String {
    user.map_or_else(crate::node::caller, |user| format!("unix:uid:{}", user.uid))
}

/// A directory of that user's, which others may look into.
pub fn subdir(dir: &TestDir, name: &str, user: Option<User>) -> PathBuf {
    let path = dir.subdir(name);
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), mode.clone()).expect("a mode");
    std::fs::set_permissions(&path, mode).expect("a mode");
    if let Some(user) = user {
        user.own(&path);
    }
    path
}

/// A running helper.
#[derive(Debug)]
pub struct Helper {
    process: Process,
}

impl Helper {
    /// Starts a helper on the Workload API's socket; `config` is the rest of its file.
    pub fn start(dir: &TestDir, user: Option<User>, socket: &Path, config: &str) -> Self {
        let file = write(dir, "helper.conf", socket, config);
        let program = match user {
            // The directory of the sources may be closed to others.
            Some(_) => {
                let copy = dir.join("signet-helper");
                std::fs::copy(program(), &copy).expect("a copy");
                copy
            }
            None => program(),
        };
        let mut command = as_user(user, program);
        command.arg("-config").arg(&file);
        let process = Process::start("signet-helper", &mut command, &file.with_extension("log"));
        Self { process }
    }

    /// Waits for a file.
    pub fn wrote(&mut self, path: &Path) {
        let process = &mut self.process;
        eventually(&format!("{} is there", path.display()), || {
            process.assert_running();
            path.exists().then_some(())
        });
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.output()
    }
}

/// Runs a helper once.
pub fn once(dir: &TestDir, socket: &Path, config: &str) -> Output {
    let file = write(dir, "once.conf", socket, config);
    let mut command = Command::new(program());
    cli::run(command.arg("-config").arg(file).arg("-daemon-mode=false"), "")
}

fn write(dir: &TestDir, name: &str, socket: &Path, config: &str) -> PathBuf {
    let file = dir.write(name, format!("agent_address = {socket:?}\n{config}\n"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    file
}
