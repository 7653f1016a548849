//! Moving from static secrets to identities: who still uses the old way, by real audit logs.

use std::{fs, process::Command};

use e2e::{
    Output, TestDir, bins, cli, eventually,
    secrets::{Secrets, Setup},
    skip,
};
use serde_json::{Value, json};
use signet_pki::{KeyType, PrivateKey};

const ORDERS: &str = "/tenants/blue/orders";

fn report(more: &[&str]) -> Output {
    let mut command = Command::new(bins::find("signet-broker"));
    cli::run(command.arg("report").args(more), "")
}

fn workload<'a>(report: &'a Value, name: &str) -> &'a Value {
    let all = report["workloads"].as_array().expect("workloads");
    let found = all.iter().find(|one| one["workload"] == name);
    found.unwrap_or_else(|| panic!("{name} is in {report}"))
}

#[test]
fn a_report_says_who_still_uses_an_old_secret_until_nobody_does() {
    let setup = Setup { broker: "log_format = \"json\"", ..Setup::default() };
    let secrets = match Secrets::with(&setup) {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    secrets.workload(ORDERS, "");
    let who = secrets.node.id(ORDERS);
    let dir = TestDir::new();

    // The new way: by the broker, which a refused call is not.
    let key = "/v1/credentials/api-key";
    assert_eq!(secrets.ask(ORDERS, "GET", key, &Value::Null).0, 200);
    assert_eq!(secrets.ask(ORDERS, "GET", "/v1/credentials/nothing", &Value::Null).0, 403);
    // The old ones: a token that somebody was given once, and a service account.
    let policy = json!({ "policy": "path \"secret/data/api\" { capabilities = [\"read\"] }" });
    secrets.bao_root("blue", "PUT", "sys/policies/acl/static", &policy);
    let made = json!({ "display_name": "orders-static", "policies": ["static"], "ttl": "1h" });
    let made = secrets.bao_root("blue", "POST", "auth/token/create", &made);
    let token = made["auth"]["client_token"].as_str().expect("a token");
    let read = |path: &str| secrets.bao_call("blue", token, "GET", path, &Value::Null).0;
    assert_eq!(read("secret/data/api"), 200);
    assert_eq!(read("secret/data/other"), 403);
    let (port, ca) = crate::openbao::reviewer(&dir);
    let host = format!("https://localhost:{port}");
    let reviewer = dir.write("reviewer", "a.b.c").display().to_string();
    let flags = ["-kubernetesHost", &host, "-kubernetesCA", &ca, "-kubernetesReviewer", &reviewer];
    secrets.bootstrap(&flags).ok();
    let account = crate::openbao::token(
        &PrivateKey::generate(KeyType::EcP256).expect("a key"),
        &json!({
            "who": "shop/orders", "aud": ["openbao/blue"], "iss": "https://kubernetes.default.svc",
            "iat": 1_700_000_000, "exp": 4_000_000_000_i64, "sub": "system:serviceaccount:shop:orders",
            "kubernetes.io": {
                "namespace": "shop", "serviceaccount": { "name": "orders", "uid": "u-1" },
            },
        }),
    );
    let login = json!({ "role": "signet-orders-shop", "jwt": account });
    let (status, answer) = secrets.bao_call("blue", "", "POST", "auth/kubernetes/login", &login);
    assert_eq!(status, 200, "{answer}");

    let audit = secrets.bao.dir().join("audit.log").display().to_string();
    let log = secrets.log_file().display().to_string();
    let same = [format!("token-orders-static={who}"), format!("shop/orders={who}")];
    let files = ["-openbaoAudit", &audit, "-brokerLog", &log, "-oldPath", "blue/secret/data/api"];
    let of = |more: &[&str]| {
        let output = report(&[&files[..], &["-output", "json"], more].concat());
        let json: Value =
            serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output}"));
        (output.code, json)
    };
    // Who is who is not known at first.
    let (code, found) = of(&[]);
    assert_eq!((code, &found["can_be_turned_off"]), (1, &json!(false)), "{found}");
    assert_eq!(workload(&found, &who)["old"]["count"], 0);
    assert_eq!(workload(&found, &who)["new"]["ways"], json!({ "broker": 1 }), "{found}");
    let stranger = workload(&found, "token-orders-static");
    assert_eq!(
        (&stranger["old"]["count"], &stranger["verdict"]),
        (&json!(1), &json!("still_used"))
    );
    assert_eq!(workload(&found, "shop/orders")["old"]["ways"], json!({ "service_account": 1 }));

    let (code, found) = of(&["-same", &same[0], "-same", &same[1]]);
    let orders = workload(&found, &who);
    assert_eq!((code, &orders["verdict"]), (1, &json!("still_used")), "{found}");
    assert_eq!(orders["old"]["ways"], json!({ "service_account": 1, "static_secret": 1 }));
    assert_eq!(orders["old_names"], json!(["shop/orders", "token-orders-static"]));
    let text = report(&[&files[..], &["-same", &same[0], "-same", &same[1]]].concat());
    text.exits(1).says(&who).says("still uses the old way").says("cannot be turned off yet");

    // Some time later nobody has used it, and the new way is in use.
    let found = eventually("the old way is quiet for a second", || {
        let (code, found) = of(&["-same", &same[0], "-same", &same[1], "-quiet", "1s"]);
        (code == 0).then_some(found)
    });
    assert_eq!(workload(&found, &who)["verdict"], "can_be_turned_off", "{found}");
    // Whoever comes back is seen.
    assert_eq!(read("secret/data/api"), 200);
    let (code, found) = of(&["-same", &same[0], "-same", &same[1], "-quiet", "1h"]);
    assert_eq!((code, &workload(&found, &who)["old"]["count"]), (1, &json!(3)), "{found}");

    // What cannot be read is said.
    let plain = dir.write("plain.log", "time=1 msg=started\n").display().to_string();
    report(&["-openbaoAudit", &audit, "-brokerLog", &plain]).exits(64).says("log_format");
    report(&["-openbaoAudit", "/nonexistent"]).exits(1).says("/nonexistent");
    report(&["-openbaoAudit", &audit, "-quiet", "soon"]).exits(64).says("-quiet");
    report(&[]).exits(64);
    assert!(fs::read_to_string(&audit).expect("the audit log").contains("token-orders-static"));
}
