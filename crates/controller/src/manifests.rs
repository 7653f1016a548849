//! `staticManifestPath`: resources from files in a directory instead of from Kubernetes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use signet_base::files::read_regular_text;
use tokio::sync::mpsc;

use crate::{
    cluster::Kind,
    data::Names,
    reflector::{Event, Object},
    resources::{API_VERSION, resource},
};

/// The longest file, bytes.
const MAX_FILE: u64 = 8 * 1024 * 1024;
/// The most files.
const MAX_FILES: usize = 100_000;

/// Why the directory cannot be used as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// A file or the directory cannot be read.
    #[error("reading {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is too long, or there are too many.
    #[error("{}: {limit}", .path.display())]
    TooMuch {
        /// Which.
        path: PathBuf,
        /// What is allowed.
        limit: String,
    },
    /// A file is no YAML, or holds something that is no object.
    #[error("{}: {why}", .path.display())]
    Yaml {
        /// Which.
        path: PathBuf,
        /// What is wrong, with line and column.
        why: String,
    },
}

/// Where manifests are, and where what they hold goes.
#[derive(Debug)]
pub struct Manifests {
    /// The directory.
    pub directory: PathBuf,
    /// Whether `$VAR` in files is replaced.
    pub expand_env: bool,
    /// How often the directory is read.
    pub interval: Duration,
    /// ClusterStaticEntries.
    pub entries: Option<mpsc::Sender<Event>>,
    /// ClusterFederatedTrustDomains.
    pub federation: Option<mpsc::Sender<Event>>,
}

impl Manifests {
    /// Reads the directory again and again, until nobody listens.
    pub async fn run(self) {
        let mut before = None;
        loop {
            match read(&self.directory, self.expand_env) {
                Ok(documents) => {
                    if before.as_ref() != Some(&documents) {
                        if !self.tell(&documents).await {
                            return;
                        }
                        before = Some(documents);
                    }
                }
                // Half a directory is no reason to take anything away.
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "The manifests cannot be read; what is known stays as it is"
                ),
            }
            tokio::time::sleep(self.interval).await;
        }
    }

    async fn tell(&self, documents: &[(PathBuf, Value)]) -> bool {
        let listeners = [
            (Kind::ClusterStaticEntry, &self.entries),
            (Kind::ClusterFederatedTrustDomain, &self.federation),
        ];
        for (kind, out) in listeners {
            let Some(out) = out else { continue };
            let mut objects = Vec::new();
            for (path, document) in documents {
                if document.get("kind").and_then(Value::as_str) != Some(kind.name()) {
                    continue;
                }
                let object = match kind {
                    Kind::ClusterStaticEntry => {
                        resource(document.clone()).map(|one| Object::Static(Box::new(one)))
                    }
                    _ => resource(document.clone()).map(|one| Object::Federation(Box::new(one))),
                };
                match object {
                    Ok(object) => objects.push(object),
                    Err(error) => tracing::error!(
                        file = %path.display(), error, "A manifest is no resource"
                    ),
                }
            }
            for event in
                [Event::Begin(kind), Event::There(objects), Event::Done(kind, Names::default())]
            {
                if out.send(event).await.is_err() {
                    return false;
                }
            }
        }
        true
    }
}

/// The resources in the `.yaml` files of a directory, in the order of the files' names. Other
/// objects are left out.
///
/// # Errors
/// [`ManifestError`] when any file cannot be read: nothing is concluded from a part.
pub fn read(directory: &Path, expand: bool) -> Result<Vec<(PathBuf, Value)>, ManifestError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ManifestError::Read { path, source }
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed(directory))? {
        let path = entry.map_err(failed(directory))?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            let limit = format!("more than {MAX_FILES} files");
            return Err(ManifestError::TooMuch { path: directory.to_owned(), limit });
        }
    }
    files.sort();
    let mut documents = Vec::new();
    for path in files {
        let mut text = read_regular_text(&path, MAX_FILE).map_err(failed(&path))?;
        if expand {
            text = signet_config::expand_env(&text, &|name| std::env::var(name).ok());
        }
        let yaml = |why: String| ManifestError::Yaml { path: path.clone(), why };
        let parts: Vec<Value> =
            serde_saphyr::from_multiple_with_options(&text, crate::config::yaml())
                .map_err(|error| yaml(error.to_string()))?;
        for (at, mut part) in parts.into_iter().enumerate() {
            let text = |key: &str| part.get(key).and_then(Value::as_str).unwrap_or_default();
            if text("apiVersion") != API_VERSION {
                continue;
            }
            // Names need not be there nor differ: the file's takes their place.
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let place = if at == 0 { file } else { format!("{file}#{}", at + 1) };
            if let Some(object) = part.as_object_mut() {
                let meta =
                    object.entry("metadata").or_insert_with(|| Value::Object(Default::default()));
                if let Some(meta) = meta.as_object_mut() {
                    meta.insert("name".to_owned(), Value::String(place));
                }
            }
            documents.push((path.clone(), part));
        }
    }
    Ok(documents)
}
