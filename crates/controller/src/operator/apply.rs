//! Writing objects: server-side apply, so that what others add to them stays, and all of an object
//! where somebody added to a list.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Value, json};
use signet_k8s::{ApiError, ApiServer, Write};
use signet_pki::digest::sha256;

use super::{
    MANAGER,
    cache::Cache,
    compare::{Comparison, compare},
    kinds::Kind,
    render::Wanted,
    settings::Settings,
};
use crate::objects::text;

/// Writes objects, and remembers what has been written: an object whose values the API server
/// spells in another way is not written again and again.
#[derive(Debug)]
pub struct Writer {
    api: Arc<ApiServer>,
    namespace: String,
    create_only: bool,
    written: HashMap<(Kind, String), Mark>,
}

/// What was wanted, and the version that came of it.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    wanted: [u8; 32],
    version: String,
}

impl Writer {
    /// What writes by these settings.
    pub fn new(api: Arc<ApiServer>, settings: &Settings) -> Self {
        Self {
            api,
            namespace: settings.namespace.clone(),
            create_only: settings.create_only,
            written: HashMap::new(),
        }
    }

    /// Makes an object what it should be. The cache then has it as it is.
    ///
    /// # Errors
    /// [`ApiError`] when the API server refuses.
    pub async fn apply(&mut self, cache: &mut Cache, wanted: &Wanted) -> Result<(), ApiError> {
        let Wanted { kind, object, .. } = wanted;
        let there = cache.get(*kind, wanted.name());
        let is_right = |it: &Value| self.create_only || compare(it, object) == Comparison::Same;
        if there.is_some_and(is_right) {
            return Ok(());
        }
        let key = (*kind, wanted.name().to_owned());
        let digest = sha256(object.to_string().as_bytes());
        let mark = |it: &Value| Mark { wanted: digest, version: version(it).to_owned() };
        if there.is_some_and(|there| self.written.get(&key) == Some(&mark(there))) {
            return Ok(());
        }
        let changed = there.is_some();
        let mut now = match self.write(*kind, wanted.name(), object).await {
            // Somebody has made it, and it is not ours: it is left as it is.
            Err(error) if self.create_only && error.is_conflict() => return Ok(()),
            written => written?,
        };
        if !self.create_only && compare(&now, object) == Comparison::More {
            let mut whole = object.clone();
            let current = json!(version(&now));
            if let Some(metadata) = whole.pointer_mut("/metadata").and_then(Value::as_object_mut) {
                metadata.insert("resourceVersion".to_owned(), current);
            }
            let path =
                format!("{}?fieldManager={MANAGER}", kind.path(&self.namespace, wanted.name()));
            now = self.api.write(Write::Replace, &path, &whole).await?;
        }
        tracing::info!(
            kind = kind.name(),
            name = wanted.name(),
            action = if changed { "changed" } else { "created" },
            "Applied an object"
        );
        self.written.insert(key, mark(&now));
        cache.put(*kind, now);
        Ok(())
    }

    async fn write(&self, kind: Kind, name: &str, object: &Value) -> Result<Value, ApiError> {
        if self.create_only {
            let path = format!("{}?fieldManager={MANAGER}", kind.collection(&self.namespace));
            return self.api.write(Write::Create, &path, object).await;
        }
        let path =
            format!("{}?fieldManager={MANAGER}&force=true", kind.path(&self.namespace, name));
        self.api.write(Write::Apply, &path, object).await
    }

    /// Deletes an object that is not wanted any more.
    ///
    /// # Errors
    /// [`ApiError`] when the API server refuses.
    pub async fn delete(
        &mut self,
        cache: &mut Cache,
        kind: Kind,
        name: &str,
    ) -> Result<(), ApiError> {
        if self.create_only {
            return Ok(());
        }
        match self.api.delete(&kind.path(&self.namespace, name)).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => tracing::info!(kind = kind.name(), name, "Deleted an object"),
        }
        self.written.remove(&(kind, name.to_owned()));
        cache.remove(kind, name);
        Ok(())
    }

    /// Reads an object that the cache, which follows our own only, does not have.
    ///
    /// # Errors
    /// [`ApiError`] when the API server refuses.
    pub async fn find(&self, kind: Kind, name: &str) -> Result<Option<Value>, ApiError> {
        match self.api.get_object(&kind.path(&self.namespace, name)).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a resource's status. The cache then has it as it is.
    ///
    /// # Errors
    /// [`ApiError`] when the API server refuses.
    pub async fn status(
        &self,
        cache: &mut Cache,
        kind: Kind,
        name: &str,
        status: &Value,
    ) -> Result<(), ApiError> {
        let path = format!("{}/status?fieldManager={MANAGER}", kind.path(&self.namespace, name));
        match self.api.write(Write::MergePatch, &path, &json!({ "status": status })).await {
            Ok(now) => {
                cache.put(kind, now);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes `owner` the owner of a resource, so that it goes with it.
    ///
    /// # Errors
    /// [`ApiError`] when the API server refuses.
    pub async fn own(&self, kind: Kind, name: &str, owner: &Value) -> Result<Value, ApiError> {
        let path =
            format!("{}?fieldManager={MANAGER}&force=true", kind.path(&self.namespace, name));
        let body = json!({
            "apiVersion": kind.version(),
            "kind": kind.name(),
            "metadata": { "name": name, "ownerReferences": [owner] },
        });
        self.api.write(Write::Apply, &path, &body).await
    }

    /// Tells the Operator Lifecycle Manager whether the operator may be replaced.
    ///
    /// # Errors
    /// [`ApiError`] when the API server refuses.
    pub async fn upgradeable(&self, name: &str, condition: &Value) -> Result<(), ApiError> {
        let path = format!(
            "/apis/operators.coreos.com/v2/namespaces/{}/operatorconditions/{name}",
            self.namespace
        );
        let body = json!({ "spec": { "conditions": [condition] } });
        self.api.write(Write::MergePatch, &path, &body).await.map(drop)
    }
}

fn version(object: &Value) -> &str {
    text(object, "/metadata/resourceVersion")
}
