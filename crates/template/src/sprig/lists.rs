//! sprig: lists.

use crate::{
    MAX_DEPTH,
    function::{Function, Type, any, int},
    val::{Elements, Heap, List, Map, Meter, Val},
};

use super::values::is_empty;

type Made<'v> = Result<Val<'v>, String>;
type Run = crate::function::Run;

const A: Type = Type::Any;

const fn one(name: &'static str, run: Run) -> Function {
    Function { name, params: &[A], rest: None, run }
}

const fn two(name: &'static str, run: Run) -> Function {
    Function { name, params: &[A, A], rest: None, run }
}

const fn many(name: &'static str, run: Run) -> Function {
    Function { name, params: &[A], rest: Some(A), run }
}

pub(super) const FUNCTIONS: &[Function] = &[
    Function { name: "chunk", params: &[Type::Int, A], rest: None, run: chunk },
    Function { name: "mustChunk", params: &[Type::Int, A], rest: None, run: chunk },
    Function { name: "concat", params: &[], rest: Some(A), run: concat },
    Function {
        name: "list",
        params: &[],
        rest: Some(A),
        run: |heap, args| heap.list(args.to_vec()),
    },
    Function {
        name: "tuple",
        params: &[],
        rest: Some(A),
        run: |heap, args| heap.list(args.to_vec()),
    },
    many("slice", slice),
    many("mustSlice", slice),
    many("without", without),
    many("mustWithout", without),
    one("compact", compact),
    one("mustCompact", compact),
    one("first", first),
    one("mustFirst", first),
    one("initial", initial),
    one("mustInitial", initial),
    one("last", last),
    one("mustLast", last),
    one("rest", rest),
    one("mustRest", rest),
    one("reverse", reverse),
    one("mustReverse", reverse),
    one("uniq", uniq),
    one("mustUniq", uniq),
    two("append", append),
    two("mustAppend", append),
    two("push", append),
    two("mustPush", append),
    two("has", has),
    two("mustHas", has),
    two("prepend", prepend),
    two("mustPrepend", prepend),
];

fn list_of<'v>(value: &Val<'v>) -> Result<List<'v>, String> {
    match value {
        Val::List(list) => Ok(list.clone()),
        value => Err(format!("a list is expected, not a {}", value.type_name())),
    }
}

/// The elements of the `at`th argument.
fn elements<'v>(heap: &Heap<'v>, args: &[Val<'v>], at: usize) -> Result<Vec<Val<'v>>, String> {
    let list = list_of(&any(args, at))?;
    heap.spend(list.len())?;
    Ok(list.iter().collect())
}

fn append<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let mut values = elements(heap, args, 0)?;
    values.push(any(args, 1));
    heap.list(values)
}

fn prepend<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let mut values = elements(heap, args, 0)?;
    values.insert(0, any(args, 1));
    heap.list(values)
}

fn concat<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let mut values = Vec::new();
    for at in 0..args.len() {
        values.extend(elements(heap, args, at)?);
    }
    heap.list(values)
}

fn first<'v>(_: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    Ok(list_of(&any(args, 0))?.get(0).unwrap_or(Val::Nil))
}

fn last<'v>(_: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    Ok(list_of(&any(args, 0))?.iter().next_back().unwrap_or(Val::Nil))
}

fn rest<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    heap.list(elements(heap, args, 0)?.into_iter().skip(1).collect())
}

fn initial<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let mut values = elements(heap, args, 0)?;
    values.pop();
    heap.list(values)
}

fn reverse<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    heap.list(elements(heap, args, 0)?.into_iter().rev().collect())
}

fn compact<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    heap.list(elements(heap, args, 0)?.into_iter().filter(|value| !is_empty(value)).collect())
}

fn uniq<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let mut kept: Vec<Val<'v>> = Vec::new();
    for value in elements(heap, args, 0)? {
        if !is_among(heap, &kept, &value)? {
            kept.push(value);
        }
    }
    heap.list(kept)
}

