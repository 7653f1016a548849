//! Kinds of plugins: what a file may name, how many of each, and how their blocks are read.
//!
//! A program describes each kind once, in a [`Kind`]; reading the section, checking a file and
//! reading `plugin_data_file` again all go by that description.

use crate::{
    decode::Block,
    error::ConfigError,
    plugins::{Configured, Plugin, plugins},
};

/// Reads a plugin's settings from its block; none when something in it is wrong, which is reported.
pub type Decode<T> = fn(&Block<'_>) -> Option<T>;

/// A kind of plugin, such as `KeyManager`; `T` is the settings of any plugin of it.
#[derive(Debug)]
pub struct Kind<T: 'static> {
    /// As the file spells it, such as `KeyManager`.
    pub name: &'static str,
    /// As a sentence has it, such as `key manager`.
    pub noun: &'static str,
    /// How many of them a file may enable.
    pub count: Count,
    /// The plugins that this build has.
    pub plugins: &'static [(&'static str, Decode<T>)],
    /// Plugins that SPIRE has and this build has not, with what to do instead.
    pub absent: &'static [(&'static [&'static str], &'static str)],
}

/// How many plugins of a kind a file may enable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Any number, none included.
    Any,
    /// At least one.
    AtLeastOne,
    /// One or none.
    AtMostOne,
    /// One.
    One,
}

impl Count {
    /// What is wrong with `found` plugins of a kind, if anything is.
    fn problem(self, name: &str, found: usize) -> Option<String> {
        match self {
            Self::Any => None,
            Self::AtLeastOne => (found == 0).then(|| format!("at least one {name} is expected")),
            Self::AtMostOne => (found > 1).then(|| format!("at most one {name} is expected")),
            Self::One => {
                (found != 1).then(|| format!("exactly one {name} is expected, found {found}"))
            }
        }
    }
}

impl<T> Kind<T> {
    fn decode(&self, name: &str) -> Option<(&'static str, Decode<T>)> {
        self.plugins.iter().find(|(known, _)| *known == name).copied()
    }

    /// Says why `plugin`, which this build does not have, cannot be used.
    fn refuse(&self, plugin: &Plugin<'_>) {
        let noun = self.noun;
        let absent = self.absent.iter().find(|(names, _)| names.contains(&plugin.name.as_str()));
        match absent {
            Some((_, instead)) => {
                plugin.refuse(&format!("this {noun} is not in this release; {instead}"));
            }
            None => {
                let names: Vec<&str> = self.plugins.iter().map(|(name, _)| *name).collect();
                let names = listed(&names, "and");
                plugin.refuse(&format!("unknown {noun}; this build has {names}"));
            }
        }
    }
}

impl<T: Clone> Kind<T> {
    /// The plugins with what their `plugin_data_file` says now; those without one as they are.
    ///
    /// # Errors
    /// [`ConfigError`] when a file cannot be read or is wrong.
    pub fn reload<'p>(
        &self,
        plugins: impl IntoIterator<Item = &'p Configured<T>>,
    ) -> Result<Vec<Configured<T>>, ConfigError> {
        let again = plugins.into_iter().map(|plugin| match self.decode(plugin.name) {
            Some((_, decode)) => plugin.reload(decode),
            None => Ok(plugin.clone()),
        });
        again.collect()
    }
}

/// The `plugins {}` section of a file, while its kinds are read one after the other.
#[derive(Debug)]
pub struct PluginSection<'a, 'r> {
    root: &'r Block<'a>,
    left: Vec<Plugin<'a>>,
    kinds: Vec<&'static str>,
}

impl<'a, 'r> PluginSection<'a, 'r> {
    /// The section of a file; none when it is missing, which is reported.
    pub fn read(root: &'r Block<'a>) -> Option<Self> {
        Some(Self { root, left: plugins(root)?, kinds: Vec::new() })
    }

