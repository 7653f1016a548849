//! No template takes long, whatever it calls with whatever arguments.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use std::{collections::BTreeMap, time::Duration};

use nix::time::{ClockId, clock_gettime};
use proptest::prelude::*;
use signet_template::{Functions, MAX_STEPS, MAX_TEMPLATE, Template, Value};

/// What a step may take at most; without optimization everything takes some thirty times as long.
const PER_STEP: Duration =
    if cfg!(debug_assertions) { Duration::from_micros(20) } else { Duration::from_nanos(500) };

/// The processor time of this thread: what else the machine does is not in it.
fn cpu_time() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap())
}

fn data() -> Value {
    let label = |n: usize| (format!("label-{n}"), Value::from("value"));
    let labels: BTreeMap<String, Value> = (0..20_000).map(label).collect();
    let list = (0..20_000).map(|n| Value::from(format!("{n}"))).collect();
    Value::Struct(
        [
            ("Labels".to_owned(), Value::Map(labels)),
            ("List".to_owned(), Value::List(list)),
            ("Text".to_owned(), Value::from("a b.c/D-é ".repeat(20_000))),
        ]
        .into(),
    )
}

/// Reads and executes a template, and says how long it took.
fn time_of(text: &str, data: &Value) -> Duration {
    let functions = Functions::sprig_subset().missing_key_is_error();
    let begin = cpu_time();
    if let Ok(template) = Template::parse(text, &functions) {
        let _ = template.render(data);
    }
    cpu_time() - begin
}

fn assert_short(text: &str, data: &Value) {
    let took = time_of(text, data);
    let shown: String = text.chars().take(300).collect();
    assert!(took <= PER_STEP * MAX_STEPS, "{took:?}: {shown}");
}

#[test]
fn what_was_found_to_take_seconds_does_not() {
    let data = data();
    let set = "{{ $s := repeat 100000 \"ab\" }}";
    let many_variables: String = (0..4000).map(|n| format!("{{{{$v{n}:=1}}}}")).collect();
    for body in [
        // Variables behind many others.
        format!("{many_variables}{{{{ range 100000 }}}}{{{{ $v := $v0 }}}}{{{{ end }}}}"),
        many_variables.replace(":=1", ":=$"),
        // Each character of one text looked for in the other.
        format!("{set}{{{{ range 100000 }}}}{{{{ $x := trimAll $s $s }}}}{{{{ end }}}}"),
        "{{ $x := trimAll (repeat 130000 \"é\") (repeat 100000 \"ab\") }}".to_owned(),
        // Each search looks to the end of the text, and finds one character.
        "{{ $x := regexFindAll \"a*[^a]|a\" (repeat 200000 \"a\") -1 }}".to_owned(),
        "{{ $x := regexReplaceAll \"a*[^a]|a\" (repeat 200000 \"a\") \"b\" }}".to_owned(),
        "{{ $x := regexReplaceAllLiteral \"a*[^a]|a\" (repeat 200000 \"a\") \"b\" }}".to_owned(),
        "{{ $x := regexSplit \"a*[^a]|a\" (repeat 200000 \"a\") -1 }}".to_owned(),
        // Thousands of states, followed at each byte.
        "{{ $x := regexMatch \"[ab]*a[ab]{14000}c\" (repeat 100000 \"ab\") }}".to_owned(),
        "{{ range 1000 }}{{ $x := regexMatch \"[ab]*a[ab]{14000}c\" \"abab\" }}{{ end }}"
            .to_owned(),
        "{{ range 1000 }}{{ $x := regexFind \"\\\\w{20}\" \"ab\" }}{{ end }}".to_owned(),
        // One long text in a list, many times over.
        format!(
            "{set}{{{{ $l := list {} }}}}{{{{ range 1000 }}}}{{{{ $x := sortAlpha $l }}}}{{{{ end }}}}",
            "$s ".repeat(5000)
        ),
        format!(
            "{set}{{{{ $l := list {} }}}}{{{{ range 1000 }}}}{{{{ $x := uniq $l }}}}{{{{ end }}}}",
            "$s ".repeat(5000)
        ),
        // A long key, copied whenever the keys are asked for.
        "{{ $d := dict (repeat 200000 \"a\") 1 }}{{ range 60000 }}{{ $x := keys $d }}{{ end }}"
            .to_owned(),
        "{{ $d := dict (repeat 200000 \"a\") 1 }}{{ range 60000 }}{{ range $d }}{{ end }}{{ end }}"
            .to_owned(),
        // A long literal, copied whenever it is met.
        format!("{{{{ range 60000 }}}}{{{{ $x := \"{}\" }}}}{{{{ end }}}}", "a".repeat(60_000)),
        // The type of what was given.
        "{{ range 60000 }}{{ $x := index $.Labels \"nope\" }}{{ end }}".to_owned(),
        "{{ range 60000 }}{{ $x := printf \"%T\" $.List }}{{ end }}".to_owned(),
    ] {
        assert!(body.len() <= MAX_TEMPLATE, "{}", body.len());
        assert_short(&body, &data);
    }
}

