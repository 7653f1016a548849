//! From a rule and a pod to an entry, exactly as spire-controller-manager does it.

use std::collections::{BTreeMap, HashSet};

use signet_identity::{EntrySpec, Selector, SpiffeId, Tenant, TrustDomain};
use signet_template::Value;

use super::ClusterState;
use crate::{
    data::{Root, value},
    objects::{Node, Pod},
    resources::{Rule, SpiffeIdSpec, TenantSource},
    template::Template,
};

/// How a template fails that names a field which no pod has.
const NO_FIELD: &str = "can't evaluate field";
/// A pod to try templates on.
const SAMPLE_META: &str = r#"{"name": "a", "namespace": "a", "uid": "a"}"#;
const SAMPLE_SPEC: &str = r#"{"serviceAccountName": "a", "nodeName": "a",
    "containers": [{"name": "a", "image": "a"}]}"#;

/// What templates see of a pod.
#[derive(Debug)]
pub(super) struct View {
    data: Value,
    parent_id: SpiffeId,
}

impl ClusterState {
    /// A node as templates see it, and the parent of its pods' entries.
    pub(super) fn node_values(&self, node: &Node) -> Result<(Value, Value, SpiffeId), String> {
        let meta = self.part(Root::ObjectMeta, &node.meta)?;
        let spec = self.part(Root::NodeSpec, &node.spec)?;
        let data = self.data(meta.clone(), spec.clone(), None);
        let parent_id = spiffe_id(&self.settings.parent_id, &data, &self.settings.trust_domain)
            .map_err(|error| format!("failed to render parent ID: {error}"))?;
        Ok((meta, spec, parent_id))
    }

    /// A pod as templates see it.
    pub(super) fn view(&self, pod: &Pod) -> Result<View, String> {
        if pod.node.is_empty() {
            return Err("the pod is not scheduled to a node yet".to_owned());
        }
        let node = self.nodes.get(&pod.node).and_then(|state| state.known.as_ref());
        let node = node.ok_or_else(|| format!("node {} not found in cache", pod.node))?;
        let (meta, spec, parent_id) = node.made.as_ref().map_err(Clone::clone)?;
        let pod = (self.part(Root::ObjectMeta, &pod.meta)?, self.part(Root::PodSpec, &pod.spec)?);
        let data = self.data(meta.clone(), spec.clone(), Some(pod));
        Ok(View { data, parent_id: parent_id.clone() })
    }

    fn part(&self, root: Root, json: &str) -> Result<Value, String> {
        let json: serde_json::Value =
            serde_json::from_str(json).map_err(|error| format!("reading an object: {error}"))?;
        value(root, Some(&json), &self.names).map_err(|error| error.to_string())
    }

    fn data(&self, node_meta: Value, node_spec: Value, pod: Option<(Value, Value)>) -> Value {
        let text = |text: &str| Value::Text(text.to_owned());
        let (pod_meta, pod_spec) = pod.unwrap_or((Value::Nil, Value::Nil));
        Value::Struct(BTreeMap::from([
            ("TrustDomain".to_owned(), text(self.settings.trust_domain.as_str())),
            ("ClusterName".to_owned(), text(&self.settings.name)),
            ("ClusterDomain".to_owned(), text(&self.settings.domain)),
            ("PodMeta".to_owned(), pod_meta),
            ("PodSpec".to_owned(), pod_spec),
            ("NodeMeta".to_owned(), node_meta),
            ("NodeSpec".to_owned(), node_spec),
        ]))
    }

    /// The entry that `rule` makes of `pod`.
    pub(super) fn render(&self, rule: &Rule, pod: &Pod, seen: &View) -> Result<EntrySpec, String> {
        let View { data, parent_id } = seen;
        let spiffe_id = spiffe_id(&rule.spiffe_id, data, &self.settings.trust_domain)
            .map_err(|error| format!("failed to render SPIFFE ID: {error}"))?;

        let mut dns_names = Vec::new();
        let mut known = HashSet::new();
        for template in &rule.dns_names {
            let name = template
                .render(data)
                .map_err(|error| format!("failed to render DNS name: {error}"))?;
            if known.insert(name.clone()) {
                dns_names.push(name);
            }
        }
        if rule.service_names {
            let services = self.service_names(pod).into_iter();
            dns_names.extend(services.filter(|name| known.insert(name.clone())));
        }

        // The pod on its node: nothing else may ever get this entry.
        let uid = format!("pod-uid:{}", pod.uid);
        let mut selectors =
            vec![Selector::new("k8s", &uid).map_err(|error| format!("pod UID: {error}"))?];
        for template in &rule.selectors {
            let failed = |error| format!("failed to render workload selector: {error}");
            let text = template.render(data).map_err(failed)?;
            let selector = text.parse::<Selector>();
            selectors.push(
                selector.map_err(|error| {
                    failed(format!("invalid workload selector {text:?}: {error}"))
                })?,
            );
        }
        Ok(EntrySpec {
            tenant: self.tenant_of(rule, pod)?,
            jwt_svid_tenant_claim: rule.tenant_claim,
            x509_svid_ttl: rule.ttl,
            jwt_svid_ttl: rule.jwt_ttl,
            federates_with: rule.federates_with.clone(),
            admin: rule.admin,
            downstream: rule.downstream,
            dns_names,
            hint: rule.hint.clone(),
            ..EntrySpec::new(spiffe_id, parent_id.clone(), selectors.into_iter().collect())
        })
    }

