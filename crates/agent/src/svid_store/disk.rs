//! Directories of this machine, one for each identity: `disk:name:NAME`.

use std::path::{Component, Path, PathBuf};

use async_trait::async_trait;
use signet_helper::{material::File, place::place as place_files};
use signet_pki::jwks;
use zeroize::Zeroizing;

use super::{Place, Secret, Store, StoreError, needed};

/// The store.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
}

impl Disk {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn at(&self, place: &Place) -> Result<PathBuf, StoreError> {
        let name = Path::new(needed(place, "name")?);
        let mut parts = name.components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(_)), None) => Ok(self.directory.join(name)),
            _ => {
                Err(StoreError::Selectors(format!("{} is no name of a directory", name.display())))
            }
        }
    }
}

#[async_trait]
impl Store for Disk {
    async fn put(&self, place: &Place, secret: &Secret) -> Result<(), StoreError> {
        let dir = self.at(place)?;
        let text = |name: &str, mode, text: String| {
            File::new(name.into(), mode, Zeroizing::new(text.into_bytes()))
        };
        let mut files = vec![
            text("svid.pem", 0o644, secret.chain()),
            text("bundle.pem", 0o644, jwks::encode_pem(&secret.bundle)),
            text("key.pem", 0o600, secret.key().to_string()),
        ];
        for bundle in &secret.federated {
            let name = format!("{}.bundle.pem", bundle.trust_domain);
            files.push(text(&name, 0o644, jwks::encode_pem(bundle)));
        }
        on_disk(move || {
            std::fs::create_dir_all(&dir).map_err(|error| failed(&error))?;
            place_files(&dir, &files).map_err(|error| failed(&signet_base::chain(&error)))
        })
        .await
    }

    async fn delete(&self, place: &Place) -> Result<(), StoreError> {
        let dir = self.at(place)?;
        on_disk(move || match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(&error)),
            _ => Ok(()),
        })
        .await
    }
}

fn failed(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}

/// Does what waits for the disk away from the thread that serves.
async fn on_disk(
    work: impl FnOnce() -> Result<(), StoreError> + Send + 'static,
) -> Result<(), StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(failed(&error)))
}