fn without<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let left_out = args.get(1..).unwrap_or_default();
    let mut kept = Vec::new();
    for value in elements(heap, args, 0)? {
        if !is_among(heap, left_out, &value)? {
            kept.push(value);
        }
    }
    heap.list(kept)
}

fn has<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    if any(args, 1).is_nil() {
        return Ok(Val::Bool(false));
    }
    Ok(Val::Bool(is_among(heap, &elements(heap, args, 1)?, &any(args, 0))?))
}

fn slice<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let list = list_of(&any(args, 0))?;
    if list.len() == 0 {
        return Ok(Val::Nil);
    }
    let bound = |at: usize, default: usize| match args.get(at) {
        Some(index) => {
            let index = loose_int(index);
            let fits = usize::try_from(index).ok().filter(|index| *index <= list.len());
            fits.ok_or_else(|| format!("slice index out of range: {index}"))
        }
        None => Ok(default),
    };
    let (from, to) = (bound(1, 0)?, bound(2, list.len())?);
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    heap.list_of((from..to).filter_map(|at| list.get(at)).collect(), list.elements())
}

/// sprig's idea of an integer: texts are read, and what is none is 0.
fn loose_int(value: &Val<'_>) -> i64 {
    match value {
        Val::Bool(value) => i64::from(*value),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it saturates; an index is checked next"
        )]
        Val::Float(value) => *value as i64,
        Val::Int(value) => *value,
        Val::Text(text) => text.parse().unwrap_or(0),
        _ => 0,
    }
}

fn chunk<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let size = usize::try_from(int(args, 0)?).ok().filter(|size| *size > 0);
    let size = size.ok_or("the size of a chunk must be above 0")?;
    let values = elements(heap, args, 1)?;
    let mut chunks = Vec::new();
    for chunk in values.chunks(size) {
        chunks.push(heap.list(chunk.to_vec())?);
    }
    heap.list_of(chunks, Elements::Lists)
}

fn is_among<'v>(meter: &Meter, values: &[Val<'v>], wanted: &Val<'v>) -> Result<bool, String> {
    for value in values {
        if deep_equal(meter, value, wanted, 0)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Equal in type and in all that is in them.
fn deep_equal(meter: &Meter, a: &Val<'_>, b: &Val<'_>, depth: usize) -> Result<bool, String> {
    meter.spend(1 + a.cost().min(b.cost()))?;
    if depth > MAX_DEPTH {
        return Err(format!("a value nested more than {MAX_DEPTH} deep"));
    }
    match (a, b) {
        (Val::Bool(a), Val::Bool(b)) => Ok(a == b),
        #[expect(clippy::float_cmp, reason = "it is what Go does")]
        (Val::Float(a), Val::Float(b)) => Ok(a == b),
        (Val::Int(a), Val::Int(b)) => Ok(a == b),
        (Val::Text(a), Val::Text(b)) => Ok(**a == **b),
        (Val::List(one), Val::List(two)) => {
            if a.type_name() != b.type_name() || one.len() != two.len() {
                return Ok(false);
            }
            for (a, b) in one.iter().zip(two.iter()) {
                if !deep_equal(meter, &a, &b, depth + 1)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Val::Map(one), Val::Map(two)) => {
            let same_kind = a.type_name() == b.type_name() && one.len() == two.len();
            Ok(same_kind && equal_maps(meter, one, two, depth)?)
        }
        (a, b) => Ok(a.is_nil() && b.is_nil()),
    }
}

fn equal_maps(meter: &Meter, a: &Map<'_>, b: &Map<'_>, depth: usize) -> Result<bool, String> {
    for ((key, value), (other_key, other)) in a.pairs(meter)?.iter().zip(b.pairs(meter)?.iter()) {
        if !deep_equal(meter, key, other_key, depth + 1)?
            || !deep_equal(meter, value, other, depth + 1)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}
