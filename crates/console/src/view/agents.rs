//! Agents.

use maud::{Markup, html};
use signet_time::UnixTime;

use super::{
    Frame,
    parts::{self, encode},
};
use crate::{
    page::{Agent, AgentRow, Agents},
    text::{number, visible},
};

pub(super) fn list(frame: &Frame, page: &Agents) -> Markup {
    html! {
        (parts::search("/agents", &page.filter, &[
            ("id", "SPIFFE ID", "spiffe://…/spire/agent/…"),
            ("selector", "Node selector", "type:value"),
            ("attestation_type", "Attested by", "join_token"),
            ("expires_within", "Expires within", "1h"),
            ("banned", "Banned", "true, false"),
        ]))
        div.scroll tabindex="0" role="region" aria-label="Agents" {
            table.rows {
                thead {
                    tr {
                        th scope="col" { "SPIFFE ID" } th scope="col" { "State" }
                        th scope="col" { "Attested by" } th scope="col" { "SVID expires" }
                        th scope="col" { "Version" }
                    }
                }
                tbody {
                    @for row in &page.agents {
                        tr {
                            th scope="row" {
                                a href={ "/agents/one?id=" (encode(&row.id)) } { (parts::value(&row.id)) }
                            }
                            td { (state(row, frame.now)) }
                            td { (visible(&row.attestation_type)) }
                            td { (parts::time(row.expires_at, frame.now)) }
                            td { (visible(&row.version)) }
                        }
                    }
                }
            }
        }
        @if page.agents.is_empty() { p.dim { "None." } }
        (parts::pages("/agents", &page.filter, page.agents.len(), (page.total, false), page.next.as_deref()))
    }
}

fn state(row: &AgentRow, now: UnixTime) -> Markup {
    if row.banned {
        parts::badge("error", "banned")
    } else if row.expires_at <= now {
        parts::badge("warning", "expired")
    } else {
        parts::badge("good", "attested")
    }
}

pub(super) fn detail(frame: &Frame, page: &Agent) -> Markup {
    let row = &page.row;
    let id = encode(&row.id);
    html! {
        p.actions {
            @if page.may_ban && !row.banned {
                a.button.danger href={ "/agents/ban?id=" (id) } { "Ban…" }
            }
            @if page.may_evict {
                a.button.danger href={ "/agents/evict?id=" (id) } { "Evict…" }
            }
            a.button.quiet href={ "/explain?agent=" (id) } { "Explain a workload here" }
        }
        (parts::facts([
            ("SPIFFE ID", parts::value(&row.id)),
            ("State", state(row, frame.now)),
            ("Attested by", html! { (visible(&row.attestation_type)) }),
            ("May attest again", html! { @if row.can_reattest { "yes" } @else { "no" } }),
            ("SVID expires", parts::time(row.expires_at, frame.now)),
            ("Serial number", parts::value(&page.serial_number)),
            ("Version", html! { (visible(&row.version)) }),
            ("Node selectors", parts::selectors(&page.selectors, usize::MAX)),
        ]))
        h2 { "Entries it is authorised for: " (number(page.entry_count)) }
        (parts::entries(&page.entries, frame.now))
    }
}