    /// Whose entry it is: what the rule or the pod's namespace says, never the pod.
    fn tenant_of(&self, rule: &Rule, pod: &Pod) -> Result<Option<Tenant>, String> {
        let label = match &rule.tenant {
            TenantSource::None => return Ok(None),
            TenantSource::Fixed(tenant) => return Ok(Some(tenant.clone())),
            TenantSource::NamespaceLabel(label) => label,
        };
        let labels = self.namespaces.get(&pod.namespace).and_then(|it| it.labels.as_ref());
        let value = labels.and_then(|labels| labels.get(label));
        let value =
            value.ok_or_else(|| format!("namespace {} has no label {label:?}", pod.namespace))?;
        let tenant = value.parse();
        tenant.map(Some).map_err(|error| format!("label {label:?} of the namespace: {error}"))
    }

    /// The DNS names of the services of the pod's namespace that lead to it, sorted.
    fn service_names(&self, pod: &Pod) -> Vec<String> {
        let services = self.services_of.get(&pod.uid).into_iter().flatten();
        let mut names = Vec::new();
        for (namespace, name) in services.filter_map(|key| key.split_once('/')) {
            if *namespace != *pod.namespace {
                continue;
            }
            names.push(name.to_owned());
            names.push(format!("{name}.{namespace}"));
            names.push(format!("{name}.{namespace}.svc"));
            if !self.settings.domain.is_empty() {
                names.push(format!("{name}.{namespace}.svc.{}", self.settings.domain));
            }
        }
        names.sort_unstable();
        names
    }
}

/// Why a rule gives no pod at all an identity, whatever the pod, as far as can be said without one.
pub(crate) fn never_renders(rule: &Rule, spec: &SpiffeIdSpec, own: &TrustDomain) -> Option<String> {
    // A trust domain that is written out is the same for every pod.
    let domain = spec.spiffe_id_template.strip_prefix("spiffe://").unwrap_or_default();
    let domain = domain.split('/').next().unwrap_or_default();
    if !(domain.is_empty() || domain.contains("{{") || domain == own.as_str()) {
        return Some(format!(
            "spiffeIDTemplate: every SPIFFE ID has trust domain {domain:?}, but this controller's \
             is \"{own}\""
        ));
    }
    let names = rule.names();
    let part = |root, json: &str| {
        let json: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
        value(root, Some(&json), &names).unwrap_or(Value::Nil)
    };
    let text = |text: &str| Value::Text(text.to_owned());
    let data = Value::Struct(BTreeMap::from([
        ("TrustDomain".to_owned(), text(own.as_str())),
        ("ClusterName".to_owned(), text("cluster")),
        ("ClusterDomain".to_owned(), text("cluster.local")),
        ("PodMeta".to_owned(), part(Root::ObjectMeta, SAMPLE_META)),
        ("PodSpec".to_owned(), part(Root::PodSpec, SAMPLE_SPEC)),
        ("NodeMeta".to_owned(), part(Root::ObjectMeta, SAMPLE_META)),
        ("NodeSpec".to_owned(), part(Root::NodeSpec, "{}")),
    ]));
    let ids = std::iter::once(("spiffeIDTemplate", &rule.spiffe_id));
    let names = rule.dns_names.iter().map(|one| ("dnsNameTemplates", one));
    let selectors = rule.selectors.iter().map(|one| ("workloadSelectorTemplates", one));
    ids.chain(names).chain(selectors).find_map(|(what, template)| {
        // Other errors may be due to what this pod lacks.
        let error = template.render(&data).err().filter(|error| error.contains(NO_FIELD))?;
        Some(format!("{what}: {error}"))
    })
}

fn spiffe_id(
    template: &Template,
    data: &Value,
    trust_domain: &TrustDomain,
) -> Result<SpiffeId, String> {
    let text = template.render(data)?;
    let id: SpiffeId = text.parse().map_err(|error| {
        // What Go's templates make of a key that is not in a map.
        let missing = if text.contains("<no value>") {
            ", where a label or another value is not there that the template names"
        } else {
            ""
        };
        format!("invalid SPIFFE ID: {error}; the template gives {text:?}{missing}")
    })?;
    if !id.is_member_of(trust_domain) {
        let got = id.trust_domain();
        return Err(format!(
            "invalid SPIFFE ID: expected trust domain \"{trust_domain}\" but got \"{got}\""
        ));
    }
    Ok(id)
}
