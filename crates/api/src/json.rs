//! Messages as JSON, in the shape that SPIRE's command line prints.
//!
//! The canonical protobuf mapping with these choices: field names as in the proto files, unset
//! scalars, lists and maps written out, unset messages left out, 64-bit integers as strings, bytes
//! in standard base64, enumerators by name, keys sorted.
//!
//! A message is encoded and read back by its descriptor, so every message can be printed without
//! code of its own. This is for command lines: it is not fast.

use std::{
    collections::{BTreeMap, HashMap},
    sync::OnceLock,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::{Message, Name, encoding::decode_varint};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use serde_json::{Map, Value};

use crate::pb::FILE_DESCRIPTOR_SET;

/// `message` as JSON.
pub fn to_value<M: Message + Name>(message: &M) -> Value {
    let package = M::PACKAGE;
    let name =
        if package.is_empty() { M::NAME.to_owned() } else { format!("{package}.{}", M::NAME) };
    schema().message(&name, &message.encode_to_vec())
}

/// JSON on one line, with `<`, `>` and `&` escaped as Go's encoder does.
pub fn to_line(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    // Outside of strings JSON has none of these characters.
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

/// A value as it stands on the wire.
#[derive(Clone, Copy)]
enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

#[derive(Default)]
struct Schema {
    messages: HashMap<String, DescriptorProto>,
    enums: HashMap<String, EnumDescriptorProto>,
}

fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        // The set was made by this crate's build script.
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap_or_default();
        let mut schema = Schema::default();
        for file in set.file {
            let package = file.package.unwrap_or_default();
            for message in file.message_type {
                schema.add(&package, message);
            }
            for one in file.enum_type {
                schema.enums.insert(join(&package, one.name()), one);
            }
        }
        schema
    })
}

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}

impl Schema {
    fn add(&mut self, scope: &str, mut message: DescriptorProto) {
        let name = join(scope, message.name());
        for nested in std::mem::take(&mut message.nested_type) {
            self.add(&name, nested);
        }
        for one in std::mem::take(&mut message.enum_type) {
            self.enums.insert(join(&name, one.name()), one);
        }
        self.messages.insert(name, message);
    }

    fn message(&self, name: &str, bytes: &[u8]) -> Value {
        match name {
            "google.protobuf.Struct" => {
                let read = prost_types::Struct::decode(bytes).unwrap_or_default();
                return struct_value(read);
            }
            "google.protobuf.Value" => {
                return plain_value(prost_types::Value::decode(bytes).unwrap_or_default());
            }
            _ => {}
        }
        let Some(descriptor) = self.messages.get(name) else { return Value::Null };
        let mut raw = split(bytes);
        let mut object = Map::new();
        for field in &descriptor.field {
            let values = raw.remove(&field.number()).unwrap_or_default();
            if let Some(value) = self.field(field, &values) {
                object.insert(field.name().to_owned(), value);
            }
        }
        Value::Object(object)
    }

