//! The back ends that the configuration names.
//!
//! One file for each kind of plugin: its settings, how they are read and how it is opened.
//! [`Plugins`] holds the settings of all of them.

pub mod key_manager;
pub mod node_attestor;
pub mod svid_store;
pub mod workload_attestor;

use signet_config::{Block, ConfigError, Configured, Count, PluginSection};

use self::{
    key_manager::KeyManager, node_attestor::NodeAttestor, svid_store::SvidStore,
    workload_attestor::WorkloadAttestor,
};

/// The agent's plugins, each kind with as many as it allows.
#[derive(Clone, Debug)]
pub struct Plugins {
    /// `KeyManager`: exactly one.
    pub key_manager: Configured<KeyManager>,
    /// `NodeAttestor`: exactly one, unless a join token takes its place.
    pub node_attestor: Option<Configured<NodeAttestor>>,
    /// `WorkloadAttestor`: at least one.
    pub workload_attestors: Vec<Configured<WorkloadAttestor>>,
    /// `SVIDStore`: any number.
    pub svid_stores: Vec<Configured<SvidStore>>,
}

impl Plugins {
    /// Reads the section; none when it does not have what an agent needs, which is reported.
    ///
    /// With a join token the node attestor may be left out.
    pub(crate) fn read(root: &Block<'_>, has_join_token: bool) -> Option<Self> {
        let attestors = if has_join_token { Count::AtMostOne } else { node_attestor::KIND.count };
        let mut section = PluginSection::read(root)?;
        let mut key_managers = section.take(&key_manager::KIND);
        let mut node_attestors = section.take_counted(&node_attestor::KIND, attestors);
        let workload_attestors = section.take(&workload_attestor::KIND);
        let svid_stores = section.take(&svid_store::KIND);
        section.finish();
        Some(Self {
            key_manager: key_managers.pop()?,
            node_attestor: node_attestors.pop(),
            workload_attestors,
            svid_stores,
        })
    }

    /// Reads every `plugin_data_file` again and gives the plugins with the new settings.
    ///
    /// # Errors
    /// [`ConfigError`] when a file cannot be read or is wrong; nothing is changed then.
    pub fn reload(&self) -> Result<Self, ConfigError> {
        let Self { key_manager, node_attestor, workload_attestors, svid_stores } = self;
        let mut key_managers = key_manager::KIND.reload([key_manager])?;
        Ok(Self {
            key_manager: key_managers.pop().unwrap_or_else(|| key_manager.clone()),
            node_attestor: node_attestor::KIND.reload(node_attestor)?.pop(),
            workload_attestors: workload_attestor::KIND.reload(workload_attestors)?,
            // These are opened once.
            svid_stores: svid_stores.clone(),
        })
    }
}
