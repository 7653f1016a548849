//! What a publisher has published last.

use std::sync::{Mutex, PoisonError};

use signet_identity::Bundle;

#[derive(Debug, Default)]
pub(crate) struct Published(Mutex<Option<Bundle>>);

impl Published {
    /// Whether it was this.
    pub(crate) fn is(&self, bundle: &Bundle) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(bundle)
    }

    pub(crate) fn set(&self, bundle: &Bundle) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bundle.clone());
    }
}