    /// A field's value; `None` when it is to be left out.
    fn field(&self, field: &FieldDescriptorProto, values: &[Raw<'_>]) -> Option<Value> {
        if field.label() == Label::Repeated {
            if let Some(entry) = self.map_entry(field) {
                return Some(self.map(entry, values));
            }
            let mut list = Vec::with_capacity(values.len());
            for value in values {
                match value {
                    Raw::Bytes(packed) if is_packable(field.r#type()) => {
                        let one = |varint| self.scalar(field, Some(Raw::Varint(varint)));
                        list.extend(varints(packed).into_iter().map(one));
                    }
                    value => list.push(self.scalar(field, Some(*value))),
                }
            }
            return Some(Value::Array(list));
        }
        let value = values.last().copied();
        let left_out_when_unset = field.r#type() == Type::Message
            || field.oneof_index.is_some()
            || field.proto3_optional();
        if value.is_none() && left_out_when_unset {
            return None;
        }
        Some(self.scalar(field, value))
    }

    fn map_entry(&self, field: &FieldDescriptorProto) -> Option<&DescriptorProto> {
        let entry = self.messages.get(field.type_name().trim_start_matches('.'))?;
        entry.options.as_ref().is_some_and(|options| options.map_entry()).then_some(entry)
    }

    fn map(&self, entry: &DescriptorProto, values: &[Raw<'_>]) -> Value {
        let mut object = Map::new();
        for value in values {
            let Raw::Bytes(bytes) = value else { continue };
            let mut raw = split(bytes);
            let mut part = |number: i32| {
                let field = entry.field.iter().find(|field| field.number() == number)?;
                let value = raw.remove(&number).unwrap_or_default().last().copied();
                Some(match (field.r#type(), value) {
                    (Type::Message, None) => self.scalar(field, Some(Raw::Bytes(&[]))),
                    (_, value) => self.scalar(field, value),
                })
            };
            if let (Some(key), Some(value)) = (part(1), part(2)) {
                let key = key.as_str().map_or_else(|| key.to_string(), ToOwned::to_owned);
                object.insert(key, value);
            }
        }
        Value::Object(object)
    }

    /// One value, or the default of its type.
    fn scalar(&self, field: &FieldDescriptorProto, value: Option<Raw<'_>>) -> Value {
        let type_name = field.type_name().trim_start_matches('.');
        let number = match value {
            Some(Raw::Varint(n) | Raw::Fixed64(n)) => n,
            Some(Raw::Fixed32(n)) => u64::from(n),
            Some(Raw::Bytes(_)) | None => 0,
        };
        let bytes = match value {
            Some(Raw::Bytes(bytes)) => bytes,
            _ => &[],
        };
        // Casts undo the sign extension of the wire format.
        #[allow(clippy::cast_possible_truncation, reason = "defined by the wire format")]
        match field.r#type() {
            Type::Bool => Value::Bool(number != 0),
            Type::Bytes => Value::String(STANDARD.encode(bytes)),
            Type::Double => f64::from_bits(number).into(),
            Type::Enum => self.enumerator(type_name, number as i32),
            Type::Fixed32 | Type::Uint32 => (number as u32).into(),
            Type::Fixed64 | Type::Uint64 => number.to_string().into(),
            Type::Float => f32::from_bits(number as u32).into(),
            Type::Group => Value::Null,
            Type::Int32 | Type::Sfixed32 => (number as i32).into(),
            Type::Int64 | Type::Sfixed64 => number.cast_signed().to_string().into(),
            Type::Message => self.message(type_name, bytes),
            Type::Sint32 => (zigzag(number) as i32).into(),
            Type::Sint64 => zigzag(number).to_string().into(),
            Type::String => String::from_utf8_lossy(bytes).into_owned().into(),
        }
    }

    fn enumerator(&self, name: &str, number: i32) -> Value {
        let values = self.enums.get(name).map(|one| one.value.as_slice()).unwrap_or_default();
        match values.iter().find(|value| value.number() == number) {
            Some(value) => value.name().into(),
            None => number.into(),
        }
    }
}

fn is_packable(kind: Type) -> bool {
    !matches!(kind, Type::Bytes | Type::Group | Type::Message | Type::String)
}

fn zigzag(n: u64) -> i64 {
    (n >> 1).cast_signed() ^ -(n & 1).cast_signed()
}

/// The varints of a packed field. (No message of ours packs numbers of fixed width.)
fn varints(mut packed: &[u8]) -> Vec<u64> {
    let mut out = Vec::new();
    while let Ok(n) = decode_varint(&mut packed) {
        out.push(n);
    }
    out
}

/// The values of a message by field number, in order.
fn split(mut bytes: &[u8]) -> BTreeMap<i32, Vec<Raw<'_>>> {
    let mut out: BTreeMap<i32, Vec<Raw<'_>>> = BTreeMap::new();
    while let Some((number, value)) = next(&mut bytes) {
        out.entry(number).or_default().push(value);
    }
    out
}

fn next<'a>(bytes: &mut &'a [u8]) -> Option<(i32, Raw<'a>)> {
    let key = decode_varint(bytes).ok()?;
    let value = match key & 7 {
        0 => Raw::Varint(decode_varint(bytes).ok()?),
        1 => Raw::Fixed64(u64::from_le_bytes(take(bytes, 8)?.try_into().ok()?)),
        2 => {
            let len = usize::try_from(decode_varint(bytes).ok()?).ok()?;
            Raw::Bytes(take(bytes, len)?)
        }
        5 => Raw::Fixed32(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?)),
        _ => return None,
    };
    Some((i32::try_from(key >> 3).ok()?, value))
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

