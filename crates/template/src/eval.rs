//! Executing a template.

use crate::{
    BYTES_PER_STEP, Fail, MAX_DEPTH, MAX_RESULT, Template, Value,
    ast::{Command, Kind, Node, Operand, Pipe},
    format, number, parse,
    val::{Heap, Val},
};

/// How far template calls, blocks and parentheses may nest while executing.
const MAX_EXEC_DEPTH: usize = 2 * MAX_DEPTH;
/// The variables that are looked through for one step.
const VARIABLES_PER_STEP: usize = 16;

pub(crate) fn run(template: &Template, data: &Value) -> Result<String, Fail> {
    let root = template.trees.get(parse::MAIN).map_or(&[][..], Vec::as_slice);
    // A nil that is given as the data is no value at all.
    let dot = match Val::given(data) {
        Val::Nil => Val::Missing,
        dot => dot,
    };
    let mut state = State {
        template,
        variables: vec![("$", dot.clone())],
        out: String::new(),
        heap: Heap::new(),
        depth: 0,
    };
    state.list(&dot, root)?;
    Ok(state.out)
}

/// What runs after a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Break,
    Continue,
    Next,
}

pub(crate) struct State<'t, 'v> {
    pub template: &'t Template,
    variables: Vec<(&'t str, Val<'v>)>,
    out: String,
    pub heap: Heap<'v>,
    depth: usize,
}

impl<'t, 'v> State<'t, 'v> {
    pub fn spend(&self, at: usize, steps: usize) -> Result<(), Fail> {
        self.heap.spend(steps).map_err(|message| Fail::new(at, message))
    }

    fn deeper<T>(
        &mut self,
        at: usize,
        run: impl FnOnce(&mut Self) -> Result<T, Fail>,
    ) -> Result<T, Fail> {
        if self.depth >= MAX_EXEC_DEPTH {
            return Err(Fail::new(at, format!("nested more than {MAX_EXEC_DEPTH} deep")));
        }
        self.depth += 1;
        let result = run(self);
        self.depth -= 1;
        result
    }

