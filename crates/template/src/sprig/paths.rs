//! sprig: paths and URLs.

use std::collections::BTreeMap;

use crate::{
    function::{Function, Type, text},
    val::{Heap, Val},
};

use super::urls::{Url, User};

type Made<'v> = Result<Val<'v>, String>;

const T: &[Type] = &[Type::Text];

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "base",
        params: T,
        rest: None,
        run: |heap, args| heap.text(base(text(args, 0)?)),
    },
    Function {
        name: "clean",
        params: T,
        rest: None,
        run: |heap, args| heap.text(&clean(text(args, 0)?)),
    },
    Function {
        name: "dir",
        params: T,
        rest: None,
        run: |heap, args| {
            let path = text(args, 0)?;
            let end = path.rfind('/').map_or(0, |slash| slash + 1);
            heap.text(&clean(path.get(..end).unwrap_or_default()))
        },
    },
    Function {
        name: "ext",
        params: T,
        rest: None,
        run: |heap, args| {
            let name = text(args, 0)?.rsplit('/').next().unwrap_or_default();
            heap.text(name.rfind('.').and_then(|dot| name.get(dot..)).unwrap_or_default())
        },
    },
    Function {
        name: "isAbs",
        params: T,
        rest: None,
        run: |_, args| Ok(Val::Bool(text(args, 0)?.starts_with('/'))),
    },
    Function { name: "urlJoin", params: &[Type::Dict], rest: None, run: url_join },
    Function { name: "urlParse", params: T, rest: None, run: url_parse },
];

/// The last element of a path.
fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    match path.trim_end_matches('/') {
        "" => "/",
        path => path.rsplit('/').next().unwrap_or(path),
    }
}

/// The shortest path that is the same by name.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for element in path.split('/') {
        match element {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => {
                kept.pop();
            }
            ".." if rooted => {}
            element => kept.push(element),
        }
    }
    match (rooted, kept.is_empty()) {
        (true, _) => format!("/{}", kept.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => kept.join("/"),
    }
}

fn url_parse<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let whole = text(args, 0)?;
    let url = Url::parse(whole).map_err(|why| format!("unable to parse url: {whole:?}: {why}"))?;
    let userinfo = url.user.as_ref().map(User::to_string).unwrap_or_default();
    let parts = [
        ("fragment", url.fragment.as_str()),
        ("host", &url.host),
        ("hostname", url.hostname()),
        ("opaque", &url.opaque),
        ("path", &url.path),
        ("query", &url.query),
        ("scheme", &url.scheme),
        ("userinfo", &userinfo),
    ];
    let mut dict = BTreeMap::new();
    for (key, value) in parts {
        dict.insert(key.to_owned(), heap.text(value)?);
    }
    heap.dict(dict)
}

fn url_join<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let part = |key: &str| match args.first() {
        Some(Val::Map(map)) => match map.get(key) {
            None => Ok(String::new()),
            Some(Val::Text(text)) => Ok((*text).to_owned()),
            Some(other) => Err(format!(
                "unable to parse {key} key, must be of type string, but {} found",
                other.type_name()
            )),
        },
        _ => Ok(String::new()),
    };
    let userinfo = part("userinfo")?;
    let user = if userinfo.is_empty() {
        None
    } else {
        let url = Url::parse(&format!("proto://{userinfo}@host"));
        url.map_err(|why| format!("unable to parse userinfo in dict: {why}"))?.user
    };
    let url = Url {
        scheme: part("scheme")?,
        user,
        host: part("host")?,
        path: part("path")?,
        query: part("query")?,
        opaque: part("opaque")?,
        fragment: part("fragment")?,
    };
    heap.text(&url.to_string())
}
