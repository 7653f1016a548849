//! Values while a template runs: those given to it are borrowed, those it makes are shared.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ops::Deref,
    rc::Rc,
};

use crate::{BYTES_PER_STEP, MAX_DEPTH, MAX_RESULT, MAX_STEPS, Value};

/// A value. It is cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum Val<'v> {
    Bool(bool),
    Float(f64),
    Int(i64),
    List(List<'v>),
    Map(Map<'v>),
    /// Go's invalid value: what a missing key gives, and what a pipeline makes of [`Val::Nil`].
    Missing,
    /// An empty interface.
    Nil,
    /// A nil pointer: an unset field of a struct.
    NilPointer,
    Struct(&'v BTreeMap<String, Value>),
    Text(Text<'v>),
}

#[derive(Clone, Debug)]
pub(crate) enum Text<'v> {
    Given(&'v str),
    Made(Rc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Given(text) => text,
            Self::Made(text) => text,
        }
    }
}

/// What a list declares its elements to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elements {
    Any,
    Lists,
    Texts,
}

#[derive(Clone, Debug)]
pub(crate) enum List<'v> {
    Given(&'v [Value]),
    Made(Rc<Made<'v>>),
}

/// A list made by the template, and how deep lists nest in it: dropping one walks it, dicts aside.
#[derive(Clone, Debug)]
pub(crate) struct Made<'v> {
    values: Vec<Val<'v>>,
    elements: Elements,
    depth: usize,
}

impl<'v> List<'v> {
    pub fn len(&self) -> usize {
        match self {
            Self::Given(values) => values.len(),
            Self::Made(made) => made.values.len(),
        }
    }

    pub fn get(&self, at: usize) -> Option<Val<'v>> {
        match self {
            Self::Given(values) => values.get(at).map(Val::given),
            Self::Made(made) => made.values.get(at).cloned(),
        }
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Val<'v>> + '_ {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    pub fn elements(&self) -> Elements {
        match self {
            Self::Given(values) if all_texts(values.iter()) => Elements::Texts,
            Self::Given(_) => Elements::Any,
            Self::Made(made) => made.elements,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Map<'v> {
    Given(&'v BTreeMap<String, Value>),
    /// Made by the template: one that functions change in place, as Go's.
    Made(Dict<'v>),
}

impl<'v> Map<'v> {
    pub fn len(&self) -> usize {
        match self {
            Self::Given(map) => map.len(),
            Self::Made(map) => map.borrow().len(),
        }
    }

    pub fn get(&self, key: &str) -> Option<Val<'v>> {
        match self {
            Self::Given(map) => map.get(key).map(Val::given),
            Self::Made(map) => map.borrow().get(key).cloned(),
        }
    }

    /// The pairs as they are now, by key.
    pub fn pairs(&self, meter: &Meter) -> Result<Vec<(Val<'v>, Val<'v>)>, String> {
        let cost = |key: &String| 2 + key.len() / BYTES_PER_STEP;
        meter.spend(match self {
            Self::Given(map) => map.len(),
            Self::Made(map) => map.borrow().keys().map(cost).sum(),
        })?;
        Ok(match self {
            Self::Given(map) => map
                .iter()
                .map(|(key, value)| (Val::Text(Text::Given(key)), Val::given(value)))
                .collect(),
            Self::Made(map) => {
                map.borrow().iter().map(|(key, value)| (Val::text(key), value.clone())).collect()
            }
        })
    }

    /// Whether this is a `map[string]string`.
    pub fn holds_texts(&self) -> bool {
        match self {
            Self::Given(map) => all_texts(map.values()),
            Self::Made(_) => false,
        }
    }
}

fn all_texts<'v>(mut values: impl Iterator<Item = &'v Value>) -> bool {
    values.all(|value| matches!(value, Value::Text(_)))
}

impl<'v> Val<'v> {
    /// A value from a list or map, or the data itself.
    pub fn given(value: &'v Value) -> Self {
        match value {
            Value::Nil => Self::Nil,
            Value::Bool(value) => Self::Bool(*value),
            Value::Int(value) => Self::Int(*value),
            Value::Float(value) => Self::Float(*value),
            Value::Text(text) => Self::Text(Text::Given(text)),
            Value::List(values) => Self::List(List::Given(values)),
            Value::Map(map) => Self::Map(Map::Given(map)),
            Value::Struct(fields) => Self::Struct(fields),
        }
    }

    pub fn text(text: &str) -> Self {
        Self::Text(Text::Made(text.into()))
    }

    /// A `[]string` of these texts.
    pub fn texts(values: Vec<Self>) -> Self {
        Self::List(List::Made(Rc::new(Made { values, elements: Elements::Texts, depth: 1 })))
    }

    /// Whether `if` takes this as true.
    pub fn is_true(&self) -> bool {
        match self {
            Self::Bool(value) => *value,
            Self::Float(value) => *value != 0.0,
            Self::Int(value) => *value != 0,
            Self::List(list) => list.len() > 0,
            Self::Map(map) => map.len() > 0,
            Self::Missing | Self::Nil | Self::NilPointer => false,
            Self::Struct(_) => true,
            Self::Text(text) => !text.is_empty(),
        }
    }

    /// How long a text this is, bytes; 0 for what is none.
    pub fn text_len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            _ => 0,
        }
    }

    /// What looking at this costs, steps. The type of a list or map that was given is found out by
    /// looking at all that is in it; what is in a made list was paid for when the list was made.
    pub fn cost(&self) -> usize {
        match self {
            Self::List(List::Given(values)) => values.len() / BYTES_PER_STEP,
            Self::Map(Map::Given(map)) => map.len() / BYTES_PER_STEP,
            value => value.text_len() / BYTES_PER_STEP,
        }
    }

    pub fn is_nil(&self) -> bool {
        matches!(self, Self::Missing | Self::Nil | Self::NilPointer)
    }

    /// Go's name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::Float(_) => "float64",
            Self::Int(_) => "int",
            Self::List(list) => match list.elements() {
                Elements::Any => "[]interface {}",
                Elements::Lists => "[][]interface {}",
                Elements::Texts => "[]string",
            },
            Self::Map(map) if map.holds_texts() => "map[string]string",
            Self::Map(_) => "map[string]interface {}",
            Self::Missing | Self::Nil => "interface {}",
            Self::NilPointer => "*struct",
            Self::Struct(_) => "struct",
            Self::Text(_) => "string",
        }
    }
}

