//! What is not a configuration file is refused with the place and what was expected there.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use signet_config::parse;

fn error(text: &str) -> String {
    match parse("f", text) {
        Ok(document) => panic!("{text:?} was read as {document:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn hcl_errors_name_line_and_column() {
    for (text, wanted) in [
        ("a", "1:2: found the end of the file, expected `=` or `{` after a key"),
        ("a =", "1:4: found the end of the file, expected a value"),
        ("a = b", "1:5: found `b`, expected a value"),
        ("a b = 1", "1:5: found `=`, expected `{` after a key with labels"),
        ("a {\n  b = 1\n", "1:3: this brace is never closed"),
        ("a = [1,\n2", "1:5: this bracket is never closed"),
        ("a = [1 2]", "1:8: found the number 2, expected `,` or `]`"),
        ("a = 1 }", "1:7: found `}`, expected a key"),
        ("a = 1,, b = 2", "1:7: found `,`, expected a key"),
        ("a = \"open\nb = 1", "1:5: this text has no closing quote on its line"),
        ("a = \"${open\"", "1:6: `${` has no closing brace"),
        ("a = \"\\q\"", "1:6: unknown escape \\q in a quoted text"),
        ("a = \"\\xff\"", "1:5: the escapes in this text do not make up UTF-8"),
        ("a = \"\\U00110000\"", "1:6: a code point above 10FFFF"),
        ("a = <<EOF\ntext\n", "1:5: no line after this one ends with `EOF` alone"),
        ("a = <<\n", "1:5: expected an end mark"),
        ("a = <EOF", "1:5: expected `<<`"),
        ("/* open", "1:1: this comment has no closing `*/`"),
        ("a = 08", "1:5: a leading 0 makes a number octal"),
        ("a = 0x", "1:5: a hexadecimal number without digits"),
        ("a = 1e", "1:5: a number whose exponent has no digits"),
        ("a = +1", "1:5: unexpected character '+'"),
        ("ä = 1\nb = ;", "2:5: unexpected character ';'"),
        ("a = 1\nb = \"\u{e4}\" ;", "2:9: unexpected character ';'"),
        ("a = 1\0", "1:6: a zero byte"),
        ("true = 1", "1:1: found `true`, expected a key"),
    ] {
        let found = error(text);
        assert!(found.starts_with(wanted), "{text:?}: {found}");
    }
}

#[test]
fn json_errors_name_line_and_column() {
    for (text, wanted) in [
        ("{", "1:1: this is never closed"),
        ("{\"a\"}", "1:5: found '}', expected `:`"),
        ("{\"a\": }", "1:7: found '}', expected a value"),
        ("{\"a\": yes}", "1:7: found `yes`, expected a value"),
        ("{\"a\": 1 \"b\": 2}", "1:9: found '\"', expected `,` or `}`"),
        ("{a: 1}", "1:2: found 'a', expected a quoted key or `}`"),
        ("{\n\"a\": [1 2]}", "2:9: found '2', expected `,` or `]`"),
        ("{\"a\": 01}", "1:7: not a JSON number"),
        ("{\"a\": 1.}", "1:7: not a JSON number"),
        ("{} {}", "1:4: found '{' after the end of the object"),
        ("{\"a\": \"open}", "1:7: this text has no closing quote on its line"),
    ] {
        let found = error(text);
        assert!(found.starts_with(wanted), "{text:?}: {found}");
    }
}

#[test]
fn depth_is_bounded_in_both_forms() {
    for text in [
        format!("a = {}", "[".repeat(100_000)),
        "a {".repeat(100_000),
        "a ".repeat(100_000),
        format!("{{\"a\": {}", "[".repeat(100_000)),
        "{\"a\":".repeat(100_000),
    ] {
        let found = error(&text);
        assert!(found.ends_with("more than 64 levels deep"), "{found}");
    }
}

#[test]
fn any_cut_of_a_file_is_read_or_refused() {
    let text = "a \"b\" { c = [1, \"${x}\\u00e4\", <<-E\n  t\n  E\n ] d = 0x1f } # end\n/* e */";
    let json = "{\"a\": [{\"b\": [1.5e3, true, null]}, \"\\u00e4\\ud83d\\ude00\"], \"c\": {}}";
    for text in [text, json] {
        for (at, _) in text.char_indices() {
            let _ = parse("f", &text[..at]);
            let _ = parse("f", &text[at..]);
        }
    }
}
