//! `agent_path_template`: the part of Go's text/template that agent paths use.
//!
//! Text, `{{ .Field }}` (nested: `.Subject.CommonName`, maps: `.URISanSelectors.key`), string and
//! number literals, pipelines, parentheses, and the functions in [`FUNCTIONS`] with the argument
//! order of sprig. Control structures are refused when the template is read, not when an agent
//! attests.

use std::collections::BTreeMap;

/// The longest template and the longest result, bytes.
const MAX_LEN: usize = 4096;
/// The deepest nesting of parentheses.
const MAX_DEPTH: usize = 16;

/// A template, read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    parts: Vec<Part>,
}

/// A value a template can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateValue {
    /// Named values: a struct or a map.
    Map(BTreeMap<String, TemplateValue>),
    /// A text.
    Text(String),
}

/// Why a template cannot be read or evaluated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path template: {0}")]
pub struct TemplateError(String);

/// The functions a template may call: name and number of arguments, the piped one included.
pub const FUNCTIONS: &[(&str, usize)] = &[
    ("base", 1),
    ("default", 2),
    ("dir", 1),
    ("lower", 1),
    ("nospace", 1),
    ("replace", 3),
    ("toString", 1),
    ("trim", 1),
    ("trimAll", 2),
    ("trimPrefix", 2),
    ("trimSuffix", 2),
    ("trunc", 2),
    ("upper", 1),
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Eval(Expr),
    Text(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expr {
    Call(String, Vec<Expr>),
    Field(Vec<String>),
    Literal(String),
}

impl PathTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError`] that names what is not supported or malformed.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_LEN {
            return Err(TemplateError(format!("longer than {MAX_LEN} bytes")));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find("{{") {
            let (before, after) = rest.split_at(open);
            let inner = after.get(2..).unwrap_or_default();
            let close = inner
                .find("}}")
                .ok_or_else(|| TemplateError("\"{{\" without \"}}\"".to_owned()))?;
            let (action, tail) = inner.split_at(close);
            rest = tail.get(2..).unwrap_or_default();
            let mut before = before;
            let mut action = action;
            if let Some(trimmed) = action.strip_prefix("- ") {
                (before, action) = (before.trim_end(), trimmed);
            }
            if let Some(trimmed) = action.strip_suffix(" -") {
                (rest, action) = (rest.trim_start(), trimmed);
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let mut tokens = Tokens::new(action)?;
            let expr = tokens.pipeline(0)?;
            if let Some(token) = tokens.next() {
                return Err(TemplateError(format!("unexpected {token:?} in {{{{{action}}}}}")));
            }
            parts.push(Part::Eval(expr));
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// Evaluates the template over `values`.
    ///
    /// # Errors
    /// [`TemplateError`] when a field is not there or the result is too long.
    pub fn render(&self, values: &TemplateValue) -> Result<String, TemplateError> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Eval(expr) => out.push_str(&expr.eval(values)?),
                Part::Text(text) => out.push_str(text),
            }
            if out.len() > MAX_LEN {
                return Err(TemplateError(format!("result longer than {MAX_LEN} bytes")));
            }
        }
        Ok(out)
    }
}

impl Expr {
    fn eval(&self, values: &TemplateValue) -> Result<String, TemplateError> {
        match self {
            Self::Call(name, args) => {
                let args =
                    args.iter().map(|arg| arg.eval(values)).collect::<Result<Vec<_>, _>>()?;
                call(name, &args)
            }
            Self::Field(path) => {
                let mut value = values;
                for name in path {
                    value = match value {
                        TemplateValue::Map(map) => map.get(name),
                        TemplateValue::Text(_) => None,
                    }
                    .ok_or_else(|| TemplateError(format!("no value .{}", path.join("."))))?;
                }
                match value {
                    TemplateValue::Text(text) => Ok(text.clone()),
                    TemplateValue::Map(_) => {
                        Err(TemplateError(format!(".{} is not a text", path.join("."))))
                    }
                }
            }
            Self::Literal(text) => Ok(text.clone()),
        }
    }
}

fn call(name: &str, args: &[String]) -> Result<String, TemplateError> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Ok(match (name, args.as_slice()) {
        ("base", [path]) => path.rsplit('/').next().unwrap_or_default().to_owned(),
        ("default", [fallback, ""]) => (*fallback).to_owned(),
        ("default", [_, text]) | ("toString", [text]) => (*text).to_owned(),
        ("dir", [path]) => path.rsplit_once('/').map_or(".", |(dir, _)| dir).to_owned(),
        ("lower", [text]) => text.to_lowercase(),
        ("nospace", [text]) => text.split_whitespace().collect(),
        ("replace", [from, to, text]) => text.replace(from, to),
        ("trim", [text]) => text.trim().to_owned(),
        ("trimAll", [set, text]) => text.trim_matches(|c| set.contains(c)).to_owned(),
        ("trimPrefix", [prefix, text]) => text.strip_prefix(prefix).unwrap_or(text).to_owned(),
        ("trimSuffix", [suffix, text]) => text.strip_suffix(suffix).unwrap_or(text).to_owned(),
        ("trunc", [count, text]) => {
            let count: usize =
                count.parse().map_err(|_| TemplateError(format!("trunc {count:?}")))?;
            text.chars().take(count).collect()
        }
        ("upper", [text]) => text.to_uppercase(),
        _ => return Err(TemplateError(format!("{name} called with {} arguments", args.len()))),
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Close,
    Field(Vec<String>),
    Literal(String),
    Name(String),
    Open,
    Pipe,
}

struct Tokens {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
}

impl Tokens {
    fn new(action: &str) -> Result<Self, TemplateError> {
        let mut tokens = Vec::new();
        let mut chars = action.char_indices().peekable();
        while let Some((_, c)) = chars.next() {
            match c {
                _ if c.is_whitespace() => {}
                '(' => tokens.push(Token::Open),
                ')' => tokens.push(Token::Close),
                '|' => tokens.push(Token::Pipe),
                '"' | '`' => {
                    let mut text = String::new();
                    loop {
                        match chars.next() {
                            Some((_, end)) if end == c => break,
                            Some((_, '\\')) if c == '"' => match chars.next() {
                                Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                                _ => return Err(TemplateError("unknown escape".to_owned())),
                            },
                            Some((_, inner)) => text.push(inner),
                            None => return Err(TemplateError("unterminated text".to_owned())),
                        }
                    }
                    tokens.push(Token::Literal(text));
                }
                _ => {
                    let mut word = String::from(c);
                    while let Some((_, next)) = chars.peek().copied() {
                        if !(next.is_alphanumeric() || matches!(next, '.' | '_')) {
                            break;
                        }
                        word.push(next);
                        chars.next();
                    }
                    tokens.push(word_token(&word)?);
                }
            }
        }
        Ok(Self { tokens: tokens.into_iter().peekable() })
    }

    fn next(&mut self) -> Option<Token> {
        self.tokens.next()
    }

    fn pipeline(&mut self, depth: usize) -> Result<Expr, TemplateError> {
        if depth > MAX_DEPTH {
            return Err(TemplateError("nested too deeply".to_owned()));
        }
        let mut value = self.command(None, depth)?;
        while self.tokens.next_if_eq(&Token::Pipe).is_some() {
            value = self.command(Some(value), depth)?;
        }
        Ok(value)
    }

    fn command(&mut self, piped: Option<Expr>, depth: usize) -> Result<Expr, TemplateError> {
        if let Some(Token::Name(name)) = self.tokens.peek().cloned() {
            self.tokens.next();
            let (_, arity) =
                FUNCTIONS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
                    let known: Vec<&str> = FUNCTIONS.iter().map(|(name, _)| *name).collect();
                    TemplateError(format!(
                        "function or keyword {name:?} is not supported; supported: {}",
                        known.join(", ")
                    ))
                })?;
            let mut args = Vec::new();
            while let Some(arg) = self.operand(depth)? {
                args.push(arg);
            }
            args.extend(piped);
            if args.len() != *arity {
                return Err(TemplateError(format!(
                    "{name} takes {arity} arguments, got {}",
                    args.len()
                )));
            }
            return Ok(Expr::Call(name, args));
        }
        if piped.is_some() {
            return Err(TemplateError("a function is expected after \"|\"".to_owned()));
        }
        self.operand(depth)?.ok_or_else(|| TemplateError("a value is expected".to_owned()))
    }

    fn operand(&mut self, depth: usize) -> Result<Option<Expr>, TemplateError> {
        match self.tokens.peek() {
            Some(Token::Field(_) | Token::Literal(_) | Token::Open) => {}
            _ => return Ok(None),
        }
        Ok(match self.tokens.next() {
            Some(Token::Field(path)) => Some(Expr::Field(path)),
            Some(Token::Literal(text)) => Some(Expr::Literal(text)),
            _ => {
                let inner = self.pipeline(depth + 1)?;
                if self.tokens.next() != Some(Token::Close) {
                    return Err(TemplateError("\"(\" without \")\"".to_owned()));
                }
                Some(inner)
            }
        })
    }
}

