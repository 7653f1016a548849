//! Programs of the machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A program by its name: on the path, or where Debian puts servers that are not on it.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path);
    let directories = directories.chain([PathBuf::from("/usr/sbin")]).chain(postgresql());
    directories.map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// The programs of the newest PostgreSQL from a package of Debian.
pub(crate) fn postgresql() -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(Path::new("/usr/lib/postgresql"))
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            let bin = entry.path().join("bin");
            bin.join("initdb").is_file().then_some((version, bin))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin)
}
