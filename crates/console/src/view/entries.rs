//! Entries: lists, one of them, its form, and who gets what.

use maud::{Markup, html};
use signet_time::UnixTime;

use super::{
    Frame,
    parts::{self, encode},
};
use crate::{
    page::{Entries, EntryDetail, EntryForm, Explain},
    text::{number, visible},
};

pub(super) fn list(frame: &Frame, page: &Entries) -> Markup {
    html! {
        @if page.may_write { p { a.button href="/entries/new" { "New entry" } } }
        (parts::search("/entries", &page.filter, &[
            ("spiffe_id", "SPIFFE ID", "whole, beginning*, or part of the path"),
            ("parent_id", "Parent ID", "likewise"),
            ("selector", "Selector", "type:value"),
            ("hint", "Hint", ""),
            ("tenant", "Tenant", ""),
        ]))
        (parts::entries(&page.entries, frame.now))
        (parts::pages("/entries", &page.filter, page.entries.len(), (page.total, page.is_more), page.next.as_deref()))
    }
}

pub(super) fn detail(frame: &Frame, page: &EntryDetail) -> Markup {
    let row = &page.row;
    let path = format!("/entries/{}", encode(&row.id));
    let facts = [
        ("SPIFFE ID", parts::value(&row.spiffe_id)),
        ("Parent ID", parts::value(&row.parent_id)),
        ("Entry ID", parts::value(&row.id)),
        ("Selectors", parts::selectors(&row.selectors, usize::MAX)),
        ("Hint", html! { (visible(&row.hint)) }),
        ("Created", parts::time(page.created_at, frame.now)),
        ("Expires", parts::time(row.expires_at, frame.now)),
    ];
    let more = page.facts.iter().map(|(name, value)| (name.as_str(), parts::value(value)));
    html! {
        p.actions {
            @if page.may_write { a.button href={ (path) "/edit" } { "Edit" } }
            @if page.may_delete { a.button.danger href={ (path) "/delete" } { "Delete…" } }
            a.button.quiet href={ "/activity?kind=all&text=" (encode(&row.id)) } { "What happened to it" }
        }
        (parts::facts(facts.into_iter().chain(more)))
        h2 { "Who gets it" }
        p {
            "Agents that hand it to workloads with these selectors: "
            strong { (number(page.agent_count)) } "."
        }
        ul {
            @for agent in &page.agents {
                li { a href={ "/agents/one?id=" (encode(agent)) } { (parts::value(agent)) } }
            }
            @if page.agent_count > page.agents.len() as u64 { li.dim { "and more" } }
        }
        @if page.agent_count == 0 {
            p.warning {
                "No attested agent has this parent, by its own ID or by node selectors: no workload \
                 gets this identity. "
                a href={ "/entries?spiffe_id=" (encode(&row.parent_id)) } { "Is the parent an alias?" }
            }
        }
    }
}

/// The fields of the form: name, label, hint, and whether it takes several lines.
const FIELDS: [(&str, &str, &str, bool); 9] = [
    ("spiffe_id", "SPIFFE ID", "spiffe://trust-domain/workload", false),
    ("parent_id", "Parent ID", "spiffe://trust-domain/spire/agent/…", false),
    ("selectors", "Selectors, one a line", "type:value", true),
    ("x509_svid_ttl", "X.509-SVID TTL, seconds (0: the server's)", "0", false),
    ("jwt_svid_ttl", "JWT-SVID TTL, seconds (0: the server's)", "0", false),
    ("dns_names", "DNS names, one a line", "", true),
    ("federates_with", "Federates with, one trust domain a line", "", true),
    ("hint", "Hint", "", false),
    ("tenant", "Tenant", "", false),
];
const FLAGS: [(&str, &str); 2] = [
    ("admin", "Admin: workloads with this identity may use the server's API"),
    ("downstream", "Downstream: workloads with this identity are servers that get a CA"),
];

pub(super) fn form(frame: &Frame, page: &EntryForm) -> Markup {
    let field = |name: &str| page.fields.get(name).map_or("", String::as_str);
    let action = match &page.id {
        Some(id) => format!("/entries/{}/edit", encode(id)),
        None => "/entries/new".to_owned(),
    };
    html! {
        @if !page.error.is_empty() { p.warning role="alert" { (visible(&page.error)) } }
        form.edit method="post" action=(action) {
            (parts::csrf(frame))
            @for (name, label, hint, lines) in FIELDS {
                label {
                    span { (label) }
                    @if lines {
                        textarea name=(name) rows="3" placeholder=(hint) spellcheck="false" {
                            (field(name))
                        }
                    } @else {
                        input name=(name) value=(field(name)) placeholder=(hint) autocomplete="off"
                            spellcheck="false";
                    }
                }
            }
            @for (name, label) in FLAGS {
                label.check {
                    input type="checkbox" name=(name) value="on" checked[field(name) == "on"];
                    span { (label) }
                }
            }
            p.actions {
                button { "See what it does…" }
                a.button.quiet href="/entries" { "Cancel" }
            }
        }
    }
}

pub(super) fn explain(page: &Explain) -> Markup {
    html! {
        p {
            "Which entries a workload with these selectors matches at an agent, and what the \
             others lack. The same on the command line: "
            code { "signet-server entry explain" }
        }
        @if !page.error.is_empty() { p.warning role="alert" { (visible(&page.error)) } }
        form.edit method="get" action="/explain" {
            label {
                span { "Agent" }
                input name="agent" value=(page.agent) placeholder="spiffe://…/spire/agent/…"
                    autocomplete="off" spellcheck="false" data-search;
            }
            label {
                span { "Selectors of the workload, one a line" }
                textarea name="selectors" rows="5" placeholder="unix:uid:1000" spellcheck="false" {
                    (page.selectors)
                }
            }
            p.actions { button { "Explain" } }
        }
        @if page.asked && page.error.is_empty() {
            h2 { "Matches" }
            @if page.matched.is_empty() {
                p.warning { "No entry: such a workload is told \u{201c}no identity issued\u{201d}." }
            } @else {
                (parts::entries(&page.matched, UnixTime::EPOCH))
            }
            h2 { "Nearest misses" }
            @if page.missed.is_empty() { p.dim { "None." } }
            ul {
                @for (row, why) in &page.missed {
                    li {
                        a href={ "/entries/" (encode(&row.id)) } { (parts::value(&row.spiffe_id)) }
                        " " (visible(why))
                    }
                }
            }
        }
    }
}
