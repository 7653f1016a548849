//! The key manager `aws_kms` against a KMS of our own that checks every signature and field.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends where it fails"
)]

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use signet_aws::{Access, Credentials, Keys, Kms, KmsSettings};
use signet_pki::{
    KeyManager, KeyType, SignError, SignatureAlgorithm,
    key_manager::{KeyStore, RemoteKeyManager, SigningLimits, conformance},
};
use support::{Fault, failure, kms::Account};

const DAY: u64 = 24 * 3600;

fn settings(server_id: &str) -> KmsSettings {
    KmsSettings {
        trust_domain: "example.org".parse().unwrap(),
        server_id: server_id.to_owned(),
        policy: None,
        tags: BTreeMap::new(),
        by_tags: false,
    }
}

fn by_tags(server_id: &str) -> KmsSettings {
    KmsSettings { by_tags: true, ..settings(server_id) }
}

fn kms(account: &Account, settings: KmsSettings) -> Kms {
    Kms::new(&account.aws.credentials(), settings).unwrap()
}

fn manager(kms: &Kms) -> RemoteKeyManager {
    RemoteKeyManager::new(Arc::new(kms.clone()), SigningLimits::default())
}

fn alias(server: &str, id: &str) -> String {
    format!("alias/SPIRE_SERVER/example_org/{server}/{id}")
}

#[tokio::test]
async fn conforms_and_names_keys_as_spire_does() {
    let account = Account::start();
    let keys = manager(&kms(&account, settings("server-1")));
    conformance::check(&keys).await;

    let rsa = keys.get_key("rsa-2048").await.unwrap().unwrap();
    for algorithm in [
        SignatureAlgorithm::RsaPkcs1Sha384,
        SignatureAlgorithm::RsaPkcs1Sha512,
        SignatureAlgorithm::RsaPssSha256,
        SignatureAlgorithm::RsaPssSha384,
        SignatureAlgorithm::RsaPssSha512,
    ] {
        rsa.sign(algorithm, b"m").await.unwrap();
    }
    let p384 = keys.get_key("ec-p384").await.unwrap().unwrap();
    let error = p384.sign(SignatureAlgorithm::EcdsaP384Sha256, b"m").await.unwrap_err();
    assert!(error.to_string().contains("KMS cannot sign by"), "{error}");

    let arn = account.target(&alias("server-1", "ec-p384")).expect("an alias");
    let key = account.key(&arn);
    assert!(key.description.starts_with("SPIRE_SERVER_KEY/example_org/ec-p384"));
    assert!(key.tags.is_empty(), "tags are for those who may tag");
    let policy: serde_json::Value = serde_json::from_str(&key.policy.unwrap()).unwrap();
    let role = &policy["Statement"][0]["Principal"]["AWS"];
    assert_eq!(role, "arn:aws:iam::123456789012:role/spire");
    assert_eq!(account.aws.count("GetCallerIdentity"), 1, "asked for once");

    assert_eq!(account.living(), 6);
    assert_eq!(keys.clean().await, 0);
    assert_eq!(account.living(), 5, "the key that was replaced is to be deleted");
    let bad = keys.generate_key("a/b", KeyType::EcP256).await.unwrap_err();
    assert!(bad.to_string().contains("cannot be an alias of KMS"), "{bad}");
}

#[tokio::test]
async fn a_restart_finds_the_keys_and_a_thousand_starts_make_no_more() {
    let account = Account::start();
    for settings in [settings("server-1"), by_tags("server-2")] {
        let first = manager(&kms(&account, settings.clone()));
        let made = first.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap();
        for _ in 0..500 {
            let again = manager(&kms(&account, settings.clone()));
            let found = again.get_key("x509-CA-A").await.unwrap().expect("the key is used again");
            assert_eq!(found.public_key(), made.public_key());
        }
        first
            .generate_key("x509-CA-A", KeyType::EcP256)
            .await
            .unwrap()
            .sign_issued(b"m")
            .await
            .unwrap();
        assert_eq!(first.clean().await, 0);
    }
    assert_eq!(account.living(), 2, "one for each server");
}

