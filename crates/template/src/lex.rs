//! A template's text as tokens. Spaces are tokens: they part arguments.

use crate::Fail;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Assign,
    Block,
    Bool,
    Break,
    Char,
    CharConstant,
    Continue,
    Declare,
    Define,
    Dot,
    Else,
    End,
    Eof,
    Field,
    Identifier,
    If,
    LeftDelim,
    LeftParen,
    Nil,
    Number,
    Pipe,
    Quoted,
    Range,
    Raw,
    RightDelim,
    RightParen,
    Space,
    Template,
    Text,
    Variable,
    With,
}

/// A token, the byte it starts at, and what it is written as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'t> {
    pub token: Token,
    pub at: usize,
    pub text: &'t str,
}

const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];

pub(crate) fn is_space(c: char) -> bool {
    SPACES.contains(&c)
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// All tokens of `text`; the last is [`Token::Eof`]. A malformed token is handed out as the
/// error, with those before it, for the parser may find fault with them first.
pub(crate) fn items(text: &str) -> (Vec<Item<'_>>, Option<Fail>) {
    let mut lexer = Lexer { text, at: 0, items: Vec::new() };
    let fail = lexer.run().err();
    (lexer.items, fail)
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    items: Vec<Item<'t>>,
}

impl<'t> Lexer<'t> {
    fn run(&mut self) -> Result<(), Fail> {
        loop {
            let rest = self.rest();
            let Some(open) = rest.find("{{") else {
                self.push_text(rest);
                self.at = self.text.len();
                self.push(Token::Eof, 0);
                return Ok(());
            };
            let (before, action) = rest.split_at(open);
            let inner = action.get(2..).unwrap_or_default();
            let trims = left_trims(inner);
            self.push_text(if trims { before.trim_end_matches(SPACES) } else { before });
            self.at += open;
            let skipped = if trims { 2 } else { 0 };
            if inner.get(skipped..).is_some_and(|inner| inner.starts_with("/*")) {
                self.at += 2 + skipped;
                self.comment()?;
            } else {
                self.push(Token::LeftDelim, 2);
                self.at += skipped;
                self.action()?;
            }
        }
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, Fail> {
        Err(Fail::new(self.at, message))
    }

    fn push_text(&mut self, text: &'t str) {
        if !text.is_empty() {
            self.items.push(Item { token: Token::Text, at: self.at, text });
        }
    }

    /// A token of the next `len` bytes.
    fn push(&mut self, token: Token, len: usize) {
        let text = self.rest().get(..len).unwrap_or_default();
        self.items.push(Item { token, at: self.at, text });
        self.at += len;
    }

    fn comment(&mut self) -> Result<(), Fail> {
        let Some(end) = self.rest().find("*/") else { return self.fail("unclosed comment") };
        self.at += end + 2;
        match right_delim(self.rest()) {
            Some(trims) => self.close(trims),
            None => return self.fail("comment ends before closing delimiter"),
        }
        Ok(())
    }

    /// Past `}}`, and past the spaces after it where a trim marker says so.
    fn close(&mut self, trims: bool) {
        if trims {
            self.at += 4;
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start_matches(SPACES).len();
        } else {
            self.at += 2;
        }
    }

    fn action(&mut self) -> Result<(), Fail> {
        let mut parens = 0_usize;
        loop {
            let rest = self.rest();
            if let Some(trims) = right_delim(rest) {
                if parens > 0 {
                    return self.fail("unclosed left paren");
                }
                self.items.push(Item { token: Token::RightDelim, at: self.at, text: "}}" });
                self.close(trims);
                return Ok(());
            }
            let mut chars = rest.chars();
            let Some(c) = chars.next() else { return self.fail("unclosed action") };
            let after = chars.next();
            match c {
                _ if is_space(c) => self.space(),
                '=' => self.push(Token::Assign, 1),
                ':' if after == Some('=') => self.push(Token::Declare, 2),
                ':' => return self.fail("expected :="),
                '|' => self.push(Token::Pipe, 1),
                '"' => self.quoted(Token::Quoted, '"', "unterminated quoted string")?,
                '\'' => {
                    self.quoted(Token::CharConstant, '\'', "unterminated character constant")?
                }
                '`' => {
                    let Some(end) = rest.get(1..).and_then(|rest| rest.find('`')) else {
                        return self.fail("unterminated raw quoted string");
                    };
                    self.push(Token::Raw, end + 2);
                }
                '$' => self.word(Token::Variable)?,
                '.' if !after.is_some_and(|c| c.is_ascii_digit()) => self.word(Token::Field)?,
                '.' | '+' | '-' | '0'..='9' => self.number()?,
                _ if is_word(c) => self.word(Token::Identifier)?,
                '(' => {
                    parens += 1;
                    self.push(Token::LeftParen, 1);
                }
                ')' if parens == 0 => return self.fail("unexpected right paren"),
                ')' => {
                    parens -= 1;
                    self.push(Token::RightParen, 1);
                }
                ' '..='~' => self.push(Token::Char, 1),
                _ => return self.fail(format!("unrecognized character in action: {c:?}")),
            }
        }
    }

    /// A run of spaces; the last one is left where it begins a trim marker.
    fn space(&mut self) {
        let rest = self.rest();
        let mut len = rest.len() - rest.trim_start_matches(SPACES).len();
        if rest.get(len - 1..).and_then(right_delim).is_some() {
            len -= 1;
        }
        self.push(Token::Space, len);
    }

    fn quoted(&mut self, token: Token, quote: char, unterminated: &str) -> Result<(), Fail> {
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '\n' => break,
                '\\' if chars.next().is_none_or(|(_, escaped)| escaped == '\n') => break,
                _ if c == quote => {
                    self.push(token, at + 1);
                    return Ok(());
                }
                _ => {}
            }
        }
        self.fail(unterminated)
    }

    /// An identifier, or `.` or `$` and an identifier or nothing.
    fn word(&mut self, kind: Token) -> Result<(), Fail> {
        let rest = self.rest();
        let prefix = usize::from(kind != Token::Identifier);
        let name = rest.get(prefix..).unwrap_or_default();
        let len = name.find(|c| !is_word(c)).unwrap_or(name.len());
        let name = name.get(..len).unwrap_or_default();
        let after = rest.get(prefix + len..).unwrap_or_default();
        let ends = match after.chars().next() {
            None => true,
            Some(c) => is_space(c) || ".,|:)(".contains(c) || after.starts_with("}}"),
        };
        if !ends {
            self.at += prefix + len;
            let c = self.peek().unwrap_or_default();
            return self.fail(format!("bad character {c:?}"));
        }
        let token = match (kind, name) {
            (Token::Field, "") => Token::Dot,
            (Token::Identifier, word) => keyword(word),
            (kind, _) => kind,
        };
        self.push(token, prefix + len);
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fail> {
        let rest = self.rest();
        let mut scan = Scan { rest, len: 0 };
        scan.number();
        let len = scan.len;
        let next = rest.get(len..).and_then(|rest| rest.chars().next());
        if next.is_some_and(|c| is_word(c) || matches!(c, '+' | '-')) {
            let shown = rest.get(..len + next.map_or(0, char::len_utf8)).unwrap_or_default();
            return self.fail(format!("bad number syntax: {shown:?}"));
        }
        self.push(Token::Number, len);
        Ok(())
    }
}

/// How far a number reaches; whether it is one, [`crate::number`] says.
struct Scan<'t> {
    rest: &'t str,
    len: usize,
}