    /// Reads the plugins of one kind, in the order of the file. What is wrong with them, or with
    /// their number, is reported; plugins whose settings are wrong are left out.
    pub fn take<T>(&mut self, kind: &Kind<T>) -> Vec<Configured<T>> {
        self.take_counted(kind, kind.count)
    }

    /// As [`PluginSection::take`], with another number of them allowed.
    pub fn take_counted<T>(&mut self, kind: &Kind<T>, count: Count) -> Vec<Configured<T>> {
        self.kinds.push(kind.name);
        let (ours, left) =
            std::mem::take(&mut self.left).into_iter().partition(|one| one.kind == kind.name);
        self.left = left;
        let ours: Vec<Plugin<'a>> = ours;
        if let Some(problem) = count.problem(kind.name, ours.len()) {
            self.root.error("plugins", problem);
        }
        let mut configured = Vec::with_capacity(ours.len());
        for plugin in ours {
            match kind.decode(&plugin.name) {
                Some((name, decode)) => configured.extend(plugin.configure(name, decode)),
                None => kind.refuse(&plugin),
            }
        }
        configured
    }

    /// Reports the plugins whose kind nobody asked for.
    pub fn finish(self) {
        let kinds = listed(&self.kinds, "or");
        for plugin in self.left {
            plugin.refuse(&format!("unknown kind of plugin; expected {kinds}"));
        }
    }
}

/// `a`, `a and b`, `a, b and c`.
fn listed(names: &[&str], and: &str) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} {and} {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, Document, decode_document, parse};

    const SHAPES: Kind<u32> = Kind {
        name: "Shape",
        noun: "shape",
        count: Count::One,
        plugins: &[
            ("circle", |block| block.required("radius", block.integer("radius"))),
            ("dot", |_| Some(0)),
        ],
        absent: &[(&["square", "cube"], "use circle")],
    };

    fn read(text: &str) -> Result<Vec<(&'static str, u32)>, String> {
        let document = parse("f", text).unwrap();
        let decode = |context: &Context, document: &Document| {
            let root = Block::root(context, document);
            let mut section = PluginSection::read(&root)?;
            let shapes = section.take(&SHAPES);
            section.finish();
            Some(shapes.iter().map(|shape| (shape.name, shape.settings)).collect())
        };
        decode_document(&document, decode).map(|(shapes, _)| shapes).map_err(|e| e.to_string())
    }

    #[test]
    fn each_plugin_is_read_by_its_own_row_of_the_table() {
        let circle = "plugins { Shape \"circle\" { plugin_data { radius = 3 } } }";
        assert_eq!(read(circle).unwrap(), [("circle", 3)]);
        assert_eq!(read("plugins { Shape \"dot\" {} }").unwrap(), [("dot", 0)]);
        let error = read("plugins { Shape \"dot\" { plugin_data { radius = 3 } } }").unwrap_err();
        assert!(error.contains("radius"), "{error}");
    }

    #[test]
    fn what_this_build_has_not_is_refused_by_name() {
        let error = read("plugins { Shape \"cube\" {} }").unwrap_err();
        assert!(error.contains("this shape is not in this release; use circle"), "{error}");
        let error = read("plugins { Shape \"line\" {} }").unwrap_err();
        assert!(error.contains("unknown shape; this build has circle and dot"), "{error}");
        let error = read("plugins { Shape \"dot\" {} Colour \"red\" {} }").unwrap_err();
        assert!(error.contains("unknown kind of plugin; expected Shape"), "{error}");
    }

    #[test]
    fn there_are_as_many_as_the_kind_allows() {
        let error = read("plugins {}").unwrap_err();
        assert!(error.contains("exactly one Shape is expected, found 0"), "{error}");
        let error = read("plugins { Shape \"dot\" {} Shape \"cube\" {} }").unwrap_err();
        assert!(error.contains("exactly one Shape is expected, found 2"), "{error}");
        assert_eq!(Count::AtMostOne.problem("Shape", 1), None);
        assert!(Count::AtMostOne.problem("Shape", 2).is_some());
        assert!(Count::AtLeastOne.problem("Shape", 0).is_some());
    }
}
