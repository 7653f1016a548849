use serde_json::json;
use signet_template::Value;

use super::{schema::Kind, *};
use crate::template::Template;

fn names(template: &str) -> Names {
    Names::of_template(template)
}

/// What a template makes of a pod's spec.
fn render(template: &str, spec: serde_json::Value) -> Result<String, String> {
    let names = names(template);
    let trimmed = trim(Root::PodSpec, &spec.to_string(), &names);
    let spec: serde_json::Value = serde_json::from_str(&trimmed).unwrap();
    let spec = value(Root::PodSpec, Some(&spec), &names).map_err(|error| error.to_string())?;
    let data = Value::Struct([("PodSpec".to_owned(), spec)].into());
    Template::parse(template).unwrap().render(&data)
}

#[test]
fn every_type_that_a_field_names_is_in_the_table() {
    for root in [Root::NodeSpec, Root::ObjectMeta, Root::PodSpec] {
        let Kind::Struct(at) = schema().root(root) else { panic!("{root:?}") };
        assert!(schema().fields(at).len() > 5, "{root:?}");
    }
    let Kind::Struct(at) = schema().root(Root::PodSpec) else { panic!() };
    let containers = schema().fields(at).iter().find(|field| field.go == "Containers").unwrap();
    let Kind::List(inner) = &containers.kind else { panic!("{containers:?}") };
    let Kind::Struct(at) = **inner else { panic!("{inner:?}") };
    assert!(schema().fields(at).iter().any(|field| field.json == "image"));
}

#[test]
fn only_what_a_template_mentions_is_kept_at_every_depth() {
    let template = "{{ .PodSpec.ServiceAccountName }}{{ (index .PodSpec.Containers 0).Image }}";
    let spec = json!({
        "serviceAccountName": "sa", "nodeName": "n",
        "containers": [{"image": "i", "name": "c", "env": [{"name": "SECRET"}]}],
    });
    let kept = trim(Root::PodSpec, &spec.to_string(), &names(template));
    assert_eq!(&*kept, "{\"containers\":[{\"image\":\"i\"}],\"serviceAccountName\":\"sa\"}");
    assert_eq!(render(template, spec).unwrap(), "sai");
}

#[test]
fn what_an_object_leaves_out_has_gos_zero_value() {
    for (template, made) in [
        ("[{{ .PodSpec.ServiceAccountName }}]", "[]"),
        ("{{ .PodSpec.HostNetwork }}", "false"),
        ("{{ .PodSpec.Priority }}", "<nil>"),
        ("{{ .PodSpec.RuntimeClassName }}", "<nil>"),
        ("{{ len .PodSpec.Containers }}", "0"),
        ("{{ .PodSpec.NodeSelector.zone }}", "<no value>"),
        ("{{ with .PodSpec.SecurityContext }}{{ .RunAsUser }}{{ else }}none{{ end }}", "none"),
    ] {
        assert_eq!(render(template, json!({})).as_deref(), Ok(made), "{template}");
    }
    assert_eq!(render("{{ .PodSpec.Priority }}", json!({"priority": 7})).unwrap(), "7");
}

#[test]
fn what_is_no_field_is_an_error_and_never_an_empty_text() {
    for template in [
        "{{ .PodSpec.NoSuchField }}",
        "{{ .PodSpec.serviceAccountName }}",
        "{{ .PodSpec.SecurityContext.RunAsUser }}",
        "{{ .PodSpec }}",
        "{{ .PodSpec.Overhead }}",
        "{{ .PodMeta.Name }}",
    ] {
        assert!(render(template, json!({})).is_err(), "{template}");
    }
    // What is not of its type is not taken for something else.
    let error = render("{{ .PodSpec.ServiceAccountName }}", json!({"serviceAccountName": 7}));
    assert_eq!(error.unwrap_err(), "PodSpec.ServiceAccountName is not a text");
}

#[test]
fn times_and_methods_are_as_in_go() {
    let template = "{{ .CreationTimestamp }} {{ .GetName }}";
    let names = names(template);
    let meta = json!({"name": "x", "creationTimestamp": "2026-11-21T05:30:48Z", "uid": "u"});
    let trimmed = trim(Root::ObjectMeta, &meta.to_string(), &names);
    assert_eq!(&*trimmed, "{\"creationTimestamp\":\"2026-11-21T05:30:48Z\",\"name\":\"x\"}");
    let made = value(Root::ObjectMeta, Some(&meta), &names).unwrap();
    let made = Template::parse(template).unwrap().render(&made).unwrap();
    assert_eq!(made, "2026-11-21 05:30:48 +0000 UTC x");
}
