//! Keys and certificates in the files of a directory, as Go's `autocert` has them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use signet_pki::{
    KeyType, ManagedKey, PrivateKey,
    files::{read_secret, write_atomic},
    pem,
};
use zeroize::Zeroizing;

use super::{ACCOUNT, MAX_FILE, Store, StoreError, blocking, make_directory};

/// Keeps keys and certificates in a directory: the account's key in `acme_account+key`, for each
/// domain one file with its key and then its certificates, all PEM with mode 0600. SPIRE's provider
/// does the same, by Go's `autocert`, and each reads what the other wrote. Without a directory they
/// last as long as the process.
#[derive(Debug)]
pub struct CacheDir {
    dir: Option<PathBuf>,
    held: Arc<Mutex<BTreeMap<String, Arc<Kept>>>>,
}

/// What one file says.
#[derive(Debug)]
struct Kept {
    key: PrivateKey,
    chain: Vec<Arc<[u8]>>,
}

impl CacheDir {
    /// Reads and makes nothing yet.
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, held: Arc::default() }
    }

    /// What is there under that name.
    async fn find(&self, name: &str) -> Result<Option<Arc<Kept>>, StoreError> {
        if let Some(kept) = lock(&self.held).get(name) {
            return Ok(Some(Arc::clone(kept)));
        }
        let Some(dir) = &self.dir else { return Ok(None) };
        let path = dir.join(name);
        let found = blocking(move || read(&path)).await?.map(Arc::new);
        if let Some(kept) = &found {
            lock(&self.held).insert(name.to_owned(), Arc::clone(kept));
        }
        Ok(found)
    }

    async fn write(&self, name: &str, kept: Kept) -> Result<(), StoreError> {
        let (dir, held, name) = (self.dir.clone(), Arc::clone(&self.held), name.to_owned());
        blocking(move || {
            if let Some(dir) = dir {
                make_directory(&dir)?;
                let mut text = kept.key.to_pem();
                let chain = kept.chain.iter().map(|der| &**der);
                // Public, and so is what growing leaves behind but for the key: hence a fresh text.
                text = Zeroizing::new([text.as_str(), &pem::encode_certificates(chain)].concat());
                write_atomic(&dir.join(&name), text.as_bytes(), 0o600)?;
            }
            lock(&held).insert(name, Arc::new(kept));
            Ok(())
        })
        .await
    }

    async fn key(&self, name: &str) -> Result<ManagedKey, StoreError> {
        if let Some(kept) = self.find(name).await? {
            return Ok(kept.key.signer()?.into());
        }
        let key = PrivateKey::generate(KeyType::EcP256)?;
        let signer = key.signer()?;
        self.write(name, Kept { key, chain: Vec::new() }).await?;
        Ok(signer.into())
    }
}

#[async_trait]
impl Store for CacheDir {
    async fn account_key(&self) -> Result<ManagedKey, StoreError> {
        self.key(ACCOUNT).await
    }

    async fn certificate_key(&self, domain: &str) -> Result<ManagedKey, StoreError> {
        self.key(domain).await
    }

    async fn chain(&self, domain: &str) -> Result<Vec<Arc<[u8]>>, StoreError> {
        Ok(self.find(domain).await?.map(|kept| kept.chain.clone()).unwrap_or_default())
    }

    async fn keep(&self, domain: &str, chain: &[Arc<[u8]>]) -> Result<(), StoreError> {
        let key = match self.find(domain).await? {
            Some(kept) => kept.key.clone(),
            None => PrivateKey::generate(KeyType::EcP256)?,
        };
        self.write(domain, Kept { key, chain: chain.to_vec() }).await
    }
}