impl Scan<'_> {
    fn accept(&mut self, set: &str) -> bool {
        let next = self.rest.get(self.len..).and_then(|rest| rest.chars().next());
        let is = next.is_some_and(|c| set.contains(c));
        self.len += usize::from(is);
        is
    }

    fn run(&mut self, set: &str) {
        while self.accept(set) {}
    }

    fn number(&mut self) {
        self.accept("+-");
        let mut digits = "0123456789_";
        if self.accept("0") {
            if self.accept("xX") {
                digits = "0123456789abcdefABCDEF_";
            } else if self.accept("oO") {
                digits = "01234567_";
            } else if self.accept("bB") {
                digits = "01_";
            }
        }
        self.run(digits);
        if self.accept(".") {
            self.run(digits);
        }
        if (digits.len() == 11 && self.accept("eE")) || (digits.len() == 23 && self.accept("pP")) {
            self.accept("+-");
            self.run("0123456789_");
        }
        self.accept("i");
    }
}

fn left_trims(inner: &str) -> bool {
    let mut chars = inner.chars();
    chars.next() == Some('-') && chars.next().is_some_and(is_space)
}

/// Whether `rest` starts with the end of an action, and if so whether it trims.
fn right_delim(rest: &str) -> Option<bool> {
    if rest.starts_with("}}") {
        return Some(false);
    }
    let marked = rest.strip_prefix(SPACES)?.starts_with("-}}");
    marked.then_some(true)
}

fn keyword(word: &str) -> Token {
    match word {
        "block" => Token::Block,
        "break" => Token::Break,
        "continue" => Token::Continue,
        "define" => Token::Define,
        "else" => Token::Else,
        "end" => Token::End,
        "false" | "true" => Token::Bool,
        "if" => Token::If,
        "nil" => Token::Nil,
        "range" => Token::Range,
        "template" => Token::Template,
        "with" => Token::With,
        _ => Token::Identifier,
    }
}
