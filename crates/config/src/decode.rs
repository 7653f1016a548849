//! Turning a parsed file into typed settings.
//!
//! A program asks each [`Block`] for the keys it knows and then calls [`Block::finish`], which
//! reports the keys that nobody asked for. Problems are collected, not returned one by one, so
//! that a person sees all of them at once.
//!
//! Keys and values follow the rules of SPIRE's reader: keys match in any letter case; a key given
//! twice counts the last time, lists are joined, blocks are merged; integers may be quoted and
//! texts may be integers; an empty text, 0 and `false` count as not set where a default exists.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use crate::{
    ast::{Document, Item, Node, Pos, Value},
    duration::parse_duration,
    error::{ConfigError, Problem},
};

/// Where problems and warnings about one file are collected.
#[derive(Debug)]
pub struct Context {
    file: Arc<str>,
    problems: RefCell<Vec<(Pos, String)>>,
    elsewhere: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<String>>,
}

impl Context {
    /// For a file of this name.
    pub fn new(file: impl Into<Arc<str>>) -> Self {
        Self {
            file: file.into(),
            problems: RefCell::default(),
            elsewhere: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// Reports a problem.
    pub fn error(&self, pos: Pos, message: impl Into<String>) {
        self.problems.borrow_mut().push((pos, message.into()));
    }

    /// Reports what works, but not as one may think; the text names the place.
    pub fn warn(&self, pos: Pos, message: impl Display) {
        self.warnings.borrow_mut().push(format!("{}:{pos}: {message}", self.file));
    }

    /// Reports what is wrong with another file that this one names.
    pub fn absorb(&self, error: ConfigError) {
        self.elsewhere.borrow_mut().push(error);
    }

    /// Passes on what another file's context warned about.
    pub fn absorb_warnings(&self, warnings: Vec<String>) {
        self.warnings.borrow_mut().extend(warnings);
    }

    /// What was warned about so far.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.borrow_mut())
    }

    /// `value` if no problem was reported and there is one.
    ///
    /// # Errors
    /// [`ConfigError`] with what was reported, in the order of the file.
    pub fn finish<T>(&self, value: Option<T>) -> Result<T, ConfigError> {
        let mut problems = self.problems.take();
        problems.sort_by_key(|(pos, _)| *pos);
        let file = &self.file;
        let at = |(pos, message)| Problem::At { file: file.to_string(), pos, message };
        let here = ConfigError::new(problems.into_iter().map(at).collect());
        let all = self.elsewhere.take().into_iter().fold(here, ConfigError::and);
        match value {
            Some(value) if all.problems().is_empty() => Ok(value),
            None if all.problems().is_empty() => {
                Err(ConfigError::general(format!("{file}: the configuration is incomplete")))
            }
            _ => Err(all),
        }
    }
}

/// The items between two braces, or those of several blocks of one name.
#[derive(Debug)]
pub struct Block<'a> {
    context: &'a Context,
    name: String,
    pos: Pos,
    items: Vec<(&'a Item, Cell<bool>)>,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Block<'a> {
    /// All items of a file.
    pub fn root(context: &'a Context, document: &'a Document) -> Self {
        Self::new(context, "the file".to_owned(), Pos::START, document.items.iter())
    }

    fn new(
        context: &'a Context,
        name: String,
        pos: Pos,
        items: impl Iterator<Item = &'a Item>,
    ) -> Self {
        let items = items.map(|item| (item, Cell::new(false))).collect();
        Self { context, name, pos, items, asked: RefCell::default() }
    }

    /// A block without items, as if it stood at `pos`.
    pub fn empty(context: &'a Context, name: impl Into<String>, pos: Pos) -> Self {
        Self::new(context, name.into(), pos, [].iter())
    }

    /// Where problems of this block are collected.
    pub fn context(&self) -> &'a Context {
        self.context
    }

    /// Whether `key` is set to a block or a list of blocks.
    pub fn holds_block(&self, key: &'static str) -> bool {
        self.last(key).is_some_and(|item| match &item.value.value {
            Value::Object(_) => true,
            Value::List(list) => list.iter().any(|node| matches!(node.value, Value::Object(_))),
            _ => false,
        })
    }

    /// Gives the block another name in messages.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Where the block starts.
    pub fn pos(&self) -> Pos {
        self.pos
    }

    /// Where `key` is set the last time, if it is.
    pub fn pos_of(&self, key: &'static str) -> Option<Pos> {
        self.last(key).map(|item| item.pos)
    }

    /// Whether there are no items at all.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Reports a problem with `key`, or with the block where the key is not set.
    pub fn error(&self, key: &'static str, message: impl Display) {
        let pos = self.pos_of(key).unwrap_or(self.pos);
        self.context.error(pos, format!("{key}: {message}"));
    }

    /// Reports what works, but not as one may think.
    pub fn warn(&self, key: &'static str, message: impl Display) {
        let pos = self.pos_of(key).unwrap_or(self.pos);
        self.context.warn(pos, format_args!("{key}: {message}"));
    }

    /// Reports that `key` must be set.
    pub fn missing(&self, key: &'static str) {
        self.context.error(self.pos, format!("{key} must be configured in {}", self.name));
    }

    /// Refuses `key` if it is set to anything but its empty value, with a sentence that says what
    /// to use instead.
    pub fn refuse(&self, key: &'static str, sentence: &str) {
        for item in self.all(key) {
            if !is_empty(&item.value.value) {
                self.context.error(item.pos, format!("{key}: {sentence}"));
            }
        }
    }

    /// A text; an empty one counts as not set.
    pub fn text(&self, key: &'static str) -> Option<String> {
        let item = self.last(key)?;
        self.text_of(key, &item.value).filter(|text| !text.is_empty())
    }

    /// A text that must be set.
    pub fn required_text(&self, key: &'static str) -> Option<String> {
        self.required(key, self.text(key))
    }

    /// `value`, reported as missing when there is none although nothing was said wrongly.
    pub fn required<T>(&self, key: &'static str, value: Option<T>) -> Option<T> {
        let unset = self.last(key).is_none_or(|item| is_empty(&item.value.value));
        if value.is_none() && unset {
            self.missing(key);
        }
        value
    }

    /// A path.
    pub fn path(&self, key: &'static str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    /// A text that is parsed further; the parser's error is reported as the key's.
    pub fn parsed<T: FromStr<Err: Display>>(&self, key: &'static str) -> Option<T> {
        let text = self.text(key)?;
        text.parse().map_err(|error| self.error(key, error)).ok()
    }

    /// A duration in Go's notation.
    pub fn duration(&self, key: &'static str) -> Option<Duration> {
        let text = self.text(key)?;
        parse_duration(&text).map_err(|error| self.error(key, error)).ok()
    }

    /// A boolean.
    pub fn boolean(&self, key: &'static str) -> Option<bool> {
        let item = self.last(key)?;
        match &item.value.value {
            Value::Bool(value) => Some(*value),
            other => {
                let found = other.kind();
                self.error(key, format_args!("found {found}, expected true or false"));
                None
            }
        }
    }

    /// A boolean that is false unless set.
    pub fn flag(&self, key: &'static str) -> bool {
        self.boolean(key).unwrap_or(false)
    }

    /// An integer in the range of `T`, in any base that HCL has, quoted or not.
    pub fn integer<T: TryFrom<i64>>(&self, key: &'static str) -> Option<T> {
        let item = self.last(key)?;
        let text = match &item.value.value {
            Value::Number(text) | Value::String(text) => text,
            other => {
                let found = other.kind();
                self.error(key, format_args!("found {found}, expected an integer"));
                return None;
            }
        };
        let Some(number) = parse_integer(text) else {
            self.error(key, format_args!("found {text:?}, expected an integer"));
            return None;
        };
        let value = T::try_from(number).ok();
        if value.is_none() {
            self.error(key, format_args!("{number} is out of range"));
        }
        value
    }

    /// A TCP port; 0 counts as not set.
    pub fn port(&self, key: &'static str) -> Option<u16> {
        self.integer(key).filter(|port| *port != 0)
    }

    /// A list of texts; several lists are joined.
    pub fn texts(&self, key: &'static str) -> Vec<String> {
        let mut texts = Vec::new();
        for item in self.all(key) {
            match &item.value.value {
                Value::Null => {}
                Value::List(list) => {
                    texts.extend(list.iter().filter_map(|node| self.text_of(key, node)));
                }
                other => {
                    let found = other.kind();
                    let message = format!("{key}: found {found}, expected a list of texts");
                    self.context.error(item.value.pos, message);
                }
            }
        }
        texts
    }

    /// A list of texts that are parsed further.
    pub fn parsed_list<T: FromStr<Err: Display>>(&self, key: &'static str) -> Vec<T> {
        let parse = |text: String| match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(key, format_args!("{text:?}: {error}"));
                None
            }
        };
        self.texts(key).into_iter().filter_map(parse).collect()
    }

