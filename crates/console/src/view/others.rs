//! The pages that are short.

use maud::{Markup, html};

use super::{Frame, parts};
use crate::{
    page::{
        Activity, Confirm, Federation, Login, Message, Problem, Problems, Relationship, Server,
        Severity,
    },
    text::{number, span, visible},
};

pub(super) fn problems(frame: &Frame, page: &Problems) -> Markup {
    html! {
        @if page.problems.is_empty() {
            p.good role="status" { "Nothing is wrong that the server knows of." }
        } @else {
            ul.problems { @for problem in &page.problems { (one(problem)) } }
        }
        h2 { "How things stand" }
        dl.figures {
            @if let Some(entries) = page.entries {
                div { dt { "Entries" } dd { a href="/entries" { (number(entries)) } } }
            }
            @if let Some(agents) = page.agents {
                div { dt { "Agents" } dd { a href="/agents" { (number(agents)) } } }
            }
            @if let Some(agents) = page.live_agents {
                div { dt { "with a valid SVID" } dd { (number(agents)) } }
            }
            @if let Some(bundles) = page.foreign_bundles {
                div { dt { "Foreign bundles" } dd { a href="/federation" { (number(bundles)) } } }
            }
            @if let Some(changes) = page.changes {
                div {
                    dt { "Changes in the last hour" }
                    dd { a href="/activity?within=1h" { (number(changes)) } }
                }
            }
            @if let Some(uptime) = page.uptime { div { dt { "Running for" } dd { (span(uptime)) } } }
        }
        @if !page.expiring.is_empty() {
            h2 { "What expires next" }
            div.scroll tabindex="0" role="region" aria-label="What expires next" {
                table.rows {
                    thead {
                        tr { th scope="col" { "When" } th scope="col" { "Which" } th scope="col" { "What it is" } }
                    }
                    tbody {
                        @for expiring in &page.expiring {
                            tr {
                                td { (parts::time(expiring.at, frame.now)) }
                                th scope="row" { a href=(expiring.link) { (parts::value(&expiring.name)) } }
                                td { (visible(&expiring.what)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn one(problem: &Problem) -> Markup {
    let (class, word) = match problem.severity {
        Severity::Error => ("error", "Error"),
        Severity::Warning => ("warning", "Warning"),
        Severity::Note => ("note", "Note"),
    };
    html! {
        li class=(class) {
            p { (parts::badge(class, word)) " " strong { (visible(&problem.what)) } }
            p { (visible(&problem.effect)) }
            p {
                (visible(&problem.next)) " "
                @if !problem.link.is_empty() { a href=(problem.link) { "Look" } }
            }
        }
    }
}

pub(super) fn federation(frame: &Frame, page: &Federation) -> Markup {
    html! {
        @if page.relationships.is_empty() {
            p.dim { "The server federates with no other trust domain." }
        }
        @for relationship in &page.relationships { (relation(frame, relationship)) }
    }
}

fn relation(frame: &Frame, relationship: &Relationship) -> Markup {
    let bundle = match relationship.authorities {
        Some((x509, jwt)) => html! { (x509) " X.509 and " (jwt) " JWT authorities" },
        None => parts::badge("error", "never fetched"),
    };
    let facts = [
        ("Endpoint", parts::value(&relationship.endpoint)),
        ("Profile", html! { (visible(&relationship.profile)) }),
        ("Bundle", bundle),
        ("Refresh hint", html! { (span(relationship.refresh_hint)) }),
    ];
    let times = relationship
        .times
        .iter()
        .map(|(name, time)| (name.as_str(), parts::time(*time, frame.now)));
    let more = relationship.facts.iter().map(|(name, value)| (name.as_str(), parts::value(value)));
    html! {
        section {
            h2 { (visible(&relationship.trust_domain)) }
            @if !relationship.error.is_empty() {
                p.warning { "The last poll failed: " (visible(&relationship.error)) }
            }
            (parts::facts(facts.into_iter().chain(times).chain(more)))
            @if let Some(refresh) = &relationship.refresh {
                p { a.button.quiet href=(refresh) { "Fetch it now…" } }
            }
        }
    }
}

pub(super) fn activity(frame: &Frame, page: &Activity) -> Markup {
    html! {
        p.dim { (visible(&page.note)) }
        nav.pages aria-label="Views" {
            a href="/activity?within=1h" { "Changes of the last hour" }
            a href="/activity" { "All changes" }
            a href="/activity?kind=all&outcome=failed" { "Refused and failed" }
            a href="/activity?kind=all" { "Everything" }
        }
        (parts::search("/activity", &page.filter, &[
            ("text", "Anything", "an ID, a reason, a request ID"),
            ("within", "Within", "1h"),
            ("kind", "Kind", "changes, all, attestation, issuance, …"),
            ("outcome", "Outcome", "failed"),
        ]))
        div.scroll tabindex="0" role="region" aria-label="Records" {
            table.rows {
                thead {
                    tr {
                        th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "What" }
                        th scope="col" { "Outcome" } th scope="col" { "About" }
                    }
                }
                tbody {
                    @for record in &page.records {
                        tr {
                            td { (parts::time(record.at, frame.now)) }
                            td { (parts::value(&record.who)) }
                            th scope="row" { (visible(&record.what)) }
                            td {
                                (parts::badge(if record.failed { "error" } else { "good" }, &visible(&record.outcome)))
                            }
                            td {
                                ul.selectors {
                                    @for (name, value) in &record.fields {
                                        li { span.dim { (visible(name)) ": " } (parts::value(value)) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        @if page.records.is_empty() { p.dim { "None." } }
        @if page.more > 0 { p.dim { (number(page.more)) " more: narrow the search." } }
    }
}

pub(super) fn server(page: &Server) -> Markup {
    html! {
        @for (heading, facts) in &page.facts {
            h2 { (visible(heading)) }
            (parts::facts(facts.iter().map(|(name, value)| (name.as_str(), parts::value(value)))))
        }
    }
}

pub(super) fn confirm(frame: &Frame, page: &Confirm) -> Markup {
    html! {
        ul.effects { @for effect in &page.effects { li { (visible(effect)) } } }
        form method="post" action=(page.action) {
            (parts::csrf(frame))
            @for (name, value) in &page.fields { input type="hidden" name=(name) value=(value); }
            p.actions {
                button.danger[page.danger] { (page.button) }
                a.button.quiet href=(page.back) { "Leave it as it is" }
            }
        }
    }
}

pub(super) fn message(page: &Message) -> Markup {
    html! {
        p.warning role="alert" { (visible(&page.text)) }
        p { a href="/" { "To the first page" } }
    }
}

pub(super) fn login(page: &Login) -> Markup {
    html! {
        @if !page.error.is_empty() { p.warning role="alert" { (visible(&page.error)) } }
        p {
            "Run " code { "signet-server console login" } " on the server and open the link that it \
             prints, or type its code here. An X.509-SVID of an administrator in the browser needs \
             neither."
        }
        form.edit #login method="post" action="/login" {
            label {
                span { "One-time code" }
                input name="code" autocomplete="one-time-code" spellcheck="false" required autofocus;
            }
            p.actions { button { "Log in" } }
        }
    }
}
