use std::{fs, os::unix::fs::symlink};

use super::*;

fn identity(path: &Path) -> Identity {
    Identity::of(&fs::metadata(path).unwrap())
}

fn sha256(text: &[u8]) -> String {
    signet_pki::digest::sha256_hex(text)
}

#[test]
fn a_path_counts_where_it_leads_to_the_very_file_without_links() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().canonicalize().unwrap().join(name);
    fs::create_dir(path("bin")).unwrap();
    fs::write(path("bin/a"), "same").unwrap();
    fs::write(path("bin/b"), "same").unwrap();
    fs::hard_link(path("bin/a"), path("bin/c")).unwrap();
    symlink(path("bin/a"), path("exe")).unwrap();
    symlink(path("bin"), path("other")).unwrap();
    for (target, counts) in [
        ("bin/a", true),
        ("bin/c", true),
        ("bin/b", false),
        ("bin/a (deleted)", false),
        ("other/a", false),
        ("exe", false),
    ] {
        assert_eq!(look(&path("exe"), &path(target)).unwrap().1, counts, "{target}");
    }
    assert!(!look(&path("exe"), Path::new("")).unwrap().1);
}

#[tokio::test]
async fn a_hash_that_takes_for_ever_delays_no_other_user_and_ends_with_its_caller() {
    let dir = tempfile::tempdir().unwrap();
    let executables = Arc::new(Executables::new(Hashing::All));
    let mut endless = Vec::new();
    for name in 0..8 {
        let path = dir.path().join(name.to_string());
        fs::File::create(&path).unwrap().set_len(8 << 40).unwrap();
        let (hash, _) = executables.begin(1, &path, identity(&path));
        assert!(futures_util::poll!(hash.clone()).is_pending());
        endless.push(hash);
    }
    let small = dir.path().join("small");
    fs::write(&small, vec![7; 3 << 20]).unwrap();
    let hash = executables.hash(2, small.clone(), identity(&small)).await.unwrap();
    assert_eq!(*hash, sha256(&vec![7; 3 << 20]));
    // Of the same user too, once there is room: nobody waits for the others any more.
    drop(endless);
    let hash = executables.hash(1, small.clone(), identity(&small)).await.unwrap();
    assert_eq!(*hash, sha256(&vec![7; 3 << 20]));
}

#[tokio::test]
async fn one_hash_serves_all_who_wait_for_it_and_nobody_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, "x").unwrap();
    let executables = Arc::new(Executables::new(Hashing::All));
    let begin = |uid| executables.begin(uid, &path, identity(&path));
    let ((first, first_is_own), (second, second_is_own)) = (begin(1), begin(1));
    assert!(first_is_own && !second_is_own);
    assert!(begin(2).1, "another user's work is that user's");
    // The first caller goes; the other gets its answer nevertheless.
    drop(first);
    assert_eq!(*second.await.unwrap(), sha256(b"x"));
    let (third, third_is_own) = begin(1);
    assert!(third_is_own);
    third.await.unwrap();
}

#[tokio::test]
async fn who_joined_a_hash_that_failed_makes_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, "x").unwrap();
    let executables = Arc::new(Executables::new(Hashing::All));
    // As if the process that it was begun for had exited.
    let (gone, _) = executables.begin(1, &dir.path().join("gone"), identity(&path));
    let (joined, failed) = tokio::join!(executables.hash(1, path.clone(), identity(&path)), gone);
    assert!(failed.is_err());
    assert_eq!(*joined.unwrap(), sha256(b"x"));
}

#[test]
fn a_file_that_changes_while_it_is_hashed_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, vec![1; 3 << 20]).unwrap();
    let changes: [fn(&Path); 3] = [
        |path| fs::write(path, vec![2; 3 << 20]).unwrap(),
        |path| fs::write(path, vec![1; 4 << 20]).unwrap(),
        |path| fs::write(path, "").unwrap(),
    ];
    for change in changes {
        let mut job = Job { link: path.clone(), identity: identity(&path), state: None };
        assert!(job.step().is_continue());
        change(&path);
        let result = loop {
            if let ControlFlow::Break(result) = job.step() {
                break result;
            }
        };
        assert!(result.unwrap_err().contains("changed while it was examined"));
    }
}