fn word_token(word: &str) -> Result<Token, TemplateError> {
    if let Some(path) = word.strip_prefix('.') {
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err(TemplateError(format!("malformed field {word:?}")));
        }
        return Ok(Token::Field(path));
    }
    if word.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(Token::Literal(word.to_owned()));
    }
    if word.chars().all(|c| c.is_alphanumeric() || c == '_') {
        return Ok(Token::Name(word.to_owned()));
    }
    Err(TemplateError(format!("unexpected {word:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> TemplateValue {
        let text = |s: &str| TemplateValue::Text(s.to_owned());
        let subject = TemplateValue::Map([("CommonName".to_owned(), text("Node.A"))].into());
        TemplateValue::Map(
            [("PluginName".to_owned(), text("x509pop")), ("Subject".to_owned(), subject)].into(),
        )
    }

    #[test]
    fn renders_what_go_would() {
        for (template, want) in [
            ("/{{ .PluginName }}/x", "/x509pop/x"),
            ("/cn/{{.Subject.CommonName|lower}}", "/cn/node.a"),
            (r#"/{{ .Subject.CommonName | replace "." "-" | trunc 4 }}"#, "/Node"),
            (r#"/{{ lower (trimPrefix "Node." .Subject.CommonName) }}"#, "/a"),
            ("/a {{- .PluginName -}} /b", "/ax509pop/b"),
        ] {
            let parsed = PathTemplate::parse(template).unwrap();
            assert_eq!(parsed.render(&values()).unwrap(), want, "{template}");
        }
    }

    #[test]
    fn refuses_at_parse_time_what_it_cannot_do() {
        for bad in [
            "{{ .A",
            "{{ if .A }}x{{ end }}",
            "{{ }}",
            "{{ .A | }}",
            "{{ lower }}",
            "{{ (.A }}",
            "{{ .A .B }}",
            "{{ \"a }}",
            "{{ .A..B }}",
            "{{ env \"PATH\" }}",
        ] {
            assert!(PathTemplate::parse(bad).is_err(), "{bad}");
        }
        let unknown = PathTemplate::parse("{{ .Nope }}").unwrap();
        assert!(unknown.render(&values()).is_err());
    }
}