    fn list(&mut self, dot: &Val<'v>, nodes: &'t [Node]) -> Result<Flow, Fail> {
        for node in nodes {
            let flow = self.node(dot, node)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn node(&mut self, dot: &Val<'v>, node: &'t Node) -> Result<Flow, Fail> {
        self.spend(0, 1)?;
        match node {
            Node::Action(pipe) => {
                let value = self.pipeline(dot, pipe)?;
                if pipe.variables.is_empty() {
                    let printed = format::print(&value, &self.heap);
                    let text = printed.map_err(|message| Fail::new(pipe.at, message))?;
                    self.write(pipe.at, &text)?;
                }
            }
            Node::Break => return Ok(Flow::Break),
            Node::Call { at, name, pipe } => self.call_template(dot, *at, name, pipe.as_ref())?,
            Node::Continue => return Ok(Flow::Continue),
            Node::If { pipe, then, otherwise } => {
                return self
                    .deeper(pipe.at, |this| this.condition(dot, pipe, then, otherwise, false));
            }
            Node::Range { pipe, body, otherwise } => {
                return self.deeper(pipe.at, |this| this.range(dot, pipe, body, otherwise));
            }
            Node::Text(text) => self.write(0, text)?,
            Node::With { pipe, then, otherwise } => {
                return self
                    .deeper(pipe.at, |this| this.condition(dot, pipe, then, otherwise, true));
            }
        }
        Ok(Flow::Next)
    }

    fn write(&mut self, at: usize, text: &str) -> Result<(), Fail> {
        if self.out.len() + text.len() > MAX_RESULT {
            return Err(Fail::new(at, format!("the result is longer than {MAX_RESULT} bytes")));
        }
        self.spend(at, text.len() / BYTES_PER_STEP)?;
        self.out.push_str(text);
        Ok(())
    }

    fn condition(
        &mut self,
        dot: &Val<'v>,
        pipe: &'t Pipe,
        then: &'t [Node],
        otherwise: &'t [Node],
        sets_dot: bool,
    ) -> Result<Flow, Fail> {
        let mark = self.variables.len();
        let value = self.pipeline(dot, pipe)?;
        let flow = match (value.is_true(), sets_dot) {
            (true, true) => self.list(&value, then)?,
            (true, false) => self.list(dot, then)?,
            (false, _) => self.list(dot, otherwise)?,
        };
        self.variables.truncate(mark);
        Ok(flow)
    }

    fn range(
        &mut self,
        dot: &Val<'v>,
        pipe: &'t Pipe,
        body: &'t [Node],
        otherwise: &'t [Node],
    ) -> Result<Flow, Fail> {
        let outer = self.variables.len();
        let value = self.pipeline(dot, pipe)?;
        let mark = self.variables.len();
        let mut ran = false;
        match value {
            Val::Int(count) => {
                if pipe.variables.len() > 1 {
                    let message =
                        format!("can't use {count} to iterate over more than one variable");
                    return Err(Fail::new(pipe.at, message));
                }
                for n in 0..count {
                    ran = true;
                    let flow = self.iteration(pipe, Val::Missing, Val::Int(n), mark, body)?;
                    if flow == Flow::Break {
                        break;
                    }
                }
            }
            Val::List(list) => {
                for (at, element) in list.iter().enumerate() {
                    ran = true;
                    let index = Val::Int(i64::try_from(at).unwrap_or(i64::MAX));
                    if self.iteration(pipe, index, element, mark, body)? == Flow::Break {
                        break;
                    }
                }
            }
            Val::Map(map) => {
                let pairs = map.pairs(&self.heap);
                for (key, element) in pairs.map_err(|message| Fail::new(pipe.at, message))? {
                    ran = true;
                    if self.iteration(pipe, key, element, mark, body)? == Flow::Break {
                        break;
                    }
                }
            }
            Val::Missing | Val::Nil => {}
            Val::Bool(_) | Val::Float(_) | Val::NilPointer | Val::Struct(_) | Val::Text(_) => {
                let message = format!("range can't iterate over a {}", value.type_name());
                return Err(Fail::new(pipe.at, message));
            }
        }
        let flow = if ran { Flow::Next } else { self.list(dot, otherwise)? };
        self.variables.truncate(outer);
        Ok(flow)
    }

    fn iteration(
        &mut self,
        pipe: &'t Pipe,
        index: Val<'v>,
        element: Val<'v>,
        mark: usize,
        body: &'t [Node],
    ) -> Result<Flow, Fail> {
        self.spend(pipe.at, 1)?;
        match pipe.variables.as_slice() {
            [] => {}
            [name] if pipe.assigns => self.assign(pipe.at, name, element.clone())?,
            [key, name] if pipe.assigns => {
                self.assign(pipe.at, key, index)?;
                self.assign(pipe.at, name, element.clone())?;
            }
            names => {
                // Made by the pipeline just below the mark: the last is the element.
                let values = [element.clone(), index];
                let slots = self.variables.get_mut(..mark).unwrap_or_default();
                for (slot, value) in slots.iter_mut().rev().take(names.len()).zip(values) {
                    slot.1 = value;
                }
            }
        }
        let flow = self.list(&element, body)?;
        self.variables.truncate(mark);
        Ok(flow)
    }

    fn call_template(
        &mut self,
        dot: &Val<'v>,
        at: usize,
        name: &str,
        pipe: Option<&'t Pipe>,
    ) -> Result<(), Fail> {
        let Some(nodes) = self.template.trees.get(name) else {
            return Err(Fail::new(at, format!("template {name:?} not defined")));
        };
        let dot = match pipe {
            Some(pipe) => self.pipeline(dot, pipe)?,
            None => Val::Missing,
        };
        // A template sees none of its caller's variables.
        let outer = std::mem::replace(&mut self.variables, vec![("$", dot.clone())]);
        self.deeper(at, |this| this.list(&dot, nodes))?;
        self.variables = outer;
        Ok(())
    }

    pub fn pipeline(&mut self, dot: &Val<'v>, pipe: &'t Pipe) -> Result<Val<'v>, Fail> {
        let mut value = None;
        for command in &pipe.commands {
            self.spend(pipe.at, 1)?;
            let result = self.deeper(pipe.at, |this| this.command(dot, command, value.take()))?;
            // An interface is opened: what is in an empty one is not valid.
            value = Some(if matches!(result, Val::Nil) { Val::Missing } else { result });
        }
        let value = value.unwrap_or(Val::Missing);
        for name in &pipe.variables {
            if pipe.assigns {
                self.assign(pipe.at, name, value.clone())?;
            } else {
                self.variables.push((name, value.clone()));
            }
        }
        Ok(value)
    }

    fn assign(&mut self, at: usize, name: &str, value: Val<'v>) -> Result<(), Fail> {
        self.variable(at, name)?.1 = value;
        Ok(())
    }

    /// The variable of this name that was made last.
    fn variable(&mut self, at: usize, name: &str) -> Result<&mut (&'t str, Val<'v>), Fail> {
        self.heap
            .spend(self.variables.len() / VARIABLES_PER_STEP)
            .map_err(|message| Fail::new(at, message))?;
        let known = self.variables.iter_mut().rev().find(|(known, _)| *known == name);
        known.ok_or_else(|| Fail::new(at, format!("undefined variable: {name}")))
    }

    fn command(
        &mut self,
        dot: &Val<'v>,
        command: &'t Command,
        last: Option<Val<'v>>,
    ) -> Result<Val<'v>, Fail> {
        if let Kind::Function(name) = &command.first.kind {
            return self.function(dot, command.first.at, name, &command.args, last);
        }
        let has_args = !command.args.is_empty() || last.is_some();
        let fields = match &command.first.kind {
            Kind::Field(_) | Kind::Chain(..) => true,
            Kind::Variable(_, fields) => !fields.is_empty(),
            _ => false,
        };
        if has_args && !fields {
            return Err(Fail::new(command.first.at, "can't give argument to non-function"));
        }
        if matches!(command.first.kind, Kind::Nil) {
            return Err(Fail::new(command.first.at, "nil is not a command"));
        }
        self.operand(dot, &command.first, has_args)
    }

