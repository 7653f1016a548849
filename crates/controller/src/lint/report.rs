//! Printing findings.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Finding, Form, Level, RULES};

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

pub(super) fn print(findings: &[Finding], form: Form) -> String {
    match form {
        Form::Text => {
            let mut text = String::new();
            for finding in findings {
                let Finding { rule, file, line, object, message, .. } = finding;
                let level = rule.level.name();
                let _ = writeln!(text, "{file}:{line}: {level}: {object}: {message} [{}]", rule.id);
            }
            let errors = findings.iter().filter(|f| f.rule.level == Level::Error).count();
            let _ = writeln!(text, "{errors} errors, {} warnings", findings.len() - errors);
            text
        }
        Form::Json => {
            let all: Vec<Value> = findings
                .iter()
                .map(|finding| {
                    json!({
                        "rule": finding.rule.id,
                        "level": finding.rule.level.name(),
                        "file": finding.file,
                        "line": finding.line,
                        "object": finding.object,
                        "message": finding.message,
                    })
                })
                .collect();
            format!("{}\n", Value::Array(all))
        }
        Form::Sarif => format!("{}\n", sarif(findings)),
    }
}

fn sarif(findings: &[Finding]) -> Value {
    let rules: Vec<Value> = RULES
        .iter()
        .map(|rule| {
            json!({
                "id": rule.id,
                "shortDescription": { "text": rule.text },
                "defaultConfiguration": { "level": rule.level.name() },
            })
        })
        .collect();
    let results: Vec<Value> = findings
        .iter()
        .map(|finding| {
            json!({
                "ruleId": finding.rule.id,
                "level": finding.rule.level.name(),
                "message": { "text": format!("{}: {}", finding.object, finding.message) },
                "locations": [{
                    "physicalLocation": {
                        "artifactLocation": { "uri": finding.file },
                        "region": { "startLine": finding.line },
                    },
                }],
            })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {
                "driver": {
                    "name": "signet-controller lint",
                    "version": env!("CARGO_PKG_VERSION"),
                    "rules": rules,
                },
            },
            "results": results,
        }],
    })
}
