//! One review: `admission.k8s.io/v1` AdmissionReview.

use serde::Deserialize;
use serde_json::{Value, json};
use signet_identity::TrustDomain;

use crate::{
    cluster::never_renders,
    resources::{
        FederationSpec, Rule, SpiffeIdSpec, StaticEntrySpec, parse_federation, parse_static_entry,
        resource,
    },
};

/// A kind of resource that is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// ClusterFederatedTrustDomain.
    FederatedTrustDomain,
    /// ClusterSPIFFEID.
    SpiffeId,
    /// ClusterStaticEntry; spire-controller-manager does not check these.
    StaticEntry,
}

impl Checked {
    /// What is checked at a path; the paths are spire-controller-manager's.
    pub fn of_path(path: &str) -> Option<Self> {
        match path {
            "/validate-spire-spiffe-io-v1alpha1-clusterfederatedtrustdomain" => {
                Some(Self::FederatedTrustDomain)
            }
            "/validate-spire-spiffe-io-v1alpha1-clusterspiffeid" => Some(Self::SpiffeId),
            "/validate-spire-spiffe-io-v1alpha1-clusterstaticentry" => Some(Self::StaticEntry),
            _ => None,
        }
    }

    /// The kind's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::FederatedTrustDomain => "ClusterFederatedTrustDomain",
            Self::SpiffeId => "ClusterSPIFFEID",
            Self::StaticEntry => "ClusterStaticEntry",
        }
    }

    /// What whoever applies the resource is to be warned of.
    fn check(self, object: Value, own: &TrustDomain) -> Result<Option<String>, String> {
        match self {
            Self::FederatedTrustDomain => {
                parse_federation(&resource::<FederationSpec>(object)?.spec?).map(|_| None)
            }
            Self::SpiffeId => {
                let spec = resource::<SpiffeIdSpec>(object)?.spec?;
                let rule = Rule::parse(&spec)?;
                Ok(never_renders(&rule, &spec, own)
                    .map(|why| format!("no pod will get an identity by this: {why}")))
            }
            Self::StaticEntry => {
                parse_static_entry(&resource::<StaticEntrySpec>(object)?.spec?).map(|_| None)
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    request: Request,
}

#[derive(Deserialize)]
struct Request {
    uid: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    object: Value,
}

/// Whether the reviewed resource is allowed, and the answer that says so. A ClusterSPIFFEID that
/// cannot give any pod of the trust domain `own` an identity is allowed with a warning.
///
/// # Errors
/// When the body is no review.
pub fn review(kind: Checked, body: &[u8], own: &TrustDomain) -> Result<(bool, Value), String> {
    let review: Review =
        serde_json::from_slice(body).map_err(|error| format!("not an AdmissionReview: {error}"))?;
    if review.api_version != "admission.k8s.io/v1" {
        let version = review.api_version;
        return Err(format!("AdmissionReview of {version:?}; expected \"admission.k8s.io/v1\""));
    }
    let Request { uid, operation, mut object } = review.request;
    let checked = match operation.as_str() {
        "CREATE" | "UPDATE" => {
            // A resource that the API server is to name has no name yet.
            if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                meta.entry("name").or_insert_with(|| json!("(to be named)"));
            }
            kind.check(object, own)
        }
        // What goes away is not checked.
        _ => Ok(None),
    };
    let mut response = json!({ "uid": uid, "allowed": checked.is_ok() });
    if let (Err(why), Some(response)) = (&checked, response.as_object_mut()) {
        response.insert(
            "status".to_owned(),
            json!({ "code": 403, "reason": "Forbidden", "message": why }),
        );
    }
    if let (Ok(Some(warning)), Some(response)) = (&checked, response.as_object_mut()) {
        response.insert("warnings".to_owned(), json!([warning]));
    }
    let answer = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": response,
    });
    Ok((checked.is_ok(), answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(kind: Checked, operation: &str, spec: Value) -> (bool, Value) {
        let review_of = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "u-1",
                "operation": operation,
                "object": { "metadata": { "name": "x" }, "spec": spec },
            },
        });
        review(kind, review_of.to_string().as_bytes(), &"td".parse().unwrap()).unwrap()
    }

    #[test]
    fn templates_that_can_never_render_pass_with_a_warning() {
        for (spec, why) in [
            (json!({"spiffeIDTemplate": "spiffe://td/{{ .PodMeta.NoSuch }}"}), "field NoSuch"),
            (json!({"spiffeIDTemplate": "spiffe://other/{{ .PodMeta.Name }}"}), "\"other\""),
            (
                json!({
                    "spiffeIDTemplate": "spiffe://td/x",
                    "dnsNameTemplates": ["{{ .PodSpec.NoSuch }}"],
                }),
                "dnsNameTemplates",
            ),
        ] {
            let (allowed, answer) = ask(Checked::SpiffeId, "CREATE", spec);
            let warning = answer["response"]["warnings"][0].as_str().unwrap_or_default();
            assert!(allowed && warning.contains(why), "{answer}");
        }
        for template in [
            "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}",
            "spiffe://td/{{ index .PodMeta.Labels \"app\" }}",
            "spiffe://td/{{ (index .PodSpec.Containers 1).Image }}",
        ] {
            let (allowed, answer) =
                ask(Checked::SpiffeId, "CREATE", json!({ "spiffeIDTemplate": template }));
            assert!(allowed && answer["response"].get("warnings").is_none(), "{answer}");
        }
    }

    #[test]
    fn good_resources_pass_and_bad_ones_are_refused_with_the_reason() {
        let good = [
            (Checked::SpiffeId, json!({"spiffeIDTemplate": "spiffe://td/{{ .PodMeta.Name }}"})),
            (
                Checked::FederatedTrustDomain,
                json!({
                    "trustDomain": "other",
                    "bundleEndpointURL": "https://other/bundle",
                    "bundleEndpointProfile": {"type": "https_web"},
                }),
            ),
            (
                Checked::StaticEntry,
                json!({
                    "spiffeID": "spiffe://td/a", "parentID": "spiffe://td/b",
                    "selectors": ["unix:uid:0"],
                }),
            ),
        ];
        for (kind, spec) in good {
            let (allowed, answer) = ask(kind, "CREATE", spec);
            assert!(allowed, "{answer}");
            assert_eq!(answer["response"], json!({"uid": "u-1", "allowed": true}));
        }
        for (kind, spec, why) in [
            (Checked::SpiffeId, json!({}), "empty SPIFFEID template"),
            (Checked::SpiffeId, json!({"spiffeIDTemplate": "{{ .A"}), "invalid SPIFFEID template"),
            (
                Checked::SpiffeId,
                json!({"spiffeIDTemplate": "x", "federatesWith": ["A B"]}),
                "invalid federatesWith value",
            ),
            (
                Checked::SpiffeId,
                json!({"spiffeIDTemplate": "x", "podSelector": {"matchExpressions": [
                    {"key": "a", "operator": "Like", "values": ["b"]}]}}),
                "valid operator",
            ),
            (Checked::SpiffeId, json!({"spiffeIDTemplate": 7}), "spec: "),
            (Checked::FederatedTrustDomain, json!({"trustDomain": "A"}), "invalid trustDomain"),
            (
                Checked::FederatedTrustDomain,
                json!({"trustDomain": "a", "bundleEndpointURL": "http://x"}),
                "scheme must be https",
            ),
            (Checked::StaticEntry, json!({}), "failed to parse SPIFFEID"),
        ] {
            let (allowed, answer) = ask(kind, "UPDATE", spec);
            let message = answer["response"]["status"]["message"].as_str().unwrap_or_default();
            assert!(!allowed && message.contains(why), "{why}: {answer}");
            assert!(ask(kind, "DELETE", json!({})).0);
        }
    }

    #[test]
    fn what_is_no_review_is_said_to_be_none() {
        for body in
            ["", "{}", "{\"apiVersion\":\"admission.k8s.io/v1beta1\",\"request\":{\"uid\":\"\"}}"]
        {
            let own = "td".parse().unwrap();
            assert!(review(Checked::SpiffeId, body.as_bytes(), &own).is_err(), "{body}");
        }
    }
}