    /// The value of an operand that is not nil; `has_args` is whether its last field is given
    /// arguments, which no field of ours takes.
    pub fn operand(
        &mut self,
        dot: &Val<'v>,
        operand: &'t Operand,
        has_args: bool,
    ) -> Result<Val<'v>, Fail> {
        let at = operand.at;
        match &operand.kind {
            Kind::Bool(value) => Ok(Val::Bool(*value)),
            Kind::Chain(inner, fields) => {
                if matches!(inner.kind, Kind::Nil) {
                    return Err(Fail::new(at, "indirection through explicit nil"));
                }
                let value = self.operand(dot, inner, false)?;
                self.fields(at, value, fields, has_args)
            }
            Kind::Dot => Ok(dot.clone()),
            Kind::Field(fields) => self.fields(at, dot.clone(), fields, has_args),
            Kind::Function(name) => self.function(dot, at, name, &[], None),
            Kind::Nil => Err(Fail::new(at, "nil is not a value here")),
            Kind::Number(number) => match number.ideal {
                number::Ideal::Float(value) => Ok(Val::Float(value)),
                number::Ideal::Int(value) => Ok(Val::Int(value)),
                number::Ideal::Overflow => Err(Fail::new(at, "the number overflows int")),
            },
            Kind::Pipe(pipe) => self.pipeline(dot, pipe),
            Kind::Text(text) => self.heap.text(text).map_err(|message| Fail::new(at, message)),
            Kind::Variable(name, fields) => {
                let value = self.variable(at, name)?.1.clone();
                self.fields(at, value, fields, has_args)
            }
        }
    }

    fn fields(
        &self,
        at: usize,
        mut value: Val<'v>,
        fields: &[Box<str>],
        has_args: bool,
    ) -> Result<Val<'v>, Fail> {
        for (depth, name) in fields.iter().enumerate() {
            self.spend(at, 1 + name.len() / BYTES_PER_STEP + value.cost())?;
            let has_args = has_args && depth + 1 == fields.len();
            let found = self.field(&value, name, has_args);
            value = found.map_err(|message| Fail::new(at, message))?;
        }
        Ok(value)
    }

    fn field(&self, value: &Val<'v>, name: &str, has_args: bool) -> Result<Val<'v>, String> {
        let strict = self.template.functions.is_strict();
        match value {
            Val::Map(_) | Val::Struct(_) if has_args => {
                Err(format!("{name} is not a method but has arguments"))
            }
            Val::Map(map) => match map.get(name) {
                Some(value) => Ok(value),
                None if strict => Err(format!("map has no entry for key {name:?}")),
                None => Ok(Val::Missing),
            },
            Val::Missing if strict => Err(format!("nil data; no entry for key {name:?}")),
            Val::Missing => Ok(Val::Missing),
            Val::Nil | Val::NilPointer => {
                Err(format!("nil pointer evaluating {}.{name}", value.type_name()))
            }
            Val::Struct(fields) => match fields.get(name) {
                Some(Value::Nil) => Ok(Val::NilPointer),
                Some(field) => Ok(Val::given(field)),
                None => Err(format!("can't evaluate field {name} in type struct")),
            },
            Val::Bool(_) | Val::Float(_) | Val::Int(_) | Val::List(_) | Val::Text(_) => {
                Err(format!("can't evaluate field {name} in type {}", value.type_name()))
            }
        }
    }
}
