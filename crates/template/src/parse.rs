//! Tokens as trees.

use std::collections::BTreeMap;

use crate::{
    Fail, Functions, MAX_DEPTH, MAX_VARIABLES,
    ast::{Command, Kind, Node, Operand, Pipe},
    lex::{Item, Token, items},
    number,
};

/// The main template has the empty name here: no `{{template}}` can mean to call it by that.
pub(crate) const MAIN: &str = "";

type Trees = BTreeMap<Box<str>, Vec<Node>>;

/// Reads the main template and those it defines.
pub(crate) fn trees(text: &str, functions: &Functions) -> Result<Trees, Fail> {
    let (items, fail) = items(text);
    let mut parser = Parser {
        items: &items,
        next: 0,
        fail,
        functions,
        trees: Trees::new(),
        scope: Scope::default(),
        depth: 0,
    };
    let root = parser.root()?;
    parser.trees.insert(MAIN.into(), root);
    Ok(parser.trees)
}

/// What is known while one tree is read.
struct Scope {
    variables: Vec<Box<str>>,
    ranges: usize,
}

impl Default for Scope {
    fn default() -> Self {
        Self { variables: vec!["$".into()], ranges: 0 }
    }
}

struct Parser<'t> {
    items: &'t [Item<'t>],
    next: usize,
    fail: Option<Fail>,
    functions: &'t Functions,
    trees: Trees,
    scope: Scope,
    depth: usize,
}

/// How a list of nodes ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Else,
    End,
}

/// A node, or the end of the list it would have been in.
enum Step {
    Node(Node),
    End(End, usize),
}

