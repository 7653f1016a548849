//! Lists within a column: JSON arrays of texts.

use signet_identity::{Selector, SelectorSet};

use crate::sqlite::fault::Fault;

/// A list of texts; `None` when it is empty.
pub(crate) fn list<T: AsRef<str>>(items: &[T]) -> Option<String> {
    (!items.is_empty()).then(|| array(items.iter().map(AsRef::as_ref)))
}

/// Selectors, each as `type:value`.
pub(crate) fn selectors(set: &SelectorSet) -> String {
    array(set.iter().map(ToString::to_string))
}

fn array(items: impl Iterator<Item = impl AsRef<str>>) -> String {
    let mut text = String::from("[");
    for (position, item) in items.enumerate() {
        if position > 0 {
            text.push(',');
        }
        text.push_str(&serde_json::Value::from(item.as_ref()).to_string());
    }
    text.push(']');
    text
}

/// Reads what [`list`] wrote.
pub(crate) fn read_list(what: &str, text: Option<&str>) -> Result<Vec<String>, Fault> {
    match text {
        Some(text) => serde_json::from_str(text).map_err(|error| Fault::corrupt(what, error)),
        None => Ok(Vec::new()),
    }
}

/// Reads what [`selectors`] wrote.
pub(crate) fn read_selectors(what: &str, text: &str) -> Result<SelectorSet, Fault> {
    let items: Vec<std::borrow::Cow<'_, str>> =
        serde_json::from_str(text).map_err(|error| Fault::corrupt(what, error))?;
    items
        .iter()
        .map(|item| item.parse::<Selector>().map_err(|error| Fault::corrupt(what, error)))
        .collect()
}
