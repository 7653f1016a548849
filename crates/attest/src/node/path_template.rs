//! `agent_path_template`: Go's text/template with the part of sprig that SPIRE allows.

use signet_pki::{digest, random};
use signet_template::{Functions, Template, TemplateError, Value};

/// Reads a template. A key that is missing in a map is an error when an agent attests, as with
/// SPIRE.
///
/// What a template makes follows `/spire/agent`, so it has to begin with a slash: without one, no
/// agent's ID would be made, and nobody could show, ban or evict it. Where a template begins with
/// an action, [`render`] sees to that.
///
/// # Errors
/// [`TemplateError`] with the place of what is malformed, the function that is not there, or the
/// slash that is missing.
pub fn parse(text: &str) -> Result<Template, TemplateError> {
    if !text.starts_with('/') && !text.starts_with("{{") {
        let message = "the path has to begin with a slash".to_owned();
        return Err(TemplateError { line: 1, column: 1, message });
    }
    let functions = Functions::sprig_subset()
        .missing_key_is_error()
        .with("sha1sum", |text| digest::sha1_hex(text.as_bytes()))
        .with("sha256sum", |text| digest::sha256_hex(text.as_bytes()))
        // Without randomness the path has an empty element, which no agent ID may have.
        .with_source("uuidv4", || random::uuid_v4().unwrap_or_default());
    Template::parse(text, &functions)
}

/// The path of an agent's ID below `/spire/agent`.
///
/// # Errors
/// Why there is none, as text.
pub fn render(template: &Template, values: &Value) -> Result<String, String> {
    let path = template.render(values).map_err(|error| error.to_string())?;
    if path.starts_with('/') {
        Ok(path)
    } else {
        Err(format!("the path {path:?} does not begin with a slash"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Value {
        let fields = |fields: &[(&str, Value)]| {
            Value::Struct(
                fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
            )
        };
        let sans = Value::Map([("zone".to_owned(), Value::from("eu/1"))].into());
        fields(&[
            ("PluginName", Value::from("x509pop")),
            ("Subject", fields(&[("CommonName", Value::from("Node.A"))])),
            ("URISanSelectors", sans),
        ])
    }

    #[test]
    fn renders_what_spire_would() {
        for (template, want) in [
            ("/{{ .PluginName }}/x", "/x509pop/x"),
            ("/cn/{{.Subject.CommonName|lower}}", "/cn/node.a"),
            (r#"/{{ .Subject.CommonName | replace "." "-" | trunc 4 }}"#, "/Node"),
            (r#"/{{ lower (trimPrefix "Node." .Subject.CommonName) }}"#, "/a"),
            ("/a {{- .PluginName -}} /b", "/ax509pop/b"),
            (r#"{{ if hasPrefix "Node" .Subject.CommonName }}/n{{ else }}/o{{ end }}"#, "/n"),
            (
                r#"/{{ sha256sum "abc" | trunc 8 }}/{{ sha1sum "abc" | trunc 8 }}"#,
                "/ba7816bf/a9993e36",
            ),
            ("/{{ .URISanSelectors.zone }}", "/eu/1"),
            (r#"/{{ len uuidv4 }}"#, "/36"),
        ] {
            assert_eq!(render(&parse(template).unwrap(), &values()).unwrap(), want, "{template}");
        }
    }

    #[test]
    fn a_path_without_a_slash_at_its_beginning_is_refused() {
        for text in ["", "x", "x/{{ .PluginName }}", " /x", "spire/agent/x"] {
            let error = parse(text).unwrap_err().to_string();
            assert_eq!(error, "1:1: the path has to begin with a slash", "{text:?}");
        }
        for text in ["{{ .PluginName }}", "{{/* c */}}x", "{{ \"\" }}"] {
            let error = render(&parse(text).unwrap(), &values()).unwrap_err();
            assert!(error.contains("does not begin with a slash"), "{text:?}: {error}");
        }
        assert_eq!(render(&parse("{{ \"/x\" }}").unwrap(), &values()).unwrap(), "/x");
    }

    #[test]
    fn what_is_not_there_is_an_error_that_names_it() {
        for (template, wanted) in [
            ("{{ .A", "unclosed action"),
            ("{{ env \"PATH\" }}", "\"env\" not defined"),
            ("{{ randAlpha 5 }}", "\"randAlpha\" not defined"),
        ] {
            assert!(parse(template).unwrap_err().to_string().contains(wanted), "{template}");
        }
        for (template, wanted) in [
            ("{{ .Nope }}", "can't evaluate field Nope"),
            ("{{ .URISanSelectors.nope }}", "no entry for key \"nope\""),
        ] {
            let error = parse(template).unwrap().render(&values()).unwrap_err().to_string();
            assert!(error.contains(wanted), "{template}: {error}");
        }
    }
}
