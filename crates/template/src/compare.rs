//! Comparing values as Go's eq, lt and their kin do.

use crate::val::Val;

type Made<'v> = Result<Val<'v>, String>;

pub(crate) fn eq<'v>(args: &[Val<'v>]) -> Made<'v> {
    let Some((first, others)) = args.split_first().filter(|(_, others)| !others.is_empty()) else {
        return Err("missing argument for comparison".to_owned());
    };
    for other in others {
        if equal(first, other)? {
            return Ok(Val::Bool(true));
        }
    }
    Ok(Val::Bool(false))
}

pub(crate) fn ne<'v>(args: &[Val<'v>]) -> Made<'v> {
    let (first, second) = pair(args)?;
    Ok(Val::Bool(!equal(first, second)?))
}

pub(crate) fn lt<'v>(args: &[Val<'v>]) -> Made<'v> {
    let (first, second) = pair(args)?;
    Ok(Val::Bool(less(first, second)?))
}

pub(crate) fn le<'v>(args: &[Val<'v>]) -> Made<'v> {
    let (first, second) = pair(args)?;
    Ok(Val::Bool(less(first, second)? || equal(first, second)?))
}

pub(crate) fn gt<'v>(args: &[Val<'v>]) -> Made<'v> {
    let (first, second) = pair(args)?;
    Ok(Val::Bool(!(less(first, second)? || equal(first, second)?)))
}

pub(crate) fn ge<'v>(args: &[Val<'v>]) -> Made<'v> {
    let (first, second) = pair(args)?;
    Ok(Val::Bool(!less(first, second)?))
}

fn pair<'a, 'v>(args: &'a [Val<'v>]) -> Result<(&'a Val<'v>, &'a Val<'v>), String> {
    match args {
        [first, second] => Ok((first, second)),
        _ => Err("two values are compared".to_owned()),
    }
}

/// Whether Go has a simple kind for this: one that it compares.
fn is_basic(value: &Val<'_>) -> bool {
    matches!(value, Val::Bool(_) | Val::Float(_) | Val::Int(_) | Val::Text(_))
}

fn is_invalid(value: &Val<'_>) -> bool {
    matches!(value, Val::Missing | Val::Nil)
}

#[expect(clippy::float_cmp, reason = "it is what Go does")]
fn equal(first: &Val<'_>, second: &Val<'_>) -> Result<bool, String> {
    let (one, two) = (first.type_name(), second.type_name());
    match (first, second) {
        (Val::Bool(a), Val::Bool(b)) => Ok(a == b),
        (Val::Float(a), Val::Float(b)) => Ok(a == b),
        (Val::Int(a), Val::Int(b)) => Ok(a == b),
        (Val::Text(a), Val::Text(b)) => Ok(**a == **b),
        _ if is_basic(first) || is_basic(second) => {
            // A value compared with no value is merely not equal to it.
            if is_invalid(first) || is_invalid(second) {
                return Ok(false);
            }
            Err(format!("incompatible types for comparison: {one} and {two}"))
        }
        _ if is_invalid(first) || is_invalid(second) => Ok(first.is_nil() && second.is_nil()),
        (Val::NilPointer, Val::NilPointer) => Ok(true),
        _ => Err(format!("non-comparable types: {one} and {two}")),
    }
}

fn less(first: &Val<'_>, second: &Val<'_>) -> Result<bool, String> {
    if !is_basic(first) || !is_basic(second) {
        return Err("invalid type for comparison".to_owned());
    }
    match (first, second) {
        (Val::Float(a), Val::Float(b)) => Ok(a < b),
        (Val::Int(a), Val::Int(b)) => Ok(a < b),
        (Val::Text(a), Val::Text(b)) => Ok(**a < **b),
        (Val::Bool(_), Val::Bool(_)) => Err("invalid type for comparison".to_owned()),
        _ => {
            let (one, two) = (first.type_name(), second.type_name());
            Err(format!("incompatible types for comparison: {one} and {two}"))
        }
    }
}
