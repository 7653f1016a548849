//! Cuts a long list into its items while it arrives: `{"kind": …, "items": [ {…}, {…} ]}`.
//!
//! Only where items begin and end is found out here; each is then parsed by itself, out of a
//! buffer that is used again. So a list of megabytes is never held, and reading it is fast.

/// The longest item, bytes: a pod has at most some 1.5 MiB.
const MAX_ITEM: usize = 8 * 1024 * 1024;
/// How deep a value may be nested.
const MAX_DEPTH: usize = 128;

/// Why a list cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// An item is not what it should be.
    #[error("item {0} of the list")]
    Item(usize, #[source] serde_json::Error),
    /// It ends in the middle.
    #[error("the list is cut off after {0} items")]
    CutOff(usize),
    /// It is not a list.
    #[error("expected an object with an items array: {0}")]
    NotAList(&'static str),
    /// An item is too long.
    #[error("an item of the list is longer than {MAX_ITEM} bytes")]
    TooLong,
}

/// Where in the list the reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the outermost brace.
    Start,
    /// Between the outermost braces, before a key or its value.
    Outside,
    /// In the array of items, before an item.
    BeforeItem,
    /// In the array, after an item.
    AfterItem,
    /// In an item.
    Item,
    /// In a value that is not an item.
    Skipped,
    /// After the outermost brace.
    End,
}

/// Cuts a list into its items, piece by piece.
#[derive(Debug)]
pub struct Splitter {
    place: Place,
    /// Open brackets below the place's own.
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The key read last between the outermost braces, and whether its value is next.
    key: Vec<u8>,
    value_is_next: bool,
    found_items: bool,
    count: usize,
    item: Vec<u8>,
}

impl Default for Splitter {
    fn default() -> Self {
        Self {
            place: Place::Start,
            depth: 0,
            in_string: false,
            escaped: false,
            key: Vec::new(),
            value_is_next: false,
            found_items: false,
            count: 0,
            item: Vec::new(),
        }
    }
}