fn read(path: &Path) -> Result<Option<Kept>, StoreError> {
    let Some(bytes) = read_secret(path, MAX_FILE)? else { return Ok(None) };
    let corrupt = |reason: String| StoreError::Corrupt { path: path.to_owned(), reason };
    let text = std::str::from_utf8(&bytes).map_err(|_| corrupt("not text".to_owned()))?;
    let key = PrivateKey::from_pem(text).map_err(|error| corrupt(error.to_string()))?;
    let blocks = pem::decode(text).map_err(|error| corrupt(error.to_string()))?;
    let certificates = blocks.iter().filter(|block| block.label == "CERTIFICATE");
    Ok(Some(Kept { key, chain: certificates.map(|block| block.der.as_slice().into()).collect() }))
}

fn lock(held: &Mutex<BTreeMap<String, Arc<Kept>>>) -> MutexGuard<'_, BTreeMap<String, Arc<Kept>>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use signet_pki::der::{Writer, oid, tag};

    use super::*;

    fn chain() -> [Arc<[u8]>; 2] {
        [[1, 2].into(), [3].into()]
    }

    /// As Go writes a key: RFC 5915 with the curve.
    fn sec1(key: &PrivateKey) -> String {
        let jwk: serde_json::Value = serde_json::from_str(&key.to_jwk().unwrap()).unwrap();
        let number = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
        let mut writer = Writer::default();
        writer.sequence(|w| {
            w.unsigned(&[1]);
            w.primitive(tag::OCTET_STRING, &number("d"));
            w.constructed(tag::context_constructed(0), |w| w.oid(oid::P256));
            let point = [&[4][..], &number("x"), &number("y")].concat();
            w.constructed(tag::context_constructed(1), |w| w.bit_string(0, &point));
        });
        pem::encode("EC PRIVATE KEY", &writer.into_bytes())
    }

    #[tokio::test]
    async fn keys_and_chains_outlive_the_process_in_files_of_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a/cache");
        let store = CacheDir::new(Some(place.clone()));
        assert!(store.chain("web.test").await.unwrap().is_empty());
        let account = store.account_key().await.unwrap();
        let key = store.certificate_key("web.test").await.unwrap();
        store.keep("web.test", &chain()).await.unwrap();
        let again = CacheDir::new(Some(place.clone()));
        assert_eq!(again.account_key().await.unwrap().public_key(), account.public_key());
        assert_eq!(again.chain("web.test").await.unwrap(), chain());
        let found = again.certificate_key("web.test").await.unwrap();
        assert_eq!(found.public_key(), key.public_key());
        for name in ["acme_account+key", "web.test"] {
            let mode = std::fs::metadata(place.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_eq!(std::fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::set_permissions(place.join("web.test"), PermissionsExt::from_mode(0o644)).unwrap();
        let error = CacheDir::new(Some(place)).chain("web.test").await.unwrap_err();
        assert!(error.to_string().contains("expected 0600"), "{error}");
    }

    #[tokio::test]
    async fn what_autocert_wrote_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        let certificates = pem::encode_certificates(chain().iter().map(|der| &**der));
        let write = |name: &str, text: String| {
            let path = dir.path().join(name);
            write_atomic(&path, text.as_bytes(), 0o600).unwrap();
        };
        write("acme_account+key", sec1(&key));
        write("web.test", format!("{}{certificates}", sec1(&key)));
        let store = CacheDir::new(Some(dir.path().to_owned()));
        assert_eq!(store.account_key().await.unwrap().public_key(), key.public_key());
        assert_eq!(store.chain("web.test").await.unwrap(), chain());
        write("other.test", "no key".to_owned());
        let error = store.chain("other.test").await.unwrap_err().to_string();
        assert!(error.contains("other.test: ") && error.contains("no private key"), "{error}");
    }

    #[tokio::test]
    async fn without_a_directory_nothing_is_written() {
        let store = CacheDir::new(None);
        let key = store.certificate_key("web.test").await.unwrap();
        store.keep("web.test", &chain()).await.unwrap();
        assert_eq!(store.chain("web.test").await.unwrap(), chain());
        let found = store.certificate_key("web.test").await.unwrap();
        assert_eq!(found.public_key(), key.public_key());
    }
}
