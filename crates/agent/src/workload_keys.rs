//! Where the keys of workloads are made: not on the thread that serves, if it takes long.

use signet_pki::KeyType;

use crate::client::ClientError;

/// Up to this many keys are made on the thread that asks for them.
const MAX_INLINE_KEYS: usize = 8;

/// Does what makes `count` keys: away from the thread that serves, unless they are few and quick.
pub(crate) async fn make<T: Send + 'static>(
    key_type: KeyType,
    count: usize,
    work: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
) -> Result<T, ClientError> {
    if key_type == KeyType::EcP256 && count <= MAX_INLINE_KEYS {
        return work();
    }
    let made = tokio::task::spawn_blocking(work).await;
    made.map_err(|error| ClientError::Local(error.to_string()))?
}
