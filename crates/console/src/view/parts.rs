//! What several pages are made of.

use std::collections::BTreeMap;

use maud::{Markup, html};
use signet_time::UnixTime;

use super::Frame;
use crate::{
    page::EntryRow,
    text::{at, number, relative, short, visible},
};

/// What a form proves by that a page of the console made it.
pub(super) fn csrf(frame: &Frame) -> Markup {
    html! { input type="hidden" name="csrf" value=(frame.csrf); }
}

/// A value that may be long.
pub(super) fn value(text: &str) -> Markup {
    let (shown, cut) = short(text);
    html! { code title=[cut.then(|| visible(text))] { (shown) } }
}

/// A time, with how far away it is.
pub(super) fn time(unix: UnixTime, now: UnixTime) -> Markup {
    html! {
        @if unix == UnixTime::EPOCH { span.dim { "never" } }
        @else { time datetime=(at(unix)) title=(at(unix)) { (relative(unix, now)) } }
    }
}

/// A word with a colour; the word says the same.
pub(super) fn badge(kind: &str, text: &str) -> Markup {
    html! { span class={ "badge " (kind) } { (text) } }
}

/// Part of an address.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => {
                encoded.push('%');
                encoded.push_str(&hex::encode_upper([byte]));
            }
        }
    }
    encoded
}

/// `name=value&…` of what is not empty.
pub(super) fn query(fields: &BTreeMap<String, String>) -> String {
    let pairs = fields.iter().filter(|(_, value)| !value.is_empty());
    pairs
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
        .collect::<Vec<_>>()
        .join("&")
}

/// A search form: its fields by name, label and hint.
pub(super) fn search(
    action: &str,
    filter: &BTreeMap<String, String>,
    fields: &[(&str, &str, &str)],
) -> Markup {
    html! {
        form.search role="search" method="get" action=(action) {
            @for (at, (name, label, hint)) in fields.iter().enumerate() {
                label {
                    span { (label) }
                    input type="search" name=(name) placeholder=(hint) autocomplete="off"
                        spellcheck="false" data-search[at == 0]
                        value=(filter.get(*name).map_or("", String::as_str));
                }
            }
            button { "Search" }
        }
    }
}

/// How many there are, and the link to the next page.
pub(super) fn pages(
    path: &str,
    filter: &BTreeMap<String, String>,
    shown: usize,
    (total, is_more): (u64, bool),
    next: Option<&str>,
) -> Markup {
    // Each page begins anew, whatever page this one is.
    let mut filter = filter.clone();
    let is_first = filter.remove("after").is_none();
    let query = query(&filter);
    let first = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    html! {
        nav.pages aria-label="Pages" {
            span {
                (number(shown as u64)) " shown of " @if is_more { "more than " } (number(total))
            }
            @if !is_first { a href=(first) { "First page" } }
            @if let Some(next) = next {
                a rel="next" href={ (path) "?" (query) @if !query.is_empty() { "&" } "after=" (encode(next)) } {
                    "Next page"
                }
            }
        }
    }
}

/// A table of entries.
pub(super) fn entries(rows: &[EntryRow], now: UnixTime) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Entries" {
            table.rows {
                thead {
                    tr {
                        th scope="col" { "SPIFFE ID" } th scope="col" { "Parent" }
                        th scope="col" { "Selectors" } th scope="col" { "Hint" }
                        th scope="col" { "Expires" }
                    }
                }
                tbody {
                    @for row in rows {
                        tr {
                            th scope="row" {
                                a href={ "/entries/" (encode(&row.id)) } { (value(&row.spiffe_id)) }
                            }
                            td { (value(&row.parent_id)) }
                            td { (selectors(&row.selectors, 4)) }
                            td { (visible(&row.hint)) }
                            td { (time(row.expires_at, now)) }
                        }
                    }
                }
            }
        }
        @if rows.is_empty() { p.dim { "None." } }
    }
}

/// The first selectors, a line each.
pub(super) fn selectors(all: &[String], most: usize) -> Markup {
    html! {
        ul.selectors {
            @for selector in all.iter().take(most) { li { (value(selector)) } }
            @if all.len() > most { li.dim { "and " (all.len() - most) " more" } }
        }
    }
}

/// Names and values.
pub(super) fn facts<'f>(facts: impl IntoIterator<Item = (&'f str, Markup)>) -> Markup {
    html! {
        dl.facts {
            @for (name, value) in facts { div { dt { (name) } dd { (value) } } }
        }
    }
}
