//! sprig: defaults, choices, lists of numbers, and values as texts.

use crate::{
    format,
    function::{Function, Type, any, int, text},
    out::Out,
    printf,
    val::{Heap, Meter, Val},
};

type Made<'v> = Result<Val<'v>, String>;

pub(super) const FUNCTIONS: &[Function] = &[
    Function { name: "all", params: &[], rest: Some(Type::Any), run: all },
    Function { name: "any", params: &[], rest: Some(Type::Any), run: some },
    Function { name: "cat", params: &[], rest: Some(Type::Any), run: cat },
    Function { name: "coalesce", params: &[], rest: Some(Type::Any), run: coalesce },
    Function { name: "default", params: &[Type::Any], rest: Some(Type::Any), run: default },
    Function { name: "empty", params: &[Type::Any], rest: None, run: empty },
    Function { name: "fail", params: &[Type::Text], rest: None, run: fail },
    Function { name: "quote", params: &[], rest: Some(Type::Any), run: quote },
    Function { name: "seq", params: &[], rest: Some(Type::Int), run: seq },
    Function { name: "squote", params: &[], rest: Some(Type::Any), run: squote },
    Function {
        name: "ternary",
        params: &[Type::Any, Type::Any, Type::Bool],
        rest: None,
        run: ternary,
    },
    Function { name: "toString", params: &[Type::Any], rest: None, run: to_string },
];

/// A text is itself, anything else is printed.
pub(super) fn text_of(value: &Val<'_>, meter: &Meter) -> Result<String, String> {
    match value {
        Val::Text(text) => Ok((**text).to_owned()),
        value => format::display(value, meter),
    }
}

/// Empty is what is not true.
pub(super) fn is_empty(value: &Val<'_>) -> bool {
    !value.is_true()
}

fn all<'v>(_: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    Ok(Val::Bool(!args.iter().any(is_empty)))
}

fn some<'v>(_: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    Ok(Val::Bool(!args.iter().all(is_empty)))
}

fn coalesce<'v>(_: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    Ok(args.iter().find(|value| !is_empty(value)).cloned().unwrap_or(Val::Nil))
}

fn default<'v>(_: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    Ok(match args.get(1) {
        Some(given) if !is_empty(given) => given.clone(),
        _ => any(args, 0),
    })
}

fn empty<'v>(_: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    Ok(Val::Bool(is_empty(&any(args, 0))))
}

fn fail<'v>(_: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    Err(text(args, 0)?.to_owned())
}

fn ternary<'v>(_: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let chosen = usize::from(!any(args, 2).is_true());
    Ok(any(args, chosen))
}

fn to_string<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    heap.text(&text_of(&any(args, 0), heap)?)
}

/// Each value but the nil ones as a text, a space between.
fn spaced<'v>(
    heap: &Heap<'v>,
    args: &[Val<'v>],
    show: impl Fn(&Val<'v>) -> Result<String, String>,
) -> Made<'v> {
    let mut out = Out::new(heap);
    let values = args.iter().filter(|value| !matches!(value, Val::Nil | Val::Missing));
    for (at, value) in values.enumerate() {
        if at > 0 {
            out.push(" ")?;
        }
        out.push(&show(value)?)?;
    }
    heap.text(&out.into_text())
}

fn cat<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    spaced(heap, args, |value| format::display(value, heap))
}

fn quote<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    spaced(heap, args, |value| Ok(printf::quote(&text_of(value, heap)?, '"', false)))
}

fn squote<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    spaced(heap, args, |value| Ok(format!("'{}'", format::display(value, heap)?)))
}

/// The numbers from one to another, as a text with spaces between.
fn seq<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let way = |start: i64, end: i64| if end < start { -1 } else { 1 };
    let (start, step, end) = match args.len() {
        1 => (1, way(1, int(args, 0)?), int(args, 0)?),
        2 => (int(args, 0)?, way(int(args, 0)?, int(args, 1)?), int(args, 1)?),
        3 => (int(args, 0)?, int(args, 1)?, int(args, 2)?),
        _ => return Ok(Val::text("")),
    };
    if step == 0 || (step > 0) != (way(start, end) > 0) {
        return Ok(Val::text(""));
    }
    let mut out = Out::new(heap);
    let mut next = Some(start);
    while let Some(number) = next.filter(|n| if step > 0 { *n <= end } else { *n >= end }) {
        heap.spend(1)?;
        if number != start {
            out.push(" ")?;
        }
        out.push(&number.to_string())?;
        next = number.checked_add(step);
    }
    heap.text(&out.into_text())
}
