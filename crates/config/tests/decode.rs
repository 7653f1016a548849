//! What a program gets when it asks a block for its keys.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use std::time::Duration;

use signet_config::{Block, ConfigError, Context, LogLevel, parse};

/// Decodes `text` with `read` and gives its value and the warnings.
fn decode<T>(
    text: &str,
    read: impl FnOnce(&Block<'_>) -> T,
) -> Result<(T, Vec<String>), ConfigError> {
    let document = parse("f.conf", text).unwrap();
    let context = Context::new("f.conf");
    let root = Block::root(&context, &document);
    let value = read(&root);
    root.finish();
    context.finish(Some(value)).map(|value| (value, context.take_warnings()))
}

fn value<T>(text: &str, read: impl FnOnce(&Block<'_>) -> T) -> T {
    decode(text, read).unwrap().0
}

fn error<T: std::fmt::Debug>(text: &str, read: impl FnOnce(&Block<'_>) -> T) -> String {
    decode(text, read).unwrap_err().to_string()
}

#[test]
fn texts_may_be_integers_and_integers_may_be_quoted() {
    assert_eq!(value("p = \"8081\"", |b| b.integer::<u16>("p")), Some(8081));
    assert_eq!(value("p = 0x10", |b| b.integer::<u16>("p")), Some(16));
    assert_eq!(value("p = \"0o17\"", |b| b.integer::<u16>("p")), Some(15));
    assert_eq!(value("p = \"1_000\"", |b| b.integer::<u16>("p")), Some(1000));
    assert_eq!(value("p = 80", |b| b.text("p")).as_deref(), Some("80"));
    assert_eq!(value("p = 0x8E", |b| b.text("p")).as_deref(), Some("0x8E"));
    for (text, wanted) in [
        ("p = 65536", "f.conf:1:1: p: 65536 is out of range"),
        ("p = -1", "f.conf:1:1: p: -1 is out of range"),
        ("p = 1.5", "f.conf:1:1: p: found \"1.5\", expected an integer"),
        ("p = \"\"", "f.conf:1:1: p: found \"\", expected an integer"),
        ("p = \"_1\"", "f.conf:1:1: p: found \"_1\", expected an integer"),
        ("p = 99999999999999999999", "expected an integer"),
        ("p = true", "f.conf:1:1: p: found a boolean, expected an integer"),
    ] {
        let found = error(text, |b| b.integer::<u16>("p"));
        assert!(found.contains(wanted), "{text}: {found}");
    }
}

#[test]
fn a_boolean_is_never_quoted_and_a_text_never_a_boolean() {
    assert_eq!(value("f = true", |b| b.boolean("f")), Some(true));
    assert!(error("f = \"true\"", |b| b.boolean("f")).contains("expected true or false"));
    assert!(error("f = true", |b| b.text("f")).contains("expected a quoted text"));
    assert!(error("f = 1.5", |b| b.text("f")).contains("expected a quoted text"));
}

#[test]
fn keys_match_in_any_case_and_the_last_value_counts() {
    let text = "Level = \"info\"\nLEVEL = \"debug\"";
    assert_eq!(value(text, |b| b.parsed::<LogLevel>("level")), Some(LogLevel::Debug));
}

#[test]
fn lists_are_joined_and_blocks_merged() {
    let text = "b { ids = [\"x\"] n = 1 }\nb { ids = [\"y\", 3] n = 2 }";
    let read = |root: &Block<'_>| {
        let block = root.block("b").unwrap();
        let read = (block.texts("ids"), block.integer::<u8>("n"));
        block.finish();
        read
    };
    assert_eq!(value(text, read), (vec!["x".into(), "y".into(), "3".into()], Some(2)));
    assert!(error("ids = \"x\"", |b| b.texts("ids")).contains("expected a list of texts"));
    assert!(error("b = 1", |b| b.block("b").is_some()).contains("f.conf:1:5: b: found a number"));
}

#[test]
fn labels_may_be_nested_or_beside_the_key_or_json() {
    for text in [
        "f \"a\" { u = \"1\" }\nf \"b\" { u = \"2\" }\nf a { v = \"3\" }",
        "f { \"a\" { u = \"1\" v = \"3\" } b { u = \"2\" } }",
        "f = [{ a { u = \"1\" v = \"3\" } }, { b { u = \"2\" } }]",
        "{\"f\": {\"a\": {\"u\": \"1\", \"v\": \"3\"}, \"b\": {\"u\": \"2\"}}}",
        "{\"f\": [{\"a\": {\"u\": \"1\", \"v\": \"3\"}}, {\"b\": [{\"u\": \"2\"}]}]}",
    ] {
        let read = |root: &Block<'_>| {
            let read = |(label, block): (String, Block<'_>)| {
                let read = (label, block.text("u"), block.text("v"));
                block.finish();
                read
            };
            root.labelled("f").into_iter().map(read).collect::<Vec<_>>()
        };
        let wanted = vec![
            ("a".to_owned(), Some("1".to_owned()), Some("3".to_owned())),
            ("b".to_owned(), Some("2".to_owned()), None),
        ];
        assert_eq!(value(text, read), wanted, "{text}");
    }
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_likely_one() {
    let text = "server {\n  log_level = \"INFO\"\n  log_levle = \"DEBUG\"\n}\nextra {}";
    let found = error(text, |root| {
        let server = root.block("server").unwrap();
        server.text("log_level");
        server.finish();
    });
    assert_eq!(
        found,
        "f.conf:3:3: unknown key \"log_levle\" in server {}; did you mean \"log_level\"?\n\
         f.conf:5:1: unknown key \"extra\" in the file"
    );
}

#[test]
fn every_problem_is_reported_in_the_order_of_the_file() {
    let text = "ttl = \"1d\"\nport = \"many\"";
    let found = error(text, |root| {
        root.integer::<u16>("port");
        root.duration("ttl");
        root.required_text("name");
    });
    let lines: Vec<&str> = found.lines().collect();
    assert_eq!(lines.len(), 3, "{found}");
    assert!(lines[0].starts_with("f.conf:1:1: ttl: not a duration"), "{found}");
    assert!(lines[1].starts_with("f.conf:1:1: name must be configured"), "{found}");
    assert!(lines[2].starts_with("f.conf:2:1: port: found \"many\""), "{found}");
}

#[test]
fn empty_values_count_as_not_set() {
    assert_eq!(value("a = \"\"", |b| b.text("a")), None);
    assert_eq!(value("a = \"\"", |b| b.duration("a")), None);
    assert_eq!(value("p = 0", |b| b.port("p")), None);
    assert_eq!(value("{\"a\": null}", |b| b.boolean("a")), None);
    value("a = false b = \"\" c = [] d = 0", |b| {
        for key in ["a", "b", "c", "d", "e"] {
            b.refuse(key, "no");
        }
    });
    let found = error("a = true", |b| b.refuse("a", "use b"));
    assert_eq!(found, "f.conf:1:1: a: use b");
    assert_eq!(value("t = \"1h\"", |b| b.duration("t")), Some(Duration::from_secs(3600)));
}
