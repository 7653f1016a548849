//! What the broker must know after a crash: which tokens and leases exist, and which are to be taken
//! back. One line of JSON for each event, written and flushed to the disk before anything is
//! handed out. Accessors and lease IDs are names by which things are taken back, not secrets.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
};

use serde::{Deserialize, Serialize};
use signet_pki::files;
use signet_time::UnixTime;
use tokio::sync::oneshot;

/// How many events may wait to be written.
const QUEUE: usize = 4096;
/// How many are flushed to the disk together.
const BATCH: usize = 256;
/// The longest line that is read, bytes.
const MAX_LINE: usize = 64 * 1024;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "e", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// A token of OpenBao was made for an identity.
    Token {
        /// The tenant.
        tenant: String,
        /// The identity.
        id: String,
        /// Its accessor.
        accessor: String,
        /// Its policies.
        policies: Vec<String>,
        /// When, Unix seconds.
        issued: UnixTime,
        /// Until when it is valid, Unix seconds.
        expires: UnixTime,
    },
    /// A token lives longer.
    TokenRenewed {
        /// Its accessor.
        accessor: String,
        /// Until when, Unix seconds.
        expires: UnixTime,
    },
    /// A token, and with it every lease of it, is to be taken back.
    Ending {
        /// Its accessor.
        accessor: String,
        /// Why.
        why: String,
    },
    /// A token was taken back, or had ended by itself.
    Ended {
        /// Its accessor.
        accessor: String,
    },
    /// Something was handed out.
    Lease {
        /// The name that its holder knows.
        lease: String,
        /// The token it belongs to.
        accessor: String,
        /// Which credential.
        credential: String,
        /// OpenBao's name of the lease, if it is one.
        bao_lease: Option<String>,
        /// When, Unix seconds.
        issued: UnixTime,
        /// Until when it is valid, Unix seconds.
        expires: UnixTime,
        /// The ID of the request.
        correlation: String,
    },
    /// It lives longer.
    LeaseRenewed {
        /// Its name.
        lease: String,
        /// Until when, Unix seconds.
        expires: UnixTime,
    },
    /// It is to be taken back.
    LeaseEnding {
        /// Its name.
        lease: String,
        /// Why.
        why: String,
    },
    /// It was taken back.
    LeaseEnded {
        /// Its name.
        lease: String,
    },
    /// An agent was found to be banned.
    Ban {
        /// Its ID.
        agent: String,
        /// When, Unix seconds.
        at: UnixTime,
    },
    /// It is not banned any more.
    Unban {
        /// Its ID.
        agent: String,
    },
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// It holds something else than events.
    #[error("{}: line {line} is not an event of the journal: {why}", .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// Too many events wait for the disk.
    #[error("the disk does not take the journal's events fast enough")]
    Behind,
    /// It cannot be read or written.
    #[error("the journal {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// An event was not written.
    #[error("an event was not written to the journal: {0}")]
    NotWritten(String),
}

enum Command {
    Append(Box<Event>, oneshot::Sender<Result<(), String>>),
    Rewrite(Vec<Event>),
}

/// Where events go. Writing happens on a thread of its own; it ends when this is dropped.
#[derive(Debug)]
pub struct Journal {
    commands: SyncSender<Command>,
}

/// An event on its way to the disk.
#[derive(Debug)]
pub struct Written(oneshot::Receiver<Result<(), String>>);

impl Written {
    /// Waits until the event is on the disk.
    ///
    /// # Errors
    /// [`JournalError::NotWritten`].
    pub async fn done(self) -> Result<(), JournalError> {
        match self.0.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(JournalError::NotWritten(why)),
            Err(_) => Err(JournalError::NotWritten("its thread has ended".to_owned())),
        }
    }
}

