//! The quickstart works as it is written.

use std::process::Command;

use e2e::{TestDir, bins, free_port};

/// The shell blocks of a page, one after the other.
fn blocks(page: &str) -> Vec<&str> {
    let fenced = page.split("```sh\n").skip(1);
    fenced.map(|rest| rest.split("```").next().expect("a part")).collect()
}

#[test]
fn the_quickstart_can_be_pasted_into_a_shell() {
    let dir = TestDir::new();
    let page = include_str!("../../docs/quickstart.md");
    let blocks = blocks(page);
    let [build, rest @ ..] = &*blocks else { panic!("no blocks") };
    assert!(build.contains("cargo build") && rest.len() >= 6, "{blocks:?}");
    let home = dir.subdir("q");
    let script = rest
        .concat()
        .replace("/tmp/quickstart", home.to_str().expect("a path of text"))
        .replace("8081", &free_port().to_string());
    let bins = bins::find("signet-server");
    let path = std::env::join_paths(
        [bins.parent().expect("a directory").to_owned()]
            .into_iter()
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    // What hangs is ended with all that it has started.
    let ran = Command::new("timeout")
        .args(["--kill-after=5", "60", "bash", "-euo", "pipefail", "-c", &script])
        .current_dir(&home)
        .env("PATH", path.expect("a search path"))
        .output()
        .expect("bash runs");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{}:\n{script}\n{out}\n{err}", ran.status);
    for expected in ["spiffe://example.org/me", "Selectors of process", "Matching entries: 1"] {
        assert!(out.contains(expected), "{expected} is missing:\n{out}\n{err}");
    }
    assert!(!home.exists(), "the last block cleans up");
}
