//! The `plugins {}` section: what is common to every plugin.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
};

use crate::{
    decode::{Block, Context},
    error::ConfigError,
};

/// A plugin's settings and where they came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured<T> {
    /// Its name, such as `join_token`.
    pub name: &'static str,
    /// The settings.
    pub settings: T,
    /// Where they came from.
    pub source: PluginSource,
}

impl<T> Deref for Configured<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.settings
    }
}

impl<T> Configured<T> {
    /// Whether the settings are in a file of their own, which is read again on SIGUSR1.
    pub fn is_from_file(&self) -> bool {
        matches!(self.source, PluginSource::File(_))
    }
}

impl<T: Clone> Configured<T> {
    /// The plugin with what its `plugin_data_file` says now; without such a file, as it is.
    ///
    /// # Errors
    /// [`ConfigError`] when the file cannot be read or is wrong.
    pub(crate) fn reload(
        &self,
        decode: impl FnOnce(&Block<'_>) -> Option<T>,
    ) -> Result<Self, ConfigError> {
        let PluginSource::File(path) = &self.source else { return Ok(self.clone()) };
        let (settings, _) = read_data(path, decode)?;
        Ok(Self { name: self.name, settings, source: self.source.clone() })
    }
}

/// Where a plugin's settings came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginSource {
    /// `plugin_data` (or nothing): fixed until the next start.
    Inline,
    /// `plugin_data_file`: read again on SIGUSR1.
    File(PathBuf),
}

/// An enabled plugin as the file declares it, `Kind "name" { … }`.
#[derive(Debug)]
pub(crate) struct Plugin<'a> {
    /// Its kind, such as `NodeAttestor`.
    pub(crate) kind: String,
    /// Its name, such as `join_token`.
    pub(crate) name: String,
    block: Block<'a>,
}

/// The enabled plugins of `plugins {}`, in the order of the file; none when the section is
/// missing, which is reported.
pub(crate) fn plugins<'a>(root: &Block<'a>) -> Option<Vec<Plugin<'a>>> {
    let Some(section) = root.block("plugins") else {
        root.missing("plugins");
        return None;
    };
    let mut plugins: Vec<Plugin<'a>> = Vec::new();
    let mut seen: Vec<(String, String)> = Vec::new();
    for (kind, name, block) in section.pairs() {
        let pair = (kind, name);
        if seen.contains(&pair) {
            let (kind, name) = &pair;
            let message = format!("plugin {kind} {name:?} is declared more than once");
            root.context().error(block.pos(), message);
            continue;
        }
        seen.push(pair.clone());
        let (kind, name) = pair;
        block.refuse(
            "plugin_cmd",
            "external plugins are not supported; this build has the plugins that its documentation \
             lists, and no others are loaded",
        );
        for key in ["plugin_args", "plugin_checksum"] {
            block.refuse(key, "it belongs to external plugins, which are not supported");
        }
        let enabled = block.boolean("enabled").unwrap_or(true);
        if enabled {
            plugins.push(Plugin { kind, name, block });
        }
    }
    Some(plugins)
}

impl Plugin<'_> {
    /// Refuses the plugin with a sentence that says what to use instead.
    pub(crate) fn refuse(&self, sentence: &str) {
        let Self { kind, name, block } = self;
        block.context().error(block.pos(), format!("{kind} {name:?}: {sentence}"));
    }

    /// Reads the plugin's settings from `plugin_data` or `plugin_data_file`, to the last key.
    ///
    /// `known_as` is its name, as the table of its kind spells it. `decode` asks for the keys it knows; those it
    /// does not ask for are reported.
    pub(crate) fn configure<T>(
        self,
        known_as: &'static str,
        decode: impl FnOnce(&Block<'_>) -> Option<T>,
    ) -> Option<Configured<T>> {
        let Self { kind, name, block } = self;
        let title = format!("{kind} {name:?}");
        let data = block.block("plugin_data");
        let file = block.path("plugin_data_file");
        let context = block.context();
        let pos = block.pos();
        if data.is_some() && file.is_some() {
            let message =
                format!("{title}: only one of plugin_data and plugin_data_file can be used");
            context.error(pos, message);
            return None;
        }
        // Seen already, when the plugin was listed.
        for key in ["plugin_cmd", "plugin_args", "plugin_checksum", "enabled"] {
            block.pos_of(key);
        }
        block.named(title.as_str()).finish();
        if let Some(path) = file {
            return match read_data(&path, decode) {
                Ok((settings, warnings)) => {
                    context.absorb_warnings(warnings);
                    let source = PluginSource::File(path);
                    Some(Configured { name: known_as, settings, source })
                }
                Err(error) => {
                    context.absorb(error);
                    None
                }
            };
        }
        let data = data.unwrap_or_else(|| Block::empty(context, "", pos)).named(title);
        let settings = decode(&data);
        data.finish();
        settings.map(|settings| Configured {
            name: known_as,
            settings,
            source: PluginSource::Inline,
        })
    }
}

fn read_data<T>(
    path: &Path,
    decode: impl FnOnce(&Block<'_>) -> Option<T>,
) -> Result<(T, Vec<String>), ConfigError> {
    let document = crate::read(path, None)?;
    let context = Context::new(document.file.clone());
    let root = Block::root(&context, &document);
    let settings = decode(&root);
    root.finish();
    let warnings = context.take_warnings();
    context.finish(settings).map(|settings| (settings, warnings))
}
