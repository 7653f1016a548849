//! Putting files in their places, all of a directory at once.
//!
//! The files lie in a directory of their own below the one that readers know, where each name is a
//! link through one more link, `..data`. That one is replaced in a single step, as Kubernetes does
//! with its volumes: whoever opens two of the files finds them of the same rotation, unless the step
//! falls between. The generation before is kept until the next one comes, for readers that have
//! resolved the link already.

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Component, Path, PathBuf},
};

use signet_pki::random;

use crate::material::File;

/// The link that is replaced.
const DATA: &str = "..data";
/// What the names of generations begin with.
const GENERATION: &str = "..signet-";
/// How deep stale links are looked for.
const MAX_DEPTH: usize = 4;

/// Why files are not in their places; what was there stays.
#[derive(Debug, thiserror::Error)]
#[error("{} {}", .doing, .path.display())]
pub struct PlaceError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.to_owned();
    move |source| PlaceError { doing, path, source }
}

/// Replaces the files of `dir`, which has to be there. Links of files that are no more are removed;
/// what is not ours is left alone, but for files that stand where one of ours is to be.
///
/// # Errors
/// [`PlaceError`] when the directory cannot be written to.
pub fn place(dir: &Path, files: &[File]) -> Result<(), PlaceError> {
    let data = dir.join(DATA);
    let before = fs::read_link(&data).ok();
    let name = format!("{GENERATION}{}", unique().map_err(failed("naming files in", dir))?);
    let generation = dir.join(&name);
    fs::create_dir(&generation).map_err(failed("creating", &generation))?;
    let placed = fill(&generation, files)
        .and_then(|()| link(&data, Path::new(&name)))
        .and_then(|()| files.iter().try_for_each(|file| link_file(dir, &file.name)));
    if placed.is_err() && fs::read_link(&data).ok() == before {
        let _ = fs::remove_dir_all(&generation);
        return placed;
    }
    // From here on the new files are there; what cannot be cleared away now is next time.
    remove_generations(dir, &[Some(Path::new(&name)), before.as_deref()]);
    remove_stale(dir, dir, 0);
    placed
}

/// Replaces one file by itself.
///
/// # Errors
/// [`PlaceError`] when its directory cannot be written to.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), PlaceError> {
    signet_pki::files::write_atomic(path, content, mode)
        .map_err(|error| failed("writing", path)(io::Error::other(error)))
}

fn unique() -> io::Result<String> {
    let bytes = random::bytes::<8>().map_err(io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn fill(generation: &Path, files: &[File]) -> Result<(), PlaceError> {
    // Whoever may read a file may find it: its own mode says who that is.
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(generation, open.clone()).map_err(failed("opening", generation))?;
    for file in files {
        let path = generation.join(&file.name);
        if let Some(parent) = path.parent().filter(|parent| *parent != generation) {
            fs::create_dir_all(parent).map_err(failed("creating", parent))?;
            fs::set_permissions(parent, open.clone()).map_err(failed("opening", parent))?;
        }
        write(&path, file).map_err(failed("writing", &path))?;
    }
    Ok(())
}

fn write(path: &Path, file: &File) -> io::Result<()> {
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    out.write_all(&file.content)?;
    // The mode is what is configured, whatever the umask says.
    out.set_permissions(fs::Permissions::from_mode(file.mode))?;
    out.sync_all()
}

/// Makes or replaces a link in one step.
fn link(path: &Path, target: &Path) -> Result<(), PlaceError> {
    if fs::read_link(path).is_ok_and(|present| present == target) {
        return Ok(());
    }
    let mut name = OsStr::new("..new-").to_owned();
    name.push(unique().map_err(failed("naming a link for", path))?);
    let new = path.with_file_name(name);
    symlink(target, &new).map_err(failed("linking", &new))?;
    fs::rename(&new, path).map_err(|error| {
        let _ = fs::remove_file(&new);
        failed("replacing", path)(error)
    })
}

/// The link under the name that readers know.
fn link_file(dir: &Path, name: &Path) -> Result<(), PlaceError> {
    let path = dir.join(name);
    let mut target = PathBuf::new();
    if let Some(parent) = name.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        let parent_path = dir.join(parent);
        fs::create_dir_all(&parent_path).map_err(failed("creating", &parent_path))?;
        target.extend(parent.components().map(|_| Component::ParentDir));
    }
    target.push(DATA);
    target.push(name);
    link(&path, &target)
}

fn remove_generations(dir: &Path, keep: &[Option<&Path>]) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = name.as_encoded_bytes().starts_with(GENERATION.as_bytes());
        if ours && !keep.contains(&Some(Path::new(&name))) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes links into `..data` that lead to nothing.
fn remove_stale(root: &Path, dir: &Path, depth: usize) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if kind.is_dir() && depth < MAX_DEPTH {
            if !entry.file_name().as_encoded_bytes().starts_with(b"..") {
                remove_stale(root, &path, depth + 1);
            }
        } else if kind.is_symlink() && path != root.join(DATA) {
            let Ok(target) = fs::read_link(&path) else { continue };
            let mut rest = target.components().skip_while(|part| *part == Component::ParentDir);
            let through = rest.next() == Some(Component::Normal(OsStr::new(DATA)));
            if through && !path.exists() {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn file(name: &str, mode: u32, content: &str) -> File {
        let content = Zeroizing::new(content.as_bytes().to_vec());
        File::new(name.into(), mode, content)
    }

    fn read(dir: &Path, name: &str) -> String {
        fs::read_to_string(dir.join(name)).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(GENERATION))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_change_together_and_what_is_no_more_goes() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::write(dir.join("cert"), "from before").unwrap();
        fs::write(dir.join("other"), "not ours").unwrap();
        place(dir, &[file("cert", 0o644, "c1"), file("sub/key", 0o600, "k1")]).unwrap();
        assert_eq!((read(dir, "cert"), read(dir, "sub/key")), ("c1".into(), "k1".into()));
        let mode = fs::metadata(dir.join("sub/key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        // One link is what changes.
        let link = fs::read_link(dir.join("cert")).unwrap();
        assert_eq!(link, Path::new("..data/cert"));
        place(dir, &[file("cert", 0o644, "c2"), file("new", 0o644, "n2")]).unwrap();
        assert_eq!((read(dir, "cert"), read(dir, "new")), ("c2".into(), "n2".into()));
        assert!(!dir.join("sub/key").is_symlink());
        assert_eq!(names(dir), ["..data", "cert", "new", "other", "sub"]);
        place(dir, &[file("cert", 0o644, "c3")]).unwrap();
        let generations = fs::read_dir(dir).unwrap().flatten();
        let generations =
            generations.filter(|entry| entry.file_name().to_string_lossy().starts_with(GENERATION));
        assert_eq!(generations.count(), 2, "the present one and the one before");
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = place(&dir.path().join("none"), &[file("a", 0o600, "x")]).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
    }
}
