//! Authorities, and a picture of their lives.

use std::fmt::Write as _;

use maud::{Markup, html};
use signet_time::UnixTime;

use super::{
    Frame,
    parts::{self, encode},
    raw,
};
use crate::{
    page::{Authorities, Authority, AuthorityKind},
    text::{at, visible},
};

/// The picture in units of its own.
const WIDTH: i64 = 1000;
const ROW: i64 = 26;

pub(super) fn page(frame: &Frame, page: &Authorities) -> Markup {
    html! {
        @if page.failed_rotations > 0 {
            p.warning role="alert" {
                "The last " (page.failed_rotations) " attempts at a rotation failed: the log of the \
                 server says why."
            }
        }
        @for kind in &page.kinds {
            h2 { (name(&kind.kind)) }
            (timeline(kind, frame.now))
            div.scroll tabindex="0" role="region" aria-label={ (name(&kind.kind)) " authorities" } {
                table.rows {
                    thead {
                        tr {
                            th scope="col" { "ID" } th scope="col" { "State" }
                            th scope="col" { "Made" } th scope="col" { "Expires" }
                            th scope="col" { "Upstream" } th scope="col" { "Do" }
                        }
                    }
                    tbody {
                        @for authority in &kind.authorities {
                            (row(frame, kind, authority, page.may_write))
                        }
                    }
                }
            }
            @if page.may_write && !kind.authorities.iter().any(|authority| authority.status == "prepared") {
                p { a.button href={ "/authorities/" (kind.kind) "/prepare" } { "Prepare the next one…" } }
            }
        }
        p.dim {
            "An authority can be activated once every agent and every federated trust domain knows \
             it, and revoked once nothing that it signed is in use."
        }
    }
}

fn name(kind: &str) -> &str {
    match kind {
        "x509" => "X.509",
        "jwt" => "JWT",
        "second-jwt" => "Second JWT",
        other => other,
    }
}

fn row(frame: &Frame, kind: &AuthorityKind, authority: &Authority, may_write: bool) -> Markup {
    let colour = match authority.status.as_str() {
        "active" => "good",
        "tainted" => "error",
        "prepared" => "note",
        _ => "dim",
    };
    let verbs: &[(&str, &str)] = match authority.status.as_str() {
        _ if !may_write => &[],
        "prepared" => &[("activate", "Activate…")],
        "tainted" => &[("revoke", "Revoke…")],
        "active" => &[],
        _ => &[("taint", "Taint…")],
    };
    html! {
        tr {
            th scope="row" { (parts::value(&authority.id)) }
            td { (parts::badge(colour, &authority.status)) }
            td {
                @if authority.issued_at == UnixTime::EPOCH { span.dim { "—" } }
                @else { (parts::time(authority.issued_at, frame.now)) }
            }
            td { (parts::time(authority.expires_at, frame.now)) }
            td { (parts::value(&authority.upstream)) }
            td {
                @for (verb, label) in verbs {
                    a.button.quiet href={ "/authorities/" (kind.kind) "/" (verb) "?id=" (encode(&authority.id)) } {
                        (label)
                    }
                }
            }
        }
    }
}

/// A bar for each authority from its making to its end, and a line for now. The table below says the
/// same in words.
fn timeline(kind: &AuthorityKind, now: UnixTime) -> Markup {
    let bars: Vec<&Authority> = kind
        .authorities
        .iter()
        .filter(|bar| bar.issued_at > UnixTime::EPOCH && bar.expires_at > UnixTime::EPOCH)
        .collect();
    let from = bars.iter().map(|bar| bar.issued_at).min().unwrap_or(now).min(now);
    let to = bars.iter().map(|bar| bar.expires_at).max().unwrap_or(now).max(now);
    if bars.is_empty() || to <= from {
        return html! {};
    }
    let x = |time: UnixTime| {
        (i128::from(time - from) * i128::from(WIDTH) / i128::from(to - from)) as i64
    };
    let height = ROW * bars.len() as i64 + 20;
    let mut svg = format!(
        "<svg class=\"timeline\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Lives of the {} authorities from {} to {}\">",
        name(&kind.kind).replace(['<', '>', '"', '&'], ""),
        at(from),
        at(to)
    );
    for (line, bar) in bars.iter().enumerate() {
        let y = ROW * line as i64;
        let (left, right) = (x(bar.issued_at), x(bar.expires_at));
        let class = match bar.status.as_str() {
            "active" | "prepared" | "old" | "tainted" => bar.status.as_str(),
            _ => "other",
        };
        let label: String =
            visible(&bar.id).chars().take(16).filter(char::is_ascii_alphanumeric).collect();
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"{left}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"3\"/>\
             <text x=\"{}\" y=\"{}\">{class} {label}</text>",
            y + 2,
            (right - left).max(2),
            ROW - 6,
            (left + 6).min(WIDTH - 220),
            y + ROW - 9,
        );
    }
    let line = x(now);
    let _ = write!(
        svg,
        "<line class=\"now\" x1=\"{line}\" x2=\"{line}\" y1=\"0\" y2=\"{}\"/>\
         <text class=\"now\" x=\"{}\" y=\"{}\">now</text></svg>",
        height - 16,
        (line + 4).min(WIDTH - 40),
        height - 4
    );
    raw(svg)
}
