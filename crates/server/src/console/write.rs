//! What changes something. Each shows what it would do first; only a form that says so does it.

use std::collections::BTreeMap;

use signet_console::{
    Page,
    page::{Confirm, EntryForm},
};
use signet_identity::{EntryId, EntrySpec, Selector, SelectorSet, SpiffeId, TrustDomain};
use signet_store::NewEntry;

use super::{
    Answer, Answered, Console, Form,
    authorities::authority_kind,
    caller::Caller,
    read::{encode, parsed},
};
use crate::usecase::{
    authorization::Action,
    entries::{Created, Edit, TenantEdit},
    error::Error,
};

/// The fields of an entry's form.
const FIELDS: [&str; 11] = [
    "spiffe_id",
    "parent_id",
    "selectors",
    "x509_svid_ttl",
    "jwt_svid_ttl",
    "dns_names",
    "federates_with",
    "hint",
    "tenant",
    "admin",
    "downstream",
];

impl Console {
    /// Does what a form asks for.
    pub(super) async fn write(&self, caller: &Caller, path: &str, form: &Form) -> Answered {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        match *parts.as_slice() {
            ["entries", "new"] => self.create(caller, form).await,
            ["entries", id, "edit"] => self.edit(caller, id, form).await,
            ["entries", id, "delete"] => self.delete(caller, id).await,
            ["agents", verb @ ("ban" | "evict")] => self.agent_write(caller, verb, form).await,
            ["federation", trust_domain, "refresh"] => self.refresh(caller, trust_domain).await,
            ["authorities", kind, verb] => self.authority_write(caller, kind, verb, form).await,
            _ => Err(Error::not_found("there is no such page")),
        }
    }

    async fn create(&self, caller: &Caller, form: &Form) -> Answered {
        let draft = match draft(form, None).and_then(|draft| self.checked(draft)) {
            Ok(draft) => draft,
            Err(error) => return Ok(again(form, None, &error)),
        };
        if form.get("confirmed") != "yes" {
            let mut effects = self.gets(caller, &draft).await;
            effects.push("Agents have it within a second.".to_owned());
            let confirm = confirm(form, "Create this entry?", effects, "/entries/new", "/entries");
            return Ok(Answer::Page(Page::Confirm(confirm)));
        }
        let entries = &self.0.use_cases.entries;
        let id: EntryId = parsed("id", &entries.fresh_id())?;
        let new = vec![NewEntry { id, draft }];
        let created = self
            .with(caller, Action::CreateEntries, "CreateEntry", async |call| {
                Ok(entries.create(call, new).await)
            })
            .await?;
        match created.into_iter().next() {
            Some(Ok(Created::New(entry) | Created::Similar(entry))) => {
                Ok(Answer::Redirect(format!("/entries/{}", encode(entry.id.as_str()))))
            }
            Some(Err(error)) => Ok(again(form, None, &error)),
            None => Err(Error::internal("failed to create entry")),
        }
    }

    async fn edit(&self, caller: &Caller, id: &str, form: &Form) -> Answered {
        let id = percent_encoding::percent_decode_str(id).decode_utf8_lossy().into_owned();
        let stored = self.stored(caller, &id).await?;
        let place = format!("/entries/{}", encode(&id));
        let draft = match draft(form, Some(&stored.spec)).and_then(|draft| self.checked(draft)) {
            Ok(draft) => draft,
            Err(error) => return Ok(again(form, Some(id), &error)),
        };
        if form.get("confirmed") != "yes" {
            let mut effects = changes(&stored.spec, &draft);
            if effects.is_empty() {
                return Ok(Answer::Redirect(place));
            }
            effects.extend(self.gets(caller, &draft).await);
            let action = format!("{place}/edit");
            let confirm = confirm(form, "Change this entry?", effects, &action, &place);
            return Ok(Answer::Page(Page::Confirm(confirm)));
        }
        let entries = &self.0.use_cases.entries;
        let tenant =
            TenantEdit { tenant: draft.tenant.clone(), claim: draft.jwt_svid_tenant_claim };
        let tenant = (draft.tenant != stored.tenant).then_some(tenant);
        let edit = Edit { id: stored.id.clone(), change: draft.into(), tenant };
        let updated = self
            .with(caller, Action::UpdateEntries, "UpdateEntry", async |call| {
                Ok(entries.update(call, vec![edit]).await)
            })
            .await?;
        match updated.into_iter().next() {
            Some(Ok(_)) => Ok(Answer::Redirect(place)),
            Some(Err(error)) => Ok(again(form, Some(id), &error)),
            None => Err(Error::internal("failed to update entry")),
        }
    }

