//! What is written: the contents of files, made from identities.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use signet_identity::Bundle;
use signet_pki::{digest::sha256, jwks, pem, pkcs12, x509::Certificate};
use signet_time::UnixTime;
use zeroize::Zeroizing;

use crate::{
    config::{FileContent, Output, TRUST_BUNDLE_SUFFIX},
    context::{Svid, X509Context},
};

/// A file to be written.
pub struct File {
    /// Its name, relative to its directory.
    pub name: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// Its content; wiped when dropped.
    pub content: Zeroizing<Vec<u8>>,
    /// A digest of what it was made of: PKCS#12 has other salts each time.
    pub source: [u8; 32],
}

impl File {
    /// A file whose content says everything.
    pub fn new(name: PathBuf, mode: u32, content: Zeroizing<Vec<u8>>) -> Self {
        let source = sha256(&content);
        Self { name, mode, content, source }
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "File({}, {:o}, ..)", self.name.display(), self.mode)
    }
}

/// Files by the directory that they change in together.
pub type Files = BTreeMap<PathBuf, Vec<File>>;

/// The files of all outputs, and why some directories get none: an identity that is not there must
/// not leave its directory with half of its files.
pub fn files(context: &X509Context, outputs: &[Output], now: UnixTime) -> (Files, Vec<String>) {
    let (mut files, mut errors) = (Files::new(), Vec::new());
    let mut failed = Vec::new();
    for output in outputs {
        match of_output(context, output, now) {
            Ok(new) => files.entry(output.dir.clone()).or_default().extend(new),
            Err(error) => {
                failed.push(&output.dir);
                errors.push(format!("{}: {error}", output.dir.display()));
            }
        }
    }
    files.retain(|dir, _| !failed.contains(&dir));
    (files, errors)
}

fn of_output(context: &X509Context, output: &Output, now: UnixTime) -> Result<Vec<File>, String> {
    let svid = context.find(&output.select)?;
    let make = Make { context, output, svid, now };
    let mut files = Vec::new();
    for (name, what, mode) in &output.files {
        if *what == FileContent::TrustBundles {
            let all = std::iter::once(&svid.bundle).chain(context.federated.values());
            files.extend(all.map(|bundle| {
                let name = format!("{}{TRUST_BUNDLE_SUFFIX}", bundle.trust_domain);
                let content = jwks::encode_pem(bundle).into_bytes();
                File::new(name.into(), *mode, Zeroizing::new(content))
            }));
            continue;
        }
        let mut file = File::new(name.clone(), *mode, make.content(*what)?);
        match what {
            FileContent::KeyStore => {
                file.source = sha256(&make.content(FileContent::CredentialBundle)?)
            }
            FileContent::TrustStore => file.source = sha256(&make.content(FileContent::BundleMap)?),
            _ => {}
        }
        files.push(file);
    }
    Ok(files)
}

struct Make<'a> {
    context: &'a X509Context,
    output: &'a Output,
    svid: &'a Svid,
    now: UnixTime,
}

