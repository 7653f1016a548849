//! Promises about moving: all of it or none, and nothing that exists is changed.

use std::{fs, path::Path};

use signet_authority::journal::{Journal, JwtRecord, SlotId, Status, X509Record};
use signet_identity::{AttestedNode, Bundle, Entry, EntrySpec, JoinToken, X509Authority};
use signet_pki::{DiskKeyManager, KeyManager as _, KeyType, key_manager::Sealing};
use signet_store::{
    Contents, Store, StoreOptions,
    spire::{self, SpireContents, SpireJournal, SpireKey, SpireStatus},
};
use signet_time::UnixTime;

use super::*;
use crate::{config::RunFlags, ports::UNCLAIMED_JOURNAL};

const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);

/// A directory with a configuration in it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, extra: &str) -> Config {
        let path = |name: &str| self.path(name).display().to_string();
        let text = format!(
            r#"server {{ trust_domain = "td.test" data_dir = "{}" }}
            plugins {{
                DataStore "sql" {{ plugin_data {{
                    database_type = "sqlite3" connection_string = "{}"
                }} }}
                KeyManager "disk" {{ plugin_data {{ keys_path = "{}" {extra} }} }}
                NodeAttestor "join_token" {{ plugin_data {{}} }}
            }}"#,
            path("data"),
            path("signet.db"),
            path("signet-keys.json"),
        );
        fs::write(self.path("server.conf"), text).unwrap();
        let flags = RunFlags { config: self.path("server.conf"), ..RunFlags::default() };
        Config::load(Program::Signet, &flags, &|_| None).unwrap()
    }

    /// What is in the directory besides the configuration and the data directory.
    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "server.conf" && name != "data")
            .collect();
        names.sort();
        names
    }

    fn flags(&self) -> MigrateFlags {
        MigrateFlags {
            from_spire: None,
            to_spire: None,
            from_store: None,
            online: false,
            reopen: false,
            config: self.path("server.conf"),
            expand_env: false,
            keys: Some(self.path("spire-keys.json")),
            dry_run: false,
            skip_invalid: false,
            output: Output::Pretty,
        }
    }

    async fn import(&self, change: impl FnOnce(&mut MigrateFlags)) -> Result<Report, MigrateError> {
        let mut flags = self.flags();
        flags.from_spire = Some(self.path("spire.db").display().to_string());
        change(&mut flags);
        migrate(&self.config(""), &flags, NOW).await
    }

    async fn export(&self, change: impl FnOnce(&mut MigrateFlags)) -> Result<Report, MigrateError> {
        let mut flags = self.flags();
        flags.to_spire = Some(self.path("back.db").display().to_string());
        flags.keys = Some(self.path("back-keys.json"));
        change(&mut flags);
        migrate(&self.config(""), &flags, NOW).await
    }
}