impl Journal {
    /// Opens the journal, and reads what is in it. A last line that was cut by a crash is dropped:
    /// nothing was handed out after it.
    ///
    /// # Errors
    /// [`JournalError`] when the file cannot be read or made, or a line before the last is damaged.
    pub fn open(path: &Path) -> Result<(Self, Vec<Event>), JournalError> {
        let failed = |source| JournalError::Io { path: path.to_owned(), source };
        let events = read(path)?;
        // What is read is written anew: the next line begins at the start of one.
        write_whole(path, &events).map_err(|error| failed(io::Error::other(error.to_string())))?;
        let file = append_to(path).map_err(failed)?;
        let (commands, queue) = sync_channel(QUEUE);
        let path = path.to_owned();
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write_all(&path, file, &queue))
            .map_err(|source| JournalError::Io { path: PathBuf::from("thread"), source })?;
        Ok((Self { commands }, events))
    }

    /// Queues an event; it is written in the order of these calls.
    ///
    /// # Errors
    /// [`JournalError::Behind`].
    pub fn append(&self, event: Event) -> Result<Written, JournalError> {
        let (done, written) = oneshot::channel();
        match self.commands.try_send(Command::Append(Box::new(event), done)) {
            Ok(()) => Ok(Written(written)),
            Err(TrySendError::Full(_)) => Err(JournalError::Behind),
            Err(TrySendError::Disconnected(_)) => {
                Err(JournalError::NotWritten("its thread has ended".to_owned()))
            }
        }
    }

    /// Replaces everything by `events`, which say the same more shortly.
    ///
    /// # Errors
    /// [`JournalError::Behind`].
    pub fn rewrite(&self, events: Vec<Event>) -> Result<(), JournalError> {
        self.commands.try_send(Command::Rewrite(events)).map_err(|_| JournalError::Behind)
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn read(path: &Path) -> Result<Vec<Event>, JournalError> {
    let failed = |source| JournalError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut events = Vec::new();
    let mut lines = BufReader::new(file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let length = lines.read_until(b'\n', &mut line).map_err(failed)?;
        if length == 0 {
            break;
        }
        let whole = line.ends_with(b"\n");
        if length <= MAX_LINE
            && let Ok(event) = serde_json::from_slice(&line)
        {
            events.push(event);
            continue;
        }
        if !whole {
            tracing::warn!(file = %path.display(), "Dropped the last line, which a crash has cut");
            break;
        }
        let why = match serde_json::from_slice::<Event>(&line) {
            Err(error) if length <= MAX_LINE => error.to_string(),
            _ => format!("longer than {MAX_LINE} bytes"),
        };
        return Err(JournalError::Broken { path: path.to_owned(), line: number, why });
    }
    Ok(events)
}

fn write_whole(path: &Path, events: &[Event]) -> Result<(), Box<dyn std::error::Error>> {
    let mut bytes = Vec::new();
    for event in events {
        serde_json::to_writer(&mut bytes, event)?;
        bytes.push(b'\n');
    }
    Ok(files::write_atomic(path, &bytes, 0o600)?)
}

fn write_all(path: &Path, mut file: File, queue: &Receiver<Command>) {
    while let Ok(first) = queue.recv() {
        let mut waiting = Vec::new();
        let mut bytes = Vec::new();
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Append(event, done) => {
                    let before = bytes.len();
                    let encoded = serde_json::to_writer(&mut bytes, &event);
                    if let Err(error) = encoded {
                        bytes.truncate(before);
                        let _ = done.send(Err(error.to_string()));
                    } else {
                        bytes.push(b'\n');
                        waiting.push(done);
                    }
                }
                Command::Rewrite(events) => {
                    flush(&mut file, &mut bytes, &mut waiting);
                    let rewritten = write_whole(path, &events).map_err(|e| e.to_string());
                    match rewritten.and_then(|()| append_to(path).map_err(|e| e.to_string())) {
                        Ok(new) => file = new,
                        Err(error) => {
                            tracing::error!(error, "Cannot shorten the journal");
                        }
                    }
                }
            }
            next = if waiting.len() < BATCH { queue.try_recv().ok() } else { None };
        }
        flush(&mut file, &mut bytes, &mut waiting);
    }
}

fn flush(
    file: &mut File,
    bytes: &mut Vec<u8>,
    waiting: &mut Vec<oneshot::Sender<Result<(), String>>>,
) {
    let before = file.metadata().map(|metadata| metadata.len());
    let written = file.write_all(bytes).and_then(|()| file.sync_data());
    let result = written.map_err(|error| {
        // Half a line must not stand before a whole one.
        if let Ok(before) = before {
            let _ = file.set_len(before);
        }
        tracing::error!(%error, "Cannot write to the journal");
        error.to_string()
    });
    bytes.clear();
    for done in waiting.drain(..) {
        // Who has gone does not need to know.
        let _ = done.send(result.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn ban(agent: &str) -> Event {
        Event::Ban { agent: agent.to_owned(), at: UnixTime::from_seconds(7) }
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_crash_and_a_cut_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (journal, events) = Journal::open(&path).unwrap();
        assert!(events.is_empty());
        for agent in ["a", "b"] {
            journal.append(ban(agent)).unwrap().done().await.unwrap();
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"e\":\"ban\",\"age").unwrap();
        let (journal, events) = Journal::open(&path).unwrap();
        assert_eq!(events, [ban("a"), ban("b")]);
        journal.rewrite(vec![ban("b")]).unwrap();
        journal.append(ban("c")).unwrap().done().await.unwrap();
        assert_eq!(Journal::open(&path).unwrap().1, [ban("b"), ban("c")]);
    }

    #[test]
    fn a_journal_that_holds_something_else_is_refused_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        std::fs::write(&path, "{\"e\":\"unban\",\"agent\":\"a\"}\nnonsense\n").unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
