//! Random operations against a model that knows nothing of indexes: nobody gets an identity of
//! another tenant, and everybody gets their own.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use signet_time::UnixTime;

use super::*;
use crate::{AuthorizedIndex, Entry, EntryId, EntrySpec, IndexChange, SelectorSet, SpiffeId};

const TENANTS: [&str; 3] = ["blue", "red", "grey"];
const AGENTS: [&str; 3] = ["/spire/agent/t/1", "/spire/agent/t/2", "/spire/agent/k/3"];
/// Paths of workloads and node aliases, some under a tenant's place.
const PATHS: [&str; 6] =
    ["/tenants/blue/a", "/tenants/blue/b", "/tenants/red/a", "/tenants/grey/a", "/a", "/b"];

#[derive(Clone, Debug)]
enum Step {
    Tenant(usize, Option<bool>),
    Assign(usize, Option<Vec<usize>>),
    /// Entry, path, parent, tenant; whether the rules are asked first (else it is there as after a
    /// race, or from before tenants were required).
    Entry {
        id: usize,
        path: usize,
        parent: usize,
        tenant: Option<usize>,
        asked: bool,
    },
    Gone(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let tenant = || 0..TENANTS.len();
    prop_oneof![
        2 => (tenant(), prop::option::of(any::<bool>())).prop_map(|(t, s)| Step::Tenant(t, s)),
        2 => (0..AGENTS.len(), prop::option::of(prop::collection::vec(tenant(), 0..3)))
            .prop_map(|(a, t)| Step::Assign(a, t)),
        6 => (0..7usize, 0..PATHS.len(), 0..10usize, prop::option::of(tenant()), any::<bool>())
            .prop_map(|(id, path, parent, tenant, asked)| Step::Entry {
                id, path, parent, tenant, asked
            }),
        1 => (0..7usize).prop_map(Step::Gone),
    ]
}

fn id(path: &str) -> SpiffeId {
    format!("spiffe://td{path}").parse().unwrap()
}

fn tenant(n: usize) -> Tenant {
    TENANTS[n].parse().unwrap()
}

/// The first alias applies to the agents of `t`, the second to all.
fn draft(path: usize, parent: usize, tenant: Option<usize>) -> EntrySpec {
    let all: Vec<&str> =
        AGENTS.iter().chain(&PATHS).copied().chain(std::iter::once("/spire/server")).collect();
    let selectors: SelectorSet = match path % 2 {
        0 => ["t:kind:t".parse().unwrap()].into_iter().collect(),
        _ => ["t:any:1".parse().unwrap()].into_iter().collect(),
    };
    let mut draft = EntrySpec::new(id(PATHS[path]), id(all[parent]), selectors);
    draft.tenant = tenant.map(self::tenant);
    draft
}

#[derive(Default)]
struct Model {
    tenants: BTreeMap<usize, bool>,
    agents: BTreeMap<usize, BTreeSet<usize>>,
    entries: BTreeMap<usize, (usize, usize, Option<usize>)>,
}

impl Model {
    fn serves(&self, agent: usize) -> BTreeSet<usize> {
        match self.agents.get(&agent) {
            Some(assigned) if !assigned.is_empty() => assigned.clone(),
            // The rule for agents of k.
            _ if agent == 2 => [1].into_iter().collect(),
            _ => BTreeSet::new(),
        }
    }

    fn stands(&self, entry: (usize, usize, Option<usize>), by_path: bool) -> bool {
        let (path, _, Some(tenant)) = entry else { return false };
        self.tenants.get(&tenant) == Some(&true)
            && self.entries.values().all(|(p, _, t)| *p != path || *t == Some(tenant))
            && (!by_path || PATHS[path].starts_with(&format!("/tenants/{}/", TENANTS[tenant])))
    }

