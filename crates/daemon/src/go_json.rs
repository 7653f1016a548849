//! JSON files as Go's `encoding/json` reads them, for files that SPIRE's command lines take.
//!
//! Where Go is lenient and serde is not: the letter case of names does not matter, `null` leaves a
//! field as it was, of equal names the last one counts, bytes that are no UTF-8 and halves of
//! surrogate pairs become U+FFFD, and names that mean nothing are passed over (here they are
//! reported, so that a typing error is seen).

use std::{cell::RefCell, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeOwned, Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
        value::{MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};

/// Reads a value, and the paths of names in it that mean nothing, such as `entries[0].ttl`.
///
/// # Errors
/// [`serde_json::Error`] when the text is no JSON, or a value is of another type than its field.
pub fn from_slice<T: DeserializeOwned>(json: &[u8]) -> Result<(T, Vec<String>), serde_json::Error> {
    let node: Node = serde_json::from_str(&without_half_pairs(&text(json)))?;
    let unknown = RefCell::default();
    let value = T::deserialize(Reader { node, path: String::new(), unknown: &unknown })?;
    Ok((value, unknown.into_inner()))
}

/// The text of some bytes; each byte that belongs to no character is U+FFFD.
fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}

/// Replaces `\uD83D` and the like by `\ufffd` where it is not half of a pair.
fn without_half_pairs(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let len = match (unit(escape), escape.get(6..).and_then(unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                out.push_str("\\ufffd");
                rest = escape.get(6..).unwrap_or_default();
                continue;
            }
            // Two characters, whatever they are: an escaped backslash must not begin another.
            _ => escape.chars().take(2).map(char::len_utf8).sum(),
        };
        let (kept, after) = escape.split_at_checked(len).unwrap_or((escape, ""));
        out.push_str(kept);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The UTF-16 unit of an escape such as `\u00e9` at the start of a text.
fn unit(escape: &str) -> Option<u16> {
    let digits = escape.strip_prefix("\\u")?.get(..4)?;
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    all_digits.then(|| u16::from_str_radix(digits, 16).ok()).flatten()
}

/// A value with the names of its objects in their order, repetitions included.
enum Node {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(serde_json::Number::from_f64(value).map_or(Node::Null, Node::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Node, A::Error> {
        let mut object = Vec::new();
        while let Some(field) = fields.next_entry()? {
            object.push(field);
        }
        Ok(Node::Object(object))
    }
}

/// Gives a node to the type that reads it.
struct Reader<'a> {
    node: Node,
    /// Where the node is, for reports.
    path: String,
    unknown: &'a RefCell<Vec<String>>,
}

impl<'a> Reader<'a> {
    fn below(&self, node: Node, step: &str) -> Reader<'a> {
        let path = match (self.path.is_empty(), step.starts_with('[')) {
            (true, _) => step.to_owned(),
            (false, true) => format!("{}{step}", self.path),
            (false, false) => format!("{}.{step}", self.path),
        };
        Reader { node, path, unknown: self.unknown }
    }
}

impl<'de> IntoDeserializer<'de, serde_json::Error> for Reader<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// What `null` is for a type that is no option: the type's zero value, as an unset field in Go.
macro_rules! zero_for_null {
    ($($method:ident => $visit:ident($zero:expr);)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            match self.node {
                Node::Null => visitor.$visit($zero),
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Self::Error> {
        match std::mem::replace(&mut self.node, Node::Null) {
            Node::Null => visitor.visit_unit(),
            Node::Bool(value) => visitor.visit_bool(value),
            Node::Number(number) => number.deserialize_any(visitor),
            Node::Text(text) => visitor.visit_string(text),
            Node::List(list) => {
                let items = list.into_iter().enumerate();
                let items = items.map(|(at, item)| self.below(item, &format!("[{at}]")));
                visitor.visit_seq(SeqDeserializer::new(items))
            }
            Node::Object(object) => {
                let fields = object.into_iter().map(|(name, value)| {
                    let value = self.below(value, &name);
                    (name, value)
                });
                visitor.visit_map(MapDeserializer::new(fields))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.node {
            Node::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let object = match std::mem::replace(&mut self.node, Node::Null) {
            Node::Object(object) => object,
            Node::Null => Vec::new(),
            // A list would do for serde, field by field; not for Go.
            Node::List(_) => {
                return Err(serde_json::Error::invalid_type(Unexpected::Seq, &visitor));
            }
            other => {
                self.node = other;
                return self.deserialize_any(visitor);
            }
        };
        let mut known: Vec<(&'static str, Reader<'_>)> = Vec::new();
        for (name, value) in object {
            let same = |field: &&&str| field.eq_ignore_ascii_case(&name);
            let field = fields.iter().find(|field| **field == name);
            let Some(field) = field.or_else(|| fields.iter().find(same)) else {
                let path = self.below(Node::Null, &name).path;
                self.unknown.borrow_mut().push(path);
                continue;
            };
            if matches!(value, Node::Null) {
                continue;
            }
            let value = self.below(value, field);
            match known.iter_mut().find(|(known, _)| known == field) {
                Some(before) => before.1 = value,
                None => known.push((*field, value)),
            }
        }
        visitor.visit_map(MapDeserializer::new(known.into_iter()))
    }

    zero_for_null! {
        deserialize_bool => visit_bool(false);
        deserialize_i32 => visit_i64(0);
        deserialize_i64 => visit_i64(0);
        deserialize_str => visit_str("");
        deserialize_string => visit_str("");
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.node {
            Node::Null => visitor.visit_seq(SeqDeserializer::new(std::iter::empty::<Self>())),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i8 i16 u8 u16 u32 u64 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct map
        enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Outer {
        #[serde(default)]
        items: Vec<Inner>,
        #[serde(default)]
        plain: Option<serde_json::Value>,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Inner {
        name: String,
        size: i32,
        on: bool,
        tags: Vec<String>,
    }

    fn read(json: &str) -> (Outer, Vec<String>) {
        from_slice(json.as_bytes()).unwrap()
    }

    #[test]
    fn null_leaves_every_kind_of_field_unset() {
        let json = r#"{"items":[{"name":null,"size":null,"on":null,"tags":null}],"plain":null}"#;
        assert_eq!(read(json).0, Outer { items: vec![Inner::default()], plain: None });
        assert_eq!(read(r#"{"items":[null]}"#).0.items, [Inner::default()]);
        assert_eq!(read(r#"{"items":null}"#).0.items, []);
        assert_eq!(read(r#"{"items":[{"tags":[null,"a"]}]}"#).0.items[0].tags, ["", "a"]);
    }

    #[test]
    fn letter_case_does_not_matter_and_the_last_of_equal_names_counts() {
        let (outer, unknown) = read(r#"{"Items":[{"NAME":"a","name":"b","Name":"c","Size":3}]}"#);
        assert_eq!((outer.items[0].name.as_str(), outer.items[0].size), ("c", 3));
        assert_eq!(unknown, [] as [&str; 0]);
    }

    #[test]
    fn names_that_mean_nothing_are_reported_with_their_place() {
        let (_, unknown) = read(r#"{"items":[{},{"ttl":1}],"more":{"x":1}}"#);
        assert_eq!(unknown, ["more", "items[1].ttl"]);
    }

    #[test]
    fn what_is_no_text_becomes_the_replacement_character() {
        for (escaped, wanted) in [
            (r"\ud83d", "\u{fffd}"),
            (r"\ude00", "\u{fffd}"),
            (r"\ud83d\ude00", "\u{1f600}"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}\u{1f600}"),
            (r"\ud83dA", "\u{fffd}A"),
            (r"\\ud83d", "\\ud83d"),
            (r"caf\u00e9", "café"),
        ] {
            let (outer, _) = read(&format!(r#"{{"items":[{{"name":"{escaped}"}}]}}"#));
            assert_eq!(outer.items[0].name, wanted, "{escaped}");
        }
        let (outer, _) = from_slice::<Outer>(b"{\"items\":[{\"name\":\"caf\xe9\"}]}").unwrap();
        assert_eq!(outer.items[0].name, "caf\u{fffd}");
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        for json in [r#"{"items":{}}"#, r#"{"items":[{"size":"1"}]}"#, "[]", "", "{} {}", "{"] {
            assert!(from_slice::<Outer>(json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    fn what_is_kept_as_json_is_kept_whole() {
        let (outer, unknown) = read(r#"{"plain":{"Keys":[{"x":null}],"n":1.5}}"#);
        let wanted = serde_json::json!({"Keys": [{"x": null}], "n": 1.5});
        assert_eq!(outer.plain, Some(wanted));
        assert!(unknown.is_empty());
    }
}
