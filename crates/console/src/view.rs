//! Values to HTML.

mod agents;
mod authorities;
mod entries;
mod others;
mod parts;

use maud::{DOCTYPE, Markup, PreEscaped, html as markup};
use signet_time::UnixTime;

use crate::{
    assets::{ICON, SCRIPT, STYLE},
    page::Page,
    text::visible,
};

/// What surrounds every page.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The trust domain.
    pub trust_domain: String,
    /// The time, Unix seconds.
    pub now: UnixTime,
    /// Who is logged in; empty for nobody.
    pub user: String,
    /// What forms send along.
    pub csrf: String,
    /// Whether [`Frame::user`] logged in by a code and can log out.
    pub can_log_out: bool,
    /// The parts that are anything to [`Frame::user`].
    pub sections: Vec<Section>,
}

/// A part of the console, for the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the page of its name")]
pub enum Section {
    Problems,
    Authorities,
    Agents,
    Entries,
    Explain,
    Federation,
    Activity,
    Server,
    None,
}

/// In the order of the navigation: path, label, and the key that goes there after `g`.
const SECTIONS: [(Section, &str, &str, &str); 8] = [
    (Section::Problems, "/", "Problems", "p"),
    (Section::Agents, "/agents", "Agents", "a"),
    (Section::Entries, "/entries", "Entries", "e"),
    (Section::Explain, "/explain", "Explain", "x"),
    (Section::Authorities, "/authorities", "Authorities", "c"),
    (Section::Federation, "/federation", "Federation", "f"),
    (Section::Activity, "/activity", "Activity", "l"),
    (Section::Server, "/server", "Server", "s"),
];

fn sections(
    frame: &Frame,
) -> impl Iterator<Item = (Section, &'static str, &'static str, &'static str)> {
    SECTIONS.into_iter().filter(|(section, ..)| frame.sections.contains(section))
}

/// The whole document of a page.
pub fn html(frame: &Frame, page: &Page) -> String {
    let (section, title, body, live) = content(frame, page);
    let document = markup! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (visible(&title)) " · " (visible(&frame.trust_domain)) }
                link rel="stylesheet" href=(STYLE.path);
                link rel="icon" type="image/svg+xml" href=(ICON.path);
                script src=(SCRIPT.path) defer {}
            }
            body {
                a.skip href="#main" { "Skip to content" }
                (header(frame, section))
                main #main tabindex="-1" data-live[live] {
                    h1 { (visible(&title)) }
                    (body)
                }
                (footer(frame))
            }
        }
    };
    document.into_string()
}

fn header(frame: &Frame, section: Section) -> Markup {
    markup! {
        header {
            p.brand { strong { "Signet" } " " span.domain { (visible(&frame.trust_domain)) } }
            @if !frame.user.is_empty() {
                nav aria-label="Sections" {
                    ul {
                        @for (of, path, label, key) in sections(frame) {
                            li {
                                a href=(path) data-key=(key)
                                    aria-current=[(of == section).then_some("page")] { (label) }
                            }
                        }
                    }
                }
                div.user {
                    span title="Who is logged in" { (visible(&frame.user)) }
                    @if frame.can_log_out {
                        form method="post" action="/logout" {
                            (parts::csrf(frame))
                            button.quiet { "Log out" }
                        }
                    }
                }
            }
        }
    }
}

fn footer(frame: &Frame) -> Markup {
    markup! {
        footer {
            p {
                kbd { "/" } " search  " kbd { "g" } " then a letter: go to a section  "
                kbd { "j" } " " kbd { "k" } " rows  " kbd { "?" } " keys"
            }
        }
        dialog #keys aria-labelledby="keys-title" {
            h2 #keys-title { "Keys" }
            table {
                tbody {
                    tr { th scope="row" { kbd { "/" } } td { "to the search field" } }
                    tr { th scope="row" { kbd { "j" } ", " kbd { "k" } } td { "next, previous row" } }
                    @for (_, _, label, key) in sections(frame) {
                        tr { th scope="row" { kbd { "g" } " " kbd { (key) } } td { (label) } }
                    }
                }
            }
            form method="dialog" { button { "Close" } }
        }
    }
}

fn content(frame: &Frame, page: &Page) -> (Section, String, Markup, bool) {
    let title = |text: &str| text.to_owned();
    match page {
        Page::Problems(page) => {
            (Section::Problems, title("Problems"), others::problems(frame, page), true)
        }
        Page::Authorities(page) => {
            (Section::Authorities, title("Authorities"), authorities::page(frame, page), true)
        }
        Page::Agents(page) => (Section::Agents, title("Agents"), agents::list(frame, page), false),
        Page::Agent(page) => (Section::Agents, title("Agent"), agents::detail(frame, page), false),
        Page::Entries(page) => {
            (Section::Entries, title("Entries"), entries::list(frame, page), false)
        }
        Page::Entry(page) => {
            (Section::Entries, title("Entry"), entries::detail(frame, page), false)
        }
        Page::EntryForm(page) => {
            let name = if page.id.is_some() { "Edit entry" } else { "New entry" };
            (Section::Entries, title(name), entries::form(frame, page), false)
        }
        Page::Explain(page) => (Section::Explain, title("Explain"), entries::explain(page), false),
        Page::Federation(page) => {
            (Section::Federation, title("Federation"), others::federation(frame, page), true)
        }
        Page::Activity(page) => {
            (Section::Activity, title("Activity"), others::activity(frame, page), true)
        }
        Page::Server(page) => (Section::Server, title("This server"), others::server(page), false),
        Page::Confirm(page) => {
            (Section::None, page.question.clone(), others::confirm(frame, page), false)
        }
        Page::Message(page) => (Section::None, page.title.clone(), others::message(page), false),
        Page::Login(page) => (Section::None, title("Log in"), others::login(page), false),
    }
}

/// Markup that this crate made itself, such as a picture.
fn raw(text: String) -> Markup {
    PreEscaped(text)
}
