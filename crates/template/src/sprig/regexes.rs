//! sprig: regular expressions. Go's syntax (RE2) is that of the `regex` crate.

use std::{fmt::Display, ops::Range};

use regex::{Regex, RegexBuilder};

use crate::{
    BYTES_PER_STEP, MAX_RESULT,
    function::{Function, Type, int, text},
    out::Out,
    val::{Heap, Val},
};

type Made<'v> = Result<Val<'v>, String>;

const T: Type = Type::Text;

/// The longest expression, bytes.
const MAX_EXPRESSION: usize = 16 * 1024;
/// How large an expression may be when compiled, bytes: the first of these that it fits in says what
/// it costs, and what does not fit in the last is refused. An expression that becomes no automaton
/// is followed state by state, at each byte of the text.
const SIZES: &[usize] = &[4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
/// The bytes of a compiled expression that are followed for one step.
const FOLLOWED_PER_STEP: usize = 512;
/// What compiling costs, in steps; and one more for so many bytes of the size.
const COMPILING: usize = 1000;
const COMPILED_PER_STEP: usize = 16;
/// The most memory of an automaton that is made while it is used, bytes.
const MAX_CACHE: usize = 1 << 20;

pub(super) const FUNCTIONS: &[Function] = &[
    Function { name: "regexFind", params: &[T, T], rest: None, run: find },
    Function { name: "mustRegexFind", params: &[T, T], rest: None, run: find },
    Function { name: "regexFindAll", params: &[T, T, Type::Int], rest: None, run: find_all },
    Function { name: "mustRegexFindAll", params: &[T, T, Type::Int], rest: None, run: find_all },
    Function {
        name: "regexMatch",
        params: &[T, T],
        rest: None,
        run: |heap, args| match is_match(heap, args) {
            Err(_) if !heap.is_spent() => Ok(Val::Bool(false)),
            result => result,
        },
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

/// An expression, and what searching with it costs.
struct Expression {
    regex: Regex,
    /// Steps for each byte that is searched.
    per_byte: usize,
    /// How far beyond a match a search may look; none for to the end.
    reach: Option<usize>,
}

impl Expression {
    fn new(heap: &Heap<'_>, text: &str) -> Result<Self, String> {
        let failed = |error: &dyn Display| format!("error parsing regexp: {error}");
        if text.len() > MAX_EXPRESSION {
            return Err(failed(&format_args!("longer than {MAX_EXPRESSION} bytes")));
        }
        heap.spend(COMPILING)?;
        let parsed = regex_syntax::parse(text).map_err(|error| failed(&error))?;
        let reach = parsed.properties().maximum_len();
        let mut wrong = None;
        for size in SIZES {
            heap.spend(size / COMPILED_PER_STEP)?;
            let mut builder = RegexBuilder::new(text);
            match builder.size_limit(*size).dfa_size_limit(MAX_CACHE).build() {
                Ok(regex) => return Ok(Self { regex, per_byte: size / FOLLOWED_PER_STEP, reach }),
                Err(error) => wrong = Some(error),
            }
        }
        Err(failed(&wrong.map_or_else(String::new, |error| error.to_string())))
    }

    /// Pays for searching a text once, to its end.
    fn pay(&self, heap: &Heap<'_>, text: &str) -> Result<(), String> {
        heap.spend(self.per_byte.saturating_mul(text.len()))
    }

    /// Pays for what the search after a match, of which so many bytes are left, looks at again.
    fn pay_again(&self, heap: &Heap<'_>, left: usize) -> Result<(), String> {
        let again = self.reach.unwrap_or(usize::MAX).min(left);
        heap.spend(self.per_byte.saturating_mul(again).saturating_add(1))
    }

    /// The places where a text matches, at most `n`.
    fn places(&self, heap: &Heap<'_>, text: &str, n: usize) -> Result<Vec<Range<usize>>, String> {
        self.pay(heap, text)?;
        let mut places = Vec::new();
        for found in self.regex.find_iter(text).take(n) {
            self.pay_again(heap, text.len() - found.end())?;
            places.push(found.range());
        }
        Ok(places)
    }
}

fn expression(heap: &Heap<'_>, args: &[Val<'_>]) -> Result<Expression, String> {
    Expression::new(heap, text(args, 0)?)
}

fn is_match<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let (expression, whole) = (expression(heap, args)?, text(args, 1)?);
    expression.pay(heap, whole)?;
    Ok(Val::Bool(expression.regex.is_match(whole)))
}

fn find<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let (expression, whole) = (expression(heap, args)?, text(args, 1)?);
    expression.pay(heap, whole)?;
    heap.text(expression.regex.find(whole).map_or("", |found| found.as_str()))
}

/// At most `n` when `n` is not negative.
fn limit(n: i64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn find_all<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let (expression, whole) = (expression(heap, args)?, text(args, 1)?);
    let mut found = Vec::new();
    for place in expression.places(heap, whole, limit(int(args, 2)?))? {
        found.push(heap.text(whole.get(place).unwrap_or_default())?);
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

fn replace<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let (expression, whole, new) = (expression(heap, args)?, text(args, 1)?, text(args, 2)?);
    expression.pay(heap, whole)?;
    let mut out = String::new();
    let mut after = 0;
    for captures in expression.regex.captures_iter(whole) {
        let Some(found) = captures.get(0) else { continue };
        expression.pay_again(heap, whole.len() - found.end())?;
        let begin = out.len();
        out.push_str(whole.get(after..found.start()).unwrap_or_default());
        heap.spend(new.len() / BYTES_PER_STEP)?;
        captures.expand(new, &mut out);
        heap.spend_text(out.len() - begin)?;
        after = found.end();
        if out.len() > MAX_RESULT {
            break;
        }
    }
    out.push_str(whole.get(after..).unwrap_or_default());
    heap.text(&out)
}

fn replace_literal<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let (expression, whole, new) = (expression(heap, args)?, text(args, 1)?, text(args, 2)?);
    let mut out = Out::new(heap);
    let mut after = 0;
    for place in expression.places(heap, whole, usize::MAX)? {
        out.push(whole.get(after..place.start).unwrap_or_default())?;
        out.push(new)?;
        after = place.end;
    }
    out.push(whole.get(after..).unwrap_or_default())?;
    heap.text(&out.into_text())
}

/// The texts between matches: at most `n`, the last with all that is left; none when `n` is 0.
fn split<'v>(heap: &Heap<'v>, args: &[Val<'v>]) -> Made<'v> {
    let expression = expression(heap, args)?;
    let (whole, n) = (text(args, 1)?, int(args, 2)?);
    let mut parts = Vec::new();
    if n == 0 {
        return Ok(Val::texts(parts));
    }
    if !text(args, 0)?.is_empty() && whole.is_empty() {
        return Ok(Val::texts(vec![Val::text("")]));
    }
    let (mut begin, mut end) = (0, 0);
    for found in expression.places(heap, whole, limit(n))? {
        if n > 0 && parts.len() + 1 == limit(n) {
            break;
        }
        end = found.start;
        if found.end != 0 {
            parts.push(heap.text(whole.get(begin..end).unwrap_or_default())?);
        }
        begin = found.end;
    }
    if end != whole.len() {
        parts.push(heap.text(whole.get(begin..).unwrap_or_default())?);
    }
    Ok(Val::texts(parts))
}
