//! What is sent with a request: fields by name.

use std::collections::BTreeMap;

/// The most fields that are looked at.
const MAX_FIELDS: usize = 64;

/// The fields of a form, or of the query of an address. Of a field that is there twice the first
/// counts.
#[derive(Debug, Default)]
pub(super) struct Fields(BTreeMap<String, String>);

/// Of a form.
pub(super) type Form = Fields;
/// Of an address.
pub(super) type Query = Fields;

impl Fields {
    /// Reads `application/x-www-form-urlencoded`.
    pub(super) fn read<T: AsRef<[u8]> + ?Sized>(bytes: &T) -> Self {
        let mut fields = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(bytes.as_ref()).take(MAX_FIELDS) {
            fields.entry(name.into_owned()).or_insert_with(|| value.into_owned());
        }
        Self(fields)
    }

    /// The value; empty when it is not there.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// The value without space around it, if anything is left.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        Some(self.get(name).trim()).filter(|text| !text.is_empty())
    }

    /// The lines of a value that are not empty.
    pub(super) fn lines(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name).lines().map(str::trim).filter(|line| !line.is_empty())
    }

    /// These fields, as pages show them again.
    pub(super) fn only(&self, names: &[&str]) -> BTreeMap<String, String> {
        let kept = self.0.iter().filter(|(name, _)| names.contains(&name.as_str()));
        kept.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}
