//! What a SecretProviderClass asks for: `objects`, a list in JSON.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::reason::{Denial, Reason};

/// One file of the volume.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Object {
    /// Which credential.
    pub(super) credential: String,
    /// Where in the volume; the credential's name unless said otherwise.
    #[serde(default)]
    pub(super) path: String,
    /// Which part of it; the whole as JSON unless said otherwise.
    #[serde(default)]
    field: Option<String>,
}

/// Reads the parameter `objects`.
pub(super) fn read(attributes: &Map<String, Value>, max: usize) -> Result<Vec<Object>, Denial> {
    let refused = |text: String| Denial::new(Reason::Parameter, format!("objects: {text}"));
    let text = attributes.get("objects").and_then(Value::as_str).unwrap_or_default();
    let mut objects: Vec<Object> = serde_json::from_str(text).map_err(|error| {
        refused(format!(
            "expected a JSON list such as [{{\"credential\": \"orders-db\"}}]: {error}"
        ))
    })?;
    if objects.is_empty() || objects.len() > max {
        return Err(refused(format!("expected 1 to {max}")));
    }
    for object in &mut objects {
        if object.path.is_empty() {
            object.path.clone_from(&object.credential);
        }
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
        let leads = object.path.split('/').any(|part| matches!(part, "" | "." | ".."));
        if leads || !object.path.bytes().all(fine) || object.path.len() > 200 {
            return Err(refused(format!("path {:?}: expected one below the volume", object.path)));
        }
    }
    for (at, object) in objects.iter().enumerate() {
        if objects.iter().take(at).any(|other| other.path == object.path) {
            return Err(refused(format!("path {:?} comes twice", object.path)));
        }
    }
    Ok(objects)
}

impl Object {
    /// The bytes of the file.
    pub(super) fn contents(&self, data: &Value) -> Result<Vec<u8>, Denial> {
        let Some(field) = &self.field else { return Ok(data.to_string().into_bytes()) };
        // KV v2 puts what was written into `data`.
        let found = data.get(field).or_else(|| data.get("data").and_then(|data| data.get(field)));
        match found {
            Some(Value::String(text)) => Ok(text.clone().into_bytes()),
            Some(Value::Null) | None => Err(Denial::new(
                Reason::Parameter,
                format!("objects: {} has no field {field:?}", self.credential),
            )),
            Some(other) => Ok(other.to_string().into_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn objects(text: &str) -> Result<Vec<Object>, Reason> {
        let attributes = json!({ "objects": text });
        read(attributes.as_object().unwrap(), 3).map_err(|denial| denial.reason)
    }

    #[test]
    fn a_list_of_credentials_becomes_files_below_the_volume() {
        let read =
            objects(r#"[{"credential":"db"},{"credential":"key","path":"a/key","field":"k"}]"#);
        let read = read.unwrap();
        assert_eq!((&*read[0].path, &*read[1].path), ("db", "a/key"));
        assert_eq!(read[0].contents(&json!({"a": 1})).unwrap(), b"{\"a\":1}");
        assert_eq!(read[1].contents(&json!({"data": {"k": "v"}})).unwrap(), b"v");
        assert!(read[1].contents(&json!({"data": {}})).is_err());
    }

    #[test]
    fn a_path_that_leads_out_of_the_volume_or_comes_twice_is_refused() {
        for bad in [
            "",
            "[]",
            "{}",
            r#"[{"credential":"a","path":"../x"}]"#,
            r#"[{"credential":"a","path":"/x"}]"#,
            r#"[{"credential":"a","path":"x//y"}]"#,
            r#"[{"credential":"a"},{"credential":"b","path":"a"}]"#,
            r#"[{"credential":"a","mode":"0777"}]"#,
            r#"[{"credential":"a"},{"credential":"b"},{"credential":"c"},{"credential":"d"}]"#,
        ] {
            assert_eq!(objects(bad), Err(Reason::Parameter), "{bad}");
        }
    }
}