/// What one execution may still spend.
#[derive(Debug)]
pub(crate) struct Meter {
    left: Cell<u32>,
}

impl Meter {
    /// Spends `steps`.
    pub fn spend(&self, steps: usize) -> Result<(), String> {
        let left = u32::try_from(steps).ok().and_then(|steps| self.left.get().checked_sub(steps));
        self.left.set(left.unwrap_or(0));
        match left {
            Some(_) => Ok(()),
            None => Err(format!("the template takes more than {MAX_STEPS} steps")),
        }
    }

    /// Whether more was to be spent than there was.
    pub fn is_spent(&self) -> bool {
        self.left.get() == 0
    }

    /// Spends what a text of `len` bytes costs, if it may be as long as that.
    pub fn spend_text(&self, len: usize) -> Result<(), String> {
        if len > MAX_RESULT {
            return Err(format!("a text longer than {MAX_RESULT} bytes"));
        }
        self.spend(len / BYTES_PER_STEP)
    }

    /// A made text.
    pub fn text<'v>(&self, text: &str) -> Result<Val<'v>, String> {
        self.spend_text(text.len())?;
        Ok(Val::text(text))
    }
}

/// A dict, shared by all that hold it.
pub(crate) type Dict<'v> = Rc<RefCell<BTreeMap<String, Val<'v>>>>;

/// One execution's meter, and every dict that it made. Dicts change in place, so that they may
/// hold themselves or nest without end: they are emptied one by one when the execution ends.
#[derive(Debug)]
pub(crate) struct Heap<'v> {
    meter: Meter,
    dicts: RefCell<Vec<Dict<'v>>>,
}

impl<'v> Heap<'v> {
    pub fn new() -> Self {
        Self { meter: Meter { left: Cell::new(MAX_STEPS) }, dicts: RefCell::default() }
    }

    /// A `[]interface{}`.
    pub fn list(&self, values: Vec<Val<'v>>) -> Result<Val<'v>, String> {
        self.list_of(values, Elements::Any)
    }

    pub fn list_of(&self, values: Vec<Val<'v>>, elements: Elements) -> Result<Val<'v>, String> {
        self.meter.spend(values.len())?;
        let depths = values.iter().map(|value| match value {
            Val::List(List::Made(made)) => made.depth,
            _ => 0,
        });
        let depth = 1 + depths.max().unwrap_or(0);
        if depth > MAX_DEPTH {
            return Err(format!("lists nested more than {MAX_DEPTH} deep"));
        }
        Ok(Val::List(List::Made(Rc::new(Made { values, elements, depth }))))
    }

    /// A `map[string]interface{}` that may be changed.
    pub fn dict(&self, map: BTreeMap<String, Val<'v>>) -> Result<Val<'v>, String> {
        self.meter.spend(map.len() + 1)?;
        let dict = Rc::new(RefCell::new(map));
        self.dicts.borrow_mut().push(Rc::clone(&dict));
        Ok(Val::Map(Map::Made(dict)))
    }
}

impl Deref for Heap<'_> {
    type Target = Meter;

    fn deref(&self) -> &Meter {
        &self.meter
    }
}

impl Drop for Heap<'_> {
    fn drop(&mut self) {
        for dict in self.dicts.get_mut() {
            dict.take();
        }
    }
}
