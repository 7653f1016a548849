//! sprig: the case of letters and words.

use crate::{
    function::{Function, Type, text},
    val::{Heap, Val},
};

type Made<'v> = Result<Val<'v>, String>;

const T: &[Type] = &[Type::Text];

pub(super) const FUNCTIONS: &[Function] = &[
    Function {
        name: "camelcase",
        params: T,
        rest: None,
        run: |h, args| each(h, args, pascal_case),
    },
    Function { name: "initials", params: T, rest: None, run: |h, args| each(h, args, initials) },
    Function {
        name: "kebabcase",
        params: T,
        rest: None,
        run: |h, args| each(h, args, |text| connected(text, '-')),
    },
    Function {
        name: "lower",
        params: T,
        rest: None,
        run: |h, args| each(h, args, |text| text.chars().map(lower).collect()),
    },
    Function {
        name: "snakecase",
        params: T,
        rest: None,
        run: |h, args| each(h, args, |text| connected(text, '_')),
    },
    Function { name: "swapcase", params: T, rest: None, run: |h, args| each(h, args, swap_case) },
    Function { name: "title", params: T, rest: None, run: |h, args| each(h, args, title) },
    Function { name: "untitle", params: T, rest: None, run: |h, args| each(h, args, untitle) },
    Function {
        name: "upper",
        params: T,
        rest: None,
        run: |h, args| each(h, args, |text| text.chars().map(upper).collect()),
    },
];

fn each<'v>(heap: &Heap<'v>, args: &[Val<'v>], change: impl Fn(&str) -> String) -> Made<'v> {
    let whole = text(args, 0)?;
    heap.spend_text(whole.len())?;
    heap.text(&change(whole))
}

/// One character for one, as Go maps them.
fn lower(c: char) -> char {
    c.to_lowercase().next().unwrap_or(c)
}

/// One character for one, as Go maps them: `ß` stays.
fn upper(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(upper), None) => upper,
        _ => c,
    }
}

fn title(text: &str) -> String {
    let mut before = ' ';
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let parts = match before {
            '0'..='9' | 'a'..='z' | 'A'..='Z' | '_' => false,
            before if before.is_ascii() => true,
            before => before.is_whitespace(),
        };
        out.push(if parts { upper(c) } else { c });
        before = c;
    }
    out
}

/// The first letter of each word made small.
fn untitle(text: &str) -> String {
    let mut starts = true;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let is_space = c.is_whitespace();
        out.push(if starts && !is_space { lower(c) } else { c });
        starts = is_space;
    }
    out
}

/// Small letters at the start of a word and in it become capitals, capitals become small.
fn swap_case(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_uppercase() => lower(c),
            c if c.is_lowercase() => upper(c),
            c => c,
        })
        .collect()
}

/// The first letter of each word; sprig looks at bytes here.
fn initials(text: &str) -> String {
    let mut after_gap = true;
    let mut out = String::new();
    for c in text.bytes().map(char::from) {
        if c.is_whitespace() {
            after_gap = true;
        } else if after_gap {
            out.push(c);
            after_gap = false;
        }
    }
    out
}

fn is_connector(c: char) -> bool {
    c == '-' || c == '_' || c.is_whitespace()
}

/// `some_words` as `SomeWords`.
fn pascal_case(text: &str) -> String {
    let start = text.find(|c| !is_connector(c)).unwrap_or(text.len());
    let (leading, rest) = text.split_at(start);
    let mut out = String::new();
    let mut chars = rest.chars();
    out.push_str(leading);
    let Some(first) = chars.next() else {
        // Of connectors alone, the last one counts twice.
        out.extend(leading.chars().next_back());
        return out;
    };
    let mut was_upper = first.is_uppercase();
    let mut current = upper(first);
    for c in chars {
        let before = current;
        current = c;
        if is_connector(current) && is_connector(before) {
            out.push(before);
            continue;
        }
        if is_connector(before) {
            was_upper = current.is_uppercase();
            current = upper(current);
            continue;
        }
        if was_upper {
            if current.is_uppercase() {
                current = lower(current);
            } else {
                was_upper = false;
            }
        }
        out.push(before);
    }
    out.push(current);
    out
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Connector,
    End,
    Letters,
    Number,
    Other,
    Punctuation,
    Upper,
}

/// A letter of an alphabet: the characters of Chinese are none.
fn is_letter(c: char) -> bool {
    let is_cjk = matches!(
        c,
        '\u{3400}'..='\u{4db5}' | '\u{4e00}'..='\u{9fcc}' | '\u{20000}'..='\u{2b81d}'
    );
    c.is_alphabetic() && !is_cjk
}