impl Splitter {
    /// Goes on with the next piece of the list, which may end anywhere; calls `each` with every
    /// item that is complete.
    ///
    /// # Errors
    /// [`SplitError`]; what `each` returns is a [`SplitError::Item`].
    pub fn push(
        &mut self,
        mut piece: &[u8],
        mut each: impl FnMut(&[u8]) -> serde_json::Result<()>,
    ) -> Result<(), SplitError> {
        while !piece.is_empty() {
            let taken = match self.place {
                Place::Item | Place::Skipped => self.inside(piece, &mut each)?,
                _ => {
                    let Some(byte) = piece.first() else { return Ok(()) };
                    self.between(*byte)?;
                    1
                }
            };
            piece = piece.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// The list has ended; returns how many items there were.
    ///
    /// # Errors
    /// [`SplitError`] when it ended in the middle.
    pub fn finish(self) -> Result<usize, SplitError> {
        if self.place != Place::End {
            return Err(SplitError::CutOff(self.count));
        }
        if !self.found_items {
            return Err(SplitError::NotAList("it has no items"));
        }
        Ok(self.count)
    }

    /// Goes through a value until it ends; returns how many bytes were taken.
    fn inside(
        &mut self,
        piece: &[u8],
        each: &mut impl FnMut(&[u8]) -> serde_json::Result<()>,
    ) -> Result<usize, SplitError> {
        let mut taken = piece.len();
        let mut ended = false;
        for (at, byte) in piece.iter().enumerate() {
            if self.in_string {
                match *byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match *byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err(SplitError::NotAList("it is nested too deeply"));
                    }
                }
                b'}' | b']' if self.depth > 0 => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        taken = at + 1;
                        ended = true;
                        break;
                    }
                }
                // A plain value such as a number ends before what follows it.
                b',' | b'}' | b']' if self.depth == 0 => {
                    taken = at;
                    ended = true;
                    break;
                }
                _ => {}
            }
        }
        if self.place == Place::Item {
            let part = piece.get(..taken).unwrap_or_default();
            if self.item.len() + part.len() > MAX_ITEM {
                return Err(SplitError::TooLong);
            }
            self.item.extend_from_slice(part);
        }
        if ended {
            self.end_value(each)?;
        }
        Ok(taken)
    }

    fn end_value(
        &mut self,
        each: &mut impl FnMut(&[u8]) -> serde_json::Result<()>,
    ) -> Result<(), SplitError> {
        if self.place == Place::Item {
            each(&self.item).map_err(|error| SplitError::Item(self.count, error))?;
            self.item.clear();
            self.count += 1;
            self.place = Place::AfterItem;
        } else {
            self.place = Place::Outside;
        }
        Ok(())
    }

    /// Goes on by one byte that is not inside a value.
    fn between(&mut self, byte: u8) -> Result<(), SplitError> {
        if self.in_string {
            // A key between the outermost braces.
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => {
                    self.in_string = false;
                    return Ok(());
                }
                _ => {}
            }
            // No longer than needed to tell one key from another.
            if self.key.len() < 16 {
                self.key.push(byte);
            }
            return Ok(());
        }
        if byte.is_ascii_whitespace() {
            return Ok(());
        }
        match (self.place, byte) {
            (Place::Start, b'{') => self.place = Place::Outside,
            (Place::Outside, b':') => self.value_is_next = true,
            (Place::Outside, b',') if !self.value_is_next => {}
            (Place::Outside, b'}') if !self.value_is_next => self.place = Place::End,
            (Place::Outside, b'"') if !self.value_is_next => {
                self.key.clear();
                self.in_string = true;
            }
            (Place::Outside, first) if self.value_is_next => {
                self.value_is_next = false;
                let items = self.key == b"items";
                self.found_items |= items;
                match first {
                    b'[' if items => self.place = Place::BeforeItem,
                    b'n' if items => self.begin(Place::Skipped, first),
                    _ if items => return Err(SplitError::NotAList("items is not an array")),
                    _ => self.begin(Place::Skipped, first),
                }
            }
            (Place::BeforeItem, b'{') => {
                self.item.push(byte);
                self.begin(Place::Item, byte);
            }
            (Place::BeforeItem | Place::AfterItem, b']') => self.place = Place::Outside,
            (Place::AfterItem, b',') => self.place = Place::BeforeItem,
            _ => return Err(SplitError::NotAList("it is not well-formed")),
        }
        Ok(())
    }

    /// A value begins with this byte.
    fn begin(&mut self, place: Place, first: u8) {
        self.place = place;
        self.depth = usize::from(matches!(first, b'{' | b'['));
        self.in_string = first == b'"';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, piece: usize) -> Result<Vec<String>, SplitError> {
        let mut found = Vec::new();
        let mut splitter = Splitter::default();
        for piece in text.as_bytes().chunks(piece) {
            splitter.push(piece, |item| {
                serde_json::from_slice::<serde::de::IgnoredAny>(item)?;
                found.push(String::from_utf8_lossy(item).into_owned());
                Ok(())
            })?;
        }
        assert_eq!(splitter.finish()?, found.len());
        Ok(found)
    }

    #[test]
    fn items_are_found_wherever_the_pieces_end() {
        let text = "{\"kind\":\"x\\\"items\\\":[\",\"metadata\":{\"items\":[{}]},\"n\":1.5e3, \"t\" : \
                    true,\n\"items\" : [ {\"a\":\"}]\\\\\\\"{\"} ,{\"b\":[{},[]]}, {}],\"s\":\"[\"}\n";
        serde_json::from_str::<serde::de::IgnoredAny>(text).unwrap();
        for piece in [1, 2, 3, 7, 64, 4096] {
            let found = split(text, piece).unwrap();
            assert_eq!(found, ["{\"a\":\"}]\\\\\\\"{\"}", "{\"b\":[{},[]]}", "{}"], "{piece}");
        }
        assert!(split("{\"items\":null}", 4).unwrap().is_empty());
        assert!(split("{\"items\":[]}", 4).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for (text, wanted) in [
            ("", "cut off after 0"),
            ("{\"items\":[{},{\"a\":", "cut off after 1"),
            ("{\"items\":[{}", "cut off after 1"),
            ("{\"items\":[{}]", "cut off after 1"),
            ("{\"kind\":\"Status\"}", "it has no items"),
            ("{\"items\":{}}", "items is not an array"),
            ("{\"items\":[1]}", "not well-formed"),
            ("{\"items\":[{}{}]}", "not well-formed"),
            ("{\"items\":[{}]} x", "not well-formed"),
            ("[{}]", "not well-formed"),
            ("<html>", "not well-formed"),
            ("{\"items\":[{\"a\" 1}]}", "item 0 of the list"),
        ] {
            let error = split(text, 3).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        let deep = format!("{{\"items\":[{{\"a\":{}", "[".repeat(200));
        assert!(split(&deep, 64).unwrap_err().to_string().contains("too deeply"));
    }

    #[test]
    fn an_endless_item_is_refused() {
        let mut splitter = Splitter::default();
        splitter.push(b"{\"items\":[{\"a\":\"", |_| Ok(())).unwrap();
        let piece = vec![b'x'; 64 * 1024];
        let error = (0..1000).find_map(|_| splitter.push(&piece, |_| Ok(())).err()).unwrap();
        assert!(matches!(error, SplitError::TooLong), "{error}");
    }
}
