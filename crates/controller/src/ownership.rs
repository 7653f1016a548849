//! Whose the server's entries are.

/// Which of the server's entries are ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// IDs begin with this, dot included; empty when every entry is ours.
    pub prefix: String,
    /// Entries whose IDs begin with this are deleted; with an empty one, those without a prefix.
    pub cleanup: Option<String>,
}

/// Whose an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Ours.
    Ours,
    /// Ours once: to be deleted.
    Former,
    /// Another's: left alone.
    Other,
}

impl Ownership {
    pub(crate) fn of(&self, id: &str) -> Owner {
        if self.prefix.is_empty() || id.starts_with(&self.prefix) {
            return Owner::Ours;
        }
        match self.cleanup.as_deref() {
            Some("") if !id.contains('.') => Owner::Former,
            Some(cleanup) if !cleanup.is_empty() && id.starts_with(cleanup) => Owner::Former,
            _ => Owner::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_tells_whose_an_entry_is() {
        let all = Ownership::default();
        assert_eq!(all.of("b.1"), Owner::Ours);
        let ours = Ownership { prefix: "a.".into(), cleanup: None };
        assert_eq!(
            (ours.of("a.1"), ours.of("b.1"), ours.of("1")),
            (Owner::Ours, Owner::Other, Owner::Other)
        );
        let from_none = Ownership { prefix: "a.".into(), cleanup: Some(String::new()) };
        assert_eq!((from_none.of("1-2"), from_none.of("b.1")), (Owner::Former, Owner::Other));
        let from_b = Ownership { prefix: "a.".into(), cleanup: Some("b.".into()) };
        assert_eq!((from_b.of("b.1"), from_b.of("c.1")), (Owner::Former, Owner::Other));
    }
}