    async fn delete(&self, caller: &Caller, id: &str) -> Answered {
        let id = percent_encoding::percent_decode_str(id).decode_utf8_lossy().into_owned();
        let id: EntryId = parsed("id", &id)?;
        let entries = &self.0.use_cases.entries;
        let deleted = self
            .with(caller, Action::DeleteEntries, "DeleteEntry", async |call| {
                Ok(entries.delete(call, vec![id]).await)
            })
            .await?;
        deleted
            .into_iter()
            .next()
            .unwrap_or_else(|| Err(Error::internal("failed to delete entry")))?;
        Ok(Answer::Redirect("/entries".to_owned()))
    }

    async fn agent_write(&self, caller: &Caller, verb: &str, form: &Form) -> Answered {
        let id: SpiffeId = parsed("id", form.get("id"))?;
        let agents = &self.0.use_cases.agents;
        match verb {
            "ban" => {
                self.with(caller, Action::BanAgent, "BanAgent", async |call| {
                    agents.ban(call, &id).await
                })
                .await?;
                Ok(Answer::Redirect(format!("/agents/one?id={}", encode(&id.to_string()))))
            }
            _ => {
                self.with(caller, Action::DeleteAgent, "DeleteAgent", async |call| {
                    agents.delete(call, &id).await
                })
                .await?;
                Ok(Answer::Redirect("/agents".to_owned()))
            }
        }
    }

    async fn refresh(&self, caller: &Caller, trust_domain: &str) -> Answered {
        let name = percent_encoding::percent_decode_str(trust_domain).decode_utf8_lossy();
        let trust_domain: TrustDomain = parsed("trust domain", &name)?;
        let federation = &self.0.use_cases.federation;
        self.with(caller, Action::RefreshFederation, "RefreshBundle", async |call| {
            federation.refresh(call, &trust_domain, false).await
        })
        .await?;
        Ok(Answer::Redirect("/federation".to_owned()))
    }

    async fn authority_write(
        &self,
        caller: &Caller,
        kind: &str,
        verb: &str,
        form: &Form,
    ) -> Answered {
        let kind = authority_kind(kind)?;
        let authorities = &self.0.use_cases.authorities;
        let id = form.get("id");
        let method = match verb {
            "prepare" => "PrepareAuthority",
            "activate" => "ActivateAuthority",
            "taint" => "TaintAuthority",
            "revoke" => "RevokeAuthority",
            _ => return Err(Error::not_found("there is no such page")),
        };
        self.with(caller, Action::ManageAuthorities, method, async |call| match verb {
            "prepare" => authorities.prepare(call, kind).await.map(drop),
            "activate" => authorities.activate(call, kind, id).await.map(drop),
            "taint" => authorities.taint(call, kind, id).await.map(drop),
            _ => authorities.revoke(call, kind, id).await,
        })
        .await?;
        Ok(Answer::Redirect("/authorities".to_owned()))
    }

    fn checked(&self, draft: EntrySpec) -> Result<EntrySpec, Error> {
        let checked = draft.check(&self.0.context.parts.trust_domain);
        checked.map_err(|error| Error::invalid(error.to_string()))?;
        Ok(draft)
    }

    /// Who gets what by an entry.
    async fn gets(&self, caller: &Caller, draft: &EntrySpec) -> Vec<String> {
        let (_, agents) = self.agents_of(caller, &draft.parent_id, 0).await;
        let selectors: Vec<_> = draft.selectors.iter().map(ToString::to_string).collect();
        let who = format!(
            "Workloads with {} get {}, at {agents} agents.",
            selectors.join(" and "),
            draft.spiffe_id
        );
        let mut effects = vec![who];
        if agents == 0 {
            effects
                .push(format!("No agent has the parent {}: nobody gets it yet.", draft.parent_id));
        }
        if draft.admin {
            effects.push("They may use the server's API as administrators.".to_owned());
        }
        if draft.downstream {
            effects.push("They may get an intermediate CA of this trust domain.".to_owned());
        }
        effects
    }
}

