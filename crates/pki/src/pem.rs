//! PEM (RFC 7468): bounded reading, and writing with 64 columns.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// One PEM block.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    /// The label, for example `CERTIFICATE`.
    pub label: String,
    /// The decoded content, wiped when dropped.
    pub der: Zeroizing<Vec<u8>>,
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
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    text.extend(["-----BEGIN ", label, "-----\n"]);
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at_checked(64).unwrap_or((rest, ""));
        text.extend([line, "\n"]);
        rest = after;
    }
    text.extend(["-----END ", label, "-----\n"]);
    text
}

/// Encodes certificates one after the other.
pub fn encode_certificates<'a>(ders: impl IntoIterator<Item = &'a [u8]>) -> String {
    ders.into_iter().map(|der| encode("CERTIFICATE", der)).collect()
}

/// Reads all blocks; text between them is ignored, and so are headers inside a block (lines with
/// a colon, as old key files have).
///
/// # Errors
/// [`PemError`] when a block is broken or there are too many.
pub fn decode(text: &str) -> Result<Vec<Block>, PemError> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(label) = label(line, "-----BEGIN ") else { continue };
        if blocks.len() == MAX_BLOCKS {
            return Err(PemError::TooMany(MAX_BLOCKS));
        }
        let mut body = Zeroizing::new(String::new());
        loop {
            let line = lines.next().ok_or_else(|| PemError::Unfinished(short(label)))?;
            if line.starts_with("-----") {
                if self::label(line, "-----END ") != Some(label) {
                    return Err(PemError::Unfinished(short(label)));
                }
                break;
            }
            if !line.contains(':') {
                body.push_str(line);
            }
        }
        let der = STANDARD.decode(body.as_bytes()).map_err(|_| PemError::Base64(short(label)))?;
        blocks.push(Block { label: label.to_owned(), der: Zeroizing::new(der) });
    }
    Ok(blocks)
}

/// Reads the DER of every certificate; other blocks are an error, and so is a text without any.
///
/// # Errors
/// [`PemError`] when a block is cut short, is no base64, is of another kind, or there is none.
pub fn decode_certificates(text: &str) -> Result<Vec<Vec<u8>>, PemError> {
    let blocks = decode(text)?;
    if blocks.is_empty() {
        return Err(PemError::Missing("CERTIFICATE"));
    }
    blocks
        .into_iter()
        .map(|block| match &*block.label {
            "CERTIFICATE" => Ok(block.der.to_vec()),
            other => Err(PemError::WrongLabel { found: short(other), expected: "CERTIFICATE" }),
        })
        .collect()
}

fn label<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    line.strip_prefix(start)?.strip_suffix("-----")
}

/// A label for an error message: what a file says, cut.
fn short(label: &str) -> String {
    label.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_read_back_with_text_around_them() {
        for length in [0, 1, 47, 48, 49, 96, 1000] {
            let der: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let text = format!("# note\r\n{}\n", encode("CERTIFICATE", &der).replace('\n', "\r\n"));
            assert_eq!(decode_certificates(&text).unwrap(), [der]);
        }
    }

    #[test]
    fn broken_texts_are_named() {
        let good = encode("CERTIFICATE", b"x");
        assert_eq!(decode_certificates(""), Err(PemError::Missing("CERTIFICATE")));
        let cut = good.replace("-----END CERTIFICATE-----", "");
        assert!(matches!(decode(&cut), Err(PemError::Unfinished(_))));
        let other_end = good.replace("END CERTIFICATE", "END KEY");
        assert!(matches!(decode(&other_end), Err(PemError::Unfinished(_))));
        let dirty = good.replace("eA==", "e*==");
        assert!(matches!(decode(&dirty), Err(PemError::Base64(_))));
        let key = encode("PRIVATE KEY", b"x");
        assert!(matches!(decode_certificates(&key), Err(PemError::WrongLabel { .. })));
        let many = good.repeat(MAX_BLOCKS + 1);
        assert_eq!(decode(&many).unwrap_err(), PemError::TooMany(MAX_BLOCKS));
    }
}
