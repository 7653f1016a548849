//! sprig: searching, cutting and joining texts.

use std::collections::HashSet;

use crate::{
    MAX_RESULT,
    function::{Function, Type, any, int, text},
    out::Out,
    val::{Elements, Heap, List, Val},
};

use super::values::text_of;

type Made<'v> = Result<Val<'v>, String>;

const T: Type = Type::Text;

pub(super) const FUNCTIONS: &[Function] = &[
    Function { name: "abbrev", params: &[Type::Int, T], rest: None, run: abbrev },
    Function {
        name: "abbrevboth",
        params: &[Type::Int, Type::Int, T],
        rest: None,
        run: abbrev_both,
    },
    Function {
        name: "contains",
        params: &[T, T],
        rest: None,
        run: |_, args| Ok(Val::Bool(text(args, 1)?.contains(text(args, 0)?))),
    },
    Function {
        name: "hasPrefix",
        params: &[T, T],
        rest: None,
        run: |_, args| Ok(Val::Bool(text(args, 1)?.starts_with(text(args, 0)?))),
    },
    Function {
        name: "hasSuffix",
        params: &[T, T],
        rest: None,
        run: |_, args| Ok(Val::Bool(text(args, 1)?.ends_with(text(args, 0)?))),
    },
    Function {
        name: "indent",
        params: &[Type::Int, T],
        rest: None,
        run: |heap, args| heap.text(&indented(int(args, 0)?, text(args, 1)?)?),
    },
    Function { name: "join", params: &[T, Type::Any], rest: None, run: join },
    Function {
        name: "nindent",
        params: &[Type::Int, T],
        rest: None,
        run: |heap, args| heap.text(&format!("\n{}", indented(int(args, 0)?, text(args, 1)?)?)),
    },
    Function { name: "nospace", params: &[T], rest: None, run: no_space },
    Function {
        name: "plural",
        params: &[T, T, Type::Int],
        rest: None,
        run: |_, args| Ok(any(args, usize::from(int(args, 2)? != 1))),
    },
    Function { name: "repeat", params: &[Type::Int, T], rest: None, run: repeat },
    Function { name: "replace", params: &[T, T, T], rest: None, run: replace },
    Function { name: "sortAlpha", params: &[Type::Any], rest: None, run: sort_alpha },
    Function { name: "splitList", params: &[T, T], rest: None, run: split_list },
    Function { name: "substr", params: &[Type::Int, Type::Int, T], rest: None, run: substr },
    Function {
        name: "toStrings",
        params: &[Type::Any],
        rest: None,
        run: |heap, args| as_texts(heap, &any(args, 0)),
    },
    Function {
        name: "trim",
        params: &[T],
        rest: None,
        run: |heap, args| heap.text(text(args, 0)?.trim()),
    },
    Function {
        name: "trimAll",
        params: &[T, T],
        rest: None,
        run: |heap, args| {
            let set: HashSet<char> = text(args, 0)?.chars().collect();
            heap.text(text(args, 1)?.trim_matches(|c| set.contains(&c)))
        },
    },
    Function {
        name: "trimPrefix",
        params: &[T, T],
        rest: None,
        run: |heap, args| {
            let whole = text(args, 1)?;
            heap.text(whole.strip_prefix(text(args, 0)?).unwrap_or(whole))
        },
    },
    Function {
        name: "trimSuffix",
        params: &[T, T],
        rest: None,
        run: |heap, args| {
            let whole = text(args, 1)?;
            heap.text(whole.strip_suffix(text(args, 0)?).unwrap_or(whole))
        },
    },
    Function { name: "trunc", params: &[Type::Int, T], rest: None, run: trunc },
    Function {
        name: "wrap",
        params: &[Type::Int, T],
        rest: None,
        run: |heap, args| heap.text(&wrapped(text(args, 1)?, int(args, 0)?, "", false)?),
    },
    Function {
        name: "wrapWith",
        params: &[Type::Int, T, T],
        rest: None,
        run: |heap, args| heap.text(&wrapped(text(args, 2)?, int(args, 0)?, text(args, 1)?, true)?),
    },
];

