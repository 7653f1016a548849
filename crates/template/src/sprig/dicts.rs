//! sprig: dicts, which its functions change in place.

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    MAX_DEPTH,
    function::{Function, Type, any, text},
    val::{Dict, Heap, Map, Val},
};

use super::values::text_of;

type Made<'v> = Result<Val<'v>, String>;

const D: Type = Type::Dict;
const T: Type = Type::Text;

pub(super) const FUNCTIONS: &[Function] = &[
    Function { name: "dict", params: &[], rest: Some(Type::Any), run: dict },
    Function { name: "dig", params: &[], rest: Some(Type::Any), run: dig },
    Function { name: "get", params: &[D, T], rest: None, run: get },
    Function { name: "hasKey", params: &[D, T], rest: None, run: has_key },
    Function { name: "keys", params: &[], rest: Some(D), run: keys },
    Function {
        name: "merge",
        params: &[D],
        rest: Some(D),
        run: |heap, args| merge(heap, args, false),
    },
    Function {
        name: "mergeOverwrite",
        params: &[D],
        rest: Some(D),
        run: |heap, args| merge(heap, args, true),
    },
    Function {
        name: "mustMerge",
        params: &[D],
        rest: Some(D),
        run: |heap, args| merge(heap, args, false),
    },
    Function {
        name: "mustMergeOverwrite",
        params: &[D],
        rest: Some(D),
        run: |heap, args| merge(heap, args, true),
    },
    Function { name: "omit", params: &[D], rest: Some(T), run: omit },
    Function { name: "pick", params: &[D], rest: Some(T), run: pick },
    Function { name: "pluck", params: &[T], rest: Some(D), run: pluck },
    Function { name: "set", params: &[D, T, Type::Any], rest: None, run: set },
    Function { name: "unset", params: &[D, T], rest: None, run: unset },
    Function { name: "values", params: &[D], rest: None, run: values },
];

/// The `at`th argument as a map, which its type says it is, or nil.
fn map<'v>(args: &[Val<'v>], at: usize) -> Option<Map<'v>> {
    match args.get(at) {
        Some(Val::Map(map)) => Some(map.clone()),
        _ => None,
    }
}

fn changeable<'v>(args: &[Val<'v>], at: usize) -> Result<Dict<'v>, String> {
    match map(args, at) {
        Some(Map::Made(dict)) => Ok(dict),
        Some(Map::Given(_)) => Err("the data of a template cannot be changed".to_owned()),
        None => Err("assignment to entry in nil map".to_owned()),
    }
}

fn pairs<'v>(heap: &Heap<'v>, map: &Map<'v>) -> Result<Vec<(String, Val<'v>)>, String> {
    let text = |key: Val<'v>| match key {
        Val::Text(text) => (*text).to_owned(),
        _ => String::new(),
    };
    Ok(map.pairs(heap)?.into_iter().map(|(key, value)| (text(key), value)).collect())
}

fn dict<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let mut map = BTreeMap::new();
    for pair in args.chunks(2) {
        let key = text_of(&any(pair, 0), heap)?;
        map.insert(key, pair.get(1).cloned().unwrap_or_else(|| Val::text("")));
    }
    heap.dict(map)
}

fn dig<'v>(_: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let [path @ .., default, start] = args else {
        return Err("dig needs at least three arguments".to_owned());
    };
    if path.is_empty() {
        return Err("dig needs at least three arguments".to_owned());
    }
    let mut value = start.clone();
    for key in path {
        let Val::Text(key) = key else {
            return Err(format!("dig takes texts, not a {}", key.type_name()));
        };
        let Val::Map(map) = &value else {
            return Err(format!("dig looks into dicts, not into a {}", value.type_name()));
        };
        if map.holds_texts() {
            return Err("dig looks into dicts, not into a map[string]string".to_owned());
        }
        match map.get(key) {
            Some(found) => value = found,
            None => return Ok(default.clone()),
        }
    }
    Ok(value)
}

fn get<'v>(_: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let key = text(args, 1)?;
    Ok(map(args, 0).and_then(|map| map.get(key)).unwrap_or_else(|| Val::text("")))
}

