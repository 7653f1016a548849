//! Attested agents.

use signet_identity::AttestedNode;

use super::{id_to_pb, selectors_to_pb};
use crate::pb::spire::api::types;

/// An agent as a message, with the fields of `mask` (`None` for all); the ID is always there.
pub fn agent_to_pb(node: &AttestedNode, mask: Option<&types::AgentMask>) -> types::Agent {
    let mask = mask.copied().unwrap_or_else(agent_mask_all);
    let mut agent = types::Agent { id: Some(id_to_pb(&node.spiffe_id)), ..Default::default() };
    if mask.attestation_type {
        agent.attestation_type.clone_from(&node.attestation_type);
    }
    if mask.x509svid_serial_number {
        agent.x509svid_serial_number.clone_from(&node.serial_number);
    }
    if mask.x509svid_expires_at {
        agent.x509svid_expires_at = node.expires_at.seconds();
    }
    if mask.selectors {
        agent.selectors = selectors_to_pb(&node.selectors);
    }
    if mask.banned {
        agent.banned = node.is_banned();
    }
    if mask.can_reattest {
        agent.can_reattest = node.can_reattest;
    }
    if mask.agent_version {
        agent.agent_version.clone_from(&node.agent_version);
    }
    agent
}

/// The mask that selects every field.
pub fn agent_mask_all() -> types::AgentMask {
    types::AgentMask {
        attestation_type: true,
        x509svid_serial_number: true,
        x509svid_expires_at: true,
        selectors: true,
        banned: true,
        can_reattest: true,
        agent_version: true,
    }
}
