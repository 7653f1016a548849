//! Taking JSON apart without copying it: the members of an object and the elements of a list, as
//! slices of the text. An object of Kubernetes is large, and most of it is of no interest.

use std::collections::HashMap;

use serde::de::IgnoredAny;

/// The members of the object `json`, each with its value's text; `None` when it is no object.
/// Of a name that occurs twice the last value counts.
pub(crate) fn members(json: &str) -> Option<HashMap<String, &str>> {
    let mut rest = json.trim_start().strip_prefix('{')?.trim_start();
    let mut members = HashMap::new();
    if rest.trim() == "}" {
        return Some(members);
    }
    loop {
        let (name, after) = take::<String>(rest)?;
        let after = after.trim_start().strip_prefix(':')?.trim_start();
        let (_, next) = take::<IgnoredAny>(after)?;
        members.insert(name, after.get(..after.len() - next.len())?);
        let next = next.trim_start();
        if let Some(more) = next.strip_prefix(',') {
            rest = more.trim_start();
        } else {
            return (next.trim_end() == "}").then_some(members);
        }
    }
}

/// The elements of the list `json`, each as its text; `None` when it is no list.
pub(crate) fn elements(json: &str) -> Option<Vec<&str>> {
    let mut rest = json.trim_start().strip_prefix('[')?.trim_start();
    let mut elements = Vec::new();
    if rest.trim() == "]" {
        return Some(elements);
    }
    loop {
        let (_, next) = take::<IgnoredAny>(rest)?;
        elements.push(rest.get(..rest.len() - next.len())?);
        let next = next.trim_start();
        if let Some(more) = next.strip_prefix(',') {
            rest = more.trim_start();
        } else {
            return (next.trim_end() == "]").then_some(elements);
        }
    }
}

/// The first value of `text`, and what follows it.
fn take<T: serde::de::DeserializeOwned>(text: &str) -> Option<(T, &str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<T>();
    let value = values.next()?.ok()?;
    let rest = text.get(values.byte_offset()..)?;
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_and_lists_come_apart_at_any_spacing() {
        let json = " { \"a\" : {\"x\":[1,{}]} ,\"b\":1.5e3,\"c\\u0041\":\"}\\\"\", \"d\":null } ";
        let parts = members(json).unwrap();
        assert_eq!(parts["a"], "{\"x\":[1,{}]}");
        assert_eq!((parts["b"], parts["cA"], parts["d"]), ("1.5e3", "\"}\\\"\"", "null"));
        assert_eq!(members("{\"a\":1,\"a\":2}").unwrap()["a"], "2");
        assert!(members(" { } ").unwrap().is_empty());
        assert_eq!(elements("[1, \"a,b\" ,[2],true]").unwrap(), ["1", "\"a,b\"", "[2]", "true"]);
        assert!(elements("[ ]").unwrap().is_empty());
    }

    #[test]
    fn what_is_broken_comes_apart_nowhere() {
        for bad in ["", "{", "[", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "{\"a\":1} x", "7"]
        {
            assert_eq!(members(bad), None, "{bad}");
        }
        for bad in ["", "[1", "[1,]", "[1 2]", "[1] x", "{}"] {
            assert_eq!(elements(bad), None, "{bad}");
        }
    }
}
