//! What `run` and `validate` of every program share: their flags, and how flags and file become
//! a configuration.

use std::path::{Path, PathBuf};

use super::{
    Block, ConfigError, Context, Document, LogFlags, LogFormat, LogLevel, log_format, read,
};

/// Looks up an environment variable, for `-expandEnv`.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The flags of `run` and `validate` that every program has; what is set wins over the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CommonFlags {
    /// Directory for the program's own files
    #[arg(long = "dataDir", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Replace $NAME and ${NAME} in the configuration file by environment variables
    #[arg(long = "expandEnv")]
    pub expand_env: bool,
    /// File to append the log to
    #[arg(long = "logFile", value_name = "FILE")]
    pub log_file: Option<String>,
    /// Form of log lines: text or json
    #[arg(long = "logFormat", value_name = "FORMAT", value_parser = parse_format)]
    pub log_format: Option<LogFormat>,
    /// Least severe level to log: error, warn, info, debug or trace
    #[arg(long = "logLevel", value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// Name the source file and line in each log line
    #[arg(long = "logSourceLocation")]
    pub log_source_location: bool,
    /// Unix socket to serve the API on
    #[arg(long = "socketPath", value_name = "PATH")]
    pub socket_path: Option<PathBuf>,
    /// Trust domain of the program
    #[arg(long = "trustDomain", value_name = "NAME")]
    pub trust_domain: Option<String>,
}

impl CommonFlags {
    /// The log flags.
    pub fn log(&self) -> LogFlags {
        LogFlags {
            file: self.log_file.clone(),
            format: self.log_format,
            level: self.log_level,
            source_location: self.log_source_location,
        }
    }

    /// Reads the configuration file `path`, replacing variables where asked to.
    ///
    /// # Errors
    /// [`ConfigError`], as [`read`].
    pub fn read(&self, path: &Path, env: &Environment<'_>) -> Result<Document, ConfigError> {
        read(path, self.expand_env.then_some(env))
    }
}

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

fn parse_format(text: &str) -> Result<LogFormat, String> {
    log_format(text).ok_or_else(|| "expected text or json".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_is_set_to_something_wins_over_the_file() {
        let document = super::super::parse("f", "data_dir = \"/file\" log_level = \"warn\"");
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
