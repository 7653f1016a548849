//! The files of `corpus` are read as the JSON beside each of them says.
//!
//! A number stands there as written, `{"number": "0x1F"}`; every key has the list of values it is
//! given, in order. What is expected was compared with what HashiCorp's reader makes of the files.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use std::{fs, path::PathBuf};

use serde_json::{Map, Value as Json, json};
use signet_config::{Item, Node, Value, parse};

#[test]
fn the_corpus_reads_as_expected() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut read = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".expected.json") {
            continue;
        }
        let document = parse(&name, &fs::read_to_string(&path).unwrap()).unwrap();
        let expected = fs::read_to_string(path.with_file_name(format!("{name}.expected.json")));
        let expected: Json = serde_json::from_str(&expected.unwrap()).unwrap();
        assert_eq!(object(&document.items), expected, "{name}");
        read += 1;
    }
    assert!(read >= 10, "only {read} files");
}

fn object(items: &[Item]) -> Json {
    let mut object: Map<String, Json> = Map::new();
    for item in items {
        let values = object.entry(item.key.clone()).or_insert_with(|| json!([]));
        values.as_array_mut().unwrap().push(node(&item.value));
    }
    Json::Object(object)
}

fn node(node: &Node) -> Json {
    match &node.value {
        Value::Bool(value) => json!(value),
        Value::List(list) => list.iter().map(self::node).collect(),
        // What SPIRE's reader makes of it.
        Value::Null => json!(""),
        Value::Number(text) => json!({ "number": text }),
        Value::Object(items) => object(items),
        Value::String(text) => json!(text),
    }
}
