//! The part of sprig that SPIRE lets `agent_path_template` use.

mod dicts;
mod encoding;
mod lists;
mod paths;
mod regexes;
mod texts;
mod urls;
mod values;
mod words;

use crate::function::Function;

const TABLES: &[&[Function]] = &[
    dicts::FUNCTIONS,
    encoding::FUNCTIONS,
    lists::FUNCTIONS,
    paths::FUNCTIONS,
    regexes::FUNCTIONS,
    texts::FUNCTIONS,
    values::FUNCTIONS,
    words::FUNCTIONS,
];

pub(crate) fn find(name: &str) -> Option<&'static Function> {
    TABLES.iter().flat_map(|table| table.iter()).find(|function| function.name == name)
}