fn struct_value(read: prost_types::Struct) -> Value {
    Value::Object(read.fields.into_iter().map(|(name, value)| (name, plain_value(value))).collect())
}

fn plain_value(value: prost_types::Value) -> Value {
    use prost_types::value::Kind;

    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(b)) => b.into(),
        Some(Kind::NumberValue(n)) => number(n),
        Some(Kind::StringValue(s)) => s.into(),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(plain_value).collect(),
        Some(Kind::StructValue(fields)) => struct_value(fields),
    }
}

/// A whole number without the `.0` that a float would be printed with.
fn number(n: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[allow(clippy::cast_possible_truncation, reason = "whole and within the exact range")]
    if n.fract() == 0.0 && n.abs() < EXACT { (n as i64).into() } else { n.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::{
        spire::api::{
            server::{entry::v1 as entry, localauthority::v1::AuthorityState},
            types::{self, federation_relationship::BundleEndpointProfile},
        },
        workload,
    };

    fn line<M: Message + Name>(message: &M) -> String {
        to_line(&to_value(message))
    }

    #[test]
    fn an_entry_prints_as_spires_command_line_does() {
        let id =
            |path: &str| Some(types::Spiffeid { trust_domain: "td".into(), path: path.into() });
        let entry = types::Entry {
            id: "one".into(),
            spiffe_id: id("/w"),
            parent_id: id("/n"),
            selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:0".into() }],
            x509_svid_ttl: 60,
            expires_at: 4_000_000_000,
            ..Default::default()
        };
        let response = entry::BatchCreateEntryResponse {
            results: vec![entry::batch_create_entry_response::Result {
                status: Some(crate::status::item_ok()),
                entry: Some(entry),
            }],
        };
        assert_eq!(
            line(&response),
            "{\"results\":[{\"entry\":{\"admin\":false,\"created_at\":\"0\",\"dns_names\":[],\
             \"downstream\":false,\"expires_at\":\"4000000000\",\"federates_with\":[],\
             \"hint\":\"\",\"id\":\"one\",\"jwt_svid_ttl\":0,\
             \"parent_id\":{\"path\":\"/n\",\"trust_domain\":\"td\"},\
             \"revision_number\":\"0\",\
             \"selectors\":[{\"type\":\"unix\",\"value\":\"uid:0\"}],\
             \"spiffe_id\":{\"path\":\"/w\",\"trust_domain\":\"td\"},\"store_svid\":false,\
             \"x509_svid_ttl\":60},\"status\":{\"code\":0,\"message\":\"OK\"}}]}"
        );
    }

    #[test]
    fn bytes_maps_enums_oneofs_and_structs_have_their_forms() {
        let bundles = workload::JwtBundlesResponse {
            bundles: [("spiffe://td".to_owned(), bytes::Bytes::from_static(b"{}"))].into(),
        };
        assert_eq!(line(&bundles), "{\"bundles\":{\"spiffe://td\":\"e30=\"}}");
        let logger = types::Logger { current_level: 6, launch_level: 99 };
        assert_eq!(line(&logger), "{\"current_level\":\"DEBUG\",\"launch_level\":99}");
        let relationship = types::FederationRelationship {
            trust_domain: "b".into(),
            bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsWeb(
                types::HttpsWebProfile {},
            )),
            ..Default::default()
        };
        assert_eq!(
            line(&relationship),
            "{\"bundle_endpoint_url\":\"\",\"https_web\":{},\"trust_domain\":\"b\"}"
        );
        let claim = |kind| prost_types::Value { kind: Some(kind) };
        let claims = prost_types::Struct {
            fields: [
                ("exp".to_owned(), claim(prost_types::value::Kind::NumberValue(1.5e9))),
                ("sub".to_owned(), claim(prost_types::value::Kind::StringValue("<a&b>".into()))),
            ]
            .into(),
        };
        let validated = workload::ValidateJwtsvidResponse {
            spiffe_id: "spiffe://td/w".into(),
            claims: Some(claims),
        };
        assert_eq!(
            line(&validated),
            "{\"claims\":{\"exp\":1500000000,\"sub\":\"\\u003ca\\u0026b\\u003e\"},\
             \"spiffe_id\":\"spiffe://td/w\"}"
        );
        let negative = AuthorityState { expires_at: -1, ..Default::default() };
        assert!(line(&negative).contains("\"expires_at\":\"-1\""));
    }
}
