//! Whether a certificate is the active one of an attested agent.
//!
//! A yes comes from memory. A no never does: the agent may have renewed or attested a moment ago
//! (also on another server), so the row is read first. An agent that comes with its renewed
//! certificate activates it: one write.

use signet_time::UnixTime;

use super::{super::principal::PeerSvid, Authorizer, Denial};

/// Why an agent is refused.
#[derive(Clone, Debug)]
pub struct AgentRefusal {
    /// What the agent is to make of it; `None` for failures on our side.
    pub denial: Option<Denial>,
    /// For the log; for failures on our side also the answer.
    pub why: String,
    /// Whether it failed because the store is away.
    pub away: bool,
}

impl Authorizer {
    /// Checks the certificate of an agent, and makes a renewed one the active one.
    ///
    /// # Errors
    /// [`AgentRefusal`] when the agent is not attested, is banned, or its certificate is expired or
    /// not the active one, or when the store cannot say.
    pub async fn agent(&self, svid: &PeerSvid) -> Result<(), AgentRefusal> {
        let id = &svid.spiffe_id;
        let now = self.inner.clock.unix();
        if now > svid.not_after {
            return refuse(Denial::AgentExpired, format!("agent \"{id}\" SVID is expired"));
        }
        // Bans and deletions that are committed must be seen; what the feed cannot show in time is
        // read from the row below.
        // With the database away, what was so when it was seen last goes on: a renewed certificate
        // cannot have been stored since, and neither can a ban.
        let is_fresh = self.inner.cache.fresh_or_away(self.inner.max_staleness).await.is_ok();
        if is_fresh
            && let Some(row) = self.inner.cache.node(id)
            && !row.serial_number.is_empty()
            && *row.serial_number == *svid.serial_number
        {
            return Ok(());
        }
        let failed = |error: signet_store::StoreError| AgentRefusal {
            denial: None,
            why: format!("unable to look up agent information: {error}"),
            away: matches!(error, signet_store::StoreError::Unavailable { .. }),
        };
        let Some(row) = self.inner.store.node(id).await.map_err(failed)? else {
            return refuse(Denial::AgentNotAttested, format!("agent \"{id}\" is not attested"));
        };
        if row.serial_number.is_empty() {
            return refuse(Denial::AgentBanned, format!("agent \"{id}\" is banned"));
        }
        if row.serial_number == svid.serial_number {
            return Ok(());
        }
        if row.new_serial_number == svid.serial_number {
            return self.activate(svid, now).await;
        }
        refuse(
            Denial::AgentNotActive,
            format!(
                "agent \"{id}\" expected to have serial number \"{}\"; has \"{}\"",
                row.serial_number, svid.serial_number
            ),
        )
    }

    /// Makes the renewed serial number the active one, unless something else happened meanwhile.
    async fn activate(&self, svid: &PeerSvid, now: UnixTime) -> Result<(), AgentRefusal> {
        let serial = svid.serial_number.clone();
        let updated = self.inner.store.update_node(&svid.spiffe_id, now, move |node| {
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
                refuse(Denial::AgentBanned, format!("agent \"{id}\" is banned"))
            }
            Ok(Some(_)) => refuse(Denial::AgentNotActive, format!("agent \"{id}\" renewed again")),
            Ok(None) => refuse(Denial::AgentNotAttested, format!("agent \"{id}\" is not attested")),
            Err(error) => Err(AgentRefusal {
                denial: None,
                why: format!("unable to activate the new agent SVID: {error}"),
                away: matches!(error, signet_store::StoreError::Unavailable { .. }),
            }),
        }
    }
}

fn refuse(denial: Denial, why: String) -> Result<(), AgentRefusal> {
    Err(AgentRefusal { denial: Some(denial), why, away: false })
}
