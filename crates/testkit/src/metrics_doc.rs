//! The list of metrics in the documentation is the list of metrics.

/// Checks that the table below `heading` in docs/metrics.md names each of `names` and nothing
/// else. Rows that begin with `elsewhere` stand for metrics that `names` does not hold.
///
/// # Panics
///
/// When they differ, or the document has no such table.
pub fn assert_metrics_documented(
    document: &str,
    heading: &str,
    names: &[String],
    elsewhere: Option<&str>,
) {
    let documented = documented(document, heading, elsewhere);
    let missing = |have: &[String], want: &[String]| -> Vec<String> {
        want.iter().filter(|name| !have.contains(name)).cloned().collect()
    };
    assert_eq!(missing(&documented, names), Vec::<String>::new(), "not documented");
    assert_eq!(missing(names, &documented), Vec::<String>::new(), "do not exist");
}

/// The names in the table below a heading; a call counter is two.
fn documented(document: &str, heading: &str, elsewhere: Option<&str>) -> Vec<String> {
    let (_, after) = document.split_once(&format!("{heading}\n")).expect("the heading");
    let section = after.split("\n## ").next().expect("a section");
    let mut names = Vec::new();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    for row in rows.filter(|row| elsewhere.is_none_or(|prefix| !row.starts_with(prefix))) {
        let (name, rest) = row.split_once('`').expect("a name");
        names.push(name.to_owned());
        if rest.starts_with(" | call counter |") {
            names.push(format!("{name}_elapsed_time"));
        }
    }
    names
}
