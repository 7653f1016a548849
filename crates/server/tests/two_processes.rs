//! Two processes on one database: what one of them commits holds for the other at once.
//!
//! The other process is this test binary again, with a store of its own on the same file.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod support;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use signet_api::pb::spire::api::server::entry::v1::{
    GetAuthorizedEntriesRequest, entry_client::EntryClient,
};
use signet_base::TestClock;
use signet_identity::{EntrySpec, SpiffeId};
use signet_store::{NewEntry, Store, StoreOptions};
use signet_time::UnixTime;
use support::{Options, TestServer};
use tonic::Code;

const DATABASE: &str = "SIGNET_TEST_SHARED_DATABASE";
const ALOUD: &str = "done: ";

/// The other process; it does what it is told, one line at a time.
struct Other {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Other {
    fn start(database: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_other_process", "--nocapture"])
            .env(DATABASE, database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, orders, answers }
    }

    /// Returns when the other process has committed.
    fn tell(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
        let mut line = String::new();
        // The test harness says things of its own.
        while !line.contains(ALOUD) {
            line.clear();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "the other process ended");
        }
        assert!(line.contains(order), "{line}");
    }

    fn end(self) {
        let Self { mut child, orders, mut answers } = self;
        drop(orders);
        // Its test harness has a last word, and fails when nobody takes it.
        std::io::copy(&mut answers, &mut std::io::sink()).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

/// Not a test of its own: the process that the others start.
#[tokio::test]
async fn the_other_process() {
    let Some(path) = std::env::var_os(DATABASE) else { return };
    let store = Store::open(StoreOptions::file(path)).await.unwrap();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        match line.split_once(' ').unwrap() {
            ("ban", id) => {
                let id: SpiffeId = id.parse().unwrap();
                let banned = store.update_node(&id, UnixTime::from_seconds(1), |node| {
                    node.serial_number.clear();
                    node.new_serial_number.clear();
                    true
                });
                assert!(banned.await.unwrap().unwrap().1);
            }
            ("entry", agent) => {
                let selectors = ["unix:uid:1".parse().unwrap()].into_iter().collect();
                let id = "spiffe://example.org/by-the-other".parse().unwrap();
                let draft = EntrySpec::new(id, agent.parse().unwrap(), selectors);
                let entry = NewEntry { id: "by-the-other".parse().unwrap(), draft };
                store.create_entries(vec![entry], UnixTime::from_seconds(1)).await.unwrap();
            }
            other => panic!("{other:?}"),
        }
        println!("{ALOUD}{line}");
    }
}

#[tokio::test]
async fn a_ban_and_an_entry_of_another_process_hold_at_once() {
    let dir = tempfile::Builder::new().prefix("sg").tempdir().unwrap();
    let database = dir.path().join("shared.db");
    let store = Store::open(StoreOptions::file(&database)).await.unwrap();
    let server = TestServer::on_store(Some(store), dir, Options::default(), TestClock::new()).await;
    let agent = server.agent().await;
    let welcome = server.agent().await;
    let mut other = Other::start(&database);

    // Without asking for anything the server takes over what the other has committed.
    let mut changes = server.context.parts.cache.subscribe(Some(&agent.id));
    changes.mark_unchanged();
    other.tell(&format!("entry {}", agent.id));
    tokio::time::timeout(Duration::from_secs(10), changes.changed()).await.unwrap().unwrap();
    let ids = agent.entries(&server).await.unwrap();
    assert_eq!(ids, ["by-the-other"]);

    // And a ban holds for the very next call, on the connection that is open already too.
    let mut connected = EntryClient::new(agent.channel(&server).await);
    let ask = GetAuthorizedEntriesRequest::default();
    connected.get_authorized_entries(ask).await.unwrap();
    other.tell(&format!("ban {}", agent.id));
    let refused = connected.get_authorized_entries(ask).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(agent.entries(&server).await.is_err());
    assert!(welcome.entries(&server).await.is_ok());
    other.end();
    let (_dir, _clock) = server.stop().await;
}
