//! The thread that writes a log.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Map, Value as Json};
use signet_base::{LockedFile, SharedClock};
use signet_pki::{files::write_atomic, random};

use super::{
    ChainOptions, HEAD_FILE, Head, HeadKey, KEY_FILE, OnFailure, PUBLIC_KEY_FILE,
    end::{End, file_of, open_file},
    error::ChainError,
    line::{self, Hash, NOTHING},
    read,
};
use crate::{
    event::{AuditEvent, Kind},
    sink::Sink,
};

/// How long to wait before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a failure that goes on is logged.
const COMPLAIN: Duration = Duration::from_secs(60);
/// How many records are written at a time.
const BATCH: usize = 1_000;
/// A head is signed after so many records at the latest.
const RECORDS_PER_HEAD: u64 = 10_000;

/// A log that is being written. Cheap to clone; all clones are the same log.
#[derive(Clone)]
pub struct Chain {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Something is in the queue.
    work: Condvar,
    /// The queue was taken, or everything is written.
    progress: Condvar,
    failing: AtomicBool,
    lost: AtomicU64,
    clock: SharedClock,
    on_failure: OnFailure,
    max_waiting: usize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Item>,
    /// Taken, and not written yet.
    in_hand: usize,
    closing: bool,
    closed: bool,
}

enum Item {
    Event(Box<AuditEvent>, SystemTime),
    Head,
}

impl Chain {
    /// Opens (or begins) the log and starts the thread that writes it. `program` and its version
    /// are in the record of the start.
    ///
    /// # Errors
    /// [`ChainError`]; among them that the log ends before a record that a signed head knows of.
    pub fn open(
        options: ChainOptions,
        clock: SharedClock,
        program: &str,
        version: &str,
    ) -> Result<Self, ChainError> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
            failing: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            clock,
            on_failure: options.on_failure,
            max_waiting: options.max_waiting.max(1),
        });
        let mut writer = Writer::open(options, Arc::clone(&shared))?;
        writer.started(program, version)?;
        let directory = writer.options.directory.clone();
        let spawned =
            std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run());
        spawned.map_err(|source| ChainError::File {
            doing: "starting the thread that writes to",
            path: directory,
            source,
        })?;
        Ok(Self { shared })
    }

    /// Whether what has to be recorded may be done: `false` while the log cannot be written and
    /// [`OnFailure::Stop`] holds.
    pub fn accepts(&self) -> bool {
        let shared = &self.shared;
        shared.on_failure == OnFailure::Continue || !shared.failing.load(Ordering::Relaxed)
    }

    /// Whether the log can be written.
    pub fn works(&self) -> bool {
        !self.shared.failing.load(Ordering::Relaxed)
    }

    /// How many records were given up so far.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Signs a head after what was recorded so far.
    pub fn sign_head(&self) {
        self.shared.lock().waiting.push_back(Item::Head);
        self.shared.work.notify_one();
    }

    /// Waits until everything that was recorded so far is written, or cannot be; at most `patience`.
    /// Answers whether it is written.
    pub fn flush(&self, patience: Duration) -> bool {
        let queue = self.shared.lock();
        self.shared.until(queue, patience, |queue| queue.waiting.is_empty() && queue.in_hand == 0)
    }

    /// Writes what waits, a record of the end, and a signed head; waits at most `patience` for
    /// that.
    pub fn close(&self, patience: Duration) {
        let mut queue = self.shared.lock();
        queue.closing = true;
        self.shared.work.notify_one();
        if !self.shared.until(queue, patience, |queue| queue.closed) {
            tracing::error!("The end of the audit log could not be written");
        }
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Chain(..)")
    }
}

