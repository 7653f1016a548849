//! `agent_path_template`: Go's text/template with the part of sprig that SPIRE allows.

use signet_pki::{digest, random};
use signet_template::{Functions, Template, TemplateError};

/// Reads a template. A key that is missing in a map is an error when an agent attests, as with
/// SPIRE.
///
/// # Errors
/// [`TemplateError`] with the place of what is malformed, or the function that is not there.
pub fn parse(text: &str) -> Result<Template, TemplateError> {
    let functions = Functions::sprig_subset()
        .missing_key_is_error()
        .with("sha1sum", |text| digest::sha1_hex(text.as_bytes()))
        .with("sha256sum", |text| digest::sha256_hex(text.as_bytes()))
        // Without randomness the path has an empty element, which no agent ID may have.
        .with_source("uuidv4", || random::uuid_v4().unwrap_or_default());
    Template::parse(text, &functions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use signet_template::Value;

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
            assert_eq!(parse(template).unwrap().render(&values()).unwrap(), want, "{template}");
        }
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