impl Make<'_> {
    fn content(&self, what: FileContent) -> Result<Zeroizing<Vec<u8>>, String> {
        let text = match what {
            FileContent::Certificates => self.pem(self.presented()),
            FileContent::Key => pem::encode("PRIVATE KEY", &self.svid.key),
            FileContent::Bundle => self.pem(self.authorities()),
            FileContent::KeyStore => {
                let chain = self.svid.chain.iter().map(Vec::as_slice);
                let password = self.output.password.expose();
                return pkcs12::key_store("svid", &self.svid.key, chain, password)
                    .map_err(|error| error.to_string());
            }
            FileContent::TrustStore => {
                let bundles = self.bundles();
                let named = bundles.iter().flat_map(|bundle| {
                    let numbered = bundle.x509_authorities.iter().enumerate();
                    numbered.map(|(at, a)| (format!("{}-{at}", bundle.trust_domain), &*a.der))
                });
                return pkcs12::trust_store(named, self.output.password.expose())
                    .map_err(|error| error.to_string());
            }
            FileContent::BundleMap => self.bundle_map()?,
            FileContent::CredentialBundle => {
                let key = Zeroizing::new(pem::encode("PRIVATE KEY", &self.svid.key));
                let chain = self.svid.chain.iter().map(Vec::as_slice);
                let chain = pem::encode_certificates(chain);
                let mut both = Zeroizing::new(String::with_capacity(key.len() + chain.len()));
                both.push_str(&key);
                both.push_str(&chain);
                std::mem::take(&mut *both)
            }
            FileContent::TrustBundles => {
                return Err("the name of a trust bundle is made".to_owned());
            }
        };
        Ok(Zeroizing::new(text.into_bytes()))
    }

    fn presented(&self) -> Vec<&[u8]> {
        let all = self.svid.chain.iter().map(Vec::as_slice);
        match self.output.intermediates_in_bundle {
            true => all.take(1).collect(),
            false => all.collect(),
        }
    }

    fn authorities(&self) -> Vec<&[u8]> {
        let mut all: Vec<&[u8]> = ders(&self.svid.bundle).collect();
        if self.output.intermediates_in_bundle {
            all.extend(self.svid.chain.iter().skip(1).map(Vec::as_slice));
        }
        if self.output.federated {
            all.extend(self.context.federated.values().flat_map(ders));
        }
        all
    }

    /// The own bundle, and the others if they are wanted.
    fn bundles(&self) -> Vec<&Bundle> {
        let others = self.context.federated.values().filter(|_| self.output.federated);
        std::iter::once(&self.svid.bundle).chain(others).collect()
    }

    fn pem(&self, ders: Vec<&[u8]>) -> String {
        let expired = |der: &&[u8]| {
            self.output.omit_expired
                && Certificate::from_der(der).is_ok_and(|c| c.not_after() < self.now)
        };
        pem::encode_certificates(ders.into_iter().filter(|der| !expired(der)))
    }

    /// What gRPC's `spiffe_trust_bundle_map_file` names: X.509 authorities by trust domain.
    fn bundle_map(&self) -> Result<String, String> {
        let mut domains = serde_json::Map::new();
        let all = std::iter::once(&self.svid.bundle).chain(self.context.federated.values());
        for bundle in all {
            let json = jwks::encode_published(bundle, true).map_err(|error| error.to_string())?;
            let mut json: serde_json::Value =
                serde_json::from_str(&json).map_err(|error| error.to_string())?;
            // The Workload API does not say it; readers want one.
            if let Some(members) = json.as_object_mut() {
                members.entry("spiffe_sequence").or_insert_with(|| 1.into());
            }
            domains.insert(bundle.trust_domain.to_string(), json);
        }
        Ok(format!("{:#}\n", serde_json::json!({ "trust_domains": domains })))
    }
}

fn ders(bundle: &Bundle) -> impl Iterator<Item = &[u8]> {
    bundle.x509_authorities.iter().map(|authority| &*authority.der)
}

/// The file of JWT bundles, as spiffe-helper writes it: JWK sets in base64, by trust domain.
///
/// # Errors
/// A sentence, when a bundle is not a JWK set.
pub fn jwt_bundles<'a>(
    bundles: impl IntoIterator<Item = (&'a String, &'a [u8])>,
) -> Result<String, String> {
    let mut all = serde_json::Map::new();
    for (id, jwks) in bundles {
        let name = id.strip_prefix("spiffe://").unwrap_or(id);
        let json: serde_json::Value = serde_json::from_slice(jwks)
            .map_err(|error| format!("the JWT bundle of {name}: {error}"))?;
        all.insert(name.to_owned(), STANDARD.encode(json.to_string()).into());
    }
    Ok(serde_json::Value::Object(all).to_string())
}

/// A digest of what a directory's files are made of.
pub fn fingerprint(dir: &Path, files: &[File]) -> [u8; 32] {
    let mut digest = signet_pki::digest::Sha256::new();
    digest.update(dir.as_os_str().as_encoded_bytes());
    for file in files {
        digest.update(file.name.as_os_str().as_encoded_bytes());
        digest.update(&file.source);
    }
    digest.finish()
}
