//! Template values with Go's names and zero values.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use signet_template::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    Names, Root,
    schema::{Kind, schema},
};

/// A field does not hold what its type says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} is not {expected}")]
pub struct ValueError {
    path: String,
    expected: &'static str,
}

/// An object of type `root` as a template sees it, with the fields in `names`.
///
/// # Errors
/// [`ValueError`] when a field is of another kind than Kubernetes' API has it.
pub fn value(root: Root, json: Option<&Json>, names: &Names) -> Result<Value, ValueError> {
    make(&schema().root(root), json, names).map_err(|error| error.below(&format!("{root:?}")))
}

fn make(kind: &Kind, json: Option<&Json>, names: &Names) -> Result<Value, ValueError> {
    let json = json.filter(|json| !json.is_null());
    let wrong = |expected| ValueError { path: String::new(), expected };
    Ok(match kind {
        Kind::Pointer(inner) => match json {
            Some(_) => make(inner, json, names)?,
            None => Value::Nil,
        },
        Kind::Bool => Value::Bool(match json {
            Some(json) => json.as_bool().ok_or_else(|| wrong("a boolean"))?,
            None => false,
        }),
        Kind::Int => Value::Int(match json {
            Some(json) => json.as_i64().ok_or_else(|| wrong("an integer"))?,
            None => 0,
        }),
        Kind::Text => Value::Text(text(json)?.to_owned()),
        Kind::Bytes => return Err(wrong("printable")),
        Kind::Opaque => return Err(wrong("offered to templates")),
        Kind::Time => Value::Text(match json {
            Some(_) => go_time(text(json)?).ok_or_else(|| wrong("a time"))?,
            None => "0001-01-01 00:00:00 +0000 UTC".to_owned(),
        }),
        Kind::List(inner) => {
            let mut items = Vec::new();
            if let Some(json) = json {
                let list = json.as_array().ok_or_else(|| wrong("a list"))?;
                for (at, item) in list.iter().enumerate() {
                    let item = make(inner, Some(item), names);
                    items.push(item.map_err(|error| error.below(&at.to_string()))?);
                }
            }
            Value::List(items)
        }
        Kind::Map(inner) => {
            let mut items = BTreeMap::new();
            if let Some(json) = json {
                let map = json.as_object().ok_or_else(|| wrong("a map"))?;
                for (key, item) in map {
                    let item = make(inner, Some(item), names);
                    items.insert(key.clone(), item.map_err(|error| error.below(key))?);
                }
            }
            Value::Map(items)
        }
        Kind::Struct(at) => {
            let map = match json {
                Some(json) => Some(json.as_object().ok_or_else(|| wrong("an object"))?),
                None => None,
            };
            let mut fields = BTreeMap::new();
            for field in schema().fields(*at) {
                // What Go prints in its own way is no field here: a template that wants it fails.
                if !names.contains(field.go) || is_hidden(&field.kind) {
                    continue;
                }
                let json = map.and_then(|map| map.get(field.json));
                let made = make(&field.kind, json, names);
                fields.insert(field.go.to_owned(), made.map_err(|error| error.below(field.go))?);
            }
            Value::Struct(fields)
        }
    })
}

fn is_hidden(kind: &Kind) -> bool {
    match kind {
        Kind::Bytes | Kind::Opaque => true,
        Kind::Pointer(inner) | Kind::List(inner) | Kind::Map(inner) => is_hidden(inner),
        _ => false,
    }
}

fn text(json: Option<&Json>) -> Result<&str, ValueError> {
    match json {
        Some(json) => json.as_str().ok_or(ValueError { path: String::new(), expected: "a text" }),
        None => Ok(""),
    }
}

/// A time as Go prints it in UTC, where containers live: `2026-11-21 05:30:48 +0000 UTC`.
fn go_time(text: &str) -> Option<String> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?.to_offset(time::UtcOffset::UTC);
    Some(format!("{} {} +0000 UTC", time.date(), hms(time)))
}

fn hms(time: OffsetDateTime) -> String {
    format!("{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second())
}

impl ValueError {
    fn below(mut self, part: &str) -> Self {
        self.path =
            if self.path.is_empty() { part.to_owned() } else { format!("{part}.{}", self.path) };
        self
    }
}
