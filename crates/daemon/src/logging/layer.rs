//! The tracing layer that collects fields and writes lines.

use std::{borrow::Cow, fmt, path::Path, sync::Arc};

use serde_json::Value;
use signet_base::SharedClock;
use time::OffsetDateTime;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
    subscriber::Interest,
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use super::{
    LogFormat,
    filter::{LevelSwitch, level_name},
    format::{Fields, Line},
    output::Output,
};

/// The longest value of a field, in bytes; what is longer is cut.
const MAX_VALUE: usize = 8 * 1024;

pub(super) struct LineLayer {
    pub(super) clock: SharedClock,
    pub(super) format: LogFormat,
    pub(super) source_location: bool,
    pub(super) level: Arc<LevelSwitch>,
    pub(super) output: Arc<Output>,
}

impl<S> Layer<S> for LineLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Asked again whenever the level changes.
        if self.level.allows(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.level.allows(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level.max())
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(id) {
            let mut collected = Collected::default();
            attributes.record(&mut collected);
            span.extensions_mut().insert(SpanFields(collected.fields));
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(id) {
            let mut collected = Collected::default();
            values.record(&mut collected);
            let mut extensions = span.extensions_mut();
            if let Some(SpanFields(fields)) = extensions.get_mut::<SpanFields>() {
                fields.retain(|(name, _)| collected.fields.iter().all(|(new, _)| new != name));
                fields.append(&mut collected.fields);
            }
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let metadata = event.metadata();
        let mut collected = Collected::default();
        event.record(&mut collected);
        let mut fields: Vec<(Cow<'static, str>, Value)> =
            collected.fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
        // The innermost span comes first; what is there already stays.
        for span in ctx.event_scope(event).into_iter().flatten() {
            if let Some(SpanFields(of_span)) = span.extensions().get::<SpanFields>() {
                for (name, value) in of_span {
                    add(&mut fields, name, || value.clone());
                }
            }
        }
        add(&mut fields, "subsystem_name", || Value::from(subsystem(metadata.target())));
        if self.source_location {
            add(&mut fields, "file", || Value::from(location(metadata)));
            add(&mut fields, "func", || Value::from(metadata.module_path().unwrap_or_default()));
        }
        for (name, _) in &mut fields {
            if matches!(&**name, "time" | "level" | "msg") {
                *name = Cow::Owned(format!("fields.{name}"));
            }
        }
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        let line = Line {
            time: OffsetDateTime::from(self.clock.now()),
            level: level_name(metadata.level()),
            message: &collected.message,
            fields: &fields,
        };
        self.output.write(&match self.format {
            LogFormat::Json => line.json(),
            LogFormat::Text => line.text(),
        });
    }
}

/// The fields of a span, kept with it.
struct SpanFields(Fields);

#[derive(Default)]
struct Collected {
    message: String,
    fields: Fields,
}

impl Collected {
    fn push(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
        } else {
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for Collected {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::from(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Value::from(cut(value.to_owned())));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        self.push(field, Value::from(cut(text)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, Value::from(cut(format!("{value:?}"))));
    }
}

fn add(
    fields: &mut Vec<(Cow<'static, str>, Value)>,
    name: &'static str,
    value: impl FnOnce() -> Value,
) {
    if fields.iter().all(|(have, _)| have != name) {
        fields.push((Cow::Borrowed(name), value()));
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_VALUE {
        let end = text.floor_char_boundary(MAX_VALUE);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// `signet_server::ca::rotator` is `server.ca.rotator`; a target that is no path stays as it is.
fn subsystem(target: &str) -> String {
    target.strip_prefix("signet_").unwrap_or(target).replace("::", ".")
}

fn location(metadata: &Metadata<'_>) -> String {
    let file = metadata.file().map(Path::new).and_then(Path::file_name);
    let file = file.unwrap_or_default().to_string_lossy();
    format!("{file}:{}", metadata.line().unwrap_or_default())
}