    /// A block; several of the name are merged.
    pub fn block(&self, key: &'static str) -> Option<Self> {
        let items = self.all(key);
        let pos = items.first()?.pos;
        let mut inner = Vec::new();
        let mut found = false;
        for item in items {
            found |= self.objects(key, &item.value, &mut inner);
        }
        let items = inner.into_iter().flatten();
        found.then(|| Self::new(self.context, format!("{key} {{}}"), pos, items))
    }

    /// A block whose keys are names of the user's, each with a text; the last of a name counts.
    pub fn text_map(&self, key: &'static str) -> BTreeMap<String, String> {
        let mut lists = Vec::new();
        for item in self.all(key) {
            self.objects(key, &item.value, &mut lists);
        }
        let items = lists.into_iter().flatten();
        items.filter_map(|item| Some((item.key.clone(), self.text_of(key, &item.value)?))).collect()
    }

    /// Blocks with a label, `key "label" { … }`, in the order of the file; those of one label are
    /// merged.
    pub fn labelled(&self, key: &'static str) -> Vec<(String, Self)> {
        let mut blocks: Vec<(String, Self)> = Vec::new();
        for (label, block) in self.declared(key) {
            match blocks.iter_mut().find(|(known, _)| *known == label) {
                Some((_, known)) => known.items.extend(block.items),
                None => blocks.push((label, block)),
            }
        }
        blocks
    }

