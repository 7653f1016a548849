//! Whatever a template is, reading and executing it ends without a panic and within the bounds.

use std::collections::BTreeMap;

use proptest::prelude::*;
use signet_template::{Functions, MAX_RESULT, Template, Value};

/// Pieces that templates are made of, whole and broken.
const PIECES: &[&str] = &[
    "{{",
    "}}",
    "{{-",
    "-}}",
    "{{- ",
    " -}}",
    "/*",
    "*/",
    " ",
    "\n",
    "\t",
    "é",
    "\u{0}",
    "text",
    ".",
    ".a",
    ".l",
    ".m.k",
    ".t",
    "$",
    "$x",
    "$x.a",
    ":=",
    "=",
    ",",
    "|",
    "(",
    ")",
    "\"s\"",
    "\"",
    "`r`",
    "`",
    "'c'",
    "'",
    "\\",
    "0",
    "-1",
    "0x1f",
    "1e3",
    "1_0",
    "1e",
    "9223372036854775808",
    "true",
    "nil",
    "if ",
    "else ",
    "else if ",
    "end",
    "with ",
    "range ",
    "range 3",
    "break",
    "continue",
    "define \"d\"",
    "template \"d\" ",
    "block \"d\" ",
    "print ",
    "printf ",
    "\"%v%5d%\" ",
    "index ",
    "slice ",
    "len ",
    "eq ",
    "lt ",
    "and ",
    "or ",
    "not ",
    "html ",
    "js ",
    "urlquery ",
    "dict ",
    "set ",
    "merge ",
    "list ",
    "append ",
    "chunk ",
    "first ",
    "uniq ",
    "dig ",
    "seq ",
    "repeat ",
    "trunc ",
    "substr ",
    "wrapWith ",
    "abbrevboth ",
    "snakecase ",
    "camelcase ",
    "regexSplit ",
    "regexReplaceAll ",
    "b64dec ",
    "b32dec ",
    "urlParse ",
    "urlJoin ",
    "clean ",
    "{{$x := .m}}",
    "{{range $i, $x := .l}}",
    "{{end}}",
    "{{else}}",
    "{{if .a}}",
    "{{.t}}",
];

fn data() -> Value {
    let map = |pairs: &[(&str, Value)]| -> BTreeMap<String, Value> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
    };
    Value::Struct(map(&[
        ("a", Value::Int(3)),
        ("l", Value::List(vec![Value::from("x"), Value::Nil, Value::Float(1.5)])),
        ("m", Value::Map(map(&[("k", Value::from("v")), ("n", Value::Bool(true))]))),
        ("t", Value::from("déjà vu, HTTPServer_2 a/b/../c")),
    ]))
}

fn run(text: &str) {
    for functions in [Functions::go(), Functions::sprig_subset().missing_key_is_error()] {
        if let Ok(template) = Template::parse(text, &functions)
            && let Ok(result) = template.render(&data())
        {
            assert!(result.len() <= MAX_RESULT);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        run(&text);
    }

    #[test]
    fn any_action_is_read_or_refused(text in "[-+.$|()\"'`\\\\ a-f0-9xXpPeE_,:=%{}\n]{0,60}") {
        run(&format!("{{{{{text}}}}}"));
    }

    #[test]
    fn any_row_of_pieces_is_read_or_refused(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40),
    ) {
        run(&pieces.concat());
        run(&format!("{{{{ {} }}}}", pieces.join(" ")));
    }

    #[test]
    fn any_call_ends(
        name in prop::sample::select(vec![
            "abbrev", "abbrevboth", "b32dec", "b64dec", "base", "camelcase", "chunk", "clean",
            "dir", "indent", "initials", "kebabcase", "nospace", "plural", "printf", "repeat",
            "regexFindAll", "regexMatch", "regexReplaceAll", "regexSplit", "replace", "seq",
            "slice", "snakecase", "splitList", "substr", "swapcase", "title", "trimAll", "trunc",
            "untitle", "urlParse", "wrap", "wrapWith",
        ]),
        args in prop::collection::vec(
            prop_oneof![
                any::<i64>().prop_map(|n| n.to_string()),
                (-9_i64..99).prop_map(|n| n.to_string()),
                "\\PC{0,30}".prop_map(|text| format!("`{}`", text.replace('`', ""))),
                "[a-cA-C0-9 _.%*()+?/:@\\[\\]-]{0,20}".prop_map(|text| format!("`{text}`")),
                Just(".l".to_owned()),
            ],
            0..4,
        ),
    ) {
        run(&format!("{{{{ {name} {} }}}}", args.join(" ")));
    }
}