/// Bytes `from..to`, on the bounds of characters.
fn cut(text: &str, from: usize, to: usize) -> Result<&str, String> {
    if from > to || to > text.len() {
        return Err(format!("slice bounds out of range [{from}:{to}]"));
    }
    if from == to {
        return Ok("");
    }
    text.get(from..to).ok_or_else(|| "a character would be cut in two".to_owned())
}

fn abbrev<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    heap.text(&abbreviated(text(args, 1)?, 0, int(args, 0)?)?)
}

fn abbrev_both<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let (left, right, whole) = (int(args, 0)?, int(args, 1)?, text(args, 2)?);
    if right < 4 || (left > 0 && right < 7) {
        return heap.text(whole);
    }
    heap.text(&abbreviated(whole, left, right)?)
}

/// At most `width` bytes of the text from `offset` on, with dots for what is left out.
fn abbreviated(text: &str, offset: i64, width: i64) -> Result<String, String> {
    let Some(width) = usize::try_from(width).ok().filter(|width| *width >= 4) else {
        return Ok(text.to_owned());
    };
    if text.len() <= width {
        return Ok(text.to_owned());
    }
    let room = width - 3;
    let offset = usize::try_from(offset).unwrap_or(0).min(text.len());
    let offset = offset.min(text.len() - room);
    if offset <= 4 {
        return Ok(format!("{}...", cut(text, 0, room)?));
    }
    if width < 7 {
        return Ok(String::new());
    }
    if offset + room < text.len() {
        let rest = cut(text, offset, text.len())?;
        let rest = abbreviated(rest, 0, i64::try_from(room).unwrap_or(i64::MAX))?;
        return Ok(format!("...{rest}"));
    }
    Ok(format!("...{}", cut(text, text.len() - room, text.len())?))
}

fn indented(spaces: i64, text: &str) -> Result<String, String> {
    let spaces = usize::try_from(spaces).map_err(|_| "a negative count of spaces".to_owned())?;
    let lines = text.matches('\n').count() + 1;
    if spaces.saturating_mul(lines) > MAX_RESULT {
        return Err(format!("a text longer than {MAX_RESULT} bytes"));
    }
    let pad = " ".repeat(spaces);
    Ok(format!("{pad}{}", text.replace('\n', &format!("\n{pad}"))))
}

/// The elements of a list as texts, the nil ones left out; anything else as a list of one.
pub(super) fn as_texts<'v>(heap: &Heap<'v>, value: &Val<'v>) -> Made<'v> {
    let values = match value {
        Val::List(list) if list.elements() == Elements::Texts => return Ok(value.clone()),
        Val::List(list) => {
            let mut texts = Vec::with_capacity(list.len());
            for element in list.iter().filter(|element| !matches!(element, Val::Nil)) {
                texts.push(heap.text(&text_of(&element, heap)?)?);
            }
            texts
        }
        Val::Nil | Val::Missing => Vec::new(),
        value => vec![heap.text(&text_of(value, heap)?)?],
    };
    heap.spend(values.len())?;
    Ok(Val::texts(values))
}

fn join<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let separator = text(args, 0)?;
    let mut out = Out::new(heap);
    if let Val::List(list) = as_texts(heap, &any(args, 1))? {
        for (at, element) in list.iter().enumerate() {
            heap.spend(1)?;
            if at > 0 {
                out.push(separator)?;
            }
            if let Val::Text(element) = element {
                out.push(&element)?;
            }
        }
    }
    heap.text(&out.into_text())
}

fn sort_alpha<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let Val::List(list) = as_texts(heap, &any(args, 0))? else { return Ok(Val::Nil) };
    sorted(heap, &list)
}

fn sorted<'v>(heap: &Heap<'v>, list: &List<'v>) -> Made<'v> {
    // Each is compared some log2(n) times.
    let times = list.len().checked_ilog2().unwrap_or(0) as usize + 1;
    let cost: usize = list.iter().map(|value| 1 + value.cost()).sum();
    heap.spend(cost.saturating_mul(times))?;
    let mut values: Vec<Val<'v>> = list.iter().collect();
    values.sort_by(|a, b| match (a, b) {
        (Val::Text(a), Val::Text(b)) => (**a).cmp(&**b),
        _ => std::cmp::Ordering::Equal,
    });
    Ok(Val::texts(values))
}