/// The entry of a form; what the form does not have stays as it was.
fn draft(form: &Form, stored: Option<&EntrySpec>) -> Result<EntrySpec, Error> {
    let spiffe_id: SpiffeId = parsed("spiffe_id", form.get("spiffe_id"))?;
    let parent_id: SpiffeId = parsed("parent_id", form.get("parent_id"))?;
    let selectors: Result<SelectorSet, Error> =
        form.lines("selectors").map(|line| parsed::<Selector>("selectors", line)).collect();
    let selectors = selectors?;
    let mut draft = match stored {
        Some(stored) => stored.clone(),
        None => EntrySpec::new(spiffe_id.clone(), parent_id.clone(), selectors.clone()),
    };
    (draft.spiffe_id, draft.parent_id, draft.selectors) = (spiffe_id, parent_id, selectors);
    let seconds = |field: &str| form.text(field).map_or(Ok(0), |text| parsed(field, text));
    draft.x509_svid_ttl = seconds("x509_svid_ttl")?;
    draft.jwt_svid_ttl = seconds("jwt_svid_ttl")?;
    draft.dns_names = form.lines("dns_names").map(str::to_owned).collect();
    let federates: Result<Vec<TrustDomain>, Error> =
        form.lines("federates_with").map(|line| parsed("federates_with", line)).collect();
    draft.federates_with = federates?;
    form.get("hint").trim().clone_into(&mut draft.hint);
    draft.tenant = form.text("tenant").map(|text| parsed("tenant", text)).transpose()?;
    draft.admin = form.get("admin") == "on";
    draft.downstream = form.get("downstream") == "on";
    Ok(draft)
}

/// What differs, a line each.
fn changes(old: &EntrySpec, new: &EntrySpec) -> Vec<String> {
    let list = |draft: &EntrySpec| -> BTreeMap<&'static str, String> {
        let selectors: Vec<_> = draft.selectors.iter().map(ToString::to_string).collect();
        let federates: Vec<_> = draft.federates_with.iter().map(ToString::to_string).collect();
        [
            ("SPIFFE ID", draft.spiffe_id.to_string()),
            ("Parent ID", draft.parent_id.to_string()),
            ("Selectors", selectors.join(", ")),
            ("X.509-SVID TTL", draft.x509_svid_ttl.to_string()),
            ("JWT-SVID TTL", draft.jwt_svid_ttl.to_string()),
            ("DNS names", draft.dns_names.join(", ")),
            ("Federates with", federates.join(", ")),
            ("Hint", draft.hint.clone()),
            ("Tenant", draft.tenant.as_ref().map(ToString::to_string).unwrap_or_default()),
            ("Admin", draft.admin.to_string()),
            ("Downstream", draft.downstream.to_string()),
        ]
        .into()
    };
    let new = list(new);
    let differing = list(old).into_iter().filter_map(|(name, was)| {
        let is = new.get(name).filter(|is| **is != was)?;
        Some(format!("{name}: \u{201c}{was}\u{201d} becomes \u{201c}{is}\u{201d}."))
    });
    differing.collect()
}

/// The form again, with what is wrong.
fn again(form: &Form, id: Option<String>, error: &Error) -> Answer {
    let fields = form.only(&FIELDS);
    Answer::Page(Page::EntryForm(EntryForm { id, fields, error: error.to_string() }))
}

fn confirm(form: &Form, question: &str, effects: Vec<String>, action: &str, back: &str) -> Confirm {
    let mut fields = form.only(&FIELDS);
    fields.insert("confirmed".to_owned(), "yes".to_owned());
    Confirm {
        question: question.to_owned(),
        effects,
        action: action.to_owned(),
        fields,
        button: "Do it".to_owned(),
        back: back.to_owned(),
        danger: false,
    }
}
