//! What is wrong with a configuration, all of it at once.

use std::{fmt, io, path::PathBuf};

use crate::ast::Pos;

/// Everything that is wrong with a configuration: one line for each problem, in the order of the
/// file.
#[derive(Debug)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// In a file, at a place.
    At {
        /// The file's name as given.
        file: String,
        /// Where in it.
        pos: Pos,
        /// What was found and what was expected.
        message: String,
    },
    /// Of the whole: a flag, a missing section.
    General(String),
    /// A file that could not be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ConfigError {
    /// Of several problems, of which there is at least one.
    pub fn new(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    /// Of one problem without a place.
    pub fn general(message: impl Into<String>) -> Self {
        Self::new(vec![Problem::General(message.into())])
    }

    /// Of a file that could not be read.
    pub fn read(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::new(vec![Problem::Read { path: path.into(), source }])
    }

    /// The problems.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The problems of both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.problems.extend(other.problems);
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At { file, pos, message } => write!(f, "{file}:{pos}: {message}"),
            Self::General(message) => f.write_str(message),
            Self::Read { path, source } if source.kind() == io::ErrorKind::NotFound => {
                write!(f, "{}: there is no such file; name it with -config", path.display())
            }
            Self::Read { path, source } => write!(f, "reading {}: {source}", path.display()),
        }
    }
}
