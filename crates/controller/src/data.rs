//! What templates see: Kubernetes objects under the names that Go gives their fields.
//!
//! spire-controller-manager hands Go structs to its templates, so `.PodSpec.ServiceAccountName`,
//! not `.PodSpec.serviceAccountName`, is what users write. [`schema`] knows the Go names, [`Names`]
//! finds those that templates mention, [`trim`] cuts an object down to them, and [`value`] makes
//! the template value, with Go's zero values for what an object leaves out.

mod names;
mod schema;
mod trim;
mod value;

pub use names::Names;
pub use schema::{Root, Schema, schema};
pub use trim::trim;
pub use value::{ValueError, value};

#[cfg(test)]
mod tests;
