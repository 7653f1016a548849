//! Calling functions: arguments are checked against parameters as Go does.

use crate::{
    Fail,
    ast::{Kind, Operand},
    eval::State,
    function::{Function, Type},
    functions::{Extra, Found},
    val::Val,
};

impl<'t, 'v> State<'t, 'v> {
    pub fn function(
        &mut self,
        dot: &Val<'v>,
        at: usize,
        name: &str,
        args: &'t [Operand],
        last: Option<Val<'v>>,
    ) -> Result<Val<'v>, Fail> {
        self.spend(at, 1)?;
        let template = self.template;
        let count = args.len() + usize::from(last.is_some());
        match template.functions.find(name) {
            None => Err(Fail::new(at, format!("{name:?} is not a defined function"))),
            Some(Found::ShortCircuit { stops_at }) => {
                if count == 0 {
                    let message = format!("wrong number of args for {name}: want at least 1 got 0");
                    return Err(Fail::new(at, message));
                }
                let mut value = Val::Missing;
                for arg in args {
                    value = self.argument(dot, arg, Type::Raw)?;
                    if value.is_true() == stops_at {
                        return Ok(value);
                    }
                }
                Ok(last.unwrap_or(value))
            }
            Some(Found::Plain(function)) => {
                check_count(function, count).map_err(|message| Fail::new(at, message))?;
                let mut values = Vec::with_capacity(count);
                for (index, arg) in args.iter().enumerate() {
                    values.push(self.argument(dot, arg, parameter(function, index))?);
                }
                if let Some(last) = last {
                    let wanted = parameter(function, args.len());
                    values.push(assign(last, wanted).map_err(|message| Fail::new(at, message))?);
                }
                // Looking at a long text costs as much as making one.
                self.spend(at, values.iter().map(Val::cost).sum())?;
                (function.run)(&self.heap, &values)
                    .map_err(|message| Fail::new(at, format!("error calling {name}: {message}")))
            }
            Some(Found::Extra(extra)) => self.extra(dot, at, name, extra, args, last),
        }
    }

    fn extra(
        &mut self,
        dot: &Val<'v>,
        at: usize,
        name: &str,
        extra: &Extra,
        args: &'t [Operand],
        last: Option<Val<'v>>,
    ) -> Result<Val<'v>, Fail> {
        let fail = |message: String| Fail::new(at, message);
        let count = args.len() + usize::from(last.is_some());
        let wanted = usize::from(matches!(extra, Extra::Of(_)));
        if count != wanted {
            return Err(fail(format!(
                "wrong number of args for {name}: want {wanted} got {count}"
            )));
        }
        let made = match extra {
            Extra::Of(function) => {
                let value = match (args.first(), last) {
                    (Some(arg), _) => self.argument(dot, arg, Type::Text)?,
                    (None, last) => {
                        assign(last.unwrap_or(Val::Missing), Type::Text).map_err(fail)?
                    }
                };
                let Val::Text(text) = value else { return Err(fail("not a text".to_owned())) };
                self.heap.spend_text(text.len()).map_err(fail)?;
                function(&text)
            }
            Extra::Source(function) => function(),
        };
        self.heap.text(&made).map_err(fail)
    }

    /// An argument, as the type of its parameter takes it.
    fn argument(&mut self, dot: &Val<'v>, arg: &'t Operand, wanted: Type) -> Result<Val<'v>, Fail> {
        let at = arg.at;
        let literal = match &arg.kind {
            Kind::Nil if wanted.can_be_nil() => {
                return Ok(if wanted == Type::Any { Val::Nil } else { Val::Missing });
            }
            Kind::Nil => {
                return Err(Fail::new(at, format!("cannot assign nil to {}", wanted.name())));
            }
            Kind::Bool(_) => Some(Type::Bool),
            Kind::Text(_) => Some(Type::Text),
            Kind::Number(number) => match (wanted, number.int) {
                (Type::Int, Some(int)) => return Ok(Val::Int(int)),
                // Of no parameter's type but `interface {}`.
                _ => Some(Type::Dict),
            },
            _ => None,
        };
        if let Some(literal) = literal
            && !matches!(wanted, Type::Any | Type::Raw)
            && (literal != wanted || wanted == Type::Dict)
        {
            return Err(Fail::new(at, format!("expected {}", wanted.name())));
        }
        let value = self.operand(dot, arg, false)?;
        assign(value, wanted).map_err(|message| Fail::new(at, message))
    }
}

fn check_count(function: &Function, count: usize) -> Result<(), String> {
    let (name, fixed) = (function.name, function.params.len());
    match function.rest {
        Some(_) if count < fixed => {
            Err(format!("wrong number of args for {name}: want at least {fixed} got {count}"))
        }
        None if count != fixed => {
            Err(format!("wrong number of args for {name}: want {fixed} got {count}"))
        }
        _ => Ok(()),
    }
}

fn parameter(function: &Function, index: usize) -> Type {
    function.params.get(index).copied().or(function.rest).unwrap_or(Type::Any)
}

/// `value` as a parameter of type `wanted`, if it is one.
fn assign<'v>(value: Val<'v>, wanted: Type) -> Result<Val<'v>, String> {
    let fits = match (&value, wanted) {
        (Val::Missing, Type::Any) => return Ok(Val::Nil),
        (_, Type::Any | Type::Raw)
        | (Val::Missing, Type::Dict)
        | (Val::Bool(_), Type::Bool)
        | (Val::Int(_), Type::Int)
        | (Val::Text(_), Type::Text) => true,
        (Val::Map(map), Type::Dict) => !map.holds_texts(),
        (Val::Missing, _) => return Err(format!("invalid value; expected {}", wanted.name())),
        _ => false,
    };
    if fits {
        return Ok(value);
    }
    let found = value.type_name();
    Err(format!("wrong type for value; expected {}; got {found}", wanted.name()))
}
