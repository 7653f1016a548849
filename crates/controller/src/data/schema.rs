//! The Go types of pods, nodes and their metadata, as facts: field names, JSON names, kinds.

use std::{collections::HashMap, sync::OnceLock};

/// One type a block: its name, then a line a field: Go name, JSON name, kind. Embedded structs are
/// flattened, as their fields are promoted. The `Get…` lines are methods of `ObjectMeta`.
const TABLE: &str = include_str!("go_types.txt");

/// What kind of value a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `bool`.
    Bool,
    /// A byte slice, base64 in JSON.
    Bytes,
    /// An integer of any width.
    Int,
    /// A list.
    List(Box<Kind>),
    /// A map with text keys.
    Map(Box<Kind>),
    /// What Go prints in a way of its own (quantities, int-or-string): not offered to templates.
    Opaque,
    /// A pointer: nil when left out.
    Pointer(Box<Kind>),
    /// A struct: its place in the table.
    Struct(usize),
    /// Text, or a named type of it.
    Text,
    /// `metav1.Time`.
    Time,
}

/// A field of a struct.
#[derive(Clone, Debug)]
pub(super) struct Field {
    /// Its Go name.
    pub(super) go: &'static str,
    /// Its JSON name.
    pub(super) json: &'static str,
    /// What it holds.
    pub(super) kind: Kind,
}

/// All types.
#[derive(Debug)]
pub struct Schema {
    types: Vec<Vec<Field>>,
    by_name: HashMap<&'static str, usize>,
}

/// Where a template value begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// `NodeSpec`.
    NodeSpec,
    /// `ObjectMeta`.
    ObjectMeta,
    /// `PodSpec`.
    PodSpec,
}

impl Root {
    fn type_name(self) -> &'static str {
        match self {
            Self::NodeSpec => "NodeSpec",
            Self::ObjectMeta => "ObjectMeta",
            Self::PodSpec => "PodSpec",
        }
    }
}

/// The table, read once.
pub fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| Schema::read(TABLE))
}

impl Schema {
    fn read(table: &'static str) -> Self {
        let mut by_name = HashMap::new();
        for line in table.lines().filter(|line| !line.starts_with(' ')) {
            by_name.insert(line, by_name.len());
        }
        let mut types: Vec<Vec<Field>> = Vec::with_capacity(by_name.len());
        for line in table.lines() {
            let Some(field) = line.strip_prefix("  ") else {
                types.push(Vec::new());
                continue;
            };
            let mut parts = field.splitn(3, ' ');
            if let (Some(go), Some(json), Some(kind), Some(fields)) =
                (parts.next(), parts.next(), parts.next(), types.last_mut())
            {
                fields.push(Field { go, json, kind: kind_of(kind, &by_name) });
            }
        }
        Self { types, by_name }
    }

    /// The Go name of some field, as the table spells it.
    pub fn known(&self, name: &str) -> Option<&'static str> {
        // Asked only when a template is read; the table is small.
        self.types.iter().flatten().find(|field| field.go == name).map(|field| field.go)
    }

    pub(super) fn root(&self, root: Root) -> Kind {
        self.by_name.get(root.type_name()).map_or(Kind::Opaque, |at| Kind::Struct(*at))
    }

    pub(super) fn fields(&self, at: usize) -> &[Field] {
        self.types.get(at).map_or(&[], Vec::as_slice)
    }
}

fn kind_of(text: &str, by_name: &HashMap<&'static str, usize>) -> Kind {
    if let Some(rest) = text.strip_prefix('*') {
        return Kind::Pointer(Box::new(kind_of(rest, by_name)));
    }
    if let Some(rest) = text.strip_prefix("[]") {
        return Kind::List(Box::new(kind_of(rest, by_name)));
    }
    if let Some(rest) = text.strip_prefix("map ") {
        return Kind::Map(Box::new(kind_of(rest, by_name)));
    }
    match text {
        "bool" => Kind::Bool,
        "bytes" => Kind::Bytes,
        "int" => Kind::Int,
        "text" => Kind::Text,
        "time" => Kind::Time,
        name => by_name.get(name).map_or(Kind::Opaque, |at| Kind::Struct(*at)),
    }
}
