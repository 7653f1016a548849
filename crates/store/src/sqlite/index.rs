//! The inverted indexes.

/// Which of the inverted indexes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Index {
    Entries,
    Nodes,
}

impl Index {
    pub(crate) fn table(self) -> &'static str {
        match self {
            Self::Entries => "entry_terms",
            Self::Nodes => "node_terms",
        }
    }
}
