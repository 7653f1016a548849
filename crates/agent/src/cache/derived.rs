//! What readers make of a shared value.

use std::{
    any::Any,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// What readers made of a shared value: one of each kind, for as long as the value lives.
///
/// An endpoint keeps its encodings here, so that they are made once for all of its readers and
/// are dropped (and wiped) together with what they were made of, while the value knows nothing of
/// any endpoint. There are as many kinds as the program has endpoints.
#[derive(Default)]
pub struct Derived(Mutex<Vec<Arc<dyn Any + Send + Sync>>>);

impl Derived {
    /// The one `T`; an empty one for who asks first.
    pub fn of<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        // Whoever panics in `T::default` leaves the list whole.
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kinds.iter().find_map(|kind| Arc::clone(kind).downcast::<T>().ok());
        known.unwrap_or_else(|| {
            let new = Arc::new(T::default());
            kinds.push(Arc::clone(&new) as Arc<dyn Any + Send + Sync>);
            new
        })
    }
}

impl fmt::Debug for Derived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may hold private keys.
        f.write_str("Derived(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;

    #[derive(Default)]
    struct Encoded(OnceLock<u32>);
    #[derive(Default)]
    struct OfAnotherEndpoint(OnceLock<u32>);

    #[test]
    fn each_endpoint_has_its_own_and_all_of_its_readers_share_it() {
        let derived = Derived::default();
        assert_eq!(*derived.of::<Encoded>().0.get_or_init(|| 1), 1);
        assert_eq!(*derived.of::<OfAnotherEndpoint>().0.get_or_init(|| 2), 2);
        assert_eq!(*derived.of::<Encoded>().0.get_or_init(|| 3), 1, "it was made already");
        assert!(Arc::ptr_eq(&derived.of::<Encoded>(), &derived.of::<Encoded>()));
    }
}
