//! Templates against what Go's text/template (with sprig) made of them.
//!
//! `data/templates.jsonl` holds one case a line: the functions (`g`: Go's own; `s`: sprig's, a
//! missing key being an error), the template, and the result, null where Go gives an error. The
//! first line is the data of either kind. Go 1.26 and sprig 3.3 were asked.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::Value as Json;
use signet_template::{Functions, MAX_RESULT, MAX_TEMPLATE, Template, Value};

/// The value of its JSON form: `{"s": …}` is a struct, `{"m": …}` a map, `{"l": …}` a list,
/// `{"f": …}` a float.
fn value(json: &Json) -> Value {
    let fields = |json: &Json| -> BTreeMap<String, Value> {
        json.as_object().unwrap().iter().map(|(key, json)| (key.clone(), value(json))).collect()
    };
    match json {
        Json::Null => Value::Nil,
        Json::Bool(json) => Value::Bool(*json),
        Json::Number(number) => Value::Int(number.as_i64().unwrap()),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(_) => panic!("a list is an object with the key l"),
        Json::Object(object) => match object.iter().next().unwrap() {
            (key, json) if key == "s" => Value::Struct(fields(json)),
            (key, json) if key == "m" => Value::Map(fields(json)),
            (key, json) if key == "l" => {
                Value::List(json.as_array().unwrap().iter().map(value).collect())
            }
            (key, json) if key == "f" => Value::Float(json.as_str().unwrap().parse().unwrap()),
            (key, _) => panic!("unknown kind of value {key}"),
        },
    }
}

fn sprig() -> Functions {
    // Of these only the length is tested: hashes are not this crate's.
    Functions::sprig_subset().missing_key_is_error().with_source("uuidv4", || "u".repeat(36))
}

#[test]
fn every_case_gives_what_go_gives() {
    let path = std::env::var_os("SIGNET_TEMPLATE_CASES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/templates.jsonl"),
        PathBuf::from,
    );
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let data: Json = serde_json::from_str(lines.next().unwrap()).unwrap();
    let (go, with_sprig) = (value(&data["g"]), value(&data["s"]));
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in lines {
        let case: Json = serde_json::from_str(line).unwrap();
        let template = case["t"].as_str().unwrap();
        let (functions, data) = match case["m"].as_str().unwrap() {
            "g" => (Functions::go(), &go),
            _ => (sprig(), &with_sprig),
        };
        let got = Template::parse(template, &functions).and_then(|parsed| parsed.render(data));
        count += 1;
        if got.as_deref().ok() != case["w"].as_str() {
            wrong.push(format!("{template}\n  wants {}\n  got   {got:?}", case["w"]));
        }
    }
    assert!(count > 3000, "{count}");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

fn render(template: &str, data: &Value) -> Result<String, String> {
    let parsed = Template::parse(template, &sprig()).map_err(|error| error.to_string())?;
    parsed.render(data).map_err(|error| error.to_string())
}

#[test]
fn errors_name_line_and_column() {
    let data = Value::Struct(BTreeMap::new());
    for (template, wanted) in [
        ("a\n  {{ nope }}", "2:6: function \"nope\" not defined"),
        ("é {{ .Nope }}", "1:6: can't evaluate field Nope in type struct"),
        ("{{ lower\n 1 }}", "2:2: expected string"),
        ("x\n{{ if }}", "2:7: missing value for if"),
        ("{{ call . }}", "1:4: function \"call\" is not supported: there is nothing to call"),
        ("{{ . }}", "1:4: a struct cannot be printed: name the field that is wanted"),
        ("{{ trunc 1 \"é\" }}", "1:4: error calling trunc: a character would be cut in two"),
        ("{{ 1i }}", "1:4: complex number \"1i\" is not supported"),
    ] {
        assert_eq!(render(template, &data).unwrap_err(), wanted, "{template}");
    }
}

