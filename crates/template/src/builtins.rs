//! Go's own functions.

use percent_encoding::utf8_percent_encode;

use crate::{
    UNRESERVED, compare, format,
    function::{Function, Type, any, text},
    out::Out,
    printf,
    val::{Heap, Map, Meter, Val},
};

type Args<'a, 'v> = &'a [Val<'v>];
type Made<'v> = Result<Val<'v>, String>;

const RAW: Type = Type::Raw;

const FUNCTIONS: &[Function] = &[
    Function { name: "eq", params: &[RAW], rest: Some(RAW), run: |_, args| compare::eq(args) },
    Function { name: "ge", params: &[RAW, RAW], rest: None, run: |_, args| compare::ge(args) },
    Function { name: "gt", params: &[RAW, RAW], rest: None, run: |_, args| compare::gt(args) },
    Function { name: "html", params: &[], rest: Some(Type::Any), run: html },
    Function { name: "index", params: &[RAW], rest: Some(RAW), run: index },
    Function { name: "js", params: &[], rest: Some(Type::Any), run: js },
    Function { name: "le", params: &[RAW, RAW], rest: None, run: |_, args| compare::le(args) },
    Function { name: "len", params: &[RAW], rest: None, run: len },
    Function { name: "lt", params: &[RAW, RAW], rest: None, run: |_, args| compare::lt(args) },
    Function { name: "ne", params: &[RAW, RAW], rest: None, run: |_, args| compare::ne(args) },
    Function { name: "not", params: &[RAW], rest: None, run: not },
    Function { name: "print", params: &[], rest: Some(Type::Any), run: print },
    Function { name: "printf", params: &[Type::Text], rest: Some(Type::Any), run: print_format },
    Function { name: "println", params: &[], rest: Some(Type::Any), run: println },
    Function { name: "slice", params: &[RAW], rest: Some(RAW), run: slice },
    Function { name: "urlquery", params: &[], rest: Some(Type::Any), run: urlquery },
];

pub(crate) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

fn not<'v>(_: &Heap<'v>, args: Args<'_, 'v>) -> Made<'v> {
    Ok(Val::Bool(!any(args, 0).is_true()))
}

fn len<'v>(_: &Heap<'v>, args: Args<'_, 'v>) -> Made<'v> {
    let value = any(args, 0);
    let len = match &value {
        Val::List(list) => list.len(),
        Val::Map(map) => map.len(),
        Val::Text(text) => text.len(),
        Val::Missing | Val::Nil | Val::NilPointer => return Err("len of nil pointer".to_owned()),
        Val::Bool(_) | Val::Float(_) | Val::Int(_) | Val::Struct(_) => {
            return Err(format!("len of type {}", value.type_name()));
        }
    };
    Ok(Val::Int(i64::try_from(len).unwrap_or(i64::MAX)))
}

fn index<'v>(_: &Heap<'v>, args: Args<'_, 'v>) -> Made<'v> {
    let mut item = any(args, 0);
    if matches!(item, Val::Missing | Val::Nil) {
        return Err("index of untyped nil".to_owned());
    }
    for key in args.iter().skip(1) {
        item = match &item {
            Val::List(list) => {
                let at = index_arg(key, list.len())?;
                list.get(at).ok_or_else(|| format!("index out of range: {at}"))?
            }
            Val::Text(text) => {
                let at = index_arg(key, text.len())?;
                let byte = text.as_bytes().get(at);
                Val::Int((*byte.ok_or_else(|| format!("index out of range: {at}"))?).into())
            }
            Val::Map(map) => entry(map, key)?,
            Val::Missing | Val::Nil | Val::NilPointer => {
                return Err("index of nil pointer".to_owned());
            }
            Val::Bool(_) | Val::Float(_) | Val::Int(_) | Val::Struct(_) => {
                return Err(format!("can't index item of type {}", item.type_name()));
            }
        };
    }
    Ok(item)
}

/// The value of `key`, or the zero value of what the map holds.
fn entry<'v>(map: &Map<'v>, key: &Val<'v>) -> Made<'v> {
    match key {
        Val::Text(key) => Ok(match map.get(key) {
            Some(value) => value,
            None if map.holds_texts() => Val::text(""),
            None => Val::Nil,
        }),
        Val::Missing | Val::Nil => Err("value is nil; should be of type string".to_owned()),
        _ => Err(format!("value has type {}; should be string", key.type_name())),
    }
}