/// sprig looks at bytes here, each as if it were a character of Latin 1.
fn no_space<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let whole = text(args, 0)?;
    let is_space = |b: &u8| char::from(*b).is_whitespace();
    if !whole.as_bytes().iter().any(is_space) {
        return heap.text(whole);
    }
    let kept: String = whole.bytes().filter(|b| !is_space(b)).map(char::from).collect();
    heap.text(&kept)
}

fn repeat<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let count = usize::try_from(int(args, 0)?).map_err(|_| "negative Repeat count".to_owned())?;
    let what = text(args, 1)?;
    heap.spend_text(what.len().saturating_mul(count))?;
    heap.text(&if what.is_empty() { String::new() } else { what.repeat(count) })
}

fn replace<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let (old, new, whole) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
    let found = whole.matches(old).count();
    heap.spend_text(found.saturating_mul(new.len()).saturating_add(whole.len()))?;
    heap.text(&whole.replace(old, new))
}

fn split_list<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let (separator, whole) = (text(args, 0)?, text(args, 1)?);
    heap.spend(whole.len() / 2 + 1)?;
    let parts: Vec<Val<'v>> = if separator.is_empty() {
        whole.chars().map(|c| Val::text(c.encode_utf8(&mut [0; 4]))).collect()
    } else {
        whole.split(separator).map(Val::text).collect()
    };
    Ok(Val::texts(parts))
}

fn substr<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let (start, end, whole) = (int(args, 0)?, int(args, 1)?, text(args, 2)?);
    let bound = |n: i64| usize::try_from(n).map_err(|_| format!("slice bounds out of range [{n}]"));
    let len = i64::try_from(whole.len()).unwrap_or(i64::MAX);
    let (from, to) = match (start, end) {
        (..0, end) => (0, bound(end)?),
        (start, end) if end < 0 || end > len => (bound(start)?, whole.len()),
        (start, end) => (bound(start)?, bound(end)?),
    };
    heap.text(cut(whole, from, to)?)
}

fn trunc<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let (count, whole) = (int(args, 0)?, text(args, 1)?);
    let size = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    let (from, to) = match count < 0 {
        true if size < whole.len() => (whole.len() - size, whole.len()),
        false if size < whole.len() => (0, size),
        _ => (0, whole.len()),
    };
    heap.text(cut(whole, from, to)?)
}

/// Lines of at most `width` bytes, broken at spaces; words longer than a line are cut if
/// `cuts_words`.
fn wrapped(text: &str, width: i64, newline: &str, cuts_words: bool) -> Result<String, String> {
    let width = usize::try_from(width).unwrap_or(1).max(1);
    let newline = if newline.is_empty() { "\n" } else { newline };
    let mut out = String::new();
    let mut offset = 0;
    while text.len() - offset > width {
        let rest = text.get(offset..).ok_or("a character would be cut in two")?;
        if rest.starts_with(' ') {
            offset += 1;
            continue;
        }
        let window = rest.as_bytes().get(..=width).unwrap_or(rest.as_bytes());
        let line = match window.iter().rposition(|b| *b == b' ') {
            Some(space) => Some((space, 1)),
            None if cuts_words => Some((width, 0)),
            None => {
                let after = rest.as_bytes().get(width..).unwrap_or_default();
                after.iter().position(|b| *b == b' ').map(|space| (width + space, 1))
            }
        };
        let Some((len, skipped)) = line else {
            out.push_str(rest);
            return Ok(out);
        };
        out.push_str(cut(rest, 0, len)?);
        out.push_str(newline);
        if out.len() > MAX_RESULT {
            return Err(format!("a text longer than {MAX_RESULT} bytes"));
        }
        offset += len + skipped;
    }
    out.push_str(text.get(offset..).ok_or("a character would be cut in two")?);
    Ok(out)
}
