//! Disks that are soon full.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// What fills the rest of the disk.
const BALLAST: &str = "ballast";

/// A directory in which programs soon find no room to write.
///
/// It is a small file system in a mount namespace of its own, which root may make, and others where
/// users may make namespaces. Where nobody may (in most containers), files may only grow to a limit
/// instead: the system's answer is another one, but nothing can be written all the same.
///
/// Programs that are to see it are started behind [`SmallDisk::prefix`].
#[derive(Debug)]
pub struct SmallDisk {
    directory: PathBuf,
    kilobytes: u32,
    holder: Option<Holder>,
}

/// Keeps the namespaces; ends when its standard input does.
#[derive(Debug)]
struct Holder {
    process: Child,
    own_users: bool,
}

impl SmallDisk {
    /// Makes `directory`, which exists, a disk of this size.
    pub fn new(directory: &Path, kilobytes: u32) -> Self {
        let holder = [false, true].into_iter().find_map(|own_users| {
            let process = hold(own_users, directory, kilobytes)?;
            Some(Holder { process, own_users })
        });
        Self { directory: directory.to_owned(), kilobytes, holder }
    }

    /// Whether it is a file system, which says that it is full, and not only a limit.
    pub fn is_real(&self) -> bool {
        self.holder.is_some()
    }

    /// The words that a command which is to see it begins with.
    pub fn prefix(&self) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        match &self.holder {
            Some(Holder { process, own_users }) => {
                let users: &[&str] =
                    if *own_users { &["--user", "--preserve-credentials"] } else { &[] };
                let pid = process.id().to_string();
                words(&[&["nsenter", "--target", &pid, "--mount"], users].concat())
            }
            None => {
                // In blocks of half a kilobyte. The signal would end the program before it can
                // answer.
                let limit = (self.kilobytes * 2).to_string();
                let script = "trap '' XFSZ; ulimit -S -f \"$0\"; exec \"$@\"";
                words(&["sh", "-c", script, &limit])
            }
        }
    }

    /// `command` as one that sees it.
    pub fn command(&self, command: &Command) -> Command {
        let prefix = self.prefix();
        let mut words = prefix.iter();
        let mut inside = Command::new(words.next().expect("a program"));
        inside.args(words).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// The path of one of its files, for those who do not see it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        let root = self.holder.as_ref().map(|holder| format!("/proc/{}/root", holder.process.id()));
        let directory = self.directory.strip_prefix("/").unwrap_or(&self.directory);
        Path::new(root.as_deref().unwrap_or("/")).join(directory).join(name)
    }

    /// Leaves no room at all on it. Where files only have a limit, those that are short may still
    /// grow to it.
    pub fn fill(&self) {
        if self.is_real() {
            // Writes what fits.
            let _ = fs::write(self.join(BALLAST), vec![0; (self.kilobytes as usize) << 10]);
        }
    }

    /// Makes room again for the program `pid`.
    pub fn make_room(&self, pid: u32) {
        make_room(&self.join(""), pid);
    }
}

/// Makes room on a [`SmallDisk`] at `directory` for the program `pid`, which may be the caller: its
/// file `ballast` is removed, and its limit.
///
/// # Panics
///
/// When that cannot be done.
pub fn make_room(directory: &Path, pid: u32) {
    let ballast = directory.join(BALLAST);
    if ballast.exists() {
        fs::remove_file(ballast).expect("the ballast");
    }
    let pid = pid.to_string();
    let done = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:"]).status();
    assert!(done.is_ok_and(|status| status.success()), "no limit for {pid} any more");
}

/// A process in namespaces of its own in which `directory` is a small disk; none when it may not
/// be.
fn hold(own_users: bool, directory: &Path, kilobytes: u32) -> Option<Child> {
    let namespaces: &[&str] =
        if own_users { &["--mount", "--user", "--map-root-user"] } else { &["--mount"] };
    let script = "mount -t tmpfs -o \"size=$1k,mode=0755\" tmpfs \"$0\" && echo ready && exec cat";
    let mut holder = Command::new("unshare")
        .args(namespaces)
        .args(["sh", "-c", script])
        .arg(directory)
        .arg(kilobytes.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut line = String::new();
    let ready = holder.stdout.as_mut().map(|stdout| BufReader::new(stdout).read_line(&mut line));
    if matches!(ready, Some(Ok(_))) && line == "ready\n" {
        return Some(holder);
    }
    let _ = holder.kill();
    let _ = holder.wait();
    None
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
