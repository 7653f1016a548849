//! Whatever is done to a log by somebody who cannot sign is found out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use signet_audit::{
    AuditEvent, Caller, Chain, ChainError, ChainOptions, Field, Kind, Outcome, Sink,
    chain::{
        Broken, Expected, HEAD_FILE, Head, HeadVerifier, PUBLIC_KEY_FILE, Report, records, verify,
    },
    ocsf,
};
use signet_base::SystemClock;

const PATIENCE: Duration = Duration::from_secs(20);

fn open(options: ChainOptions) -> Chain {
    // A process that another test has just started may hold the lock of a closed log still.
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Chain::open(options.clone(), SystemClock::shared(), "test", "1") {
            Err(ChainError::InUse(_)) if Instant::now() < deadline => std::thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

fn event(n: u32) -> AuditEvent {
    let caller = Caller {
        authorized_as: Some("agent"),
        id: Some("spiffe://td/spire/agent/t/1".parse().unwrap()),
        pid: Some(7),
        uid: Some(8),
        ..Caller::default()
    };
    let mut event = AuditEvent::new(caller, "svid.v1.SVID", "BatchNewX509SVID");
    event.kind = Kind::Issuance;
    event.request_id = format!("r{n}").into();
    event.tenant = Some("blue".into());
    event.fields = vec![
        Field::SpiffeId(format!("spiffe://td/w{n}").parse().unwrap()),
        Field::SerialNumber(n.to_string()),
        Field::Selectors(["unix:uid:1".parse().unwrap()].into_iter().collect()),
    ];
    event
}

/// A closed log of `n` events with a head in the middle; the heads that were published.
fn log(dir: &Path, n: u32) -> Vec<Head> {
    let mut options = ChainOptions::new(dir.join("log"));
    options.heads_file = Some(dir.join("heads.jsonl"));
    let chain = open(options);
    for at in 0..n {
        chain.record(&event(at));
        if at == n / 2 {
            assert!(chain.flush(PATIENCE));
            chain.sign_head();
            assert!(chain.flush(PATIENCE));
        }
    }
    chain.close(PATIENCE);
    let text = fs::read_to_string(dir.join("heads.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn key(dir: &Path) -> HeadVerifier {
    let key = fs::read_to_string(dir.join("log").join(PUBLIC_KEY_FILE)).unwrap();
    HeadVerifier::from_pem(&key).unwrap()
}

fn check(dir: &Path, published: &[Head]) -> Report {
    let expected = Expected { key: key(dir), published: published.to_vec() };
    verify(&dir.join("log"), &expected).unwrap()
}

fn file(dir: &Path) -> PathBuf {
    dir.join("log/audit-00000000000000000001.jsonl")
}

fn lines_of(dir: &Path) -> Vec<String> {
    fs::read_to_string(file(dir)).unwrap().lines().map(str::to_owned).collect()
}

fn write_lines(dir: &Path, lines: &[String]) {
    fs::write(file(dir), lines.join("\n") + "\n").unwrap();
}

/// Changes the lines of a log, and says what is found then.
fn tampered(change: impl FnOnce(&mut Vec<String>)) -> Vec<Broken> {
    let dir = tempfile::tempdir().unwrap();
    let heads = log(dir.path(), 20);
    assert_eq!(check(dir.path(), &heads).broken, [], "before");
    let mut lines = lines_of(dir.path());
    change(&mut lines);
    write_lines(dir.path(), &lines);
    check(dir.path(), &heads).broken
}

fn out_of_order(broken: &[Broken], number: u64, instead_of: u64) -> bool {
    broken.iter().any(|one| {
        matches!(one, Broken::OutOfOrder { found, expected, .. }
            if (*found, *expected) == (number, instead_of))
    })
}

/// What `take` finds in the records of a log.
fn found<T>(
    dir: &Path,
    mut take: impl FnMut(&signet_audit::chain::Recorded) -> Option<T>,
) -> Vec<T> {
    let mut all = Vec::new();
    let read = records(&dir.join("log"), |record| {
        all.extend(take(&record));
        true
    });
    read.unwrap();
    all
}

#[test]
fn what_was_recorded_is_found_again_under_signed_heads() {
    let dir = tempfile::tempdir().unwrap();
    let heads = log(dir.path(), 20);
    assert_eq!(heads.len(), 3, "at the start, when asked for, and at the end");
    let report = check(dir.path(), &heads);
    assert_eq!(report.broken, []);
    assert_eq!((report.first, report.heads, report.lost), (1, 3, 0));
    assert_eq!(report.covered + 1, report.last);
    let issued = found(dir.path(), |it| (it.text("kind") == "issuance").then(|| it.clone()));
    assert_eq!(issued.len(), 20);
    let first = &issued[0];
    for (name, value) in [
        ("caller_id", "spiffe://td/spire/agent/t/1"),
        ("correlation_id", "r0"),
        ("decision", "allow"),
        ("method", "BatchNewX509SVID"),
        ("serial_num", "0"),
        ("spiffe_id", "spiffe://td/w0"),
        ("tenant", "blue"),
    ] {
        assert_eq!(first.text(name), value, "{name}");
    }
    assert_eq!((&first.json["caller_pid"], &first.json["caller_uid"]), (&7.into(), &8.into()));
    assert_eq!(first.text("selectors_sha256").len(), 64);
    let ocsf = ocsf::event(first, "signet-server", "1");
    assert_eq!((&ocsf["class_uid"], &ocsf["type_uid"]), (&6003.into(), &600_301.into()));
    assert_eq!(ocsf["metadata"]["correlation_uid"], "r0");
    assert_eq!(ocsf["metadata"]["tenant_uid"], "blue");
    assert_eq!(ocsf["status"], "Success");
    assert_eq!(ocsf["unmapped"]["spiffe_id"], "spiffe://td/w0");
    assert!(ocsf["time"].as_i64().unwrap() > 1_700_000_000_000);
}

#[test]
fn an_altered_record_is_found() {
    let broken = tampered(|lines| lines[6] = lines[6].replace("spiffe://td/w", "spiffe://td/x"));
    assert!(matches!(broken[..], [Broken::Altered { line: 7, seq: 7, .. }]), "{broken:?}");
}

#[test]
fn a_record_that_was_replaced_with_its_hash_is_found_by_the_next_one() {
    let broken = tampered(|lines| {
        let dir = tempfile::tempdir().unwrap();
        log(dir.path(), 20);
        // Intact, and of another chain.
        lines[6] = lines_of(dir.path()).remove(6);
    });
    let unchained = |one: &&Broken| matches!(one, Broken::Unchained { seq: 7 | 8, .. });
    assert_eq!(broken.iter().filter(unchained).count(), 2, "{broken:?}");
}

#[test]
fn a_missing_record_is_found() {
    let broken = tampered(|lines| drop(lines.remove(6)));
    assert!(out_of_order(&broken, 8, 7), "{broken:?}");
}

#[test]
fn a_record_that_is_there_twice_is_found() {
    let broken = tampered(|lines| {
        let copy = lines[6].clone();
        lines.insert(7, copy);
    });
    assert!(out_of_order(&broken, 7, 8), "{broken:?}");
}

#[test]
fn records_in_another_order_are_found() {
    let broken = tampered(|lines| lines.swap(6, 7));
    assert!(out_of_order(&broken, 8, 7), "{broken:?}");
}

#[test]
fn a_log_without_its_beginning_is_found() {
    let broken = tampered(|lines| drop(lines.drain(..4)));
    assert_eq!(broken, [Broken::BeginningMissing(5)]);
}

#[test]
fn a_log_without_its_end_is_found() {
    let broken = tampered(|lines| lines.truncate(lines.len() - 4));
    assert!(matches!(broken[..], [Broken::Truncated { .. }]), "{broken:?}");
    // In the middle of a record.
    let broken = tampered(|lines| {
        let last = lines.last_mut().unwrap();
        last.truncate(last.len() / 2);
    });
    assert!(broken.iter().any(|one| matches!(one, Broken::NotARecord { .. })), "{broken:?}");
}

#[test]
fn a_log_cut_back_to_an_older_head_is_found_by_a_published_one() {
    let dir = tempfile::tempdir().unwrap();
    let heads = log(dir.path(), 20);
    let mut lines = lines_of(dir.path());
    lines.truncate(usize::try_from(heads[1].seq).unwrap() + 1);
    write_lines(dir.path(), &lines);
    let head = serde_json::to_string(&heads[1]).unwrap();
    fs::write(dir.path().join("log").join(HEAD_FILE), head).unwrap();
    assert_eq!(check(dir.path(), &[]).broken, [], "nothing in the directory tells");
    let cut = Broken::Truncated { ends: heads[1].seq + 1, head: heads[2].seq };
    assert_eq!(check(dir.path(), &heads).broken, [cut]);
}

#[test]
fn a_log_that_was_swapped_as_a_whole_is_found_by_the_key_and_by_published_heads() {
    let (mine, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let heads = log(mine.path(), 20);
    log(theirs.path(), 20);
    let expected = Expected { key: key(mine.path()), published: Vec::new() };
    let report = verify(&theirs.path().join("log"), &expected).unwrap();
    assert!(report.broken.contains(&Broken::NoHead), "{:?}", report.broken);
    // The same key, by somebody who has it.
    let stolen = tempfile::tempdir().unwrap();
    fs::create_dir(stolen.path().join("log")).unwrap();
    fs::copy(mine.path().join("log/head.key"), stolen.path().join("log/head.key")).unwrap();
    log(stolen.path(), 20);
    assert_eq!(check(stolen.path(), &[]).broken, []);
    let broken = check(stolen.path(), &heads).broken;
    assert!(!broken.is_empty());
    assert!(broken.iter().all(|one| matches!(one, Broken::HeadMismatch(_))), "{broken:?}");
}

#[test]
fn a_log_goes_on_after_a_crash_and_says_what_was_dropped() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), 5);
    let mut text = fs::read(file(dir.path())).unwrap();
    text.extend_from_slice(b"{\"seq\":99,\"half a rec");
    fs::write(file(dir.path()), text).unwrap();
    log(dir.path(), 5);
    assert_eq!(check(dir.path(), &[]).broken, []);
    assert_eq!(found(dir.path(), |it| it.json.get("dropped_bytes").cloned()), [21]);
}

#[test]
fn a_log_whose_end_was_cut_off_is_not_continued() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), 20);
    let mut lines = lines_of(dir.path());
    lines.truncate(10);
    write_lines(dir.path(), &lines);
    let options = ChainOptions::new(dir.path().join("log"));
    let refused = Chain::open(options, SystemClock::shared(), "test", "1").unwrap_err();
    assert!(matches!(refused, ChainError::Tampered { .. }), "{refused}");
}

