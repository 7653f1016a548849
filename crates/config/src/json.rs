//! The JSON form of a configuration: objects are blocks, arrays of objects are repeated blocks.

use crate::{
    ast::{Item, Node, Pos, SyntaxError, Value},
    cursor::Cursor,
    hcl::check_depth,
    text::{self, Quoting},
};

/// Reads the items of the object that a file is. A comma may follow the last item.
pub(crate) fn parse(text: &str) -> Result<Vec<Item>, SyntaxError> {
    let mut cursor = Cursor::new(text);
    let root = value(&mut cursor, 0)?;
    blank(&mut cursor);
    if let Some(c) = cursor.peek() {
        let found = format!("found {c:?} after the end of the object");
        return Err(SyntaxError::new(cursor.pos(), found));
    }
    match root.value {
        Value::Object(items) => Ok(items),
        other => {
            let found = format!("found {}, expected an object", other.kind());
            Err(SyntaxError::new(root.pos, found))
        }
    }
}

fn value(cursor: &mut Cursor<'_>, depth: u32) -> Result<Node, SyntaxError> {
    blank(cursor);
    let pos = cursor.pos();
    check_depth(depth, pos)?;
    let Some(c) = cursor.peek() else {
        return Err(SyntaxError::new(pos, "found the end of the file, expected a value"));
    };
    let value = match c {
        '{' => object(cursor, depth.saturating_add(1))?,
        '[' => array(cursor, depth.saturating_add(1))?,
        '"' => {
            cursor.next();
            Value::String(text::quoted(cursor, pos, Quoting::Json)?)
        }
        '-' | '0'..='9' => number(cursor)?,
        _ => match cursor.take_while(char::is_alphanumeric) {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" => Value::Null,
            "" => {
                let found = format!("found {c:?}, expected a value");
                return Err(SyntaxError::new(pos, found));
            }
            word => {
                let found = format!("found `{word}`, expected a value");
                return Err(SyntaxError::new(pos, found));
            }
        },
    };
    Ok(Node { pos, value })
}

fn object(cursor: &mut Cursor<'_>, depth: u32) -> Result<Value, SyntaxError> {
    let open = cursor.pos();
    cursor.next();
    let mut items = Vec::new();
    loop {
        blank(cursor);
        let pos = cursor.pos();
        if cursor.eat('}') {
            return Ok(Value::Object(items));
        }
        if !cursor.eat('"') {
            return Err(expected(cursor, open, "a quoted key or `}`"));
        }
        let key = text::quoted(cursor, pos, Quoting::Json)?;
        blank(cursor);
        if !cursor.eat(':') {
            return Err(expected(cursor, open, "`:`"));
        }
        let value = value(cursor, depth)?;
        items.push(Item { key, pos, value });
        blank(cursor);
        if !cursor.eat(',') && cursor.peek() != Some('}') {
            return Err(expected(cursor, open, "`,` or `}`"));
        }
    }
}

fn array(cursor: &mut Cursor<'_>, depth: u32) -> Result<Value, SyntaxError> {
    let open = cursor.pos();
    cursor.next();
    let mut list = Vec::new();
    loop {
        blank(cursor);
        if cursor.eat(']') {
            return Ok(Value::List(list));
        }
        list.push(value(cursor, depth)?);
        blank(cursor);
        if !cursor.eat(',') && cursor.peek() != Some(']') {
            return Err(expected(cursor, open, "`,` or `]`"));
        }
    }
}

fn number(cursor: &mut Cursor<'_>) -> Result<Value, SyntaxError> {
    let (start, pos) = (cursor.rest(), cursor.pos());
    let bad = || SyntaxError::new(pos, "not a JSON number");
    cursor.eat('-');
    let whole = cursor.take_while(|c| c.is_ascii_digit());
    if whole.is_empty() || (whole.len() > 1 && whole.starts_with('0')) {
        return Err(bad());
    }
    if cursor.eat('.') && cursor.take_while(|c| c.is_ascii_digit()).is_empty() {
        return Err(bad());
    }
    if cursor.eat('e') || cursor.eat('E') {
        if !cursor.eat('-') {
            cursor.eat('+');
        }
        if cursor.take_while(|c| c.is_ascii_digit()).is_empty() {
            return Err(bad());
        }
    }
    Ok(Value::Number(cursor.since(start).to_owned()))
}

fn expected(cursor: &Cursor<'_>, open: Pos, wanted: &str) -> SyntaxError {
    match cursor.peek() {
        Some(c) => SyntaxError::new(cursor.pos(), format!("found {c:?}, expected {wanted}")),
        None => SyntaxError::new(open, "this is never closed"),
    }
}

fn blank(cursor: &mut Cursor<'_>) {
    cursor.take_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r'));
}
