//! What the two streaming protocols of SDS have in common.

use std::sync::Arc;

use prost::Message;
use signet_api::{
    duplex::Parts,
    pb::{envoy::config::core::v3::Node, google::rpc},
};
use tonic::Status;

use super::secrets::{Secret, Secrets};

/// How many names a stream may ask for.
pub const MAX_NAMES: usize = 1024;
/// How much of a peer's error is logged, bytes.
const MAX_REASON: usize = 1024;

/// The peer's side of a stream, and what it is to be told. No I/O.
pub trait Protocol: Send + 'static {
    /// What the peer sends.
    type Request: Message + Default + Send + 'static;
    /// The method's name.
    const METHOD: &'static str;

    /// Takes a request in.
    ///
    /// # Errors
    /// `ResourceExhausted` when it asks for too much.
    fn asked(&mut self, request: Self::Request) -> Result<Asked, Status>;

    /// Notes that there is an update.
    fn updated(&mut self);

    /// What the peer is to be told now, if anything.
    ///
    /// # Errors
    /// A status that ends the stream.
    fn answer(&mut self, secrets: &Secrets<'_>) -> Result<Option<Answer>, Status>;

    /// What the peer turned out to have from another stream, so that it was not sent; once.
    fn known(&mut self, _secrets: &Secrets<'_>) -> Vec<Arc<Secret>> {
        Vec::new()
    }
}

/// What a request said.
#[derive(Debug)]
pub struct Asked {
    /// Who asks, where it says so.
    pub node: Option<Node>,
    /// About an answer before.
    pub verdict: Verdict,
    /// All names that are wanted from now on, where that changed; none of them means everything.
    pub names: Option<Vec<Box<str>>>,
}

/// What a peer says about an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    None,
    /// It uses the answer of that number.
    Accepted(u64),
    /// It does not, and why.
    Rejected(Option<u64>, String),
}

/// An answer to be sent.
#[derive(Debug)]
pub struct Answer {
    /// The message.
    pub parts: Parts,
    /// Its number on the stream.
    pub nonce: u64,
    /// The secrets in it.
    pub secrets: Vec<Arc<Secret>>,
    /// The names of what it takes away.
    pub removed: Vec<String>,
}

/// A number as a nonce: eight hex digits, as SPIRE's.
pub fn hex_nonce(number: u64) -> String {
    format!("{number:08x}")
}

/// The number of a nonce; none of one that is not ours.
pub fn parse_nonce(nonce: &str) -> Option<u64> {
    if nonce.len() < 8 { None } else { u64::from_str_radix(nonce, 16).ok() }
}

/// A peer's error, short enough for a log.
pub fn reason(error: &rpc::Status) -> String {
    let message = &error.message;
    message.get(..message.floor_char_boundary(MAX_REASON)).unwrap_or_default().to_owned()
}
