//! Lists within a column: JSON arrays of texts.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use signet_identity::{Selector, SelectorSet};

/// A list of texts; `None` when it is empty.
pub(crate) fn list<T: AsRef<str>>(items: &[T]) -> Option<String> {
    (!items.is_empty()).then(|| array(items.iter().map(AsRef::as_ref)))
}

/// Selectors, each as `type:value`.
pub(crate) fn selectors(set: &SelectorSet) -> String {
    array(set.iter().map(Selector::as_str))
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
pub(crate) fn read_list(text: Option<&str>) -> Result<Vec<String>, serde_json::Error> {
    text.map_or(Ok(Vec::new()), serde_json::from_str)
}

/// Reads what [`selectors`] wrote.
pub(crate) fn read_selectors(text: &str) -> Result<SelectorSet, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let selectors = reader.deserialize_seq(Selectors)?;
    reader.end()?;
    Ok(selectors)
}

/// Reads selectors where they stand: no text is copied twice.
struct Selectors;

impl<'de> Visitor<'de> for Selectors {
    type Value = SelectorSet;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of selectors")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<SelectorSet, A::Error> {
        let mut selectors = Vec::with_capacity(4);
        while let Some(selector) = items.next_element_seed(One)? {
            selectors.push(selector);
        }
        Ok(selectors.into_iter().collect())
    }
}

struct One;

impl<'de> DeserializeSeed<'de> for One {
    type Value = Selector;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Selector, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for One {
    type Value = Selector;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a selector")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Selector, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again_whatever_it_holds() {
        let set: SelectorSet = ["a:b", "a:\"quoted\" \\ \u{1f}\n", "k8s:pod-label:x:\u{fc}"]
            .iter()
            .map(|text| text.parse::<Selector>().unwrap())
            .collect();
        assert_eq!(read_selectors(&selectors(&set)).unwrap(), set);
        for bad in ["", "[", "[\"a\"]", "[1]", "[\"a:b\"] x", "{}"] {
            assert!(read_selectors(bad).is_err(), "{bad}");
        }
    }
}
