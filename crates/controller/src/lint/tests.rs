use std::path::PathBuf;

use super::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn lint(text: &str) -> Vec<(&'static str, String)> {
    let findings = check(&parse("f.yaml", text).unwrap());
    findings.into_iter().map(|finding| (finding.rule.id, finding.message)).collect()
}

fn ids(text: &str) -> Vec<&'static str> {
    let mut ids: Vec<_> = lint(text).into_iter().map(|(id, _)| id).collect();
    ids.dedup();
    ids
}

fn flags(files: &[PathBuf], format: Form) -> LintFlags {
    LintFlags {
        files: files.to_vec(),
        cluster: false,
        kubeconfig: None,
        ignore: Vec::new(),
        format,
        strict: true,
    }
}

#[test]
fn what_we_ship_keeps_to_the_rules_that_we_check() {
    let mut out = Vec::new();
    let files = ["deploy/baseline", "deploy/broker", "deploy/external-secrets"];
    let files = files.map(|path| root().join(path));
    let code = main("lint", &flags(&files, Form::Text), &mut out);
    assert_eq!((code, String::from_utf8(out).unwrap()), (0, "0 errors, 0 warnings\n".to_owned()));
}

#[test]
fn each_rule_is_broken_by_what_it_is_for() {
    for (text, want) in [
        ("kind: Namespace\nmetadata: {name: a}", "namespace-pod-security"),
        ("kind: Namespace\nmetadata: {name: a}", "namespace-default-deny"),
        ("kind: Secret\nmetadata: {name: a}\ndata: {p: eA==}", "secret-in-manifest"),
        ("kind: Secret\nmetadata: {name: a}\nstringData: {p: x}", "secret-in-manifest"),
        ("kind: ServiceAccount\nmetadata: {name: default}", "automounted-token"),
        ("kind: Pod\nspec: {containers: [{name: c}]}", "default-service-account"),
        ("kind: Pod\nspec: {serviceAccountName: a, containers: [{name: c}]}", "automounted-token"),
        ("kind: Pod\nspec: {hostNetwork: true}", "pod-security"),
        ("kind: Pod\nspec: {volumes: [{name: v, hostPath: {path: /}}]}", "pod-security"),
        ("kind: Pod\nspec: {volumes: [{name: v, secret: {secretName: s}}]}", "kubernetes-secret"),
        (
            "kind: CronJob\nspec: {jobTemplate: {spec: {template: {spec: {containers: [{name: c, \
             env: [{name: DB_PASSWORD, value: hunter2}]}]}}}}}",
            "secret-in-environment",
        ),
        (
            "apiVersion: external-secrets.io/v1\nkind: ClusterSecretStore\nspec: {}",
            "cluster-wide-store",
        ),
        ("apiVersion: external-secrets.io/v1beta1\nkind: SecretStore", "store-version"),
        (
            "apiVersion: external-secrets.io/v1\nkind: SecretStore\nspec: {provider: {vault: {auth: \
             {tokenSecretRef: {name: x}}}}}",
            "store-static-credential",
        ),
        (
            "apiVersion: external-secrets.io/v1\nkind: SecretStore\nspec: {provider: {vault: {auth: \
             {kubernetes: {serviceAccountRef: {name: default}}}}}}",
            "store-audience",
        ),
        (
            "apiVersion: external-secrets.io/v1\nkind: SecretStore\nspec: {provider: {vault: {auth: \
             {kubernetes: {serviceAccountRef: {name: default, audiences: [a]}}}}}}",
            "store-default-account",
        ),
        (
            "kind: ClusterRoleBinding\nroleRef: {name: edit}\nsubjects: [{kind: Group, name: \
             'system:serviceaccounts:shop'}]",
            "role-for-everybody",
        ),
    ] {
        assert!(ids(text).contains(&want), "{want}: {text}\n{:?}", lint(text));
    }
    for harmless in [
        "kind: ConfigMap\ndata: {PASSWORD: x}",
        "kind: Secret\nmetadata: {name: a}\ntype: Opaque",
        "kind: ClusterRoleBinding\nroleRef: {name: 'system:discovery'}\nsubjects: [{kind: Group, \
         name: 'system:authenticated'}]",
        "kind: SecretStore\napiVersion: other/v1",
    ] {
        assert_eq!(ids(harmless), <[&str; 0]>::default(), "{harmless}");
    }
    assert!(!rules_name_secret("TOKEN_PATH") && rules_name_secret("GITHUB_TOKEN"));
}

fn rules_name_secret(name: &str) -> bool {
    let text = format!(
        "kind: Pod\nspec: {{containers: [{{name: c, env: [{{name: {name}, value: x}}]}}]}}"
    );
    ids(&text).contains(&"secret-in-environment")
}

#[test]
fn an_account_of_two_applications_is_named_at_both() {
    let pod = |name: &str, app: &str| {
        format!(
            "kind: Deployment\nmetadata: {{name: {name}, namespace: n, labels: {{app: {app}}}}}\n\
             spec: {{template: {{spec: {{serviceAccountName: shared, containers: []}}}}}}\n---\n"
        )
    };
    let shared = lint(&(pod("a", "a") + &pod("b", "b")));
    let shared: Vec<_> = shared.iter().filter(|(id, _)| *id == "shared-service-account").collect();
    assert_eq!(shared.len(), 2, "{shared:?}");
    assert_eq!(shared[0].1, "serviceAccountName shared is used by a, b");
    assert!(!ids(&(pod("a", "a") + &pod("a-worker", "a"))).contains(&"shared-service-account"));
}

#[test]
fn findings_have_the_line_of_their_object_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.yaml");
    fs::write(&path, "# first\nkind: ConfigMap\n---\n\nkind: Secret\ndata: {a: eA==}\n").unwrap();
    let print = |format| {
        let mut out = Vec::new();
        let code = main("lint", &flags(std::slice::from_ref(&path), format), &mut out);
        (code, String::from_utf8(out).unwrap())
    };
    let (code, text) = print(Form::Text);
    assert_eq!(code, EXIT_FAILED);
    assert!(text.contains("x.yaml:5: error: Secret : data.a"), "{text}");
    let json: Value = serde_json::from_str(&print(Form::Json).1).unwrap();
    assert_eq!((&json[0]["rule"], &json[0]["line"]), (&"secret-in-manifest".into(), &5.into()));
    let sarif: Value = serde_json::from_str(&print(Form::Sarif).1).unwrap();
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!(result["locations"][0]["physicalLocation"]["region"]["startLine"], 5);
    assert_eq!(sarif["version"], "2.1.0");
    let missing = main("lint", &flags(&["/none.yaml".into()], Form::Text), &mut Vec::new());
    assert_eq!(missing, EXIT_USAGE);
    fs::write(&path, "kind: [").unwrap();
    assert_eq!(print(Form::Text).0, EXIT_USAGE);
}
