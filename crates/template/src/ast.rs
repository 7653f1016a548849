//! A template after reading. Places are byte offsets into its text.

use crate::number::Number;

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Action(Pipe),
    Break,
    Call { at: usize, name: Box<str>, pipe: Option<Pipe> },
    Continue,
    If { pipe: Pipe, then: Vec<Node>, otherwise: Vec<Node> },
    Range { pipe: Pipe, body: Vec<Node>, otherwise: Vec<Node> },
    Text(Box<str>),
    With { pipe: Pipe, then: Vec<Node>, otherwise: Vec<Node> },
}

/// `$a, $b := command | command`.
#[derive(Clone, Debug)]
pub(crate) struct Pipe {
    pub at: usize,
    /// The variables to set, at most two.
    pub variables: Vec<Box<str>>,
    /// Whether they are there already (`=`) or made here (`:=`).
    pub assigns: bool,
    pub commands: Vec<Command>,
}

/// What is called, or the value itself, and its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub first: Operand,
    pub args: Vec<Operand>,
}

#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub at: usize,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Bool(bool),
    /// Fields of the value of an operand that is in parentheses or calls a function.
    Chain(Box<Operand>, Vec<Box<str>>),
    Dot,
    Field(Vec<Box<str>>),
    Function(Box<str>),
    Nil,
    Number(Number),
    Pipe(Box<Pipe>),
    Text(Box<str>),
    Variable(Box<str>, Vec<Box<str>>),
}
