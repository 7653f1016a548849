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
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items, by row ID (the order of creation).
    pub items: Vec<T>,
    /// Where the next page starts; `None` when this was the last. Set only for a page request
    /// with a size, as SPIRE does it: present whenever the page is full, so that the last page
    /// may be followed by an empty one.
    pub next: Option<i64>,
}
