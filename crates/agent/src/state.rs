//! `agent-data.json`: what the agent keeps over restarts, in SPIRE's own format.
//!
//! Certificates are PEM, base64 again inside the JSON; the file is 0600 and replaced atomically.
//! A data directory that a SPIRE 1.15 agent left is read as it is, and ours can be read by SPIRE.

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use signet_pki::{
    files::{self, FileError},
    pem,
};
use signet_time::UnixTime;

/// The file's name in the data directory.
pub const FILE_NAME: &str = "agent-data.json";
/// The longest file read.
const MAX_LEN: u64 = 16 * 1024 * 1024;
/// What Go writes for a time that is not set.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";
/// SPIRE's number for "this agent has been bootstrapped before".
const USE_REBOOTSTRAP: i64 = 2;

/// The agent's state. A change holds from the moment it is made; it is on disk when the call
/// returns without an error. What could not be written is written by the next change, or by
/// [`AgentState::write`]: a full or absent disk costs the agent what it would know after a restart,
/// and nothing of what it does now.
#[derive(Debug)]
pub struct AgentState {
    path: PathBuf,
    data: Mutex<Data>,
    /// What the file holds; none when that is not known. Held while the file is written.
    written: Mutex<Option<Data>>,
    /// Whether the key of the SVID is not on disk: nothing is written then.
    key_is_missing: AtomicBool,
}

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// An earlier write has not ended: the disk hangs.
    #[error("writing {0}: the disk has not answered an earlier write")]
    Busy(PathBuf),
    /// The file is not what it should be.
    #[error("{path} is corrupt: {reason}; move it away to let the agent attest again")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key of the agent's SVID is not on disk yet: an SVID without it would be of no use.
    #[error("writing {0}: the key of the agent's SVID comes first")]
    KeyFirst(PathBuf),
    /// The write was not made because the program ends.
    #[error("writing the agent's state was interrupted: {0}")]
    Interrupted(String),
}

/// The agent's own SVID as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSvid {
    /// Certificates, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Whether the agent may attest again.
    pub reattestable: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Data {
    svid: Vec<Vec<u8>>,
    bundle: Vec<Vec<u8>>,
    reattestable: bool,
    bootstrap_use: i64,
    bootstrap_start: Option<UnixTime>,
    connection_attempts: i64,
}

#[derive(Serialize, Deserialize)]
struct Json {
    #[serde(default)]
    svid: Option<Vec<String>>,
    #[serde(default)]
    bundle: Option<Vec<String>>,
    #[serde(default)]
    reattestable: bool,
    #[serde(default)]
    bootstrap_use: i64,
    #[serde(default)]
    bootstrap_start_time: Option<String>,
    #[serde(default)]
    connection_attempts: i64,
}

impl AgentState {
    /// Reads `agent-data.json` in `data_dir`; an absent file is an empty state.
    ///
    /// # Errors
    /// [`StateError`] when the file cannot be read or understood.
    pub fn open(data_dir: &Path) -> Result<Self, StateError> {
        let path = data_dir.join(FILE_NAME);
        let data = match files::read_bounded(&path, MAX_LEN)? {
            Some(bytes) => decode(&bytes)
                .map_err(|reason| StateError::Corrupt { path: path.clone(), reason })?,
            None => Data::default(),
        };
        let written = Mutex::new(Some(data.clone()));
        Ok(Self { path, data: Mutex::new(data), written, key_is_missing: AtomicBool::new(false) })
    }

    /// Whether the key of the agent's SVID is not on disk. While it is not, changes hold in memory
    /// only.
    pub fn wait_for_key(&self, missing: bool) {
        self.key_is_missing.store(missing, Ordering::Relaxed);
    }

    /// The stored SVID, if there is one.
    pub fn svid(&self) -> Option<StoredSvid> {
        let data = self.lock();
        (!data.svid.is_empty())
            .then(|| StoredSvid { chain: data.svid.clone(), reattestable: data.reattestable })
    }