impl Sink for Chain {
    fn record(&self, event: &AuditEvent) {
        if event.is_mere_look() {
            return;
        }
        let shared = &self.shared;
        let at = shared.clock.now();
        let mut queue = shared.lock();
        // With `Stop`, calls are refused while nothing can be written, and what waits is bounded
        // by those that were being answered when it began to fail.
        if queue.waiting.len() >= shared.max_waiting {
            if shared.on_failure == OnFailure::Continue {
                shared.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            shared.failing.store(true, Ordering::Relaxed);
            if queue.waiting.len() >= shared.max_waiting.saturating_mul(4) {
                shared.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        let was_empty = queue.waiting.is_empty();
        queue.waiting.push_back(Item::Event(Box::new(event.clone()), at));
        drop(queue);
        if was_empty {
            shared.work.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done`, at most `patience`; answers whether it is.
    fn until(
        &self,
        queue: MutexGuard<'_, Queue>,
        patience: Duration,
        done: impl Fn(&Queue) -> bool,
    ) -> bool {
        let waited = self.progress.wait_timeout_while(queue, patience, |queue| !done(queue));
        done(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

struct Writer {
    shared: Arc<Shared>,
    options: ChainOptions,
    key: HeadKey,
    /// Held as long as the log is written.
    _lock: LockedFile,
    log: String,
    file: File,
    path: PathBuf,
    /// How long the file is, as far as it was written whole.
    len: u64,
    /// The number of the next record.
    next: u64,
    prev: Hash,
    /// Lines that could not be written yet.
    unwritten: Vec<u8>,
    /// Records of the chain that no head covers.
    since_head: u64,
    last_head: Instant,
    last_sync: Instant,
    unsynced: bool,
    told_lost: u64,
    complained: Option<Instant>,
    /// Files that are removed once the log says so.
    surplus: Vec<PathBuf>,
}

impl Writer {
    fn open(options: ChainOptions, shared: Arc<Shared>) -> Result<Self, ChainError> {
        let directory = options.directory.clone();
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| ChainError::File { doing, path, source }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&directory)
            .map_err(failed("making the directory", &directory))?;
        let lock_path = directory.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed("opening", &lock_path))?;
        let lock = match LockedFile::take(lock) {
            Ok(lock) => lock,
            Err(std::fs::TryLockError::WouldBlock) => return Err(ChainError::InUse(directory)),
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(failed("locking", &lock_path)(error));
            }
        };
        let key_path = options.key_file.clone().unwrap_or_else(|| directory.join(KEY_FILE));
        let key = HeadKey::open(&key_path, &directory.join(PUBLIC_KEY_FILE))
            .map_err(failed("opening the key", &key_path))?;
        let head_path = directory.join(HEAD_FILE);
        let head = Head::read(&head_path).map_err(failed("reading", &head_path))?;
        let now = Instant::now();
        let found = End::find(&directory)?;
        let log = match &head {
            Some(head) => head.log.clone(),
            None => random::uuid_v4().map_err(|error| ChainError::Random(error.to_string()))?,
        };
        if let Some(head) = &head {
            let reached = found.as_ref().map_or(0, |end| end.seq);
            // What the head covers is there, or was there and something followed it.
            let differs = found.as_ref().map(|end| end.hash) != head.hash();
            if reached < head.seq || (reached == head.seq && differs) {
                return Err(ChainError::Tampered { path: directory, head: head.seq });
            }
        }
        let (path, len, next, prev) = match found {
            Some(end) => (end.path, end.len, end.seq + 1, end.hash),
            None => (file_of(&directory, 1), 0, 1, NOTHING),
        };
        let file = open_file(&path).map_err(failed("opening", &path))?;
        Ok(Self {
            shared,
            key,
            _lock: lock,
            log,
            file,
            path,
            len,
            next,
            prev,
            unwritten: Vec::new(),
            since_head: 0,
            last_head: now,
            last_sync: now,
            unsynced: false,
            told_lost: 0,
            complained: None,
            surplus: Vec::new(),
            options,
        })
    }

    /// Writes the first record of this run: it is found out at once when that cannot be.
    fn started(&mut self, program: &str, version: &str) -> Result<(), ChainError> {
        let actual = self.file.metadata().map(|meta| meta.len()).unwrap_or(self.len);
        let mut body = self.system("The log is written from here on");
        body.insert("program".to_owned(), format!("{program} {version}").into());
        body.insert("log".to_owned(), self.log.clone().into());
        body.insert("key".to_owned(), self.key.fingerprint().into());
        if actual > self.len {
            // The program or the machine went down while a record was being written.
            body.insert("dropped_bytes".to_owned(), (actual - self.len).into());
        }
        self.append(&body);
        self.head();
        let path = self.path.clone();
        self.write_out().map_err(|source| ChainError::File { doing: "writing", path, source })
    }

    fn run(mut self) {
        loop {
            let (items, closing) = self.take();
            let mut wants_head = false;
            let lost = self.shared.lost.load(Ordering::Relaxed);
            if lost > self.told_lost && (self.unwritten.is_empty() || !items.is_empty()) {
                let mut body =
                    self.system("Records were given up because they could not be written");
                body.insert("lost".to_owned(), (lost - self.told_lost).into());
                self.append(&body);
                self.told_lost = lost;
                wants_head = true;
            }
            for item in items {
                match item {
                    Item::Event(event, at) => self.append(&line::body(&event, at)),
                    Item::Head => wants_head = true,
                }
            }
            if closing {
                let body = self.system("The log is not written from here on");
                self.append(&body);
                wants_head = true;
            }
            let due = self.since_head > 0 && self.last_head.elapsed() >= self.options.head_interval;
            if wants_head || due || self.since_head >= RECORDS_PER_HEAD {
                self.head();
            }
            let written = self.write_out();
            self.tell(written.as_ref().err());
            let mut queue = self.shared.lock();
            if self.unwritten.is_empty() {
                queue.in_hand = 0;
            }
            if closing {
                queue.closed = true;
                self.shared.progress.notify_all();
                return;
            }
            drop(queue);
            self.shared.progress.notify_all();
        }
    }

    /// Waits for something to do, and takes it.
    fn take(&mut self) -> (Vec<Item>, bool) {
        let is_stuck = !self.unwritten.is_empty();
        let idle = match (is_stuck, self.unsynced, self.since_head > 0) {
            (true, ..) => RETRY,
            (false, true, _) => self.options.sync_interval.saturating_sub(self.last_sync.elapsed()),
            (false, false, true) => {
                self.options.head_interval.saturating_sub(self.last_head.elapsed())
            }
            (false, false, false) => Duration::from_secs(3600),
        };
        // While nothing can be written, what comes waits in the queue, which is bounded.
        let mut queue = self
            .shared
            .work
            .wait_timeout_while(self.shared.lock(), idle, |queue| {
                !queue.closing && (is_stuck || queue.waiting.is_empty())
            })
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        let closing = queue.closing;
        if is_stuck && !closing {
            return (Vec::new(), false);
        }
        let many = if closing { queue.waiting.len() } else { BATCH.min(queue.waiting.len()) };
        let items: Vec<Item> = queue.waiting.drain(..many).collect();
        queue.in_hand += items.len();
        (items, closing)
    }

    fn system(&self, message: &str) -> Map<String, Json> {
        let mut body = Map::new();
        body.insert("time".to_owned(), line::rfc3339(self.shared.clock.now()).into());
        body.insert("kind".to_owned(), Kind::System.name().into());
        body.insert("message".to_owned(), message.into());
        body
    }

    fn append(&mut self, body: &Map<String, Json>) {
        self.prev = line::write(&mut self.unwritten, self.next, &self.prev, body);
        self.next += 1;
        self.since_head += 1;
    }

    /// Signs what the chain has reached.
    fn head(&mut self) {
        let time = line::rfc3339(self.shared.clock.now());
        match self.key.sign(&self.log, self.next - 1, &self.prev, time) {
            Ok(head) => {
                let mut body = self.system("Signed head");
                if let Ok(head) = serde_json::to_value(&head) {
                    body.insert("head".to_owned(), head);
                }
                self.append(&body);
                self.since_head = 0;
                self.last_head = Instant::now();
            }
            Err(error) => tracing::error!(%error, "A head of the audit log cannot be signed"),
        }
    }

    /// Writes what waits. What fails is tried again with the next call.
    fn write_out(&mut self) -> io::Result<()> {
        let has_head = !self.unwritten.is_empty() && self.since_head == 0;
        if !self.unwritten.is_empty() {
            let more = self.unwritten.len() as u64;
            if self.len > 0 && self.len + more > self.options.max_file_bytes {
                self.rotate()?;
            }
            let more = self.unwritten.len() as u64;
            // A write that failed may have left a part.
            self.file.set_len(self.len)?;
            self.file.seek(SeekFrom::Start(self.len))?;
            self.file.write_all(&self.unwritten)?;
            self.len += more;
            self.unsynced = true;
        }
        let lines = std::mem::take(&mut self.unwritten);
        if self.unsynced && (has_head || self.last_sync.elapsed() >= self.options.sync_interval) {
            self.file.sync_data()?;
            self.unsynced = false;
            self.last_sync = Instant::now();
        }
        if has_head {
            self.publish(&lines)?;
        }
        for path in std::mem::take(&mut self.surplus) {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Makes the newest head known outside of the chain.
    fn publish(&self, lines: &[u8]) -> io::Result<()> {
        let mut records = lines.rsplit(|byte| *byte == b'\n').filter_map(line::parse);
        let head = records.find_map(|it| it.record.json.get("head").cloned());
        let Some(head) = head else { return Ok(()) };
        let mut text = head.to_string();
        text.push('\n');
        let path = self.options.directory.join(HEAD_FILE);
        write_atomic(&path, text.as_bytes(), 0o640).map_err(io::Error::other)?;
        if let Some(path) = &self.options.heads_file {
            let appended = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o640)
                .open(path)
                .and_then(|mut file| file.write_all(text.as_bytes()));
            // The log itself is well: this is no reason to stop.
            if let Err(error) = appended {
                tracing::error!(%error, file = %path.display(), "A head cannot be published");
            }
        }
        let field = |name: &str| head.get(name).map(ToString::to_string).unwrap_or_default();
        tracing::info!(
            seq = field("seq"),
            hash = field("hash").trim_matches('"'),
            signature = field("signature").trim_matches('"'),
            "Audit log head signed"
        );
        Ok(())
    }

    /// Begins another file, and removes the oldest ones if that is wanted.
    fn rotate(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        let (first, _) = self.unwritten.split_at(self.unwritten.len().min(64));
        let seq = std::str::from_utf8(first).ok().and_then(|text| {
            text.strip_prefix("{\"seq\":")?.split(',').next()?.parse::<u64>().ok()
        });
        let path = file_of(&self.options.directory, seq.unwrap_or(self.next));
        self.file = open_file(&path)?;
        self.path = path;
        self.len = 0;
        if self.options.keep_files == 0 {
            return Ok(());
        }
        let files = read::files(&self.options.directory).map_err(io::Error::other)?;
        let surplus = files.len().saturating_sub(self.options.keep_files as usize);
        let kept = files.get(surplus).map_or(1, |(first, _)| *first);
        if surplus > 0 {
            let mut body = self.system("The oldest records are removed, as configured");
            body.insert("removed_up_to".to_owned(), (kept - 1).into());
            self.append(&body);
            self.surplus.extend(files.into_iter().take(surplus).map(|(_, path)| path));
        }
        Ok(())
    }

    /// Says when writing begins to fail, goes on failing, and works again.
    fn tell(&mut self, failed: Option<&io::Error>) {
        let Some(error) = failed else {
            if self.shared.failing.swap(false, Ordering::Relaxed)
                && self.complained.take().is_some()
            {
                tracing::info!("The audit log is written again");
            }
            return;
        };
        self.shared.failing.store(true, Ordering::Relaxed);
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN) {
            self.complained = Some(Instant::now());
            let what = match self.options.on_failure {
                OnFailure::Stop => "what would have to be recorded is refused until it can be",
                OnFailure::Continue => "records may get lost",
            };
            tracing::error!(
                error = error as &dyn std::error::Error,
                file = %self.path.display(),
                "The audit log cannot be written: {what}"
            );
        }
    }
}
