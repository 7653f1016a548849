//! The workload attestor `systemd` on a bus of its own, with a service that answers as systemd
//! does.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use std::{
    io::{BufRead, BufReader},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use signet_attest::{
    peer::PinnedPeer,
    procfs::ProcRoot,
    workload::{WorkloadAttestor, systemd::SystemdAttestor},
};
use signet_testkit::skip;
use zbus::{Connection, MessageStream, ObjectPath, OwnedFd, Variant, connection::Builder};

const DEADLINE: Duration = Duration::from_secs(20);
const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/nginx_2eservice";

/// A bus for one test.
struct Bus {
    daemon: Child,
    dir: tempfile::TempDir,
}

impl Bus {
    /// None where there is no `dbus-daemon`.
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Self::daemon(dir.path())?;
        Some(Self { daemon, dir })
    }

    fn daemon(dir: &Path) -> Option<Child> {
        let config = dir.join("bus.conf");
        let socket = dir.join("bus");
        std::fs::write(
            &config,
            format!(
                "<busconfig><type>custom</type><listen>unix:path={}</listen>\
                 <auth>EXTERNAL</auth><policy context=\"default\"><allow user=\"*\"/>\
                 <allow own=\"*\"/><allow send_destination=\"*\" eavesdrop=\"true\"/>\
                 <allow eavesdrop=\"true\"/></policy></busconfig>",
                socket.display()
            ),
        )
        .unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile", "--print-address=1"])
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        // It prints its address when it listens.
        let mut line = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("unix:"), "dbus-daemon said {line:?}");
        Some(daemon)
    }

    fn stop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }

    fn restart(&mut self) {
        self.stop();
        std::fs::remove_file(self.dir.path().join("bus")).unwrap();
        self.daemon = Self::daemon(self.dir.path()).unwrap();
    }

    fn address(&self) -> String {
        format!("unix:path={}", self.dir.path().join("bus").display())
    }

    async fn connect(&self) -> Connection {
        Builder::address(self.address().as_str()).build().await.unwrap()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// What the fake systemd is like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Knows `GetUnitByPIDFD`.
    New,
    /// Does not.
    Old,
    /// Knows no unit for the process.
    NoUnit,
    /// Never answers.
    Mute,
    /// Answers with other types.
    Odd,
}

/// Plays systemd on the bus, and counts how often it was asked by handle and by number.
async fn systemd(connection: Connection, kind: Kind) -> Arc<[AtomicUsize; 2]> {
    let asked: Arc<[AtomicUsize; 2]> = Arc::default();
    let count = Arc::clone(&asked);
    let mut calls = MessageStream::from(&connection);
    connection.request_name("org.freedesktop.systemd1").await.unwrap();
    tokio::spawn(async move {
        while let Some(Ok(call)) = calls.next().await {
            let header = call.header();
            let Some(member) = header.member().map(|member| member.to_string()) else { continue };
            let path = ObjectPath::try_from(UNIT_PATH).unwrap();
            let own = std::process::id();
            let result = match (member.as_str(), kind) {
                (_, Kind::Mute) => continue,
                ("GetUnitByPIDFD", Kind::Old) => {
                    let name = "org.freedesktop.DBus.Error.UnknownMethod";
                    connection.reply_error(&header, name, &"Unknown method").await
                }
                ("GetUnitByPIDFD", _) => {
                    count[0].fetch_add(1, Ordering::SeqCst);
                    let handle: OwnedFd = call.body().deserialize().unwrap();
                    assert_eq!(pid_of(handle.as_fd().as_raw_fd()), own);
                    match kind {
                        Kind::NoUnit => no_unit(&connection, &header).await,
                        Kind::Odd => connection.reply(&header, &1_u32).await,
                        _ => {
                            connection
                                .reply(&header, &(path, "nginx.service", vec![0_u8; 16]))
                                .await
                        }
                    }
                }
                ("GetUnitByPID", _) => {
                    count[1].fetch_add(1, Ordering::SeqCst);
                    assert_eq!(call.body().deserialize::<u32>().unwrap(), own);
                    connection.reply(&header, &path).await
                }
                ("Get", _) => {
                    assert_eq!(header.path().unwrap().as_str(), UNIT_PATH);
                    let (interface, name): (String, String) = call.body().deserialize().unwrap();
                    assert_eq!(interface, "org.freedesktop.systemd1.Unit");
                    let value = match name.as_str() {
                        "Id" => "nginx.service",
                        "FragmentPath" => "/lib/systemd/system/nginx.service",
                        other => panic!("property {other}"),
                    };
                    connection.reply(&header, &Variant::from(value)).await
                }
                _ => continue,
            };
            result.unwrap();
        }
    });
    asked
}