    /// The stored X.509 authorities of the own trust domain, DER; empty if none.
    pub fn bundle(&self) -> Vec<Vec<u8>> {
        self.lock().bundle.clone()
    }

    /// When the agent began to be unable to trust its server, Unix seconds.
    pub fn untrusted_since(&self) -> Option<UnixTime> {
        self.lock().bootstrap_start
    }

    /// Whether the agent was bootstrapped before.
    pub fn was_bootstrapped(&self) -> bool {
        let data = self.lock();
        data.bootstrap_use == USE_REBOOTSTRAP || !data.bundle.is_empty()
    }

    /// How often the bundle source was asked since the last success.
    pub fn connection_attempts(&self) -> i64 {
        self.lock().connection_attempts
    }

    /// Stores a new SVID.
    ///
    /// # Errors
    /// [`StateError`] when it is not on disk yet.
    pub fn store_svid(&self, chain: &[Vec<u8>], reattestable: bool) -> Result<(), StateError> {
        self.change(|data| {
            data.svid = chain.to_vec();
            data.reattestable = reattestable;
        })
    }

    /// Stores SVID and bundle together: what an attestation brought.
    ///
    /// # Errors
    /// [`StateError`] when it is not on disk yet.
    pub fn store_attestation(
        &self,
        chain: &[Vec<u8>],
        reattestable: bool,
        bundle: &[Vec<u8>],
    ) -> Result<(), StateError> {
        self.change(|data| {
            data.svid = chain.to_vec();
            data.reattestable = reattestable;
            data.bundle = bundle.to_vec();
            data.bootstrap_use = USE_REBOOTSTRAP;
            data.bootstrap_start = None;
            data.connection_attempts = 0;
        })
    }

    /// Forgets the SVID: the agent was banned, or must attest anew.
    ///
    /// # Errors
    /// [`StateError`] when it is not on disk yet.
    pub fn delete_svid(&self) -> Result<(), StateError> {
        self.change(|data| {
            data.svid.clear();
            data.reattestable = false;
        })
    }

    /// Stores the X.509 authorities of the own trust domain, DER.
    ///
    /// # Errors
    /// [`StateError`] when it is not on disk yet.
    pub fn store_bundle(&self, bundle: &[Vec<u8>]) -> Result<(), StateError> {
        self.change(|data| data.bundle = bundle.to_vec())
    }

    /// Notes that the server could not be trusted at `now`, Unix seconds, unless it was noted
    /// before.
    ///
    /// # Errors
    /// [`StateError`] when it is not on disk yet.
    pub fn note_untrusted(&self, now: UnixTime) -> Result<(), StateError> {
        self.change(|data| {
            data.bootstrap_start.get_or_insert(now);
        })
    }

    /// Notes one more request to the bundle source.
    ///
    /// # Errors
    /// [`StateError`] when it is not on disk yet.
    pub fn note_bootstrap_attempt(&self, now: UnixTime) -> Result<(), StateError> {
        self.change(|data| {
            data.bootstrap_start.get_or_insert(now);
            data.connection_attempts = data.connection_attempts.saturating_add(1);
        })
    }

    /// Notes that the server is trusted.
    ///
    /// # Errors
    /// [`StateError`] when it is not on disk yet.
    pub fn note_trusted(&self) -> Result<(), StateError> {
        self.change(|data| {
            data.bootstrap_use = USE_REBOOTSTRAP;
            data.bootstrap_start = None;
            data.connection_attempts = 0;
        })
    }

    /// Forgets SVID and bundle, so that the bundle source is asked again.
    ///
    /// # Errors
    /// [`StateError`] when it is not on disk yet.
    pub fn force_rebootstrap(&self, now: UnixTime) -> Result<(), StateError> {
        self.change(|data| {
            data.svid.clear();
            data.bundle.clear();
            data.reattestable = false;
            data.bootstrap_use = USE_REBOOTSTRAP;
            data.bootstrap_start = Some(now);
            data.connection_attempts = 0;
        })
    }

