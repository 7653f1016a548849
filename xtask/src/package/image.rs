//! Images as OCI layouts (OCI image specification 1.1), made without a daemon.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Arch, Making, sysroot};
use crate::run::{finished, root, run, shown};

/// How the program of an image is run.
pub(crate) struct Settings {
    /// User and group by number.
    pub(crate) user: &'static str,
    /// The working directory.
    pub(crate) directory: &'static str,
    /// The program and its first arguments.
    pub(crate) entry_point: &'static [&'static str],
}

/// Makes `NAME_VERSION_ARCH.oci.tar`: an archive that skopeo, podman, crane and containerd take.
pub(crate) fn make(making: &Making, name: &str, program: &Path, settings: &Settings) -> Result<()> {
    let dir = making.stage.join(format!("{name}.image"));
    let files = dir.join("files");
    fs::create_dir_all(&files).context("making a directory")?;
    let mut rootfs = Command::new(root().join("deploy/container/rootfs.sh"));
    rootfs.arg(&files).arg(program);
    if making.arch != Arch::here() {
        rootfs.env("SYSROOT", sysroot(making.arch));
    }
    run(&mut rootfs)?;

    let layout = dir.join("layout");
    let blobs = Blobs(layout.join("blobs/sha256"));
    fs::create_dir_all(&blobs.0).context("making a directory")?;
    let layer = dir.join("layer.tar");
    archive(&files, &layer, making.time)?;
    let layer = blobs.take(&layer, "application/vnd.oci.image.layer.v1.tar")?;
    let config = blobs.write(
        &json!({
            "architecture": making.arch.debian(),
            "os": "linux",
            "config": {
                "User": settings.user,
                "WorkingDir": settings.directory,
                "Entrypoint": settings.entry_point,
                "Labels": {
                    "org.opencontainers.image.title": name,
                    "org.opencontainers.image.version": making.version,
                    "org.opencontainers.image.licenses": "Apache-2.0",
                },
            },
            "rootfs": { "type": "layers", "diff_ids": [layer.get("digest")] },
        }),
        "application/vnd.oci.image.config.v1+json",
    )?;
    let mut manifest = blobs.write(
        &json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [layer],
        }),
        "application/vnd.oci.image.manifest.v1+json",
    )?;
    if let Some(manifest) = manifest.as_object_mut() {
        let platform = json!({ "architecture": making.arch.debian(), "os": "linux" });
        manifest.insert("platform".to_owned(), platform);
        let name = json!({ "org.opencontainers.image.ref.name": making.version });
        manifest.insert("annotations".to_owned(), name);
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    fs::write(layout.join("index.json"), index.to_string()).context("index.json")?;
    fs::write(layout.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())
        .context("oci-layout")?;
    archive(&layout, &making.out.join(making.file(name, "oci.tar")), making.time)
}

/// Packs a directory; the same files make the same archive.
fn archive(dir: &Path, to: &Path, time: u64) -> Result<()> {
    run(Command::new("tar")
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=ustar"])
        .arg(format!("--mtime=@{time}"))
        .arg("-C")
        .arg(dir)
        .arg("-cf")
        .arg(to)
        .arg("."))
}

/// The directory of what is named by its digest.
struct Blobs(PathBuf);

impl Blobs {
    fn write(&self, value: &Value, media_type: &str) -> Result<Value> {
        let file = self.0.join("new");
        fs::write(&file, value.to_string()).context("writing a blob")?;
        self.take(&file, media_type)
    }

    /// Moves a file in; gives its descriptor.
    fn take(&self, file: &Path, media_type: &str) -> Result<Value> {
        let mut command = Command::new("sha256sum");
        command.arg(file);
        let text = finished(&mut command)?;
        let Some(digest) = text.split_ascii_whitespace().next().filter(|hex| hex.len() == 64)
        else {
            bail!("{}: {text:?} begins with no digest", shown(&command));
        };
        let size = fs::metadata(file).context("reading a blob")?.len();
        fs::rename(file, self.0.join(digest)).context("moving a blob")?;
        Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size }))
    }
}