async fn no_unit(
    connection: &Connection,
    header: &zbus::message::Header<'_>,
) -> Result<(), zbus::Error> {
    let name = "org.freedesktop.systemd1.NoUnitForPID";
    connection.reply_error(header, name, &"PID 1 does not belong to any loaded unit.").await
}

/// The process that a pidfd refers to.
fn pid_of(pidfd: i32) -> u32 {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{pidfd}")).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap();
    line.trim().parse().unwrap()
}

async fn attest(attestor: &SystemdAttestor) -> Result<Vec<String>, String> {
    let (_client, server) = UnixStream::pair().unwrap();
    let peer = PinnedPeer::from_socket(&server, &ProcRoot::default()).unwrap();
    let found = attestor.attest(&peer).await.map_err(|error| error.to_string())?;
    Ok(found.iter().map(ToString::to_string).collect())
}

fn wanted() -> Vec<String> {
    vec![
        "systemd:id:nginx.service".to_owned(),
        "systemd:fragment_path:/lib/systemd/system/nginx.service".to_owned(),
    ]
}

#[tokio::test]
async fn a_unit_is_found_by_the_handle_of_the_process() {
    let Some(bus) = Bus::start() else { skip!("there is no dbus-daemon") };
    let asked = systemd(bus.connect().await, Kind::New).await;
    let attestor = SystemdAttestor::new().on_bus(&bus.address(), DEADLINE);
    for _ in 0..2 {
        assert_eq!(attest(&attestor).await.unwrap(), wanted());
    }
    assert_eq!(asked.each_ref().map(|count| count.load(Ordering::SeqCst)), [2, 0]);
}

#[tokio::test]
async fn an_older_systemd_is_asked_by_number() {
    let Some(bus) = Bus::start() else { skip!("there is no dbus-daemon") };
    let asked = systemd(bus.connect().await, Kind::Old).await;
    let attestor = SystemdAttestor::new().on_bus(&bus.address(), DEADLINE);
    for _ in 0..2 {
        assert_eq!(attest(&attestor).await.unwrap(), wanted());
    }
    assert_eq!(asked.each_ref().map(|count| count.load(Ordering::SeqCst)), [0, 2]);
}

#[tokio::test]
async fn what_systemd_says_is_in_the_error() {
    let Some(bus) = Bus::start() else { skip!("there is no dbus-daemon") };
    let attestor = SystemdAttestor::new().on_bus(&bus.address(), DEADLINE);
    let error = attest(&attestor).await.unwrap_err();
    assert!(error.contains("failed to get the unit"), "without systemd: {error}");
    for (kind, wanted) in [
        (Kind::NoUnit, "does not belong to any loaded unit"),
        (Kind::Odd, "unexpected answer from systemd"),
    ] {
        let connection = bus.connect().await;
        systemd(connection.clone(), kind).await;
        let error = attest(&attestor).await.unwrap_err();
        assert!(error.contains(wanted), "{error}");
        connection.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_systemd_that_does_not_answer_is_given_up() {
    let Some(bus) = Bus::start() else { skip!("there is no dbus-daemon") };
    systemd(bus.connect().await, Kind::Mute).await;
    let attestor = SystemdAttestor::new().on_bus(&bus.address(), Duration::from_millis(200));
    let error = attest(&attestor).await.unwrap_err();
    assert!(error.contains("no answer within 200ms"), "{error}");
}

#[tokio::test]
async fn a_bus_that_is_away_is_an_error_and_one_that_came_back_is_used() {
    let Some(mut bus) = Bus::start() else { skip!("there is no dbus-daemon") };
    systemd(bus.connect().await, Kind::New).await;
    let attestor = SystemdAttestor::new().on_bus(&bus.address(), DEADLINE);
    assert_eq!(attest(&attestor).await.unwrap(), wanted());
    bus.stop();
    let error = attest(&attestor).await.unwrap_err();
    assert!(error.contains("failed to open the connection to D-Bus"), "{error}");
    bus.restart();
    systemd(bus.connect().await, Kind::New).await;
    assert_eq!(attest(&attestor).await.unwrap(), wanted());
}

#[tokio::test]
async fn nothing_is_connected_before_it_is_needed() {
    let attestor = SystemdAttestor::new().on_bus("unix:path=/nowhere/bus", DEADLINE);
    let error = attest(&attestor).await.unwrap_err();
    assert!(error.contains("failed to open the connection to D-Bus"), "{error}");
}