    /// Writes what is not on disk yet.
    ///
    /// # Errors
    /// [`StateError`]; the earlier file stays.
    pub fn write(&self) -> Result<(), StateError> {
        if self.key_is_missing.load(Ordering::Relaxed) {
            return Err(StateError::KeyFirst(self.path.clone()));
        }
        let mut written = match self.written.try_lock() {
            Ok(written) => written,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Whoever waited would take a thread from those who can get on.
            Err(TryLockError::WouldBlock) => return Err(StateError::Busy(self.path.clone())),
        };
        let data = self.lock().clone();
        if written.as_ref() == Some(&data) {
            return Ok(());
        }
        let text = encode(&data).map_err(|error| StateError::Corrupt {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        files::write_atomic(&self.path, text.as_bytes(), 0o600)?;
        *written = Some(data);
        Ok(())
    }

    /// Writes everything again: the file was lost.
    ///
    /// # Errors
    /// [`StateError`] when the file cannot be written.
    pub fn write_anew(&self) -> Result<(), StateError> {
        match self.written.try_lock() {
            Ok(mut written) => *written = None,
            Err(TryLockError::Poisoned(poisoned)) => *poisoned.into_inner() = None,
            Err(TryLockError::WouldBlock) => return Err(StateError::Busy(self.path.clone())),
        }
        self.write()
    }

    fn change(&self, change: impl FnOnce(&mut Data)) -> Result<(), StateError> {
        change(&mut self.lock());
        self.write()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decode(bytes: &[u8]) -> Result<Data, String> {
    // A sequence would do for a struct, too.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err("expected a JSON object".to_owned());
    }
    let json: Json = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok(Data {
        svid: decode_certificates("svid", json.svid)?,
        bundle: decode_certificates("bundle", json.bundle)?,
        reattestable: json.reattestable,
        bootstrap_use: json.bootstrap_use,
        bootstrap_start: json.bootstrap_start_time.as_deref().and_then(decode_time),
        connection_attempts: json.connection_attempts,
    })
}

fn decode_certificates(field: &str, all: Option<Vec<String>>) -> Result<Vec<Vec<u8>>, String> {
    let mut ders = Vec::new();
    for text in all.unwrap_or_default() {
        let pem_bytes = BASE64.decode(text).map_err(|error| format!("{field}: {error}"))?;
        let pem_text = String::from_utf8(pem_bytes)
            .map_err(|_| format!("{field}: a certificate is not PEM text"))?;
        let decoded =
            pem::decode_certificates(&pem_text).map_err(|error| format!("{field}: {error}"))?;
        if decoded.is_empty() {
            return Err(format!("{field}: a certificate is not PEM text"));
        }
        ders.extend(decoded);
    }
    Ok(ders)
}

fn encode(data: &Data) -> Result<String, serde_json::Error> {
    let certificates = |ders: &[Vec<u8>]| {
        (!ders.is_empty()).then(|| {
            ders.iter().map(|der| BASE64.encode(pem::encode("CERTIFICATE", der))).collect()
        })
    };
    let json = Json {
        svid: certificates(&data.svid),
        bundle: certificates(&data.bundle),
        reattestable: data.reattestable,
        bootstrap_use: data.bootstrap_use,
        bootstrap_start_time: Some(data.bootstrap_start.map_or(ZERO_TIME.to_owned(), encode_time)),
        connection_attempts: data.connection_attempts,
    };
    serde_json::to_string(&json)
}

fn decode_time(text: &str) -> Option<UnixTime> {
    let format = &time::format_description::well_known::Rfc3339;
    let time = UnixTime::from(time::OffsetDateTime::parse(text, format).ok()?);
    (time > UnixTime::EPOCH).then_some(time)
}

fn encode_time(unix: UnixTime) -> String {
    unix.rfc3339().unwrap_or_else(|| ZERO_TIME.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_survives_and_is_forgotten_on_demand() {
        let dir = tempfile::tempdir().unwrap();
        let state = AgentState::open(dir.path()).unwrap();
        assert!(state.svid().is_none() && !state.was_bootstrapped());
        state.store_attestation(&[vec![1, 2], vec![3]], true, &[vec![9]]).unwrap();
        let again = AgentState::open(dir.path()).unwrap();
        let svid = again.svid().unwrap();
        assert_eq!((svid.chain, svid.reattestable), (vec![vec![1, 2], vec![3]], true));
        assert_eq!(again.bundle(), [vec![9]]);
        again.delete_svid().unwrap();
        again.note_untrusted(UnixTime::from_seconds(1_700_000_000)).unwrap();
        again.note_untrusted(UnixTime::from_seconds(1_700_000_999)).unwrap();
        assert_eq!(again.untrusted_since(), Some(UnixTime::from_seconds(1_700_000_000)));
        let again = AgentState::open(dir.path()).unwrap();
        assert!(again.svid().is_none() && again.was_bootstrapped());
        assert_eq!(again.untrusted_since(), Some(UnixTime::from_seconds(1_700_000_000)));
        again.force_rebootstrap(UnixTime::from_seconds(1_700_000_001)).unwrap();
        assert!(again.bundle().is_empty());
    }

    #[test]
    fn what_cannot_be_written_holds_and_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let state = AgentState::open(&data).unwrap();
        state.store_bundle(&[vec![9]]).unwrap();
        std::fs::remove_dir_all(&data).unwrap();
        state.store_svid(&[vec![1]], true).unwrap_err();
        assert_eq!(state.svid().unwrap().chain, [vec![1]], "it holds nevertheless");
        state.write().unwrap_err();
        std::fs::create_dir(&data).unwrap();
        state.write().unwrap();
        let again = AgentState::open(&data).unwrap();
        assert_eq!((again.svid(), again.bundle()), (state.svid(), vec![vec![9]]));
        // Nothing changed, and yet the file is gone.
        std::fs::remove_file(data.join(FILE_NAME)).unwrap();
        state.write_anew().unwrap();
        assert_eq!(AgentState::open(&data).unwrap().bundle(), [vec![9]]);
    }

    #[test]
    fn reads_and_writes_what_a_spire_agent_does() {
        let dir = tempfile::tempdir().unwrap();
        let pem = BASE64.encode(pem::encode("CERTIFICATE", &[7; 70]));
        let spire = format!(
            "{{\"svid\":[\"{pem}\"],\"bundle\":[\"{pem}\",\"{pem}\"],\"reattestable\":false,\
             \"bootstrap_use\":2,\"bootstrap_start_time\":\"0001-01-01T00:00:00Z\",\
             \"connection_attempts\":0}}"
        );
        std::fs::write(dir.path().join(FILE_NAME), &spire).unwrap();
        let state = AgentState::open(dir.path()).unwrap();
        assert_eq!(state.bundle().len(), 2);
        assert_eq!(state.untrusted_since(), None);
        state.store_svid(&[vec![1]], false).unwrap();
        state.store_svid(&[vec![7; 70]], false).unwrap();
        let written = std::fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
        assert_eq!(written, spire, "byte for byte what SPIRE writes");
        state.force_rebootstrap(UnixTime::from_seconds(1_700_000_000)).unwrap();
        let written = std::fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
        assert!(written.starts_with("{\"svid\":null,\"bundle\":null,"), "{written}");
        assert!(written.contains("\"2023-11-14T22:13:20Z\""), "{written}");
    }

    #[test]
    fn corrupt_file_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        for bad in ["", "{", "{\"svid\":[\"!\"]}", "{\"svid\":[\"AAAA\"]}", "[]"] {
            std::fs::write(&path, bad).unwrap();
            let error = AgentState::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains(FILE_NAME), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), bad);
        }
    }
}