impl<'t> Parser<'t> {
    fn next(&mut self) -> Result<Item<'t>, Fail> {
        let item = self.peek()?;
        self.next += 1;
        Ok(item)
    }

    fn peek(&mut self) -> Result<Item<'t>, Fail> {
        match self.items.get(self.next) {
            Some(item) => Ok(*item),
            None => {
                let end = self.items.last().map_or(0, |item| item.at);
                Err(self.fail.take().unwrap_or_else(|| Fail::new(end, "unexpected EOF")))
            }
        }
    }

    fn back(&mut self) {
        self.next = self.next.saturating_sub(1);
    }

    fn next_after_space(&mut self) -> Result<Item<'t>, Fail> {
        loop {
            let item = self.next()?;
            if item.token != Token::Space {
                return Ok(item);
            }
        }
    }

    fn peek_after_space(&mut self) -> Result<Item<'t>, Fail> {
        let item = self.next_after_space()?;
        self.back();
        Ok(item)
    }

    fn expect(&mut self, token: Token, place: &str) -> Result<Item<'t>, Fail> {
        let item = self.next_after_space()?;
        if item.token == token { Ok(item) } else { Err(unexpected(item, place)) }
    }

    fn deeper<T>(
        &mut self,
        at: usize,
        read: impl FnOnce(&mut Self) -> Result<T, Fail>,
    ) -> Result<T, Fail> {
        if self.depth >= MAX_DEPTH {
            return Err(Fail::new(at, format!("nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    fn root(&mut self) -> Result<Vec<Node>, Fail> {
        let mut nodes = Vec::new();
        loop {
            let item = self.peek()?;
            match item.token {
                Token::Eof => return Ok(nodes),
                Token::LeftDelim => {
                    let start = self.next;
                    self.next()?;
                    if self.next_after_space()?.token == Token::Define {
                        self.define()?;
                        continue;
                    }
                    self.next = start;
                }
                _ => {}
            }
            match self.text_or_action()? {
                Step::Node(node) => nodes.push(node),
                Step::End(end, at) => return Err(unexpected_end(end, at, "input")),
            }
        }
    }

    fn define(&mut self) -> Result<(), Fail> {
        let item = self.next_after_space()?;
        let name = template_name(item, "define clause")?;
        self.expect(Token::RightDelim, "define clause")?;
        self.tree(name, item.at, "define clause")
    }

    /// The body of a `define` or `block`, which sees nothing of what is around it.
    fn tree(&mut self, name: Box<str>, at: usize, place: &str) -> Result<(), Fail> {
        let outer = std::mem::take(&mut self.scope);
        let (nodes, end, end_at) = self.deeper(at, Self::list)?;
        if end != End::End {
            return Err(unexpected_end(end, end_at, place));
        }
        self.scope = outer;
        let is_empty = |nodes: &[Node]| {
            nodes.iter().all(|node| matches!(node, Node::Text(text) if text.trim().is_empty()))
        };
        match self.trees.get(&name) {
            Some(known) if !is_empty(known) => {
                if !is_empty(&nodes) {
                    return Err(Fail::new(at, format!("multiple definition of template {name:?}")));
                }
            }
            _ => {
                self.trees.insert(name, nodes);
            }
        }
        Ok(())
    }

    fn list(&mut self) -> Result<(Vec<Node>, End, usize), Fail> {
        let mut nodes = Vec::new();
        loop {
            let item = self.peek_after_space()?;
            if item.token == Token::Eof {
                return Err(Fail::new(item.at, "unexpected EOF"));
            }
            match self.text_or_action()? {
                Step::Node(node) => nodes.push(node),
                Step::End(end, at) => return Ok((nodes, end, at)),
            }
        }
    }

    fn text_or_action(&mut self) -> Result<Step, Fail> {
        let item = self.next_after_space()?;
        match item.token {
            Token::Text => Ok(Step::Node(Node::Text(item.text.into()))),
            Token::LeftDelim => self.action(),
            _ => Err(unexpected(item, "input")),
        }
    }

    fn action(&mut self) -> Result<Step, Fail> {
        let item = self.next_after_space()?;
        let at = item.at;
        Ok(Step::Node(match item.token {
            Token::Block => self.block(at)?,
            Token::Break => {
                self.leave_range(at, "{{break}}")?;
                Node::Break
            }
            Token::Continue => {
                self.leave_range(at, "{{continue}}")?;
                Node::Continue
            }
            Token::Else => return self.otherwise(at),
            Token::End => {
                self.expect(Token::RightDelim, "end")?;
                return Ok(Step::End(End::End, at));
            }
            Token::If | Token::Range | Token::With => {
                self.deeper(at, |this| this.control(item.token))?
            }
            Token::Template => self.call(at)?,
            _ => {
                self.back();
                Node::Action(self.pipeline("command", Token::RightDelim)?)
            }
        }))
    }

    fn leave_range(&mut self, at: usize, what: &str) -> Result<(), Fail> {
        self.expect(Token::RightDelim, what)?;
        if self.scope.ranges == 0 {
            return Err(Fail::new(at, format!("{what} outside {{{{range}}}}")));
        }
        Ok(())
    }

    /// `else`; a following `if` or `with` is left for [`Self::control`].
    fn otherwise(&mut self, at: usize) -> Result<Step, Fail> {
        if !matches!(self.peek_after_space()?.token, Token::If | Token::With) {
            self.expect(Token::RightDelim, "else")?;
        }
        Ok(Step::End(End::Else, at))
    }

    fn block(&mut self, at: usize) -> Result<Node, Fail> {
        let name = template_name(self.next_after_space()?, "block clause")?;
        let pipe = self.pipeline("block clause", Token::RightDelim)?;
        self.tree(name.clone(), at, "block clause")?;
        Ok(Node::Call { at, name, pipe: Some(pipe) })
    }

    fn call(&mut self, at: usize) -> Result<Node, Fail> {
        let name = template_name(self.next_after_space()?, "template clause")?;
        let pipe = if self.peek_after_space()?.token == Token::RightDelim {
            self.next_after_space()?;
            None
        } else {
            Some(self.pipeline("template clause", Token::RightDelim)?)
        };
        Ok(Node::Call { at, name, pipe })
    }

    fn control(&mut self, kind: Token) -> Result<Node, Fail> {
        let variables = self.scope.variables.len();
        let place = match kind {
            Token::If => "if",
            Token::Range => "range",
            _ => "with",
        };
        let is_range = usize::from(kind == Token::Range);
        let pipe = self.pipeline(place, Token::RightDelim)?;
        self.scope.ranges += is_range;
        let (then, end, _) = self.list()?;
        self.scope.ranges -= is_range;
        let mut otherwise = Vec::new();
        if end == End::Else {
            let item = self.peek_after_space()?;
            if item.token == kind && kind != Token::Range {
                // "else if" is an "if" of its own in the "else", without an "end" of its own.
                self.next_after_space()?;
                otherwise.push(self.deeper(item.at, |this| this.control(kind))?);
            } else {
                let (nodes, end, at) = self.list()?;
                if end != End::End {
                    return Err(unexpected_end(end, at, place));
                }
                otherwise = nodes;
            }
        }
        self.scope.variables.truncate(variables);
        Ok(match kind {
            Token::If => Node::If { pipe, then, otherwise },
            Token::Range => Node::Range { pipe, body: then, otherwise },
            _ => Node::With { pipe, then, otherwise },
        })
    }

    fn pipeline(&mut self, place: &str, end: Token) -> Result<Pipe, Fail> {
        let at = self.peek_after_space()?.at;
        let mut pipe = Pipe { at, variables: Vec::new(), assigns: false, commands: Vec::new() };
        self.declarations(&mut pipe, place)?;
        loop {
            let item = self.next_after_space()?;
            if item.token == end {
                break;
            }
            if !starts_operand(item.token) {
                return Err(unexpected(item, place));
            }
            self.back();
            let command = self.command()?;
            let is_literal = matches!(
                command.first.kind,
                Kind::Bool(_) | Kind::Dot | Kind::Nil | Kind::Number(_) | Kind::Text(_)
            );
            if is_literal && !pipe.commands.is_empty() {
                let stage = pipe.commands.len() + 1;
                let message = format!("non executable command in pipeline stage {stage}");
                return Err(Fail::new(command.first.at, message));
            }
            pipe.commands.push(command);
        }
        if pipe.commands.is_empty() {
            return Err(Fail::new(at, format!("missing value for {place}")));
        }
        Ok(pipe)
    }

    /// `$x :=`, `$x =`, and in a range `$i, $x :=`, if they are there.
    fn declarations(&mut self, pipe: &mut Pipe, place: &str) -> Result<(), Fail> {
        loop {
            let variable = self.peek_after_space()?;
            if variable.token != Token::Variable {
                return Ok(());
            }
            let start = self.next;
            self.next_after_space()?;
            let after = self.next_after_space()?;
            let is_comma = after.token == Token::Char && after.text == ",";
            if !is_comma && !matches!(after.token, Token::Assign | Token::Declare) {
                self.next = start;
                return Ok(());
            }
            if self.scope.variables.len() > MAX_VARIABLES {
                let message = format!("more than {MAX_VARIABLES} variables");
                return Err(Fail::new(variable.at, message));
            }
            pipe.variables.push(variable.text.into());
            self.scope.variables.push(variable.text.into());
            if !is_comma {
                pipe.assigns = after.token == Token::Assign;
                return Ok(());
            }
            if place != "range" || pipe.variables.len() > 1 {
                let message = format!("too many declarations in {place}");
                return Err(Fail::new(after.at, message));
            }
            let next = self.peek_after_space()?;
            if !matches!(next.token, Token::Variable | Token::RightDelim | Token::RightParen) {
                return Err(Fail::new(next.at, "range can only initialize variables"));
            }
        }
    }

    fn command(&mut self) -> Result<Command, Fail> {
        let at = self.peek_after_space()?.at;
        let mut operands = Vec::new();
        loop {
            self.peek_after_space()?;
            operands.extend(self.operand()?);
            let item = self.next()?;
            match item.token {
                Token::Space => {}
                Token::RightDelim | Token::RightParen => {
                    self.back();
                    break;
                }
                Token::Pipe => break,
                _ => return Err(unexpected(item, "operand")),
            }
        }
        let mut operands = operands.into_iter();
        let first = operands.next().ok_or_else(|| Fail::new(at, "empty command"))?;
        Ok(Command { first, args: operands.collect() })
    }

    fn operand(&mut self) -> Result<Option<Operand>, Fail> {
        let Some(mut operand) = self.term()? else { return Ok(None) };
        let at = self.peek()?.at;
        let mut fields: Vec<Box<str>> = Vec::new();
        while self.peek()?.token == Token::Field {
            fields.push(field_name(self.next()?));
        }
        if fields.is_empty() {
            return Ok(Some(operand));
        }
        match &mut operand.kind {
            Kind::Field(path) | Kind::Variable(_, path) => {
                path.append(&mut fields);
                Ok(Some(operand))
            }
            Kind::Function(_) | Kind::Pipe(_) | Kind::Chain(..) => {
                Ok(Some(Operand { at, kind: Kind::Chain(Box::new(operand), fields) }))
            }
            Kind::Bool(_) | Kind::Dot | Kind::Nil | Kind::Number(_) | Kind::Text(_) => {
                Err(Fail::new(at, "unexpected . after term"))
            }
        }
    }

    fn term(&mut self) -> Result<Option<Operand>, Fail> {
        let item = self.next_after_space()?;
        let at = item.at;
        let fail = |message: String| Fail::new(at, message);
        let kind = match item.token {
            Token::Bool => Kind::Bool(item.text == "true"),
            Token::CharConstant => Kind::Number(number::character(item.text).map_err(fail)?),
            Token::Dot => Kind::Dot,
            Token::Field => Kind::Field(vec![field_name(item)]),
            Token::Identifier if item.text == "call" => {
                return Err(fail(
                    "function \"call\" is not supported: there is nothing to call".into(),
                ));
            }
            Token::Identifier if self.functions.has(item.text) => Kind::Function(item.text.into()),
            Token::Identifier => {
                return Err(fail(format!("function {:?} not defined", item.text)));
            }
            Token::LeftParen => {
                let pipe = self.deeper(at, |this| {
                    this.pipeline("parenthesized pipeline", Token::RightParen)
                })?;
                Kind::Pipe(Box::new(pipe))
            }
            Token::Nil => Kind::Nil,
            Token::Number => Kind::Number(number::number(item.text).map_err(fail)?),
            Token::Quoted | Token::Raw => {
                Kind::Text(number::unquote(item.text).map_err(fail)?.into())
            }
            Token::Variable => {
                if !self.scope.variables.iter().any(|known| **known == *item.text) {
                    return Err(fail(format!("undefined variable {:?}", item.text)));
                }
                Kind::Variable(item.text.into(), Vec::new())
            }
            _ => {
                self.back();
                return Ok(None);
            }
        };
        Ok(Some(Operand { at, kind }))
    }
}

fn field_name(item: Item<'_>) -> Box<str> {
    item.text.strip_prefix('.').unwrap_or(item.text).into()
}

fn template_name(item: Item<'_>, place: &str) -> Result<Box<str>, Fail> {
    if !matches!(item.token, Token::Quoted | Token::Raw) {
        return Err(unexpected(item, place));
    }
    let name = number::unquote(item.text).map_err(|message| Fail::new(item.at, message))?;
    if name.is_empty() {
        return Err(Fail::new(item.at, "a template needs a name"));
    }
    Ok(name.into())
}

fn starts_operand(token: Token) -> bool {
    matches!(
        token,
        Token::Bool
            | Token::CharConstant
            | Token::Dot
            | Token::Field
            | Token::Identifier
            | Token::LeftParen
            | Token::Nil
            | Token::Number
            | Token::Quoted
            | Token::Raw
            | Token::Variable
    )
}

fn unexpected(item: Item<'_>, place: &str) -> Fail {
    let what = match item.token {
        Token::Eof => "EOF".to_owned(),
        _ => format!("{:?}", item.text),
    };
    Fail::new(item.at, format!("unexpected {what} in {place}"))
}

fn unexpected_end(end: End, at: usize, place: &str) -> Fail {
    let what = match end {
        End::Else => "{{else}}",
        End::End => "{{end}}",
    };
    Fail::new(at, format!("unexpected {what} in {place}"))
}
