//! Paging by row ID.

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// Only rows after this row ID (the `next` of the page before).
    pub after: Option<i64>,
    /// At most so many items; `None` for all of them.
    pub size: Option<u32>,
}

impl PageRequest {
    /// Everything at once.
    pub fn all() -> Self {
        Self::default()
    }

    /// The first page of `size` items.
    pub fn first(size: u32) -> Self {
        Self { after: None, size: Some(size) }
    }

    /// How many rows to read: one more than wanted, to see whether there are more.
    pub(crate) fn limit(self) -> i64 {
        self.size.map_or(i64::MAX, |size| i64::from(size) + 1)
    }

    /// Makes a page of what [`PageRequest::limit`] let through.
    pub(crate) fn cut<T>(self, mut rows: Vec<(i64, T)>) -> Page<T> {
        let size = self.size.map_or(usize::MAX, |size| size as usize);
        let more = rows.len() > size;
        rows.truncate(size);
        let next = rows.last().filter(|_| more).map(|(row, _)| *row);
        Page { items: rows.into_iter().map(|(_, item)| item).collect(), next }
    }
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items, by row ID (the order of creation).
    pub items: Vec<T>,
    /// Where the next page starts; `None` when nothing follows.
    pub next: Option<i64>,
}