fn is_punctuation(c: char) -> bool {
    // Go's punctuation: of the ASCII marks, those that are not symbols.
    match c {
        '!' | '"' | '#' | '%' | '&' | '\'' | '(' | ')' | '*' | ',' | '-' | '.' | '/' | ':'
        | ';' | '?' | '@' | '[' | '\\' | ']' | '_' | '{' | '}' => true,
        '¡' | '§' | '«' | '¶' | '·' | '»' | '¿' => true,
        '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}' => !matches!(c, '\u{2044}' | '\u{2052}'),
        '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3011}' => true,
        _ => false,
    }
}

/// The next run of characters of one kind, and what follows it.
fn next_word(text: &str) -> (Word, &str, &str) {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return (Word::End, "", "") };
    let second = chars.next();
    let split = |kind: Word, len: usize| {
        let (word, rest) = text.split_at_checked(len).unwrap_or((text, ""));
        (kind, word, rest)
    };
    let run = |is: &dyn Fn(char) -> bool| text.find(|c| !is(c)).unwrap_or(text.len());
    let after_first = first.len_utf8();
    let small = |from: usize| {
        let rest = text.get(from..).unwrap_or_default();
        let end = rest.find(|c: char| !is_letter(c) || c.is_uppercase());
        from + end.unwrap_or(rest.len())
    };
    if is_connector(first) {
        return split(Word::Connector, run(&is_connector));
    }
    if is_punctuation(first) {
        return split(Word::Punctuation, run(&is_punctuation));
    }
    if first.is_uppercase() {
        return match second {
            Some(c) if c.is_uppercase() => {
                // The last capital of several belongs to the letters that follow it.
                let end = run(&char::is_uppercase);
                let next = text.get(end..).and_then(|rest| rest.chars().next());
                let last = text.get(..end).and_then(|run| run.chars().next_back());
                match (next, last) {
                    (Some(next), Some(last)) if is_letter(next) => {
                        split(Word::Upper, end - last.len_utf8())
                    }
                    _ => split(Word::Upper, end),
                }
            }
            Some(c) if is_letter(c) => split(Word::Upper, small(after_first)),
            _ => split(Word::Upper, after_first),
        };
    }
    if is_letter(first) {
        return split(Word::Letters, small(after_first));
    }
    if first.is_numeric() {
        return split(Word::Number, run(&char::is_numeric));
    }
    let ends = |c: char| is_connector(c) || is_letter(c) || c.is_numeric() || is_punctuation(c);
    let rest = text.get(after_first..).unwrap_or_default();
    split(Word::Other, after_first + rest.find(ends).unwrap_or(rest.len()))
}

/// `SomeWords` as `some_words` or `some-words`. A number goes with the letters around it.
fn connected(text: &str, connector: char) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let joins = |kind: Word| matches!(kind, Word::Connector | Word::Punctuation);
    let (mut kind, mut word, mut rest) = next_word(text);
    while !rest.is_empty() {
        if kind != Word::Connector {
            push_lower(&mut out, kind, word, connector);
        }
        let (before, before_word) = (kind, word);
        (kind, word, rest) = next_word(rest);
        match before {
            Word::Number => {
                while matches!(kind, Word::Letters | Word::Number) {
                    push_lower(&mut out, kind, word, connector);
                    (kind, word, rest) = next_word(rest);
                }
                if kind != Word::End && !joins(kind) {
                    out.push(connector);
                }
            }
            Word::Connector => push_lower(&mut out, before, before_word, connector),
            Word::Punctuation => {}
            Word::End | Word::Letters | Word::Other | Word::Upper => {
                if kind != Word::Number {
                    if !joins(kind) {
                        out.push(connector);
                    }
                    continue;
                }
                if rest.is_empty() {
                    continue;
                }
                let number = word;
                (kind, word, rest) = next_word(rest);
                if kind != Word::Letters {
                    push_lower(&mut out, Word::Number, number, connector);
                    if !joins(kind) {
                        out.push(connector);
                    }
                    continue;
                }
                out.push(connector);
                push_lower(&mut out, Word::Number, number, connector);
                while matches!(kind, Word::Letters | Word::Number) {
                    push_lower(&mut out, kind, word, connector);
                    (kind, word, rest) = next_word(rest);
                }
                if kind != Word::End && !joins(kind) {
                    out.push(connector);
                }
            }
        }
    }
    push_lower(&mut out, kind, word, connector);
    out
}

fn push_lower(out: &mut String, kind: Word, word: &str, connector: char) {
    for c in word.chars() {
        out.push(match kind {
            Word::Connector if is_connector(c) => connector,
            Word::Upper => lower(c),
            _ => c,
        });
    }
}
