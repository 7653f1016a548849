//! What came out: JSON for programs, a page for people.

use std::fmt::Write as _;

use serde::Serialize;

use crate::Options;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Where it was taken.
    pub scenario: String,
    /// What it is.
    pub measure: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
}

/// A line to draw.
#[derive(Clone, Debug, Serialize)]
struct Plot {
    title: String,
    x: &'static str,
    points: Vec<(f64, f64)>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    server: String,
    agents: usize,
    entries_of_each: usize,
    servers: usize,
    store: &'static str,
    follows_by: &'static str,
    /// The figures, in the order in which they were taken.
    pub rows: Vec<Row>,
    plots: Vec<Plot>,
    failures: Vec<String>,
}

impl Report {
    /// Of a run that begins.
    pub fn new(options: &Options) -> Self {
        Self {
            server: options.server.display().to_string(),
            agents: options.agents,
            entries_of_each: options.entries,
            servers: options.servers,
            store: if options.postgres.is_some() { "PostgreSQL" } else { "SQLite" },
            follows_by: if options.poll { "asking every 5 s" } else { "push" },
            rows: Vec::new(),
            plots: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Adds a line to draw.
    pub fn plot(&mut self, title: String, x: &'static str, points: Vec<(f64, f64)>) {
        self.plots.push(Plot { title, x, points });
    }

    /// Something did not happen that must.
    pub fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    /// What did not happen.
    pub fn failures(&self) -> impl Iterator<Item = &str> {
        self.failures.iter().map(String::as_str)
    }

    /// A page that opens without a network.
    pub fn page(&self) -> String {
        let mut page = String::from(
            "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Fleet</title>\
             <style>body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem}\
             table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;\
             border-bottom:1px solid #ccc}td.n{text-align:right;font-variant-numeric:tabular-nums}\
             svg{width:100%;background:#f4f6f8;border-radius:.4rem}.bad{color:#b3201a}\
             polyline{fill:none;stroke:#0b57b0;stroke-width:2}text{font-size:12px}</style></head><body>",
        );
        let _ = write!(
            page,
            "<h1>A fleet of {} agents</h1><p>{} entries each, {} server(s) on {}, {}; {}</p>",
            self.agents,
            self.entries_of_each,
            self.servers,
            self.store,
            self.follows_by,
            escaped(&self.server)
        );
        for failure in &self.failures {
            let _ = write!(page, "<p class=\"bad\">{}</p>", escaped(failure));
        }
        page.push_str("<table><tr><th>Scenario</th><th>Measure</th><th></th><th></th></tr>");
        for row in &self.rows {
            let _ = write!(
                page,
                "<tr><td>{}</td><td>{}</td><td class=\"n\">{:.2}</td><td>{}</td></tr>",
                escaped(&row.scenario),
                escaped(&row.measure),
                row.value,
                row.unit
            );
        }
        page.push_str("</table>");
        for plot in &self.plots {
            plot.draw(&mut page);
        }
        page.push_str("</body></html>\n");
        page
    }
}

impl Plot {
    fn draw(&self, page: &mut String) {
        const WIDTH: f64 = 900.0;
        const HEIGHT: f64 = 220.0;
        const LEFT: f64 = 70.0;
        let _ = write!(page, "<h2>{}</h2>", escaped(&self.title));
        let most = |of: fn(&(f64, f64)) -> f64| {
            self.points.iter().map(of).fold(0.0_f64, f64::max).max(1e-9)
        };
        let (right, top) = (most(|point| point.0), most(|point| point.1));
        let line: Vec<String> = self
            .points
            .iter()
            .map(|(x, y)| {
                let x = LEFT + x / right * (WIDTH - LEFT - 10.0);
                let y = 10.0 + (1.0 - y / top) * (HEIGHT - 40.0);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let _ = write!(
            page,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\
             <polyline points=\"{points}\"/>\
             <text x=\"4\" y=\"18\">{top:.1}</text><text x=\"4\" y=\"{low}\">0</text>\
             <text x=\"{LEFT}\" y=\"{bottom}\">0</text>\
             <text x=\"{end}\" y=\"{bottom}\" text-anchor=\"end\">{right:.1} {unit}</text></svg>",
            title = escaped(&self.title),
            points = line.join(" "),
            low = HEIGHT - 30.0,
            bottom = HEIGHT - 8.0,
            end = WIDTH - 10.0,
            unit = escaped(self.x),
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_page_needs_nothing_from_elsewhere_and_shows_failures_first() {
        let options = Options::parse_from(["fleet", "--server", "/bin/<server>"]);
        let mut report = Report::new(&options);
        report.plot("a & b".to_owned(), "s", vec![(0.0, 1.0), (2.0, 4.0)]);
        report.fail("two < three".to_owned());
        let page = report.page();
        assert!(!page.contains("http") && !page.contains("<server>"), "{page}");
        assert!(page.contains("two &lt; three") && page.contains("70.0,"), "{page}");
        assert_eq!(report.failures().count(), 1);
    }
}
