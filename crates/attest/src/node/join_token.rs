//! Node attestor `join_token`: a token that is spent at most once.
//!
//! The payload is the raw token, without JSON and without challenges. The server's half is part
//! of the server's core, because spending a token is a transaction of the registration store.

use std::fmt;

use super::{Answerer, NoChallenge, NodeAttestError, NodeAttestorAgent};

/// The attestation type.
pub const KIND: &str = "join_token";
/// The longest token that is read, bytes.
pub const MAX_TOKEN: usize = 256;

/// The agent's half: presents the token it was given.
pub struct JoinTokenAgent {
    token: zeroize::Zeroizing<String>,
}

impl JoinTokenAgent {
    /// An attestor for `token`; surrounding white space is dropped.
    ///
    /// # Errors
    /// [`NodeAttestError`] when the token is empty or longer than [`MAX_TOKEN`].
    pub fn new(token: &str) -> Result<Self, NodeAttestError> {
        let token = token.trim();
        if token.is_empty() {
            return Err(NodeAttestError::invalid("join token is empty"));
        }
        if token.len() > MAX_TOKEN {
            return Err(NodeAttestError::invalid(format!(
                "join token is longer than {MAX_TOKEN} bytes"
            )));
        }
        Ok(Self { token: zeroize::Zeroizing::new(token.to_owned()) })
    }
}

impl fmt::Debug for JoinTokenAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinTokenAgent(..)")
    }
}

#[async_trait::async_trait]
impl NodeAttestorAgent for JoinTokenAgent {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn begin(&self) -> Result<(Vec<u8>, Box<dyn Answerer>), NodeAttestError> {
        Ok((self.token.as_bytes().to_vec(), Box::new(NoChallenge(KIND))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn presents_the_raw_token_and_refuses_a_challenge() {
        let agent = JoinTokenAgent::new(" secret\n").unwrap();
        assert_eq!(format!("{agent:?}"), "JoinTokenAgent(..)");
        let (payload, mut answerer) = agent.begin().await.unwrap();
        assert_eq!(payload, b"secret");
        assert!(answerer.answer(b"x").await.is_err());
    }

    #[test]
    fn refuses_an_empty_or_endless_token() {
        assert!(JoinTokenAgent::new(" \n").is_err());
        assert!(JoinTokenAgent::new(&"x".repeat(MAX_TOKEN + 1)).is_err());
    }
}
