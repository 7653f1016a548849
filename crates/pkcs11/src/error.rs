//! What can go wrong with a token.

use cryptoki::error::{Error, RvError};

/// Why a token did not do what it was asked for. Nothing secret is in it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// All threads are at work or stuck, and enough calls wait.
    #[error("the PKCS#11 module is busy or does not answer")]
    Busy,
    /// A call to the module failed.
    #[error("PKCS#11: {call} failed with {code}")]
    Call {
        /// Which function.
        call: String,
        /// The code it returned, as the standard names it.
        code: String,
        /// Whether a new session may help.
        is_session_lost: bool,
        /// Whether the object is another one now, or gone.
        is_handle_lost: bool,
    },
    /// There is no such key.
    #[error("the key {0} is not on the token")]
    NoKey(String),
    /// There is no such token now.
    #[error("the PKCS#11 module has no {0}; it has {1}")]
    NoToken(String, String),
    /// What the module says of a key is not understood.
    #[error("the key {0} on the token is not understood: {1}")]
    Nonsense(String, &'static str),
    /// The PIN is wrong: it is not tried again, so that the token is not locked.
    #[error(
        "the token refuses the PIN ({0}); it is not tried again before it changes, so that the token \
         is not locked"
    )]
    Pin(String),
    /// A setting cannot be used.
    #[error("{0}")]
    Setting(String),
    /// The threads have ended.
    #[error("the key manager is shutting down")]
    Stopped,
}

impl From<Error> for TokenError {
    fn from(error: Error) -> Self {
        let Error::Pkcs11(code, function) = &error else {
            return Self::Call {
                call: "a call".to_owned(),
                code: error.to_string(),
                is_session_lost: false,
                is_handle_lost: false,
            };
        };
        Self::Call {
            call: format!("C_{function:?}"),
            code: format!("{code:?}"),
            is_session_lost: matches!(
                code,
                RvError::SessionHandleInvalid
                    | RvError::SessionClosed
                    | RvError::DeviceRemoved
                    | RvError::DeviceError
                    | RvError::TokenNotPresent
                    | RvError::UserNotLoggedIn
                    | RvError::SlotIdInvalid
            ),
            is_handle_lost: matches!(
                code,
                RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid
            ),
        }
    }
}

impl TokenError {
    /// Whether the token was certainly not changed.
    pub(crate) fn had_no_effect(&self) -> bool {
        !matches!(self, Self::Call { .. } | Self::Nonsense(..))
    }
}