fn index_arg(index: &Val<'_>, cap: usize) -> Result<usize, String> {
    match index {
        Val::Int(at) => match usize::try_from(*at) {
            Ok(at) if at <= cap => Ok(at),
            _ => Err(format!("index out of range: {at}")),
        },
        Val::Missing | Val::Nil => Err("cannot index slice/array with nil".to_owned()),
        _ => Err(format!("cannot index slice/array with type {}", index.type_name())),
    }
}

fn slice<'v>(heap: &Heap<'v>, args: Args<'_, 'v>) -> Made<'v> {
    let item = any(args, 0);
    let len = match &item {
        Val::List(list) => list.len(),
        Val::Text(text) => text.len(),
        Val::Missing | Val::Nil => return Err("slice of untyped nil".to_owned()),
        Val::NilPointer => return Err("slice of nil pointer".to_owned()),
        _ => return Err(format!("can't slice item of type {}", item.type_name())),
    };
    let indexes = args.get(1..).unwrap_or_default();
    match (indexes.len(), &item) {
        (4.., _) => return Err(format!("too many slice indexes: {}", indexes.len())),
        (3, Val::Text(_)) => return Err("cannot 3-index slice a string".to_owned()),
        _ => {}
    }
    let mut bounds = [0, len, len];
    for (bound, index) in bounds.iter_mut().zip(indexes) {
        *bound = index_arg(index, len)?;
    }
    let [from, to, cap] = bounds;
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    if to > cap {
        return Err(format!("invalid slice index: {to} > {cap}"));
    }
    match &item {
        Val::Text(text) => {
            let cut = text.get(from..to).ok_or("a character would be cut in two")?;
            heap.text(cut)
        }
        Val::List(list) => {
            let values: Vec<Val<'v>> = (from..to).filter_map(|at| list.get(at)).collect();
            heap.list_of(values, list.elements())
        }
        _ => Ok(item),
    }
}

fn print<'v>(heap: &Heap<'v>, args: Args<'_, 'v>) -> Made<'v> {
    heap.text(&format::sprint(args, heap)?)
}

fn println<'v>(heap: &Heap<'v>, args: Args<'_, 'v>) -> Made<'v> {
    let mut out = Out::new(heap);
    for (at, arg) in args.iter().enumerate() {
        if at > 0 {
            out.push(" ")?;
        }
        format::value(&mut out, arg)?;
    }
    out.push("\n")?;
    heap.text(&out.into_text())
}

fn print_format<'v>(heap: &Heap<'v>, args: Args<'_, 'v>) -> Made<'v> {
    let rest = args.get(1..).unwrap_or_default();
    heap.text(&printf::sprintf(text(args, 0)?, rest, heap)?)
}

/// The arguments of an escaping function as one text: a text alone is itself.
fn joined(meter: &Meter, args: Args<'_, '_>) -> Result<String, String> {
    let shown: Vec<Val<'_>> = args
        .iter()
        .map(|arg| if matches!(arg, Val::Nil) { Val::text("<no value>") } else { arg.clone() })
        .collect();
    format::sprint(&shown, meter)
}

fn html<'v>(heap: &Heap<'v>, args: Args<'_, 'v>) -> Made<'v> {
    let mut out = String::new();
    for c in joined(heap, args)?.chars() {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    heap.text(&out)
}

fn js<'v>(heap: &Heap<'v>, args: Args<'_, 'v>) -> Made<'v> {
    let mut out = String::new();
    for c in joined(heap, args)?.chars() {
        match c {
            '\\' => out.push_str(r"\\"),
            '\'' => out.push_str(r"\'"),
            '"' => out.push_str(r#"\""#),
            '<' | '>' | '&' | '=' | '\0'..='\x1f' => {
                out.push_str(&format!("\\u{:04X}", u32::from(c)));
            }
            c if c.is_ascii() || printf::is_print(c) => out.push(c),
            c => out.push_str(&format!("\\u{:04X}", u32::from(c))),
        }
    }
    heap.text(&out)
}

fn urlquery<'v>(heap: &Heap<'v>, args: Args<'_, 'v>) -> Made<'v> {
    // Form encoding: RFC 3986's unreserved characters stay, a space is a plus sign.
    let text = joined(heap, args)?;
    let out = utf8_percent_encode(&text, UNRESERVED).to_string().replace("%20", "+");
    heap.text(&out)
}
