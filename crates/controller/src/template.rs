//! Templates as spire-controller-manager has them: Go's text/template with its built-in functions
//! and no others, and its default for missing map keys (`<no value>`).

use std::{fmt, sync::Arc};

use signet_template::{Functions, Template as Parsed, Value};

use crate::data::Names;

/// The longest template that is read, bytes.
pub const MAX_TEMPLATE: usize = 64 * 1024;

/// A parsed template, and the fields it may look at. Clones share it.
#[derive(Clone)]
pub struct Template {
    parsed: Arc<Parsed>,
    names: Names,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it, with its place.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEMPLATE {
            return Err(format!("template is longer than {MAX_TEMPLATE} bytes"));
        }
        let parsed = Parsed::parse(text, &Functions::go()).map_err(|error| error.to_string())?;
        Ok(Self { parsed: Arc::new(parsed), names: Names::of_template(text) })
    }

    /// The fields it may look at.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// What it makes of `data`.
    ///
    /// # Errors
    /// Why it makes nothing.
    pub fn render(&self, data: &Value) -> Result<String, String> {
        self.parsed.render(data).map_err(|error| format!("failed to execute template: {error}"))
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({:?})", self.names)
    }
}