    /// Blocks with a label, each by itself.
    pub fn declared(&self, key: &'static str) -> Vec<(String, Self)> {
        let mut lists = Vec::new();
        for item in self.all(key) {
            self.objects(key, &item.value, &mut lists);
        }
        self.children(key, lists.into_iter().flatten())
    }

    /// Blocks in a list, `key = [{ … }, { … }]`, each by itself; also below an empty label, which is
    /// how some write such a list in JSON.
    pub fn blocks(&self, key: &'static str) -> Vec<Self> {
        let mut lists = Vec::new();
        for item in self.all(key) {
            self.objects(key, &item.value, &mut lists);
        }
        let mut blocks = Vec::new();
        for items in lists {
            match items {
                [only] if only.key.is_empty() => {
                    let mut inner = Vec::new();
                    self.objects(key, &only.value, &mut inner);
                    blocks.extend(inner);
                }
                items => blocks.push(items),
            }
        }
        let pos = self.pos_of(key).unwrap_or(self.pos);
        blocks
            .into_iter()
            .map(|items| {
                let pos = items.first().map_or(pos, |item| item.pos);
                Self::new(self.context, format!("{key} {{}}"), pos, items.iter())
            })
            .collect()
    }

    /// All blocks that are two labels deep, `Kind "name" { … }`, in the order of the file. This
    /// takes every key of the block.
    pub fn pairs(&self) -> Vec<(String, String, Self)> {
        let mut pairs = Vec::new();
        for (item, used) in &self.items {
            used.set(true);
            let mut lists = Vec::new();
            self.objects(&item.key, &item.value, &mut lists);
            let children = self.children(&item.key, lists.into_iter().flatten());
            pairs.extend(children.into_iter().map(|(name, block)| (item.key.clone(), name, block)));
        }
        pairs
    }

    /// Reports the keys that nobody asked for.
    pub fn finish(self) {
        for (item, used) in &self.items {
            if used.get() {
                continue;
            }
            let mut message = format!("unknown key {:?} in {}", item.key, self.name);
            if let Some(near) = nearest(&item.key, &self.asked.borrow()) {
                message.push_str(&format!("; did you mean {near:?}?"));
            }
            self.context.error(item.pos, message);
        }
    }

