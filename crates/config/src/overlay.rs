//! How a file and the flags over it become a configuration.

use std::path::PathBuf;

use crate::{Block, ConfigError, Context, Document};

/// Makes a configuration of a document: the value that `decode` gives, and what it warned about.
///
/// # Errors
/// [`ConfigError`] with everything that is wrong, by file, line and column.
pub fn decode_document<T>(
    document: &Document,
    decode: impl FnOnce(&Context, &Document) -> Option<T>,
) -> Result<(T, Vec<String>), ConfigError> {
    let context = Context::new(document.file.clone());
    let value = decode(&context, document);
    let warnings = context.take_warnings();
    context.finish(value).map(|value| (value, warnings))
}

/// The path of a flag that is set to something, else that of `key`.
pub fn path_over(flag: Option<&PathBuf>, block: &Block<'_>, key: &'static str) -> Option<PathBuf> {
    let file = block.path(key);
    flag.filter(|path| !path.as_os_str().is_empty()).cloned().or(file)
}

/// The text of a flag that is set to something, else that of `key`.
pub fn text_over(flag: Option<&String>, block: &Block<'_>, key: &'static str) -> Option<String> {
    let file = block.text(key);
    flag.filter(|text| !text.is_empty()).cloned().or(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_is_set_to_something_wins_over_the_file() {
        let document = crate::parse("f", "data_dir = \"/file\" log_level = \"warn\"");
        let document = document.unwrap();
        let over = |flag: Option<&str>| {
            let flag = flag.map(PathBuf::from);
            let decode = |context: &Context, document: &Document| {
                let root = Block::root(context, document);
                path_over(flag.as_ref(), &root, "data_dir")
            };
            decode_document(&document, decode).unwrap().0
        };
        assert_eq!(over(Some("/flag")), PathBuf::from("/flag"));
        assert_eq!(over(Some("")), PathBuf::from("/file"));
        assert_eq!(over(None), PathBuf::from("/file"));
    }
}