#[test]
fn files_are_rotated_and_what_is_removed_by_configuration_is_no_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ChainOptions::new(dir.path().join("log"));
    (options.max_file_bytes, options.keep_files) = (8 * 1024, 3);
    let chain = open(options);
    for n in 0..200 {
        chain.record(&event(n));
        assert!(chain.flush(PATIENCE));
    }
    chain.close(PATIENCE);
    let report = check(dir.path(), &[]);
    assert_eq!(report.broken, []);
    assert!(report.first > 1 && report.records < 200, "{report:?}");
    let files = fs::read_dir(dir.path().join("log")).unwrap();
    let is_log = |name: &str| name.starts_with("audit-");
    let kept = files.filter(|it| is_log(it.as_ref().unwrap().file_name().to_str().unwrap()));
    assert_eq!(kept.count(), 3);
}

#[test]
fn what_was_only_read_is_not_recorded_unless_it_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let chain = open(ChainOptions::new(dir.path().join("log")));
    let mut read = AuditEvent::new(Caller::default(), "entry.v1.Entry", "ListEntries");
    chain.record(&read);
    read.outcome = Outcome::Failure { code: "PermissionDenied", reason: "no".into() };
    read.reason_code = Some("policy_verb");
    chain.record(&read);
    chain.close(PATIENCE);
    let reads = found(dir.path(), |it| {
        let said = || (it.text("decision").to_owned(), it.text("reason_code").to_owned());
        (it.text("kind") == "read").then(said)
    });
    assert_eq!(reads, [("deny".to_owned(), "policy_verb".to_owned())]);
    assert_eq!(check(dir.path(), &[]).broken, []);
}

#[test]
fn two_programs_do_not_write_one_log() {
    let dir = tempfile::tempdir().unwrap();
    let chain = open(ChainOptions::new(dir.path().join("log")));
    let options = ChainOptions::new(dir.path().join("log"));
    let refused = Chain::open(options, SystemClock::shared(), "test", "1").unwrap_err();
    assert!(matches!(refused, ChainError::InUse(_)), "{refused}");
    chain.close(PATIENCE);
}
