//! What a change would do, before it is done.

use signet_authority::AuthorityKind;
use signet_console::page::Confirm;

use super::{
    Console,
    authorities::authority_kind,
    caller::Caller,
    read::{encode, joined},
};
use crate::usecase::error::Error;

impl Console {
    pub(super) async fn confirm_delete(&self, caller: &Caller, id: &str) -> Result<Confirm, Error> {
        let entry = self.stored(caller, id).await?;
        let (_, agents) = self.agents_of(caller, &entry.parent_id, 0).await;
        let id = encode(id);
        Ok(Confirm {
            question: "Delete this entry?".to_owned(),
            effects: vec![
                format!(
                    "{} is no longer given to workloads with {}.",
                    entry.spiffe_id,
                    joined(&entry)
                ),
                format!("{agents} agents drop it at once; open streams of its workloads are told."),
                "SVIDs that are out already stay valid until they expire.".to_owned(),
            ],
            action: format!("/entries/{id}/delete"),
            fields: Default::default(),
            button: "Delete the entry".to_owned(),
            back: format!("/entries/{id}"),
            danger: true,
        })
    }

    pub(super) async fn confirm_agent(
        &self,
        caller: &Caller,
        verb: &str,
        id: &str,
    ) -> Result<Confirm, Error> {
        let agent = self.agent(caller, id).await?;
        let held = format!("The workloads of its node lose {} identities.", agent.entry_count);
        let (question, button, after) = match verb {
            "ban" => (
                format!("Ban {id}?"),
                "Ban the agent",
                "It is refused from now on, and cannot attest again until it is evicted.",
            ),
            _ => (
                format!("Evict {id}?"),
                "Evict the agent",
                "Its record is deleted. It may attest anew, if its attestor lets it.",
            ),
        };
        Ok(Confirm {
            question,
            effects: vec![held, after.to_owned()],
            action: format!("/agents/{verb}"),
            fields: [("id".to_owned(), id.to_owned())].into(),
            button: button.to_owned(),
            back: format!("/agents/one?id={}", encode(id)),
            danger: true,
        })
    }

    pub(super) async fn confirm_authority(
        &self,
        caller: &Caller,
        kind: &str,
        verb: &str,
        id: &str,
    ) -> Result<Confirm, Error> {
        let _: AuthorityKind = authority_kind(kind)?;
        // Who may not see them is not asked either.
        self.authorities(caller).await?;
        let (question, effects, button, danger): (_, &[&str], _, _) = match verb {
            "prepare" => (
                "Prepare a new authority?",
                &[
                    "A key is made, and its authority is put into the trust bundle.",
                    "It does not sign yet. One that was prepared before is replaced.",
                ],
                "Prepare",
                false,
            ),
            "activate" => (
                "Activate this authority?",
                &[
                    "It signs everything from now on; the active one becomes old.",
                    "Whoever has not got the new trust bundle yet refuses what it signs: agents have \
                     it within seconds, federated trust domains within their refresh hint.",
                ],
                "Activate",
                false,
            ),
            "taint" => (
                "Taint this authority?",
                &[
                    "Everything that it signed is replaced at once, on every agent.",
                    "It is still trusted until it is revoked.",
                ],
                "Taint",
                true,
            ),
            "revoke" => (
                "Revoke this authority?",
                &[
                    "It leaves the trust bundle: whatever it signed is refused everywhere.",
                    "Nodes that were away since it was tainted have to attest anew, with a bundle.",
                ],
                "Revoke",
                true,
            ),
            _ => return Err(Error::not_found("there is no such page")),
        };
        Ok(Confirm {
            question: question.to_owned(),
            effects: effects.iter().map(|&text| text.to_owned()).collect(),
            action: format!("/authorities/{kind}/{verb}"),
            fields: [("id".to_owned(), id.to_owned())].into(),
            button: button.to_owned(),
            back: "/authorities".to_owned(),
            danger,
        })
    }
}
