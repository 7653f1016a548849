//! The HCL 1 reader.
//!
//! HCL 1 is what SPIRE's configuration is written in; HCL 2, which other tools use under the same
//! name, refuses much of it. Items are separated by any white space or a comma, `k = {}` is
//! `k {}`, keys may be quoted, and `${` and `%{` mean nothing.

use crate::{
    ast::{Item, Node, Pos, SyntaxError, Value},
    cursor::Cursor,
    lexer::{self, Kind, Token},
};

/// How deep blocks and lists may nest.
pub(crate) const MAX_DEPTH: u32 = 64;

/// Reads the items of a file, whose line ends are `\n`.
pub(crate) fn parse(text: &str) -> Result<Vec<Item>, SyntaxError> {
    let mut cursor = Cursor::new(text);
    let token = lexer::next(&mut cursor)?;
    Parser { cursor, token }.items(None, 0)
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    /// The next word.
    token: Token,
}

impl Parser<'_> {
    fn advance(&mut self) -> Result<Token, SyntaxError> {
        let next = lexer::next(&mut self.cursor)?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn unexpected(&self, wanted: &str) -> SyntaxError {
        let found = self.token.kind.describe();
        SyntaxError::new(self.token.pos, format!("found {found}, expected {wanted}"))
    }

    /// Items up to the end of the file, or up to the brace that closes the one at `open`.
    fn items(&mut self, open: Option<Pos>, depth: u32) -> Result<Vec<Item>, SyntaxError> {
        let mut items = Vec::new();
        loop {
            match (&self.token.kind, open) {
                (Kind::CloseBrace, Some(_)) => {
                    self.advance()?;
                    return Ok(items);
                }
                (Kind::End, None) => return Ok(items),
                (Kind::End, Some(open)) => {
                    return Err(SyntaxError::new(open, "this brace is never closed"));
                }
                (Kind::Ident(_) | Kind::String(_), _) => items.push(self.item(depth)?),
                _ => return Err(self.unexpected("a key")),
            }
            if self.token.kind == Kind::Comma {
                self.advance()?;
            }
        }
    }

    fn item(&mut self, depth: u32) -> Result<Item, SyntaxError> {
        let mut keys = Vec::new();
        while matches!(self.token.kind, Kind::Ident(_) | Kind::String(_)) {
            let token = self.advance()?;
            if let Kind::Ident(key) | Kind::String(key) = token.kind {
                keys.push((key, token.pos));
            }
            check_depth(depth.saturating_add(keys.len() as u32), token.pos)?;
        }
        let inner = depth.saturating_add(keys.len() as u32);
        let mut value = match self.token.kind {
            Kind::Assign if keys.len() > 1 => {
                return Err(self.unexpected("`{` after a key with labels"));
            }
            Kind::Assign => {
                self.advance()?;
                self.value(inner)?
            }
            Kind::OpenBrace => self.value(inner)?,
            _ => return Err(self.unexpected("`=` or `{` after a key")),
        };
        let mut first = None;
        while let Some((key, pos)) = keys.pop() {
            if let Some(item) = first.take() {
                value = Node { pos, value: Value::Object(vec![item]) };
            }
            first = Some(Item { key, pos, value });
            value = Node { pos, value: Value::Null };
        }
        first.ok_or_else(|| self.unexpected("a key"))
    }

    fn value(&mut self, depth: u32) -> Result<Node, SyntaxError> {
        check_depth(depth, self.token.pos)?;
        if !matches!(
            self.token.kind,
            Kind::Bool(_)
                | Kind::Heredoc(_)
                | Kind::Number(_)
                | Kind::OpenBrace
                | Kind::OpenBracket
                | Kind::String(_)
        ) {
            return Err(self.unexpected("a value: a quoted text, number, boolean, list or block"));
        }
        let Token { pos, kind } = self.advance()?;
        let value = match kind {
            Kind::Bool(value) => Value::Bool(value),
            Kind::Number(text) => Value::Number(text),
            Kind::OpenBrace => Value::Object(self.items(Some(pos), depth.saturating_add(1))?),
            Kind::OpenBracket => Value::List(self.list(pos, depth.saturating_add(1))?),
            Kind::Heredoc(text) | Kind::String(text) => Value::String(text),
            _ => return Err(self.unexpected("a value")),
        };
        Ok(Node { pos, value })
    }

    fn list(&mut self, open: Pos, depth: u32) -> Result<Vec<Node>, SyntaxError> {
        let mut list = Vec::new();
        let mut comma_due = false;
        loop {
            match self.token.kind {
                Kind::CloseBracket => {
                    self.advance()?;
                    return Ok(list);
                }
                Kind::Comma => {
                    self.advance()?;
                    comma_due = false;
                }
                Kind::End => return Err(SyntaxError::new(open, "this bracket is never closed")),
                _ if comma_due => return Err(self.unexpected("`,` or `]`")),
                _ => {
                    let node = self.value(depth)?;
                    // A list needs no comma after it.
                    comma_due = !matches!(node.value, Value::List(_));
                    list.push(node);
                }
            }
        }
    }
}

/// An error where nesting passes [`MAX_DEPTH`].
pub(crate) fn check_depth(depth: u32, pos: Pos) -> Result<(), SyntaxError> {
    if depth > MAX_DEPTH {
        return Err(SyntaxError::new(pos, format!("more than {MAX_DEPTH} levels deep")));
    }
    Ok(())
}
