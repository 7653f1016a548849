//! Service files: sections `[name]` of `key=value` lines.

use std::path::Path;

use super::{ConnectionStringError, Environment};

/// The parameters of the service `name` in the file `path`.
pub(super) fn read(
    path: &Path,
    name: &str,
    around: &dyn Environment,
) -> Result<Vec<(String, String)>, ConnectionStringError> {
    let fail = |why: String| ConnectionStringError::new(format!("service: {why}"));
    let text = around.read(path).map_err(|error| fail(format!("{}: {error}", path.display())))?;
    let mut pairs = Vec::new();
    let mut found = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            if found {
                break;
            }
            found = section.trim() == name;
            continue;
        }
        if !found {
            continue;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => (key.trim(), value.trim()),
            _ => {
                let place = format!("{}:{}", path.display(), number + 1);
                return Err(fail(format!("{place}: expected key=value")));
            }
        };
        pairs.push((key.to_owned(), value.to_owned()));
    }
    if !found {
        return Err(fail(format!("{} does not define {name:?}", path.display())));
    }
    Ok(pairs)
}