fn has_key<'v>(_: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let key = text(args, 1)?;
    Ok(Val::Bool(map(args, 0).is_some_and(|map| map.get(key).is_some())))
}

fn keys<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let mut keys = Vec::new();
    for at in 0..args.len() {
        if let Some(map) = map(args, at) {
            keys.extend(pairs(heap, &map)?.iter().map(|(key, _)| Val::text(key)));
        }
    }
    Ok(Val::texts(keys))
}

fn values<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let pairs = match map(args, 0) {
        Some(map) => pairs(heap, &map)?,
        None => Vec::new(),
    };
    heap.list(pairs.into_iter().map(|(_, value)| value).collect())
}

fn pluck<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let key = text(args, 0)?;
    let maps = (1..args.len()).filter_map(|at| map(args, at));
    heap.list(maps.filter_map(|map| map.get(key)).collect())
}

fn choose<'v>(heap: &Heap<'v>, args: &[Val<'v>], wanted: bool) -> Made<'v> {
    let named =
        |key: &str| args.iter().skip(1).any(|arg| matches!(arg, Val::Text(text) if **text == *key));
    let pairs = match map(args, 0) {
        Some(map) => pairs(heap, &map)?,
        None => Vec::new(),
    };
    heap.spend(pairs.len().saturating_mul(args.len()))?;
    heap.dict(pairs.into_iter().filter(|(key, _)| named(key) == wanted).collect())
}

fn pick<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    choose(heap, args, true)
}

fn omit<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    choose(heap, args, false)
}

fn set<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let dict = changeable(args, 0)?;
    let key = text(args, 1)?;
    heap.spend_text(key.len())?;
    dict.borrow_mut().insert(key.to_owned(), any(args, 2));
    Ok(Val::Map(Map::Made(dict)))
}

fn unset<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    if map(args, 0).is_none() {
        return heap.dict(BTreeMap::new());
    }
    let dict = changeable(args, 0)?;
    dict.borrow_mut().remove(text(args, 1)?);
    Ok(Val::Map(Map::Made(dict)))
}

fn merge<'v>(heap: &Heap<'v>, args: &[Val<'v>], overwrites: bool) -> Made<'v> {
    let target = changeable(args, 0)?;
    for at in 1..args.len() {
        if let Some(source) = map(args, at) {
            merge_into(heap, &target, &source, overwrites, 0)?;
        }
    }
    Ok(Val::Map(Map::Made(target)))
}

/// Copies into `target` what it lacks or has empty, or everything; dicts in both are merged.
fn merge_into<'v>(
    heap: &Heap<'v>,
    target: &Dict<'v>,
    source: &Map<'v>,
    overwrites: bool,
    depth: usize,
) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("a value nested more than {MAX_DEPTH} deep"));
    }
    for (key, value) in pairs(heap, source)? {
        let known = target.borrow().get(&key).cloned();
        if matches!(value, Val::Nil) {
            if overwrites {
                target.borrow_mut().insert(key, value);
            }
            continue;
        }
        if let (Some(Val::Map(old)), Val::Map(new)) = (&known, &value)
            && old.len() > 0
        {
            let inner = inner_dict(heap, old)?;
            target.borrow_mut().insert(key, Val::Map(Map::Made(Rc::clone(&inner))));
            merge_into(heap, &inner, new, overwrites, depth + 1)?;
            continue;
        }
        if overwrites || known.is_none_or(|known| !known.is_true()) {
            target.borrow_mut().insert(key, value);
        }
    }
    Ok(())
}

/// The dict itself, or a copy of a map that cannot be changed.
fn inner_dict<'v>(heap: &Heap<'v>, map: &Map<'v>) -> Result<Dict<'v>, String> {
    match map {
        Map::Made(dict) => Ok(Rc::clone(dict)),
        Map::Given(_) => match heap.dict(pairs(heap, map)?.into_iter().collect())? {
            Val::Map(Map::Made(dict)) => Ok(dict),
            _ => Err("a dict is expected".to_owned()),
        },
    }
}
