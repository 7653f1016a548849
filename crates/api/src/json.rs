//! Messages as JSON, in the shape that SPIRE's command line prints.
//!
//! The canonical protobuf mapping with these choices: field names as in the proto files, unset
//! scalars, lists and maps written out, unset messages left out, 64-bit integers as strings, bytes
//! in standard base64, enumerators by name, keys sorted.
//!
//! A message is encoded and read back by its descriptor, so every message can be printed without
//! code of its own. This is for command lines: it is not fast.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::pb::FILE_DESCRIPTOR_SET;

/// Every message of `proto/`. The set was made by this crate's build script.
static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap_or_default());

/// `message` as JSON.
pub fn to_value<M: Message + Name>(message: &M) -> Value {
    let Some(descriptor) = POOL.get_message_by_name(&M::full_name()) else { return Value::Null };
    let bytes = message.encode_to_vec();
    let Ok(read) = DynamicMessage::decode(descriptor, &*bytes) else { return Value::Null };
    let options = SerializeOptions::new()
        .stringify_64_bit_integers(true)
        .use_proto_field_name(true)
        .skip_default_fields(false);
    let mut value =
        read.serialize_with_options(serde_json::value::Serializer, &options).unwrap_or_default();
    shorten(&mut value);
    value
}

/// Writes whole numbers without the `.0` that a float is printed with: in JSON of no type
/// (`google.protobuf.Struct`) all numbers are floats, and Go prints them so.
fn shorten(value: &mut Value) {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Array(list) => list.iter_mut().for_each(shorten),
        Value::Object(map) => map.values_mut().for_each(shorten),
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap_or_default();
            if float.fract() == 0.0 && float.abs() < EXACT {
                #[expect(clippy::cast_possible_truncation, reason = "whole and exact")]
                let whole = float as i64;
                *number = whole.into();
            }
        }
        _ => {}
    }
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
