//! Whether a certificate is the active one of an attested agent.
//!
//! A yes comes from memory. A no never does: the agent may have renewed or attested a moment ago
//! (also on another server), so the row is read first. An agent that comes with its renewed
//! certificate activates it: one write.

use signet_api::status::Reason;
use tonic::Code;

use crate::{caller::PeerSvid, context::Context};

/// Why an agent is refused.
#[derive(Debug)]
pub struct AgentRefusal {
    /// The detail that the agent acts on; `None` for failures on our side.
    pub reason: Option<Reason>,
    /// The code for failures on our side.
    pub code: Code,
    /// For the log; for failures on our side also the answer.
    pub log: String,
}

/// Checks the certificate of an agent, and makes a renewed one the active one.
///
/// # Errors
/// [`AgentRefusal`].
pub async fn authorize_agent(context: &Context, svid: &PeerSvid) -> Result<(), AgentRefusal> {
    let id = &svid.spiffe_id;
    let now = context.clock.unix();
    if now > svid.not_after {
        return refuse(Reason::AgentExpired, format!("agent \"{id}\" SVID is expired"));
    }
    // Bans and deletions that are committed must be seen; what the feed cannot show in time is
    // read from the row below.
    let is_fresh = context.cache.fresh().await.is_ok();
    if is_fresh
        && let Some(row) = context.cache.node(id)
        && !row.serial_number.is_empty()
        && *row.serial_number == *svid.serial_number
    {
        return Ok(());
    }
    let failed = |error: signet_store::StoreError| AgentRefusal {
        reason: None,
        code: Code::Internal,
        log: format!("unable to look up agent information: {error}"),
    };
    let Some(row) = context.store.node(id).await.map_err(failed)? else {
        return refuse(Reason::AgentNotAttested, format!("agent \"{id}\" is not attested"));
    };
    if row.serial_number.is_empty() {
        return refuse(Reason::AgentBanned, format!("agent \"{id}\" is banned"));
    }
    if row.serial_number == svid.serial_number {
        return Ok(());
    }
    if row.new_serial_number == svid.serial_number {
        return activate(context, svid, now).await;
    }
    refuse(
        Reason::AgentNotActive,
        format!(
            "agent \"{id}\" expected to have serial number \"{}\"; has \"{}\"",
            row.serial_number, svid.serial_number
        ),
    )
}

/// Makes the renewed serial number the active one, unless something else happened meanwhile.
async fn activate(context: &Context, svid: &PeerSvid, now: i64) -> Result<(), AgentRefusal> {
    let serial = svid.serial_number.clone();
    let updated = context.store.update_node(&svid.spiffe_id, now, move |node| {
        if node.new_serial_number != serial {
            return false;
        }
        node.serial_number = std::mem::take(&mut node.new_serial_number);
        node.expires_at = std::mem::take(&mut node.new_expires_at);
        true
    });
    let id = &svid.spiffe_id;
    match updated.await {
        Ok(Some((node, _))) if node.serial_number == svid.serial_number => {
            tracing::debug!(agent_id = %id, "Agent SVID activated");
            Ok(())
        }
        Ok(Some((node, _))) if node.is_banned() => {
            refuse(Reason::AgentBanned, format!("agent \"{id}\" is banned"))
        }
        Ok(Some(_)) => refuse(Reason::AgentNotActive, format!("agent \"{id}\" renewed again")),
        Ok(None) => refuse(Reason::AgentNotAttested, format!("agent \"{id}\" is not attested")),
        Err(error) => Err(AgentRefusal {
            reason: None,
            code: Code::Internal,
            log: format!("unable to activate the new agent SVID: {error}"),
        }),
    }
}

fn refuse(reason: Reason, log: String) -> Result<(), AgentRefusal> {
    Err(AgentRefusal { reason: Some(reason), code: Code::PermissionDenied, log })
}