    fn children(&self, key: &str, items: impl Iterator<Item = &'a Item>) -> Vec<(String, Self)> {
        let mut children = Vec::new();
        for item in items {
            let mut lists = Vec::new();
            if self.objects(&item.key, &item.value, &mut lists) {
                let name = format!("{key} {:?} {{}}", item.key);
                let inner = lists.into_iter().flatten();
                let block = Self::new(self.context, name, item.pos, inner);
                children.push((item.key.clone(), block));
            }
        }
        children
    }

    /// The item lists of a block or of a list of blocks; anything else is reported.
    fn objects(&self, key: &str, node: &'a Node, into: &mut Vec<&'a [Item]>) -> bool {
        match &node.value {
            Value::Null => false,
            Value::Object(items) => {
                into.push(items);
                true
            }
            Value::List(list) => {
                let mut found = false;
                for node in list {
                    found |= self.objects(key, node, into);
                }
                found
            }
            other => {
                let found = other.kind();
                let message = format!("{key}: found {found}, expected a block");
                self.context.error(node.pos, message);
                false
            }
        }
    }

    fn text_of(&self, key: &'static str, node: &Node) -> Option<String> {
        match &node.value {
            Value::String(text) => Some(text.clone()),
            Value::Number(text) if !text.contains(['.', 'e', 'E']) || is_hex(text) => {
                Some(text.clone())
            }
            other => {
                let message = format!("{key}: found {}, expected a quoted text", other.kind());
                self.context.error(node.pos, message);
                None
            }
        }
    }

    /// Every item of the key, `null` left out.
    fn all(&self, key: &'static str) -> Vec<&'a Item> {
        self.asked.borrow_mut().insert(key);
        let mut found = Vec::new();
        for (item, used) in &self.items {
            if item.key.eq_ignore_ascii_case(key) {
                used.set(true);
                if item.value.value != Value::Null {
                    found.push(*item);
                }
            }
        }
        found
    }

    fn last(&self, key: &'static str) -> Option<&'a Item> {
        self.all(key).last().copied()
    }
}

/// Whether SPIRE's reader cannot tell the value from one that is not set.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(text) => text == "0",
        Value::String(text) => text.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Object(_) => false,
    }
}

fn is_hex(text: &str) -> bool {
    text.trim_start_matches('-').starts_with(['0']) && text.contains(['x', 'X'])
}

/// An integer as Go reads it with base 0: decimal, `0x`, `0o`, `0b` or a leading `0` for octal,
/// with `_` between digits.
fn parse_integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, lower.get(1..)?)
    } else {
        (10, lower.as_str())
    };
    let body = match radix {
        10 => body,
        _ => body.strip_prefix('_').unwrap_or(body),
    };
    if body.is_empty() || body.starts_with('_') || body.ends_with('_') || body.contains("__") {
        return None;
    }
    let mut number = 0_i128;
    for digit in body.chars().filter(|c| *c != '_') {
        number = number.checked_mul(i128::from(radix))? + i128::from(digit.to_digit(radix)?);
    }
    i64::try_from(if negative { -number } else { number }).ok()
}

/// The known key that `key` probably stands for: at most two changes away.
fn nearest(key: &str, known: &BTreeSet<&'static str>) -> Option<&'static str> {
    if key.len() > 64 {
        return None;
    }
    let key = key.to_ascii_lowercase();
    known
        .iter()
        .map(|name| (distance(&key, &name.to_ascii_lowercase()), *name))
        .filter(|(distance, _)| *distance <= 2)
        .min()
        .map(|(_, name)| name)
}

/// How many characters must be added, removed or changed to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, from) in a.chars().enumerate() {
        let mut next = vec![at + 1];
        for (to, costs) in b.iter().zip(row.windows(2)) {
            let [diagonal, above] = costs else { continue };
            let left = next.last().copied().unwrap_or(usize::MAX - 1);
            let change = diagonal + usize::from(from != *to);
            next.push(change.min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}
