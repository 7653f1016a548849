//! ClusterSPIFFEID: which pods get which identity.

use serde::Deserialize;
use signet_identity::{Tenant, TrustDomain};

use super::{LabelSelector, Selector, tenant, ttl};
use crate::{data::Names, template::Template};

/// How many templates of one kind a resource may have.
const MAX_TEMPLATES: usize = 256;

/// The specification as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpiffeIdSpec {
    /// Makes the SPIFFE ID.
    #[serde(rename = "spiffeIDTemplate")]
    pub spiffe_id_template: String,
    /// Life of X.509-SVIDs.
    pub ttl: Option<String>,
    /// Life of JWT-SVIDs.
    pub jwt_ttl: Option<String>,
    /// Make DNS names.
    pub dns_name_templates: Vec<String>,
    /// Make further selectors.
    pub workload_selector_templates: Vec<String>,
    /// Foreign trust domains.
    pub federates_with: Vec<String>,
    /// Which namespaces.
    pub namespace_selector: Option<LabelSelector>,
    /// Which pods of them.
    pub pod_selector: Option<LabelSelector>,
    /// May call the server's admin API.
    pub admin: bool,
    /// Is a downstream server.
    pub downstream: bool,
    /// DNS names of the services that lead to the pod.
    #[serde(rename = "autoPopulateDNSNames")]
    pub auto_populate_dns_names: bool,
    /// Which controller acts on it.
    pub class_name: String,
    /// Only for pods that no other resource gave an identity.
    pub fallback: bool,
    /// The entry's hint.
    pub hint: String,
    /// Whose the entries are.
    pub tenant: String,
    /// Or: the label of the pod's namespace that says whose they are.
    pub tenant_namespace_label: String,
    /// JWT-SVIDs say whose they are.
    #[serde(rename = "jwtSVIDTenantClaim")]
    pub jwt_svid_tenant_claim: bool,
}

/// Whose the entries of a rule are. A pod never says so itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantSource {
    /// Nobody's.
    None,
    /// Those of this tenant.
    Fixed(Tenant),
    /// Those of the tenant that this label of the pod's namespace names.
    NamespaceLabel(String),
}

/// A checked specification.
#[derive(Debug)]
pub struct Rule {
    /// Makes the SPIFFE ID.
    pub spiffe_id: Template,
    /// Which namespaces.
    pub namespaces: Selector,
    /// Which pods of them.
    pub pods: Selector,
    /// Life of X.509-SVIDs, seconds; 0 for the server's default.
    pub ttl: i32,
    /// Life of JWT-SVIDs, seconds; 0 for the server's default.
    pub jwt_ttl: i32,
    /// Foreign trust domains.
    pub federates_with: Vec<TrustDomain>,
    /// Make DNS names.
    pub dns_names: Vec<Template>,
    /// Make further selectors.
    pub selectors: Vec<Template>,
    /// Admin.
    pub admin: bool,
    /// Downstream.
    pub downstream: bool,
    /// Add the names of services.
    pub service_names: bool,
    /// Comes last.
    pub fallback: bool,
    /// Hint.
    pub hint: String,
    /// Whose the entries are.
    pub tenant: TenantSource,
    /// JWT-SVIDs say whose they are.
    pub tenant_claim: bool,
}

impl Rule {
    /// Checks a specification.
    ///
    /// # Errors
    /// The first thing that is wrong, in spire-controller-manager's words.
    pub fn parse(spec: &SpiffeIdSpec) -> Result<Self, String> {
        if spec.spiffe_id_template.is_empty() {
            return Err("empty SPIFFEID template".to_owned());
        }
        let spiffe_id = Template::parse(&spec.spiffe_id_template)
            .map_err(|error| format!("invalid SPIFFEID template: {error}"))?;
        let namespaces = Selector::parse(spec.namespace_selector.as_ref())?;
        let pods = Selector::parse(spec.pod_selector.as_ref())?;
        let mut federates_with = Vec::with_capacity(spec.federates_with.len());
        for name in &spec.federates_with {
            let name = TrustDomain::from_name_or_id(name);
            federates_with
                .push(name.map_err(|error| format!("invalid federatesWith value: {error}"))?);
        }
        let tenant = match (tenant("tenant", &spec.tenant)?, spec.tenant_namespace_label.as_str()) {
            (None, "") => TenantSource::None,
            (Some(tenant), "") => TenantSource::Fixed(tenant),
            (None, label) => TenantSource::NamespaceLabel(label.to_owned()),
            (Some(_), _) => {
                return Err("tenant and tenantNamespaceLabel exclude each other".to_owned());
            }
        };
        if spec.jwt_svid_tenant_claim && tenant == TenantSource::None {
            return Err("jwtSVIDTenantClaim needs a tenant".to_owned());
        }
        Ok(Self {
            tenant,
            tenant_claim: spec.jwt_svid_tenant_claim,
            spiffe_id,
            namespaces,
            pods,
            ttl: ttl("ttl", spec.ttl.as_deref())?,
            jwt_ttl: ttl("jwtTtl", spec.jwt_ttl.as_deref())?,
            federates_with,
            dns_names: templates("dnsNameTemplate", &spec.dns_name_templates)?,
            selectors: templates("workloadSelectorTemplates", &spec.workload_selector_templates)?,
            admin: spec.admin,
            downstream: spec.downstream,
            service_names: spec.auto_populate_dns_names,
            fallback: spec.fallback,
            hint: spec.hint.clone(),
        })
    }

    /// The fields that its templates may look at.
    pub fn names(&self) -> Names {
        let mut names = self.spiffe_id.names().clone();
        for template in self.dns_names.iter().chain(&self.selectors) {
            names.add(template.names());
        }
        names
    }
}

fn templates(what: &str, texts: &[String]) -> Result<Vec<Template>, String> {
    if texts.len() > MAX_TEMPLATES {
        return Err(format!("invalid {what} value: more than {MAX_TEMPLATES} templates"));
    }
    texts
        .iter()
        .map(|text| Template::parse(text).map_err(|error| format!("invalid {what} value: {error}")))
        .collect()
}
