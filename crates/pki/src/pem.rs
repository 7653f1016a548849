//! PEM (RFC 7468): bounded reading, and writing with 64 columns.

/// One PEM block.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    /// The label, for example `CERTIFICATE`.
    pub label: String,
    /// The decoded content, wiped when dropped.
    pub der: zeroize::Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({}, ..)", self.label)
    }
}

/// Why a text is not PEM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// The content between the lines is not base64.
    #[error("PEM block {0} is not base64")]
    Base64(String),
    /// A begin line without its end line.
    #[error("PEM block {0} has no end line")]
    Unfinished(String),
    /// More blocks than are read.
    #[error("more than {0} PEM blocks")]
    TooMany(usize),
    /// No block of the wanted kind.
    #[error("no {0} PEM block found")]
    Missing(&'static str),
    /// A block of another kind where only one kind is allowed.
    #[error("unexpected PEM block {found}, expected {expected}")]
    WrongLabel {
        /// What was found.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
}

/// The most blocks that one text may hold.
pub const MAX_BLOCKS: usize = 4096;

/// Encodes one block.
pub fn encode(label: &str, der: &[u8]) -> String {
    let _ = (label, der);
    todo!()
}

/// Encodes certificates one after the other.
pub fn encode_certificates<'a>(ders: impl IntoIterator<Item = &'a [u8]>) -> String {
    ders.into_iter().map(|der| encode("CERTIFICATE", der)).collect()
}

/// Reads all blocks; text between them is ignored.
///
/// # Errors
/// [`PemError`] when a block is broken or there are too many.
pub fn decode(text: &str) -> Result<Vec<Block>, PemError> {
    let _ = text;
    todo!()
}

/// Reads the DER of every certificate; other blocks are an error, and so is a text without any.
///
/// # Errors
/// [`PemError`].
pub fn decode_certificates(text: &str) -> Result<Vec<Vec<u8>>, PemError> {
    let _ = text;
    todo!()
}
