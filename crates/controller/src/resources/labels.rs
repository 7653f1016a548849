//! Labels, and selectors over them, as Kubernetes has them.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;

/// The labels of an object, packed: there are many.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Labels(Box<str>);

impl Labels {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.split_terminator('\n').filter_map(|line| line.split_once('='))
    }
}

/// Label keys and values hold neither `=` nor line ends: what does is no label and is left out.
impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(labels: I) -> Self {
        let mut packed = String::new();
        for (key, value) in labels {
            if !(key.contains(['=', '\n']) || value.contains('\n')) {
                packed.push_str(&key);
                packed.push('=');
                packed.push_str(&value);
                packed.push('\n');
            }
        }
        Self(packed.into_boxed_str())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = Option::<BTreeMap<String, String>>::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_iter().collect())
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A label selector as it is written.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that must be there with these values.
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    pub match_expressions: Vec<Expression>,
}

/// One requirement.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Expression {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// The values of `In` and `NotIn`.
    pub values: Vec<String>,
}

/// A checked selector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Present(String),
}

impl Selector {
    /// Checks a selector; no selector selects everything.
    ///
    /// # Errors
    /// What Kubernetes would not accept.
    pub fn parse(selector: Option<&LabelSelector>) -> Result<Self, String> {
        let mut requirements = Vec::new();
        let Some(selector) = selector else { return Ok(Self(requirements)) };
        for (key, value) in &selector.match_labels {
            check_key(key)?;
            check_value(key, value)?;
            requirements.push(Requirement::In(key.clone(), vec![value.clone()]));
        }
        for Expression { key, operator, values } in &selector.match_expressions {
            check_key(key)?;
            values.iter().try_for_each(|value| check_value(key, value))?;
            if !matches!(operator.as_str(), "In" | "NotIn" | "Exists" | "DoesNotExist") {
                return Err(format!(
                    "label selector on {key:?}: {operator:?} is not a valid operator; expected \
                     In, NotIn, Exists or DoesNotExist"
                ));
            }
            let needs_values = matches!(operator.as_str(), "In" | "NotIn");
            if needs_values == values.is_empty() {
                let need = if needs_values { "must be specified" } else { "must be empty" };
                return Err(format!("label selector on {key:?}: values of {operator:?} {need}"));
            }
            requirements.push(match operator.as_str() {
                "In" => Requirement::In(key.clone(), values.clone()),
                "NotIn" => Requirement::NotIn(key.clone(), values.clone()),
                "Exists" => Requirement::Present(key.clone()),
                _ => Requirement::Absent(key.clone()),
            });
        }
        Ok(Self(requirements))
    }

    /// Whether `labels` meet every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => {
                labels.get(key).is_some_and(|value| values.iter().any(|one| one == value))
            }
            Requirement::NotIn(key, values) => {
                labels.get(key).is_none_or(|value| values.iter().all(|one| one != value))
            }
            Requirement::Present(key) => labels.get(key).is_some(),
            Requirement::Absent(key) => labels.get(key).is_none(),
        })
    }
}

fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let prefix_is_good = prefix.is_none_or(|prefix| {
        !prefix.is_empty()
            && prefix.len() <= 253
            && prefix
                .split('.')
                .all(|part| is_word(part, |b| b.is_ascii_lowercase() || b.is_ascii_digit(), b"-"))
    });
    if prefix_is_good && name.len() <= 63 && is_word(name, |b| b.is_ascii_alphanumeric(), b"-_.") {
        return Ok(());
    }
    Err(format!(
        "{key:?} is not a label: expected a name of at most 63 letters, digits, '-', '_' \
                 and '.', with an optional DNS prefix and '/'"
    ))
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    let good = value.is_empty()
        || (value.len() <= 63 && is_word(value, |b| b.is_ascii_alphanumeric(), b"-_."));
    if good {
        return Ok(());
    }
    Err(format!(
        "{value:?} is not a value of the label {key:?}: expected at most 63 letters, \
                 digits, '-', '_' and '.'"
    ))
}

/// Not empty, of `plain` bytes with `inner` ones between.
fn is_word(text: &str, plain: impl Fn(u8) -> bool, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let ends_well =
        bytes.first().is_some_and(|b| plain(*b)) && bytes.last().is_some_and(|b| plain(*b));
    ends_well && bytes.iter().all(|b| plain(*b) || inner.contains(b))
}
