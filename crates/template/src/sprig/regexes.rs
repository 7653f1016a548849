//! sprig: regular expressions. Go's syntax (RE2) is that of the `regex` crate.

use regex::{Regex, RegexBuilder};

use crate::{
    function::{Function, Type, int, text},
    val::{Heap, Val},
};

type Made<'v> = Result<Val<'v>, String>;

const T: Type = Type::Text;

/// The largest compiled expression, bytes.
const MAX_COMPILED: usize = 1 << 20;
/// What compiling costs, in steps; matching costs one for 8 bytes.
const COMPILING: usize = 1000;

pub(super) const FUNCTIONS: &[Function] = &[
    Function { name: "regexFind", params: &[T, T], rest: None, run: find },
    Function { name: "mustRegexFind", params: &[T, T], rest: None, run: find },
    Function { name: "regexFindAll", params: &[T, T, Type::Int], rest: None, run: find_all },
    Function { name: "mustRegexFindAll", params: &[T, T, Type::Int], rest: None, run: find_all },
    Function {
        name: "regexMatch",
        params: &[T, T],
        rest: None,
        run: |heap, args| Ok(is_match(heap, args).unwrap_or(Val::Bool(false))),
    },
    Function { name: "mustRegexMatch", params: &[T, T], rest: None, run: is_match },
    Function { name: "regexQuoteMeta", params: &[T], rest: None, run: quote_meta },
    Function { name: "regexReplaceAll", params: &[T, T, T], rest: None, run: replace },
    Function { name: "mustRegexReplaceAll", params: &[T, T, T], rest: None, run: replace },
    Function {
        name: "regexReplaceAllLiteral",
        params: &[T, T, T],
        rest: None,
        run: replace_literal,
    },
    Function {
        name: "mustRegexReplaceAllLiteral",
        params: &[T, T, T],
        rest: None,
        run: replace_literal,
    },
    Function { name: "regexSplit", params: &[T, T, Type::Int], rest: None, run: split },
    Function { name: "mustRegexSplit", params: &[T, T, Type::Int], rest: None, run: split },
];

fn regex(heap: &Heap<'_>, args: &[Val<'_>]) -> Result<Regex, String> {
    heap.spend(COMPILING + args.get(1).map_or(0, Val::text_len) / 8)?;
    let mut builder = RegexBuilder::new(text(args, 0)?);
    let regex = builder.size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED).build();
    regex.map_err(|error| format!("error parsing regexp: {error}"))
}

fn is_match<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    Ok(Val::Bool(regex(heap, args)?.is_match(text(args, 1)?)))
}

fn find<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let regex = regex(heap, args)?;
    heap.text(regex.find(text(args, 1)?).map_or("", |found| found.as_str()))
}

/// At most `n` when `n` is not negative.
fn limit(n: i64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn find_all<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let regex = regex(heap, args)?;
    let mut found = Vec::new();
    for found_here in regex.find_iter(text(args, 1)?).take(limit(int(args, 2)?)) {
        heap.spend(1)?;
        found.push(heap.text(found_here.as_str())?);
    }
    Ok(Val::texts(found))
}

fn quote_meta<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let mut out = String::new();
    for c in text(args, 0)?.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    heap.text(&out)
}

/// What replacing could make at most: the new text at every place, twice as long if it names
/// groups.
fn replace<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let regex = regex(heap, args)?;
    let (whole, new) = (text(args, 1)?, text(args, 2)?);
    let mut out = String::new();
    let mut after = 0;
    for captures in regex.captures_iter(whole) {
        heap.spend(1)?;
        let Some(found) = captures.get(0) else { continue };
        out.push_str(whole.get(after..found.start()).unwrap_or_default());
        captures.expand(new, &mut out);
        heap.spend_text(out.len())?;
        after = found.end();
    }
    out.push_str(whole.get(after..).unwrap_or_default());
    heap.text(&out)
}

fn replace_literal<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let regex = regex(heap, args)?;
    let (whole, new) = (text(args, 1)?, text(args, 2)?);
    let places = regex.find_iter(whole).count();
    heap.spend_text(places.saturating_mul(new.len()).saturating_add(whole.len()))?;
    heap.text(&regex.replace_all(whole, regex::NoExpand(new)))
}

/// The texts between matches: at most `n`, the last with all that is left; none when `n` is 0.
fn split<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let regex = regex(heap, args)?;
    let (whole, n) = (text(args, 1)?, int(args, 2)?);
    let mut parts = Vec::new();
    if n == 0 {
        return Ok(Val::texts(parts));
    }
    if !text(args, 0)?.is_empty() && whole.is_empty() {
        return Ok(Val::texts(vec![Val::text("")]));
    }
    let (mut begin, mut end) = (0, 0);
    for found in regex.find_iter(whole).take(limit(n)) {
        heap.spend(1)?;
        if n > 0 && parts.len() + 1 == limit(n) {
            break;
        }
        end = found.start();
        if found.end() != 0 {
            parts.push(heap.text(whole.get(begin..end).unwrap_or_default())?);
        }
        begin = found.end();
    }
    if end != whole.len() {
        parts.push(heap.text(whole.get(begin..).unwrap_or_default())?);
    }
    Ok(Val::texts(parts))
}
