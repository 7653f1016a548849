//! `cargo xtask tidy`: what the compiler does not check, read from the tree itself.

mod edges;
mod files;
mod modules;

use anyhow::{Result, bail};

/// Prints every violation.
pub(crate) fn run() -> Result<()> {
    let problems = problems()?;
    for problem in &problems {
        eprintln!("{problem}");
    }
    match problems.len() {
        0 => Ok(()),
        n => bail!("{n} violations"),
    }
}

fn problems() -> Result<Vec<String>> {
    let mut problems = edges::problems()?;
    problems.extend(files::problems()?);
    problems.extend(modules::problems()?);
    Ok(problems)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tree_is_tidy() {
        let problems = super::problems().unwrap();
        assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    }
}