/// Every function, with the number of its arguments.
const FUNCTIONS: &[(&str, usize)] = &[
    ("abbrev", 2),
    ("abbrevboth", 3),
    ("adler32sum", 1),
    ("all", 3),
    ("any", 3),
    ("append", 2),
    ("b32dec", 1),
    ("b32enc", 1),
    ("b64dec", 1),
    ("b64enc", 1),
    ("base", 1),
    ("camelcase", 1),
    ("cat", 3),
    ("chunk", 2),
    ("clean", 1),
    ("coalesce", 3),
    ("compact", 1),
    ("concat", 2),
    ("contains", 2),
    ("default", 2),
    ("dict", 4),
    ("dig", 3),
    ("dir", 1),
    ("empty", 1),
    ("eq", 2),
    ("ext", 1),
    ("first", 1),
    ("ge", 2),
    ("get", 2),
    ("gt", 2),
    ("has", 2),
    ("hasKey", 2),
    ("hasPrefix", 2),
    ("hasSuffix", 2),
    ("html", 1),
    ("indent", 2),
    ("index", 2),
    ("initial", 1),
    ("initials", 1),
    ("isAbs", 1),
    ("join", 2),
    ("js", 1),
    ("kebabcase", 1),
    ("keys", 1),
    ("last", 1),
    ("le", 2),
    ("len", 1),
    ("list", 3),
    ("lower", 1),
    ("lt", 2),
    ("merge", 2),
    ("mergeOverwrite", 2),
    ("ne", 2),
    ("nindent", 2),
    ("nospace", 1),
    ("not", 1),
    ("omit", 2),
    ("pick", 2),
    ("pluck", 2),
    ("plural", 3),
    ("prepend", 2),
    ("print", 2),
    ("printf", 3),
    ("println", 2),
    ("quote", 2),
    ("regexFind", 2),
    ("regexFindAll", 3),
    ("regexMatch", 2),
    ("regexQuoteMeta", 1),
    ("regexReplaceAll", 3),
    ("regexReplaceAllLiteral", 3),
    ("regexSplit", 3),
    ("repeat", 2),
    ("replace", 3),
    ("rest", 1),
    ("reverse", 1),
    ("seq", 2),
    ("set", 3),
    ("slice", 3),
    ("snakecase", 1),
    ("sortAlpha", 1),
    ("splitList", 2),
    ("squote", 2),
    ("substr", 3),
    ("swapcase", 1),
    ("ternary", 3),
    ("title", 1),
    ("toString", 1),
    ("toStrings", 1),
    ("trim", 1),
    ("trimAll", 2),
    ("trimPrefix", 2),
    ("trimSuffix", 2),
    ("trunc", 2),
    ("uniq", 1),
    ("unset", 2),
    ("untitle", 1),
    ("upper", 1),
    ("urlJoin", 1),
    ("urlParse", 1),
    ("urlquery", 1),
    ("values", 1),
    ("without", 2),
    ("wrap", 2),
    ("wrapWith", 3),
];

/// Arguments that are as large, or as awkward, as can be.
const ARGUMENTS: &[&str] = &[
    "$long",
    "$words",
    "$marks",
    "$regex",
    "$many",
    "$same",
    "$dict",
    ".List",
    ".Labels",
    ".Text",
    "\"\"",
    "\"a\"",
    "\"%q%x%+q%U\"",
    "\" \"",
    "0",
    "1",
    "-1",
    "7",
    "100000",
    "true",
    "nil",
    "1.5e300",
    "\"%.60000f\"",
];

const SETTING: &str = "{{ $long := repeat 12000 `ab` }}{{ $words := repeat 3000 `aB-c_9 ` }}\
    {{ $marks := repeat 4000 `<&\u{e9}%` }}{{ $regex := `(a|b)*a[ab]{40}c|.` }}\
    {{ $many := splitList `` (repeat 3000 `ab`) }}{{ $same := list $long $long $long $long }}\
    {{ $dict := dict $long 1 `a` $same `b` (dict `c` $words) }}";

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_call_takes_long_however_often_it_is_made(
        (name, count) in prop::sample::select(FUNCTIONS),
        arguments in prop::collection::vec(prop::sample::select(ARGUMENTS), 4),
    ) {
        thread_local!(static DATA: Value = data());
        let arguments = arguments[..count].join(" ");
        let text = format!(
            "{SETTING}{{{{ range 100000 }}}}{{{{ $x := {name} {arguments} }}}}{{{{ end }}}}"
        );
        DATA.with(|data| assert_short(&text.replace(" .", " $."), data));
    }
}

#[test]
fn every_function_is_among_those_that_are_tried() {
    let aliases = ["tuple", "push", "fail"];
    let source = [
        include_str!("../src/builtins.rs"),
        include_str!("../src/sprig/dicts.rs"),
        include_str!("../src/sprig/encoding.rs"),
        include_str!("../src/sprig/lists.rs"),
        include_str!("../src/sprig/paths.rs"),
        include_str!("../src/sprig/regexes.rs"),
        include_str!("../src/sprig/texts.rs"),
        include_str!("../src/sprig/values.rs"),
        include_str!("../src/sprig/words.rs"),
    ]
    .concat();
    let named =
        regex::Regex::new("(?:Function \\{\\s*name: |one\\(|two\\(|many\\()\"(\\w+)\"").unwrap();
    let mut count = 0;
    for found in named.captures_iter(&source) {
        let name = &found[1];
        count += 1;
        let tried = FUNCTIONS.iter().any(|(known, _)| *known == name);
        assert!(tried || name.starts_with("must") || aliases.contains(&name), "{name}");
    }
    assert!(count > 100, "{count}");
}
