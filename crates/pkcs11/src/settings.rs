//! Which module, which token, and how one logs in.

use std::{fmt, path::PathBuf};

use signet_base::chain;
use signet_pki::text_file;
use zeroize::Zeroizing;

use crate::TokenError;

/// Which module, which token, and how one logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The shared library of the module.
    pub module_path: PathBuf,
    /// Which of its tokens.
    pub token: TokenName,
    /// The user's PIN.
    pub pin: Pin,
    /// How many sessions are used, each on a thread of its own; at least 1.
    pub max_sessions: usize,
}

/// By what a token is known. Never by the number of its slot, which some modules change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenName {
    /// Its label.
    Label(String),
    /// Its serial number.
    Serial(String),
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(label) => write!(f, "token with the label {label:?}"),
            Self::Serial(serial) => write!(f, "token with the serial number {serial:?}"),
        }
    }
}

/// Where the PIN is. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Pin {
    /// The first line of a file, read at each login.
    File(PathBuf),
    /// Here.
    Value(Zeroizing<String>),
}

impl Pin {
    pub(crate) fn read(&self) -> Result<Zeroizing<String>, TokenError> {
        match self {
            Self::Value(pin) => Ok(pin.clone()),
            Self::File(path) => {
                let text =
                    text_file::text(path).map_err(|error| TokenError::Setting(chain(&error)))?;
                let line = text.lines().next().unwrap_or_default();
                if line.is_empty() {
                    let why = format!("{}: its first line is empty", path.display());
                    return Err(TokenError::Setting(format!("{why}, expected a PIN")));
                }
                Ok(Zeroizing::new(line.to_owned()))
            }
        }
    }

    /// Whether it can be read.
    ///
    /// # Errors
    /// [`TokenError::Setting`].
    pub fn check(&self) -> Result<(), TokenError> {
        self.read().map(drop)
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Value(_) => f.write_str("Value(..)"),
        }
    }
}
