//! The words of an HCL 1 file.

use crate::{
    ast::{Pos, SyntaxError},
    cursor::Cursor,
    text::{self, Quoting},
};

/// A word and where it starts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) pos: Pos,
    pub(crate) kind: Kind,
}

/// The kinds of words.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Assign,
    Bool(bool),
    CloseBrace,
    CloseBracket,
    Comma,
    End,
    Heredoc(String),
    Ident(String),
    Number(String),
    OpenBrace,
    OpenBracket,
    String(String),
}

impl Kind {
    /// The word, for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Assign => "`=`".to_owned(),
            Self::Bool(value) => format!("`{value}`"),
            Self::CloseBrace => "`}`".to_owned(),
            Self::CloseBracket => "`]`".to_owned(),
            Self::Comma => "`,`".to_owned(),
            Self::End => "the end of the file".to_owned(),
            Self::Heredoc(_) => "a here-document".to_owned(),
            Self::Ident(name) => format!("`{name}`"),
            Self::Number(text) => format!("the number {text}"),
            Self::OpenBrace => "`{`".to_owned(),
            Self::OpenBracket => "`[`".to_owned(),
            Self::String(_) => "a quoted text".to_owned(),
        }
    }
}

/// Takes the next word, past white space and comments.
pub(crate) fn next(cursor: &mut Cursor<'_>) -> Result<Token, SyntaxError> {
    skip_blank(cursor)?;
    let pos = cursor.pos();
    let Some(c) = cursor.peek() else {
        return Ok(Token { pos, kind: Kind::End });
    };
    let kind = match c {
        _ if is_letter(c) => {
            let word = cursor.take_while(|c| is_letter(c) || is_digit(c) || c == '-' || c == '.');
            match word {
                "true" => Kind::Bool(true),
                "false" => Kind::Bool(false),
                _ => Kind::Ident(word.to_owned()),
            }
        }
        '0'..='9' => number(cursor)?,
        '-' | '.' if cursor.peek_second().is_some_and(|c| c.is_ascii_digit()) => number(cursor)?,
        _ => {
            cursor.next();
            match c {
                '"' => Kind::String(text::quoted(cursor, pos, Quoting::Hcl)?),
                '<' => Kind::Heredoc(text::heredoc(cursor, pos)?),
                '=' => Kind::Assign,
                ',' => Kind::Comma,
                '{' => Kind::OpenBrace,
                '}' => Kind::CloseBrace,
                '[' => Kind::OpenBracket,
                ']' => Kind::CloseBracket,
                _ => {
                    let found = format!("unexpected character {c:?}");
                    return Err(SyntaxError::new(pos, found));
                }
            }
        }
    };
    Ok(Token { pos, kind })
}

fn skip_blank(cursor: &mut Cursor<'_>) -> Result<(), SyntaxError> {
    loop {
        cursor.take_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r'));
        let pos = cursor.pos();
        match (cursor.peek(), cursor.peek_second()) {
            (Some('#'), _) | (Some('/'), Some('/')) => {
                cursor.take_while(|c| c != '\n');
            }
            (Some('/'), Some('*')) => {
                cursor.next();
                cursor.next();
                while !(cursor.peek() == Some('*') && cursor.peek_second() == Some('/')) {
                    if cursor.next().is_none() {
                        return Err(SyntaxError::new(pos, "this comment has no closing `*/`"));
                    }
                }
                cursor.next();
                cursor.next();
            }
            _ => return Ok(()),
        }
    }
}

fn number(cursor: &mut Cursor<'_>) -> Result<Kind, SyntaxError> {
    let (start, pos) = (cursor.rest(), cursor.pos());
    cursor.eat('-');
    if cursor.peek() == Some('0') && matches!(cursor.peek_second(), Some('x' | 'X')) {
        cursor.next();
        cursor.next();
        if cursor.take_while(|c| c.is_ascii_hexdigit()).is_empty() {
            return Err(SyntaxError::new(pos, "a hexadecimal number without digits"));
        }
        return Ok(Kind::Number(cursor.since(start).to_owned()));
    }
    let whole = cursor.take_while(|c| c.is_ascii_digit());
    let mut octal = whole.len() > 1 && whole.starts_with('0');
    if cursor.eat('.') {
        octal = false;
        cursor.take_while(|c| c.is_ascii_digit());
    }
    if cursor.eat('e') || cursor.eat('E') {
        octal = false;
        if !cursor.eat('-') {
            cursor.eat('+');
        }
        if cursor.take_while(|c| c.is_ascii_digit()).is_empty() {
            return Err(SyntaxError::new(pos, "a number whose exponent has no digits"));
        }
    }
    if octal && whole.contains(['8', '9']) {
        return Err(SyntaxError::new(pos, "a leading 0 makes a number octal: no 8 or 9 in it"));
    }
    Ok(Kind::Number(cursor.since(start).to_owned()))
}

fn is_letter(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

fn is_digit(c: char) -> bool {
    c.is_numeric()
}
