//! Where the programs under test are.

use std::path::{Path, PathBuf};

/// The path of `signet-server`.
pub fn server() -> PathBuf {
    find("signet-server")
}

/// The path of `signet-agent`.
pub fn agent() -> PathBuf {
    find("signet-agent")
}

/// The path of `signet-oidc`.
pub fn oidc() -> PathBuf {
    find("signet-oidc")
}

/// A program in `SIGNET_BIN_DIR`, or in the target directory that the running test was built in.
///
/// # Panics
///
/// When it is not there.
pub fn find(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(
        path.is_file(),
        "{} is not there: build it with `cargo build -p signet-server -p signet-agent -p signet-oidc`, or run \
         `cargo xtask test`",
        path.display()
    );
    path
}

fn bin_dir() -> PathBuf {
    std::env::var_os("SIGNET_BIN_DIR").map_or_else(profile_dir, PathBuf::from)
}

/// A program of this package.
pub fn own(name: &str) -> PathBuf {
    profile_dir().join(name)
}

/// `target/debug` or its like.
fn profile_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("the path of the running program");
    let dir = exe.parent().expect("a directory");
    match dir.file_name() {
        Some(name) if name == "deps" => dir.parent().expect("a directory").to_owned(),
        _ => dir.to_owned(),
    }
}

/// Where the clients of other languages are built and kept: `target/clients`.
pub fn clients_dir() -> PathBuf {
    profile_dir().parent().expect("a target directory").join("clients")
}

/// The sources of this package.
pub fn sources() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
