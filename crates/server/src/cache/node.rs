//! What authorising an agent needs to know of it.

use signet_identity::AttestedNode;
use signet_time::UnixTime;

/// The serial numbers of an attested agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// The active serial number, decimal; empty when banned.
    pub serial_number: Box<str>,
    /// When that SVID expires, Unix seconds.
    pub expires_at: UnixTime,
    /// The serial number of a renewed SVID that was not used yet; empty if none.
    pub new_serial_number: Box<str>,
    /// Whether the agent may attest again.
    pub can_reattest: bool,
}

impl From<&AttestedNode> for NodeRow {
    fn from(node: &AttestedNode) -> Self {
        Self {
            serial_number: node.serial_number.as_str().into(),
            expires_at: node.expires_at,
            new_serial_number: node.new_serial_number.as_str().into(),
            can_reattest: node.can_reattest,
        }
    }
}