#[test]
fn no_template_runs_without_end_or_eats_the_memory() {
    let data = Value::Map(BTreeMap::new());
    let nested = |open: &str, close: &str, count: usize| {
        format!("{}1{}", open.repeat(count), close.repeat(count))
    };
    let cases = [
        "{{ define \"a\" }}{{ template \"a\" }}{{ end }}{{ template \"a\" }}".to_owned(),
        "{{ range 9223372036854775807 }}{{ end }}".to_owned(),
        "{{ range 10000 }}{{ range 10000 }}{{ end }}{{ end }}".to_owned(),
        "{{ $s := \"ab\" }}{{ range 100 }}{{ $s = print $s $s }}{{ end }}".to_owned(),
        "{{ range 100000 }}0123456789{{ end }}".to_owned(),
        "{{ repeat 9223372036854775807 \"x\" }}".to_owned(),
        "{{ indent 9223372036854775807 \"x\" }}".to_owned(),
        "{{ printf \"%999999d\" 1 }}".to_owned(),
        "{{ printf \"%.999999f\" 1.5 }}".to_owned(),
        "{{ seq 9223372036854775807 }}".to_owned(),
        "{{ $d := dict }}{{ $_ := set $d \"d\" $d }}{{ $d }}".to_owned(),
        "{{ $d := dict }}{{ $_ := set $d \"d\" $d }}{{ merge $d (dict \"d\" $d) }}".to_owned(),
        "{{ $d := dict }}{{ $_ := set $d \"d\" $d }}{{ uniq (list $d (dict \"d\" $d)) }}"
            .to_owned(),
        "{{ $l := list }}{{ range 10000 }}{{ $l = list $l $l }}{{ end }}".to_owned(),
        "{{ $d := dict }}{{ range 60 }}{{ $d = dict \"a\" $d \"b\" $d }}{{ end }}{{ $d }}"
            .to_owned(),
        "{{ regexReplaceAll \"a{1000}{1000}\" \"a\" \"b\" }}".to_owned(),
        "{{ range 1000 }}{{ $x := regexMatch \"a+b+c+\" \"abc\" }}{{ end }}".to_owned(),
        "{{ wrapWith 1 (repeat 1000 \"y\") (repeat 1000 \"x\") }}".to_owned(),
        "{{ replace \"\" (repeat 1000 \"y\") (repeat 1000 \"x\") }}".to_owned(),
        "{{ $s := repeat 262144 \" \" }}{{ range 60000 }}{{ $x := trim $s }}{{ end }}".to_owned(),
        "{{ $s := repeat 262144 \"a\" }}{{ range 60000 }}{{ $x := eq $s $s }}{{ end }}".to_owned(),
        // What no step is left for is not merely no match.
        "{{ $s := repeat 100000 \"ab\" }}{{ regexMatch \"[ab]*a[ab]{200}c\" $s }}".to_owned(),
        "{{ $s := repeat 262144 \"a\" }}{{ range 200 }}{{ $x := regexMatch \"(a|b)*c\" $s }}{{ end }}"
            .to_owned(),
        nested("{{ if 1 }}", "{{ end }}", 101),
        format!("{{{{ {} }}}}", nested("(", ")", 101)),
        format!("{{{{ {} }}}}", nested("(print ", ")", 101)),
        "x".repeat(MAX_TEMPLATE + 1),
    ];
    for template in cases {
        let shown: String = template.chars().take(80).collect();
        assert!(render(&template, &data).is_err(), "{shown}");
    }
    let deep = nested("{{ if 1 }}", "{{ end }}", 100);
    assert_eq!(render(&deep, &data).unwrap(), "1");
    let deep = format!("{{{{ {} }}}}", nested("(print ", ")", 100));
    assert_eq!(render(&deep, &data).unwrap(), "1");
    let long = format!("{{{{ repeat {MAX_RESULT} \"x\" }}}}");
    assert_eq!(render(&long, &data).unwrap().len(), MAX_RESULT);
    // Dicts nested without end are let go without recursion.
    let chain = "{{ $d := dict }}{{ $e := $d }}{{ range 10000 }}{{ $n := dict }}\
                 {{ $_ := set $e \"n\" $n }}{{ $e = $n }}{{ end }}ok";
    assert_eq!(render(chain, &data).unwrap(), "ok");
}

#[test]
fn a_missing_key_is_no_value_unless_it_is_to_be_an_error() {
    let labels = Value::Map([("a".to_owned(), Value::from("1"))].into());
    let go = Template::parse("{{ .b }}", &Functions::go()).unwrap();
    assert_eq!(go.render(&labels).unwrap(), "<no value>");
    let strict = Functions::go().missing_key_is_error();
    let strict = Template::parse("{{ .b }}", &strict).unwrap();
    assert_eq!(
        strict.render(&labels).unwrap_err().to_string(),
        "1:4: map has no entry for key \"b\""
    );
}

#[test]
fn functions_of_the_caller_are_called_with_texts() {
    let functions = Functions::go().with("shout", |text| format!("{text}!"));
    let template = Template::parse("{{ \"a\" | shout }}{{ shout \"b\" }}", &functions).unwrap();
    assert_eq!(template.render(&Value::Nil).unwrap(), "a!b!");
    for wrong in ["{{ shout }}", "{{ shout 1 }}", "{{ shout \"a\" \"b\" }}", "{{ 1 | shout }}"] {
        let template = Template::parse(wrong, &functions).unwrap();
        assert!(template.render(&Value::Nil).is_err(), "{wrong}");
    }
}

#[test]
fn templates_are_equal_when_their_texts_are() {
    let parse = |text| Template::parse(text, &Functions::go()).unwrap();
    assert_eq!(parse("{{ .a }}"), parse("{{ .a }}"));
    assert_ne!(parse("{{ .a }}"), parse("{{ .b }}"));
    assert_eq!(parse("{{ .a }}").text(), "{{ .a }}");
}
