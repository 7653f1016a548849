//! Cutting an object down to the fields that templates mention.

use super::{
    Names, Root,
    schema::{Kind, schema},
};
use crate::slices::{elements, members};

/// The JSON of an object of type `root` with only the fields in `names`, at every depth. What is
/// not of the expected shape is kept as it is.
pub fn trim(root: Root, json: &str, names: &Names) -> Box<str> {
    let mut out = String::new();
    write(&schema().root(root), json, names, &mut out);
    out.into_boxed_str()
}

fn write(kind: &Kind, json: &str, names: &Names, out: &mut String) {
    let done = match kind {
        Kind::Pointer(inner) => {
            write(inner, json, names, out);
            true
        }
        Kind::Struct(at) => write_struct(*at, json, names, out),
        Kind::List(inner) if holds_structs(inner) => write_list(inner, json, names, out),
        _ => false,
    };
    if !done {
        out.push_str(json);
    }
}

fn write_struct(at: usize, json: &str, names: &Names, out: &mut String) -> bool {
    let Some(values) = members(json) else { return false };
    out.push('{');
    let mut written: Vec<&str> = Vec::new();
    for field in schema().fields(at) {
        // Two Go names may stand for one JSON name.
        if !names.contains(field.go) || written.contains(&field.json) {
            continue;
        }
        let Some(value) = values.get(field.json) else { continue };
        if !written.is_empty() {
            out.push(',');
        }
        written.push(field.json);
        out.push('"');
        out.push_str(field.json);
        out.push_str("\":");
        write(&field.kind, value, names, out);
    }
    out.push('}');
    true
}

fn write_list(inner: &Kind, json: &str, names: &Names, out: &mut String) -> bool {
    let Some(items) = elements(json) else { return false };
    out.push('[');
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(inner, item, names, out);
    }
    out.push(']');
    true
}

fn holds_structs(kind: &Kind) -> bool {
    match kind {
        Kind::Struct(_) => true,
        Kind::Pointer(inner) | Kind::List(inner) => holds_structs(inner),
        _ => false,
    }
}