    /// What an agent gets, by walking up from each entry in every way.
    fn gets(&self, agent: usize, by_path: bool) -> BTreeSet<usize> {
        let serves = self.serves(agent);
        let good = |n: usize| {
            let entry = self.entries[&n];
            self.stands(entry, by_path) && entry.2.is_some_and(|tenant| serves.contains(&tenant))
        };
        let is_alias = |n: usize| {
            let (path, parent, _) = self.entries[&n];
            parent == AGENTS.len() + PATHS.len() && (path % 2 == 1 || agent < 2)
        };
        let mut reached = BTreeSet::new();
        let mut aliases = BTreeSet::new();
        loop {
            let before = (reached.len(), aliases.len());
            for (n, (_, parent, tenant)) in &self.entries {
                if !good(*n) {
                    continue;
                }
                if is_alias(*n) {
                    aliases.insert(*n);
                }
                let under = |other: &usize| {
                    let (path, _, theirs) = self.entries[other];
                    *parent == AGENTS.len() + path && theirs == *tenant
                };
                if *parent == agent || reached.iter().any(under) || aliases.iter().any(under) {
                    reached.insert(*n);
                }
            }
            if before == (reached.len(), aliases.len()) {
                return reached;
            }
        }
    }
}

fn name(n: usize) -> EntryId {
    format!("e{n}").parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_operations_leads_to_an_identity_of_another_tenant(
        by_path in any::<bool>(),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let tenancy = Tenancy {
            path: by_path.then(|| "/tenants/{tenant}".parse().unwrap()),
            agents: vec![AgentRule {
                path: "/spire/agent/k/".into(),
                selectors: ["t:any:1".parse().unwrap()].into_iter().collect(),
                tenants: [tenant(1)].into_iter().collect(),
            }],
        };
        let mut model = Model::default();
        let mut directory = Directory::default();
        let mut index = AuthorizedIndex::new("td".parse().unwrap());
        for (n, agent) in AGENTS.iter().enumerate() {
            let mut selectors = vec!["t:any:1".parse().unwrap()];
            if n < 2 {
                selectors.push("t:kind:t".parse().unwrap());
            }
            index.load(IndexChange::Node(id(agent), selectors.into_iter().collect()));
        }
        for step in steps {
            match step {
                Step::Tenant(n, state) => {
                    let state_of = |active| match active {
                        true => TenantState::Active,
                        false => TenantState::Suspended,
                    };
                    let said = state.map(|active| Assignment::Tenant(tenant(n), state_of(active)));
                    directory.apply(&Assigned::Tenant(tenant(n)), said);
                    match state {
                        Some(active) => _ = model.tenants.insert(n, active),
                        None => _ = model.tenants.remove(&n),
                    }
                }
                Step::Assign(agent, tenants) => {
                    let about = Assigned::Agent(id(AGENTS[agent]));
                    let said = tenants.as_ref().map(|tenants| {
                        let tenants = tenants.iter().map(|n| tenant(*n)).collect();
                        Assignment::Agent(id(AGENTS[agent]), tenants)
                    });
                    directory.apply(&about, said);
                    match tenants {
                        Some(tenants) => {
                            _ = model.agents.insert(agent, tenants.into_iter().collect());
                        }
                        None => _ = model.agents.remove(&agent),
                    }
                }
                Step::Entry { id: n, path, parent, tenant, asked } => {
                    let draft = draft(path, parent, tenant);
                    let judge = Judge::new(&tenancy, &directory, &index);
                    if asked && judge.creation(&name(n), &draft, &[]).is_err() {
                        continue;
                    }
                    let entry =
                        Entry { id: name(n), spec: draft, revision_number: 0, created_at: UnixTime::EPOCH };
                    index.load(IndexChange::Entry(entry));
                    model.entries.insert(n, (path, parent, tenant));
                }
                Step::Gone(n) => {
                    index.load(IndexChange::EntryGone(name(n)));
                    model.entries.remove(&n);
                }
            }
            let judge = Judge::new(&tenancy, &directory, &index);
            for (n, agent) in AGENTS.iter().enumerate() {
                let agent = id(agent);
                let expected = model.gets(n, by_path);
                let got: BTreeSet<EntryId> =
                    judge.authorized(&agent).iter().map(|entry| entry.id.clone()).collect();
                let wanted: BTreeSet<EntryId> = expected.iter().map(|n| name(*n)).collect();
                prop_assert_eq!(&got, &wanted, "{}", agent);
                for entry in model.entries.keys() {
                    let signed = judge.entry_for_agent(&agent, &name(*entry));
                    let signs = matches!(signed, Ok(Some(_)));
                    prop_assert_eq!(signs, expected.contains(entry), "{} {}", agent, entry);
                }
            }
        }
    }
}

#[test]
fn each_refusal_has_one_code_and_every_code_is_listed() {
    let id = || id("/a");
    let blue = || tenant(0);
    let td = || "other".parse().unwrap();
    let all = [
        TenantDenial::AgentAmbiguous(id()),
        TenantDenial::AgentMismatch(id(), blue()),
        TenantDenial::AgentMissing(id()),
        TenantDenial::Ambiguous(id()),
        TenantDenial::CallerMismatch(blue()),
        TenantDenial::CallerMissing,
        TenantDenial::Downstream,
        TenantDenial::FederationMismatch(td(), blue()),
        TenantDenial::Loading,
        TenantDenial::Missing,
        TenantDenial::ParentMismatch(id(), blue()),
        TenantDenial::ParentUnknown(id()),
        TenantDenial::PathMismatch(id(), blue()),
        TenantDenial::Suspended(blue()),
        TenantDenial::Unknown(blue()),
    ];
    let codes: BTreeSet<&str> = all.iter().map(TenantDenial::code).collect();
    assert_eq!(codes, TenantDenial::CODES.into_iter().collect());
    assert!(TenantDenial::CODES.is_sorted());
}

#[test]
fn names_of_tenants_fit_into_a_path_and_a_label() {
    for good in ["a", "a-b.c_d", "0", &"x".repeat(63)] {
        assert!(good.parse::<Tenant>().is_ok(), "{good}");
    }
    for bad in ["", ".", "..", "-a", "A", "a/b", "ä", "a b", &"x".repeat(64)] {
        assert!(bad.parse::<Tenant>().is_err(), "{bad}");
    }
}

#[test]
fn an_entry_may_be_created_with_its_alias_and_not_with_one_of_another_tenant() {
    let tenancy = Tenancy::default();
    let mut directory = Directory::default();
    for n in 0..2 {
        let said = Assignment::Tenant(tenant(n), TenantState::Active);
        directory.apply(&said.about(), Some(said.clone()));
    }
    let index = AuthorizedIndex::new("td".parse().unwrap());
    let judge = Judge::new(&tenancy, &directory, &index);
    let server = AGENTS.len() + PATHS.len();
    let alias = draft(0, server, Some(0));
    assert_eq!(judge.creation(&name(0), &alias, &[]), Ok(()));
    let (a, b) = (name(0), name(1));
    let child = |tenant| draft(4, AGENTS.len(), Some(tenant));
    let parent = || id(PATHS[0]);
    let batch = [(&a, &alias)];
    assert_eq!(judge.creation(&b, &child(0), &batch), Ok(()));
    assert_eq!(judge.creation(&b, &child(0), &[]), Err(TenantDenial::ParentUnknown(parent())));
    assert_eq!(
        judge.creation(&b, &child(1), &batch),
        Err(TenantDenial::ParentMismatch(parent(), tenant(1)))
    );
    let same = draft(0, server, Some(1));
    assert_eq!(judge.creation(&b, &same, &batch), Err(TenantDenial::Ambiguous(parent())));
}

#[test]
fn rules_that_contradict_each_other_leave_an_agent_without_tenants() {
    let rule = |path: &str, tenants: &[usize]| AgentRule {
        path: path.into(),
        selectors: SelectorSet::default(),
        tenants: tenants.iter().map(|n| tenant(*n)).collect(),
    };
    let tenancy = Tenancy {
        path: None,
        agents: vec![rule("/spire/agent/t/", &[0]), rule("/spire/agent/t/1", &[1])],
    };
    let mut directory = Directory::default();
    let index = AuthorizedIndex::new("td".parse().unwrap());
    let one = id(AGENTS[0]);
    let judge = Judge::new(&tenancy, &directory, &index);
    assert_eq!(judge.known_agent(&one), Err(TenantDenial::AgentAmbiguous(one.clone())));
    assert!(judge.known_agent(&id(AGENTS[1])).is_ok());
    let other = id(AGENTS[2]);
    assert_eq!(judge.known_agent(&other), Err(TenantDenial::AgentMissing(other.clone())));
    let said = Assignment::Agent(one.clone(), [tenant(2)].into_iter().collect());
    directory.apply(&said.about(), Some(said.clone()));
    let judge = Judge::new(&tenancy, &directory, &index);
    assert!(judge.known_agent(&one).unwrap().contains(&tenant(2)));
}
