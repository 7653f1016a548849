//! The custom resources of `spire.spiffe.io/v1alpha1`: read, and checked as
//! spire-controller-manager checks them.

mod federation;
mod labels;
mod meta;
mod spiffe_id;
mod static_entry;

use serde::de::DeserializeOwned;
use serde_json::Value;
use signet_identity::Tenant;

pub use federation::{FederationSpec, parse_federation};
pub use labels::{LabelSelector, Labels, Selector};
pub use meta::{Meta, RawMeta};
pub use spiffe_id::{Rule, SpiffeIdSpec, TenantSource};
pub use static_entry::{StaticEntrySpec, parse_static_entry};

/// The API group of the resources.
pub const GROUP: &str = "spire.spiffe.io";
/// Group and version.
pub const API_VERSION: &str = "spire.spiffe.io/v1alpha1";

/// A custom resource: its metadata could be read, its specification perhaps.
#[derive(Clone, Debug)]
pub struct Resource<S> {
    /// Its metadata.
    pub meta: Meta,
    /// Its specification, or why that cannot be read.
    pub spec: Result<S, String>,
    /// Its status as the API server has it.
    pub status: Value,
}

/// Reads a custom resource.
///
/// # Errors
/// What is wrong when it is no Kubernetes object at all.
pub fn resource<S: DeserializeOwned>(mut json: Value) -> Result<Resource<S>, String> {
    drop_nulls(&mut json);
    let Value::Object(mut object) = json else { return Err("not an object".to_owned()) };
    let mut take = |key| object.remove(key).unwrap_or_else(|| Value::Object(Default::default()));
    let meta: RawMeta =
        serde_json::from_value(take("metadata")).map_err(|error| format!("metadata: {error}"))?;
    if meta.name.is_empty() {
        return Err("metadata.name is missing".to_owned());
    }
    let spec = serde_json::from_value(take("spec")).map_err(|error| format!("spec: {error}"));
    Ok(Resource { meta: meta.into(), spec, status: take("status") })
}

/// A `null` is as good as nothing, as in Go.
fn drop_nulls(json: &mut Value) {
    match json {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Reads the name of a tenant; empty for none.
fn tenant(what: &str, text: &str) -> Result<Option<Tenant>, String> {
    match text {
        "" => Ok(None),
        name => name.parse().map(Some).map_err(|error| format!("invalid {what} value: {error}")),
    }
}

/// Reads a duration as Kubernetes writes it (`10m`, `1h30m`), in whole seconds for a TTL.
fn ttl(what: &str, text: Option<&str>) -> Result<i32, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(0) };
    let duration = signet_config::parse_duration(text)
        .map_err(|error| format!("invalid {what} value: {error}"))?;
    i32::try_from(duration.as_secs())
        .map_err(|_| format!("invalid {what} value: {text:?} is longer than 68 years"))
}

#[cfg(test)]
mod tests;
