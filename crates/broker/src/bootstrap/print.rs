//! Showing a plan.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Form, Plan, Step};

/// What is shown in the place of a secret.
const HIDDEN: &str = "(not shown)";

/// Where OpenBao writes its audit log: it cannot be set by API any more.
pub(super) const AUDIT_HINT: &str = "\
audit \"file\" \"main\" {
  options { file_path = \"/var/log/openbao/audit.log\" }
}
";

pub(super) fn plan(plan: &Plan, form: Form) -> String {
    let mut text = String::new();
    match form {
        Form::Plan => {
            for step in &plan.steps {
                let namespace =
                    if step.namespace.is_empty() { "root" } else { step.namespace.as_str() };
                let _ = writeln!(text, "{:<10} {}   # {}", namespace, step.path, step.what);
                let _ = writeln!(text, "           {}", shown(step));
            }
            let _ = writeln!(
                text,
                "\nIn OpenBao's own configuration, for it is not set by API:\n\n{AUDIT_HINT}"
            );
        }
        Form::Json => {
            for step in &plan.steps {
                let line = json!({
                    "namespace": step.namespace,
                    "path": step.path,
                    "what": step.what,
                    "body": shown(step),
                });
                let _ = writeln!(text, "{line}");
            }
        }
        Form::Selfinit => {
            text.push_str(AUDIT_HINT);
            text.push_str("\ninitialize \"signet\" {\n");
            for (at, step) in plan.steps.iter().enumerate() {
                let path = match step.namespace.as_str() {
                    "" => step.path.clone(),
                    namespace => format!("{namespace}/{}", step.path),
                };
                let _ = writeln!(text, "  # {}", step.what);
                let _ = writeln!(text, "  request \"step-{at:03}\" {{");
                let _ = writeln!(text, "    operation = \"update\"");
                let _ = writeln!(text, "    path = {}", quoted(&path));
                if step.unless.is_some() {
                    // It may be there already.
                    let _ = writeln!(text, "    allow_failure = true");
                }
                if let Value::Object(body) = shown(step)
                    && !body.is_empty()
                {
                    let _ = writeln!(text, "    data = {{");
                    for (key, value) in &body {
                        let _ = writeln!(text, "      {key} = {}", hcl(value));
                    }
                    let _ = writeln!(text, "    }}");
                }
                text.push_str("  }\n");
            }
            text.push_str("}\n");
        }
    }
    text
}

fn shown(step: &Step) -> Value {
    let mut body = step.body.clone();
    if let Some(hidden) = step.hidden
        && let Some(value) = body.get_mut(hidden)
    {
        *value = Value::String(HIDDEN.to_owned());
    }
    body
}

fn hcl(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(hcl).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(object) => {
            let items: Vec<String> = object
                .iter()
                .map(|(key, value)| format!("{} = {}", quoted(key), hcl(value)))
                .collect();
            format!("{{ {} }}", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// A text of HCL. Its braces of templates mean nothing to OpenBao's reader unless `$` stands before.
fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}