async fn keys(path: &Path) -> (DiskKeyManager, String) {
    let manager = DiskKeyManager::open(path, Sealing::Off).unwrap();
    let signer = manager.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap();
    manager.generate_key("JWT-Signer-A", KeyType::EcP256).await.unwrap();
    let id = signer.public_key().subject_key_id();
    (manager, id.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn contents() -> Contents {
    let mut bundle = Bundle::empty("td.test".parse().unwrap());
    bundle.x509_authorities.push(X509Authority { der: vec![1; 99].into(), tainted: false });
    bundle.sequence_number = 4;
    let draft = EntrySpec::new(
        "spiffe://td.test/w".parse().unwrap(),
        "spiffe://td.test/spire/agent/join_token/x".parse().unwrap(),
        ["unix:uid:0".parse().unwrap()].into_iter().collect(),
    );
    Contents {
        entries: vec![Entry {
            id: "e".parse().unwrap(),
            spec: draft,
            revision_number: 2,
            created_at: UnixTime::from_seconds(7),
        }],
        bundles: vec![bundle],
        nodes: vec![AttestedNode {
            spiffe_id: "spiffe://td.test/spire/agent/join_token/x".parse().unwrap(),
            attestation_type: "join_token".into(),
            serial_number: "123".into(),
            expires_at: NOW + 100,
            new_serial_number: String::new(),
            new_expires_at: UnixTime::EPOCH,
            selectors: Default::default(),
            can_reattest: false,
            agent_version: "1.15.3".into(),
        }],
        federations: Vec::new(),
        assignments: Vec::new(),
        join_tokens: vec![JoinToken { token: "t".into(), expires_at: NOW, spent_by: None }],
    }
}

fn journal(active: &str) -> SpireJournal {
    SpireJournal {
        active_x509_authority_id: active.into(),
        x509: Vec::new(),
        jwt: vec![SpireKey {
            slot_id: "A".into(),
            issued_at: UnixTime::from_seconds(1),
            not_after: NOW + 1,
            kid: "kid".into(),
            public_key: vec![1, 2],
            status: SpireStatus::Active,
            authority_id: "kid".into(),
        }],
        wit: Vec::new(),
    }
}

async fn spire(place: &Place, journals: Vec<SpireJournal>) {
    let contents = SpireContents { contents: contents(), journals, ..SpireContents::default() };
    spire::write(&place.path("spire.db"), &contents, NOW).await.unwrap();
}

#[tokio::test]
async fn a_trust_domain_moves_here_and_back_without_a_change() {
    let place = Place::new();
    let (spires_keys, active) = keys(&place.path("spire-keys.json")).await;
    spire(&place, vec![journal("someone else's"), journal(&active)]).await;
    let report = place.import(|_| {}).await.unwrap();
    assert_eq!((report.entries, report.agents, report.bundles, report.join_tokens), (1, 1, 1, 1));
    assert_eq!(report.jwt_authority.as_deref(), Some("kid"));
    assert_eq!(report.keys, ["JWT-Signer-A", "x509-CA-A"]);
    let store = Store::open(StoreOptions::file(place.path("signet.db"))).await.unwrap();
    assert_eq!(store.export().await.unwrap(), contents());
    assert!(store.journal(UNCLAIMED_JOURNAL).await.unwrap().is_some());
    store.close().await;
    let expected = ["signet-keys.json", "signet.db", "spire-keys.json", "spire.db"];
    assert_eq!(place.files(), expected);

    place.export(|_| {}).await.unwrap();
    let before = spire::read(&place.path("spire.db")).await.unwrap();
    let after = spire::read(&place.path("back.db")).await.unwrap();
    assert_eq!(after.contents, before.contents);
    assert_eq!(after.journals[0].jwt, before.journals[1].jwt);
    let back = DiskKeyManager::open(place.path("back-keys.json"), Sealing::Off).unwrap();
    let bytes = |manager: &DiskKeyManager| -> Vec<_> {
        manager.export().iter().map(|(id, key)| (id.clone(), key.pkcs8_der().to_vec())).collect()
    };
    assert_eq!(bytes(&back), bytes(&spires_keys));
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let place = Place::new();
    let (_, active) = keys(&place.path("spire-keys.json")).await;
    spire(&place, vec![journal(&active)]).await;
    let before = place.files();
    let report = place.import(|flags| flags.dry_run = true).await.unwrap();
    assert_eq!(place.files(), before);
    assert!(!place.path("data").exists());
    let text = report.to_string();
    assert!(
        text.starts_with("Would migrate ") && text.ends_with("nothing was written.\n"),
        "{text}"
    );

    place.import(|_| {}).await.unwrap();
    let before = place.files();
    place.export(|flags| flags.dry_run = true).await.unwrap();
    assert_eq!(place.files(), before);
}

#[tokio::test]
async fn what_exists_is_never_overwritten() {
    let place = Place::new();
    let (_, active) = keys(&place.path("spire-keys.json")).await;
    spire(&place, vec![journal(&active)]).await;
    keys(&place.path("signet-keys.json")).await;
    let refused = place.import(|_| {}).await.unwrap_err();
    assert!(
        matches!(&refused, MigrateError::Exists { path, .. } if path.ends_with("signet-keys.json"))
    );
    fs::remove_file(place.path("signet-keys.json")).unwrap();
    fs::write(place.path("signet.db"), b"precious").unwrap();
    let refused = place.import(|_| {}).await.unwrap_err();
    assert!(matches!(&refused, MigrateError::Exists { path, .. } if path.ends_with("signet.db")));
    assert_eq!(fs::read(place.path("signet.db")).unwrap(), b"precious");
    fs::remove_file(place.path("signet.db")).unwrap();
    fs::copy(place.path("spire.db"), place.path("signet.db")).unwrap();
    let refused = place
        .import(|flags| flags.from_spire = Some(place.path("signet.db").display().to_string()))
        .await;
    assert!(matches!(refused, Err(MigrateError::Usage(_))));
    fs::remove_file(place.path("signet.db")).unwrap();
    place.import(|_| {}).await.unwrap();
    fs::write(place.path("back.db"), b"precious").unwrap();
    assert!(matches!(place.export(|_| {}).await, Err(MigrateError::Exists { .. })));
}

#[tokio::test]
async fn without_the_keys_of_the_journal_new_authorities_are_announced() {
    let place = Place::new();
    keys(&place.path("spire-keys.json")).await;
    spire(&place, vec![journal("someone else's")]).await;
    let report = place.import(|_| {}).await.unwrap();
    assert!(report.notes.iter().any(|note| note.starts_with("no CA journal belongs")));
    assert_eq!(report.x509_authority, None);
}

#[tokio::test]
async fn rows_that_do_not_fit_stop_the_move_unless_they_may_be_left_out() {
    let place = Place::new();
    let (_, active) = keys(&place.path("spire-keys.json")).await;
    let mut contents = contents();
    contents.nodes[0].selectors = Default::default();
    contents.bundles[0].trust_domain = "other.test".parse().unwrap();
    let contents =
        SpireContents { contents, journals: vec![journal(&active)], ..SpireContents::default() };
    spire::write(&place.path("spire.db"), &contents, NOW).await.unwrap();
    let error = place.import(|_| {}).await.unwrap_err();
    assert!(matches!(error, MigrateError::TrustDomain { .. }), "{error}");
}

#[tokio::test]
async fn a_running_server_is_not_disturbed() {
    let place = Place::new();
    let (_, active) = keys(&place.path("spire-keys.json")).await;
    spire(&place, vec![journal(&active)]).await;
    let config = place.config("");
    let lock = signet_daemon::process::DirLock::acquire(&config.data_dir, "signet-server.lock");
    let lock = lock.unwrap();
    assert!(matches!(place.import(|_| {}).await, Err(MigrateError::Running(_))));
    assert_eq!(place.files(), ["spire-keys.json", "spire.db"]);
    drop(lock);
    place.import(|_| {}).await.unwrap();
}

#[test]
fn a_journal_keeps_what_matters_on_its_way_to_spire() {
    let journal = Journal {
        x509: vec![X509Record {
            slot: SlotId::B,
            status: Status::Active,
            issued_at: UnixTime::from_seconds(1),
            not_after: UnixTime::from_seconds(2),
            authority_id: "ab".into(),
            upstream_authority_id: "cd".into(),
            certificate: vec![1],
            upstream_chain: vec![vec![1], vec![2]],
        }],
        jwt: vec![JwtRecord {
            slot: SlotId::A,
            status: Status::Old,
            issued_at: UnixTime::from_seconds(3),
            not_after: UnixTime::from_seconds(4),
            key_id: "k".into(),
            public_key: vec![5],
        }],
        ..Journal::default()
    };
    let spire = journal::to_spire(&journal);
    assert_eq!(spire.active_x509_authority_id, "ab");
    assert_eq!((spire.x509[0].slot_id.as_str(), spire.x509[0].status), ("B", SpireStatus::Active));
    assert_eq!(spire.x509[0].upstream_chain, journal.x509[0].upstream_chain);
    let (back, left_out) = journal::from_spire(&SpireJournal { x509: Vec::new(), ..spire });
    assert_eq!((back.jwt, left_out), (journal.jwt, Vec::new()));
}