#[tokio::test]
async fn the_policy_and_the_tags_are_those_of_the_settings() {
    let account = Account::start();
    let tags = BTreeMap::from([("Team".to_owned(), "security: +1".to_owned())]);
    let policy = Some("{\"Version\":\"2012-10-17\"}".to_owned());
    let keys = manager(&kms(&account, KmsSettings { tags, policy, ..by_tags("srv") }));
    keys.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap();
    let key = account.key(&account.target(&alias("srv", "x509-CA-A")).unwrap());
    assert_eq!(key.policy.as_deref(), Some("{\"Version\":\"2012-10-17\"}"));
    let now = account.aws.unix().to_string();
    for (name, value) in [
        ("Team", "security: +1"),
        ("spire-server-td", "example.org"),
        ("spire-server-id", "srv"),
        ("spire-active", "true"),
        ("spire-key-id", "x509-CA-A"),
        ("spire-last-update", &*now),
    ] {
        assert_eq!(key.tags.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(account.aws.count("GetCallerIdentity"), 0);
}

#[tokio::test]
async fn what_spire_left_is_found_and_taken_over_by_tags_too() {
    let account = Account::start();
    // By a SPIRE server that went by aliases, beside others whose IDs and domains begin alike.
    let old =
        account.add(Some(&alias("srv", "JWT-Signer-A")), "SPIRE_SERVER_KEY/example_org/x", &[]);
    account.add(Some(&alias("srv-1", "x509-CA-B")), "", &[]);
    account.add(Some(&alias("srv/1", "x509-CA-B")), "", &[]);
    account.add(Some("alias/SPIRE_SERVER/example_org_eu/srv/x509-CA-A"), "", &[]);
    // By one that went by tags: one has lost its alias, one is on its way out.
    let tags = |state| {
        [
            ("spire-server-td", "example.org"),
            ("spire-server-id", "srv"),
            ("spire-active", state),
            ("spire-key-id", "x509-CA-A"),
            ("spire-last-update", "1"),
        ]
    };
    let lost = account.add(None, "SPIRE_SERVER_KEY/example_org/x509-CA-A", &tags("true"));
    account.add(None, "SPIRE_SERVER_KEY/example_org/x509-CA-A", &tags("false"));

    let ids = async |kms: &Kms| -> Vec<String> {
        manager(kms).list().await.unwrap().into_iter().map(|(id, _)| id).collect()
    };
    assert_eq!(ids(&kms(&account, settings("srv"))).await, ["JWT-Signer-A"]);
    let tagged = kms(&account, by_tags("srv"));
    assert_eq!(ids(&tagged).await, ["JWT-Signer-A", "x509-CA-A"]);
    tagged.refresh().await.unwrap();
    assert_eq!(account.target(&alias("srv", "x509-CA-A")), Some(lost), "it has its alias again");
    let key = account.key(&old);
    assert_eq!(key.tags["spire-key-id"], "JWT-Signer-A", "and the other one its tags");
    assert_eq!(key.tags["spire-last-update"], account.aws.unix().to_string());
}

#[tokio::test]
async fn keys_are_kept_alive_for_servers_of_both_kinds() {
    let account = Account::start();
    let store = kms(&account, settings("srv"));
    let keys = manager(&store);
    keys.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap();
    let name = alias("srv", "x509-CA-A");
    let arn = account.target(&name).unwrap();
    account.aws.pass(13 * DAY);
    store.refresh().await.unwrap();
    let now = account.aws.unix();
    assert_eq!(account.world.lock().unwrap().aliases[&name], (arn.clone(), now));
    assert_eq!(account.key(&arn).tags["spire-last-update"], now.to_string());

    // Another server looks two days later: nothing is as old as two weeks.
    account.aws.pass(2 * DAY);
    for other in [settings("other"), by_tags("other")] {
        let other = kms(&account, other);
        other.dispose().await.unwrap();
        other.sweep().await.unwrap();
    }
    assert_eq!(account.key(&arn).state, "Enabled");

    // Who may not tag asks once.
    account.aws.judge(|action| match action {
        "TagResource" => Some(Fault::Instead(400, failure("AccessDeniedException", "no"))),
        _ => None,
    });
    let asked = account.aws.count("TagResource");
    store.refresh().await.unwrap();
    store.refresh().await.unwrap();
    assert_eq!(account.aws.count("TagResource"), asked + 1);
    account.aws.release();

    // What was given up half-way left the alias with a key that is to be deleted.
    let given_up = account.add(Some(&name), "", &[]);
    account.world.lock().unwrap().keys.get_mut(&given_up).unwrap().state = "PendingDeletion";
    store.refresh().await.unwrap();
    assert_eq!(account.target(&name), Some(arn));

    // A replica with the same key identifier has rotated the key: it is left as it is.
    let rotated = account.add(Some(&name), "", &[]);
    store.refresh().await.unwrap();
    assert_eq!(account.target(&name), Some(rotated));
}

#[tokio::test]
async fn keys_of_servers_that_are_gone_are_deleted_by_their_aliases() {
    let account = Account::start();
    let gone = account.add(Some(&alias("gone", "x509-CA-A")), "", &[]);
    let own = account.add(Some(&alias("srv", "x509-CA-A")), "", &[]);
    let longer = account.add(Some(&alias("srv-1", "x509-CA-A")), "", &[]);
    let foreign = account.add(Some("alias/SPIRE_SERVER/example_org_eu/s/k"), "", &[]);
    let elsewhere = account.add(Some("alias/mine"), "", &[]);
    account.aws.pass(14 * DAY - 60);
    let fresh = account.add(Some(&alias("fresh", "x509-CA-A")), "", &[]);
    let store = kms(&account, settings("srv"));
    store.dispose().await.unwrap();
    assert_eq!(account.living(), 6, "nothing is two weeks old");
    account.aws.pass(120);
    store.dispose().await.unwrap();
    for (arn, state) in [
        (&gone, "PendingDeletion"),
        (&longer, "PendingDeletion"),
        (&own, "Enabled"),
        (&foreign, "Enabled"),
        (&elsewhere, "Enabled"),
        (&fresh, "Enabled"),
    ] {
        assert_eq!(account.key(arn).state, state, "{arn}");
    }
    assert_eq!(account.target(&alias("gone", "x509-CA-A")), None);
}

#[tokio::test]
async fn keys_of_servers_that_are_gone_are_deleted_by_their_tags() {
    let account = Account::start();
    let now = account.aws.unix();
    let add = |server: &str, updated: &str, alias: Option<&str>| {
        let mut tags = vec![
            ("spire-server-td", "example.org"),
            ("spire-server-id", server),
            ("spire-active", "true"),
            ("spire-key-id", "k"),
        ];
        if !updated.is_empty() {
            tags.push(("spire-last-update", updated));
        }
        account.add(alias, "SPIRE_SERVER_KEY/example_org/k", &tags)
    };
    let (at_start, later) = (now.to_string(), (now + 3 * i64::from(24 * 3600)).to_string());
    let gone = add("gone", &at_start, Some(&alias("gone", "k")));
    let untagged = add("gone", "", None);
    let own = add("srv", &at_start, None);
    let nonsense = add("gone", "soon", None);
    let alive = add("alive", &later, None);
    account.aws.pass(15 * DAY);
    // A server that has gone back to aliases refreshes those alone.
    let back = add("back", &at_start, Some(&alias("back", "k")));
    let young = add("gone", "", None);
    let store = kms(&account, by_tags("srv"));
    store.dispose().await.unwrap();
    for (arn, state, active) in [
        (&gone, "PendingDeletion", "false"),
        (&untagged, "PendingDeletion", "false"),
        (&own, "Enabled", "true"),
        (&nonsense, "Enabled", "true"),
        (&alive, "Enabled", "true"),
        (&back, "Enabled", "true"),
        (&young, "Enabled", "true"),
    ] {
        let key = account.key(arn);
        assert_eq!((key.state, &*key.tags["spire-active"]), (state, active), "{arn}");
    }
}

#[tokio::test]
async fn keys_that_never_got_an_alias_are_swept() {
    let account = Account::start();
    let uuid = "0b2d8d4e-6a4c-4f0e-9d43-0d2f2f0f5a01";
    let own = account.add(None, &format!("SPIRE_SERVER_KEY/example_org/k/srv/{uuid}"), &[]);
    let of_spire = account.add(None, "SPIRE_SERVER_KEY/example_org/k", &[]);
    let with_alias = account.add(Some("alias/x"), "SPIRE_SERVER_KEY/example_org/k", &[]);
    let foreign = account.add(None, "SPIRE_SERVER_KEY/example_org_eu/k", &[]);
    let others = account.add(None, "a database", &[]);
    let store = kms(&account, settings("srv"));
    store.sweep().await.unwrap();
    assert_eq!(account.living(), 5, "all are young");
    account.aws.pass(2 * 3600);
    store.sweep().await.unwrap();
    assert_eq!(account.key(&own).state, "PendingDeletion");
    assert_eq!(account.living(), 4, "those of others have 48 hours");
    account.aws.pass(48 * 3600);
    store.sweep().await.unwrap();
    assert_eq!(account.key(&of_spire).state, "PendingDeletion");
    for arn in [&with_alias, &foreign, &others] {
        assert_eq!(account.key(arn).state, "Enabled", "{arn}");
    }
}

#[tokio::test]
async fn a_server_that_is_killed_at_any_call_leaves_no_key_behind() {
    for settings in [settings("srv"), by_tags("srv")] {
        for is_done in [false, true] {
            for call in 0.. {
                let account = Account::start();
                let store = kms(&account, settings.clone());
                let first = manager(&store);
                first.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap();
                let mut seen = 0;
                account.aws.judge(move |_| {
                    seen += 1;
                    let fault = if is_done { Fault::SilenceAfter } else { Fault::Silence };
                    (seen == call + 1).then_some(fault)
                });
                let was_cut = tokio::select! {
                    made = first.generate_key("x509-CA-A", KeyType::EcP384) => {
                        made.unwrap();
                        false
                    }
                    () = account.aws.silence() => true,
                };
                account.aws.release();
                drop(first);
                let store = kms(&account, settings.clone());
                let again = manager(&store);
                let key = again.get_key("x509-CA-A").await.unwrap().expect("a key");
                key.sign_issued(b"m").await.unwrap();
                again.clean().await;
                account.aws.pass(49 * 3600);
                store.refresh().await.unwrap();
                store.sweep().await.unwrap();
                key.sign_issued(b"m").await.unwrap();
                let living = account.living();
                assert_eq!(living, 1, "after call {call}, done: {is_done}");
                if !was_cut {
                    assert!(call > 1, "there were calls to cut");
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_call_that_fails_or_is_given_up_leaves_the_old_key_in_place() {
    for settings in [settings("srv"), by_tags("srv")] {
        for action in ["CreateKey", "GetPublicKey", "UpdateAlias"] {
            for fault in [0, 1, 2, 3] {
                let account = Account::start();
                let store = kms(&account, settings.clone());
                let keys = manager(&store);
                let old = keys.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap();
                let body = failure("KMSInternalException", "oh");
                account.aws.judge(move |called| {
                    (called == action).then(|| match fault {
                        0 => Fault::Instead(400, failure("AccessDeniedException", "no")),
                        1 => Fault::Instead(500, body.clone()),
                        2 => Fault::Despite(500, body.clone()),
                        _ => Fault::SilenceAfter,
                    })
                });
                let outcome = tokio::select! {
                    made = keys.generate_key("x509-CA-A", KeyType::EcP384) => made.map(drop),
                    () = account.aws.silence() => Ok(()),
                };
                assert_eq!(outcome.is_err(), fault != 3, "{action} {fault}");
                account.aws.release();
                assert_eq!(keys.clean().await, 0);
                assert_eq!(account.living(), 1, "{action} {fault}");
                old.sign_issued(b"m").await.unwrap();
                let found = manager(&kms(&account, settings.clone()));
                let found = found.get_key("x509-CA-A").await.unwrap().expect("the old key");
                assert_eq!(found.public_key(), old.public_key(), "{action} {fault}");
                keys.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn what_may_be_repeated_is_and_nothing_else() {
    let account = Account::start();
    let keys = manager(&kms(&account, settings("srv")));
    let key = keys.generate_key("a", KeyType::EcP256).await.unwrap();
    let once = |fault: fn() -> Fault, action: &'static str| {
        let mut is_over = false;
        account.aws.judge(move |called| {
            (called == action && !std::mem::replace(&mut is_over, called == action)).then(fault)
        });
    };
    let throttled = || Fault::Instead(400, failure("ThrottlingException", "slow down"));
    let failing = || Fault::Instead(503, String::new());
    for fault in [throttled, failing] {
        once(fault, "Sign");
        let signed = account.aws.count("Sign");
        key.sign_issued(b"m").await.unwrap();
        assert_eq!(account.aws.count("Sign"), signed + 2);
    }
    once(throttled, "CreateKey");
    keys.generate_key("b", KeyType::EcP256).await.unwrap();
    assert_eq!(account.aws.count("CreateKey"), 3, "throttled: nothing was made");
    once(failing, "CreateKey");
    keys.generate_key("c", KeyType::EcP256).await.unwrap_err();
    assert_eq!(account.aws.count("CreateKey"), 4, "failed: a key may have been made");

    // For longer than that is tried.
    account.aws.judge(move |_| Some(throttled()));
    let error = key.sign_issued(b"m").await.unwrap_err();
    assert!(error.to_string().contains("the service asks for fewer calls"), "{error}");
    assert_eq!(keys.fault().unwrap().in_a_row, 1);
    account.aws.release();
    key.sign_issued(b"m").await.unwrap();
    assert_eq!(keys.fault(), None);
}

#[tokio::test]
async fn nonsense_and_silence_are_told() {
    let account = Account::start();
    let store = kms(&account, settings("srv"));
    let limits = SigningLimits { deadline: Duration::from_millis(500), ..SigningLimits::default() };
    let keys = RemoteKeyManager::new(Arc::new(store), limits);
    let key = keys.generate_key("a", KeyType::EcP256).await.unwrap();
    for (body, why) in [
        ("<html>", "it is not JSON"),
        ("{\"Signature\": 1}", "its fields are others"),
        ("{\"Signature\": \"*\"}", "what should be base64 is not"),
        ("{\"Signature\": \"AAAA\"}", "not"),
    ] {
        account.aws.judge(move |_| Some(Fault::Instead(200, body.to_owned())));
        let error = key.sign_issued(b"m").await.unwrap_err().to_string();
        assert!(error.contains(why), "{body}: {error}");
        let fresh = manager(&kms(&account, settings("srv")));
        fresh.list().await.expect_err("nonsense is no account without keys");
        manager(&kms(&account, by_tags("srv"))).list().await.unwrap_err();
    }
    account.aws.judge(|_| Some(Fault::Silence));
    let error = key.sign_issued(b"m").await.unwrap_err();
    assert!(matches!(error, SignError::TimedOut { .. }), "{error}");
    account.aws.release();
    key.sign_issued(b"m").await.unwrap();
}

#[tokio::test]
async fn a_key_that_somebody_disabled_stops_the_start_and_is_not_replaced() {
    let account = Account::start();
    let arn = account.add(Some(&alias("srv", "x509-CA-A")), "", &[]);
    account.world.lock().unwrap().keys.get_mut(&arn).unwrap().state = "Disabled";
    let keys = manager(&kms(&account, settings("srv")));
    let error = keys.get_key("x509-CA-A").await.unwrap_err().to_string();
    assert!(error.contains("enable it or cancel its deletion"), "{error}");
    keys.generate_key("x509-CA-A", KeyType::EcP256).await.unwrap_err();
    assert_eq!(account.aws.count("CreateKey"), 0);
    // And a role that may not look at tags is told which right it lacks.
    account.aws.judge(|action| {
        let denied = failure("AccessDeniedException", "no identity-based policy allows it");
        (action == "GetResources").then_some(Fault::Instead(400, denied))
    });
    let error = manager(&kms(&account, by_tags("srv"))).list().await.unwrap_err().to_string();
    assert!(error.contains("needs tag:GetResources"), "{error}");
}

#[tokio::test]
async fn other_settings_lead_to_the_same_keys_or_are_refused() {
    let account = Account::start();
    let keys = manager(&kms(&account, settings("srv")));
    let key = keys.generate_key("a", KeyType::EcP256).await.unwrap();
    keys.replace_store(Arc::new(kms(&account, by_tags("srv")))).await.unwrap();
    key.sign_issued(b"m").await.unwrap();
    let elsewhere = Arc::new(kms(&account, settings("other")));
    let error = keys.replace_store(elsewhere).await.unwrap_err();
    assert!(error.to_string().contains("is not"), "{error}");

    let access = Access { keys: Some(Keys::new("AKOTHER", "x", None)), assume_role_arn: None };
    let wrong = Credentials::new(account.aws.place(&[]), &access);
    let wrong = Kms::new(&wrong, settings("srv")).unwrap();
    let error = wrong.list().await.unwrap_err().to_string();
    assert!(error.contains("UnrecognizedClientException"), "{error}");
    assert!(!format!("{wrong:?} {access:?}").contains("\"x\""));
}
