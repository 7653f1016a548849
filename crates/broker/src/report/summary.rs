//! Who used what, and whether the old way can be turned off.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::Duration,
};

use serde_json::{Value, json};
use signet_time::UnixTime;

use super::evidence::{Use, Way};

/// How many workloads are told apart; what there is more goes into one line.
const MAX_WORKLOADS: usize = 100_000;
const OTHERS: &str = "(others)";

/// Everything that was found.
#[derive(Debug)]
pub(super) struct Summary {
    /// Lines that are no records.
    pub(super) skipped: u64,
    now: UnixTime,
    quiet: Duration,
    /// Who names of the old way are now: SPIFFE IDs, or paths of them.
    same: BTreeMap<String, String>,
    covered_since: Option<UnixTime>,
    found: BTreeMap<String, BTreeMap<Way, Count>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    count: u64,
    last: UnixTime,
}

/// What became of one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Workload {
    /// By which names it used the old way.
    names: BTreeSet<String>,
    ways: BTreeMap<Way, (u64, UnixTime)>,
}

/// Whether a workload needs the old way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It used it within the quiet time.
    StillUsed,
    /// The records do not reach back far enough.
    TooSoon,
    /// It has stopped using it, and was never seen to use the new one.
    NotSeen,
    /// It uses the new one only.
    CanBeTurnedOff,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::StillUsed => "still_used",
            Self::TooSoon => "too_soon",
            Self::NotSeen => "not_seen",
            Self::CanBeTurnedOff => "can_be_turned_off",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::StillUsed => "still uses the old way",
            Self::TooSoon => "too soon to say",
            Self::NotSeen => "uses neither: has it ended?",
            Self::CanBeTurnedOff => "needs it no more",
        }
    }
}

impl Workload {
    fn side(&self, is_new: bool) -> (u64, Option<UnixTime>) {
        let ways = self.ways.iter().filter(|(way, _)| way.is_new() == is_new);
        ways.fold((0, None), |(count, last), (_, &(more, at))| (count + more, last.max(Some(at))))
    }
}

/// The path of a SPIFFE ID, without its first slash.
fn path_of(name: &str) -> Option<&str> {
    Some(name.strip_prefix("spiffe://")?.split_once('/')?.1)
}

impl Summary {
    pub(super) fn new(now: UnixTime, quiet: Duration, same: BTreeMap<String, String>) -> Self {
        Self { skipped: 0, now, quiet, same, covered_since: None, found: BTreeMap::new() }
    }

    /// OpenBao wrote a record then.
    pub(super) fn covers(&mut self, at: UnixTime) {
        self.covered_since = Some(self.covered_since.map_or(at, |since| since.min(at)));
    }

    pub(super) fn add(&mut self, found: Use) {
        let Use { who, way, at } = found;
        let is_full = self.found.len() >= MAX_WORKLOADS && !self.found.contains_key(&who);
        let who = if is_full { OTHERS.to_owned() } else { who };
        let ways = self.found.entry(who).or_default();
        let count = ways.entry(way).or_insert(Count { count: 0, last: at });
        count.count += 1;
        count.last = count.last.max(at);
    }

    /// Names of the old way and identities of the new one, brought together.
    fn workloads(&self) -> BTreeMap<String, Workload> {
        let mut by_path = BTreeMap::new();
        for (who, ways) in &self.found {
            if let Some(path) = path_of(who).filter(|_| ways.keys().any(|way| way.is_new())) {
                by_path.entry(path).or_insert(who.as_str());
            }
        }
        let mut workloads = BTreeMap::<String, Workload>::new();
        for (who, ways) in &self.found {
            for (way, count) in ways {
                let key = match way.is_new() {
                    true => who.as_str(),
                    false => self.identity_of(who, &by_path),
                };
                let key = key.to_owned();
                let workload = workloads.entry(key).or_default();
                if !way.is_new() {
                    workload.names.insert(who.clone());
                }
                let sum = workload.ways.entry(*way).or_insert((0, count.last));
                *sum = (sum.0 + count.count, sum.1.max(count.last));
            }
        }
        workloads
    }

    /// Who a name of the old way is now. A path is that of an identity that was seen to use the new
    /// one: a SPIFFE ID that has moved to another trust domain has kept its path.
    fn identity_of<'a>(&'a self, name: &'a str, by_path: &BTreeMap<&str, &'a str>) -> &'a str {
        let told = self.same.get(name).map(String::as_str);
        if let Some(id) = told.filter(|told| told.starts_with("spiffe://")) {
            return id;
        }
        let path = told.and_then(|path| path.strip_prefix('/')).or_else(|| path_of(name));
        let seen = path.and_then(|path| by_path.get(path));
        seen.copied().or(told).unwrap_or(name)
    }

    fn verdict(&self, workload: &Workload) -> Verdict {
        let quiet = i64::try_from(self.quiet.as_secs()).unwrap_or(i64::MAX);
        let since = UnixTime::from_seconds(self.now.seconds().saturating_sub(quiet));
        let (_, old) = workload.side(false);
        let (new, _) = workload.side(true);
        if old.is_some_and(|last| last > since) {
            Verdict::StillUsed
        } else if self.covered_since.is_none_or(|covered| covered > since) {
            Verdict::TooSoon
        } else if new == 0 {
            Verdict::NotSeen
        } else {
            Verdict::CanBeTurnedOff
        }
    }

    /// Whether nobody needs the old way, as far as the records say.
    pub(super) fn can_be_turned_off(&self) -> bool {
        let quiet = Workload::default();
        // Without records nothing is known.
        self.verdict(&quiet) != Verdict::TooSoon
            && self.workloads().values().all(|workload| {
                !matches!(self.verdict(workload), Verdict::StillUsed | Verdict::TooSoon)
            })
    }

    /// As JSON.
    pub(super) fn json(&self) -> Value {
        let side = |workload: &Workload, is_new: bool| {
            let (count, last) = workload.side(is_new);
            let ways = workload.ways.iter().filter(|(way, _)| way.is_new() == is_new);
            let ways: BTreeMap<_, _> = ways.map(|(way, (count, _))| (way.name(), *count)).collect();
            json!({ "count": count, "last": last.and_then(UnixTime::rfc3339), "ways": ways })
        };
        let workloads: Vec<Value> = self
            .workloads()
            .iter()
            .map(|(name, workload)| {
                json!({
                    "workload": name,
                    "old_names": workload.names,
                    "old": side(workload, false),
                    "new": side(workload, true),
                    "verdict": self.verdict(workload).name(),
                })
            })
            .collect();
        json!({
            "now": self.now.rfc3339(),
            "covered_since": self.covered_since.and_then(UnixTime::rfc3339),
            "quiet_seconds": self.quiet.as_secs(),
            "skipped_lines": self.skipped,
            "can_be_turned_off": self.can_be_turned_off(),
            "workloads": workloads,
        })
    }

    /// For people: a line for each workload.
    pub(super) fn text(&self) -> String {
        let mut rows = vec![["WORKLOAD", "OLD", "LAST", "NEW", "LAST", ""].map(str::to_owned)];
        for (name, workload) in self.workloads() {
            let when = |last: Option<UnixTime>| {
                last.and_then(UnixTime::rfc3339).unwrap_or_else(|| "never".to_owned())
            };
            let (old, old_last) = workload.side(false);
            let (new, new_last) = workload.side(true);
            let others: Vec<_> = workload.names.iter().filter(|other| **other != name).collect();
            let shown = match others.as_slice() {
                [] => name.clone(),
                others => {
                    let others: Vec<_> = others.iter().map(|other| other.as_str()).collect();
                    format!("{name} ({})", others.join(", "))
                }
            };
            let verdict = self.verdict(&workload).words().to_owned();
            let (old, new) = (old.to_string(), new.to_string());
            rows.push([shown, old, when(old_last), new, when(new_last), verdict]);
        }
        let mut text = String::new();
        let widths: Vec<usize> = (0..6)
            .map(|at| {
                rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max()
            })
            .map(Option::unwrap_or_default)
            .collect();
        for row in &rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        let since = self.covered_since.and_then(UnixTime::rfc3339);
        let since = since.unwrap_or_else(|| "never".to_owned());
        let quiet = signet_config::format_duration(self.quiet);
        let whole = if self.can_be_turned_off() {
            "The old way can be turned off"
        } else {
            "The old way cannot be turned off yet"
        };
        let _ = writeln!(
            text,
            "{whole}: OpenBao's records begin at {since}, and {quiet} without a use are asked for."
        );
        if self.skipped > 0 {
            let _ = writeln!(text, "{} lines are no records and were passed over.", self.skipped);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;
    const NOW: i64 = 100 * DAY;

    fn summary(covered: i64, uses: &[(&str, Way, i64)]) -> Summary {
        let same = BTreeMap::from([
            ("shop/orders".to_owned(), "/orders".to_owned()),
            ("approle ci".to_owned(), "spiffe://td/ci".to_owned()),
        ]);
        let now = UnixTime::from_seconds(NOW);
        let mut summary = Summary::new(now, Duration::from_secs(7 * 86_400), same);
        summary.covers(UnixTime::from_seconds(covered));
        for (who, way, at) in uses {
            let at = UnixTime::from_seconds(*at);
            summary.add(Use { who: (*who).to_owned(), way: *way, at });
        }
        summary
    }

    fn verdicts(summary: &Summary) -> Vec<(String, String)> {
        let json = summary.json();
        let all = json["workloads"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        all.map(|one| (text(&one["workload"]), text(&one["verdict"]))).collect()
    }

    fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
        wanted.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn the_old_way_can_be_turned_off_when_it_was_not_used_for_long_enough() {
        let uses = [
            ("shop/orders", Way::StaticSecret, NOW - 8 * DAY),
            ("shop/orders", Way::ServiceAccount, NOW - 9 * DAY),
            ("spiffe://td/orders", Way::Broker, NOW - DAY),
            ("spiffe://td/new", Way::SvidLogin, NOW),
        ];
        let long = summary(NOW - 30 * DAY, &uses);
        let off = "can_be_turned_off";
        assert_eq!(
            verdicts(&long),
            pairs(&[("spiffe://td/new", off), ("spiffe://td/orders", off)])
        );
        assert!(long.can_be_turned_off());
        let json = long.json();
        let orders = &json["workloads"][1];
        assert_eq!(orders["old"]["ways"], json!({"service_account": 1, "static_secret": 1}));
        assert_eq!((&orders["old"]["count"], &orders["new"]["count"]), (&json!(2), &json!(1)));
        assert_eq!(orders["old_names"], json!(["shop/orders"]));
        // Records that begin later do not say who used it before.
        let short = summary(NOW - 6 * DAY, &uses);
        assert!(!short.can_be_turned_off());
        assert_eq!(verdicts(&short)[0].1, "too_soon");
        assert!(!summary(NOW, &[]).can_be_turned_off());
        assert!(summary(NOW - 8 * DAY, &[]).can_be_turned_off());
    }

    #[test]
    fn one_use_within_the_time_keeps_it_and_says_whose() {
        let uses = [
            ("approle ci", Way::StaticSecret, NOW - DAY),
            ("spiffe://td/ci", Way::Broker, NOW - DAY),
            ("stranger", Way::StaticSecret, NOW - 20 * DAY),
            ("stranger2", Way::StaticSecret, NOW - 6 * DAY),
        ];
        let found = summary(NOW - 30 * DAY, &uses);
        assert!(!found.can_be_turned_off());
        let wanted = [
            ("spiffe://td/ci", "still_used"),
            ("stranger", "not_seen"),
            ("stranger2", "still_used"),
        ];
        assert_eq!(verdicts(&found), pairs(&wanted));
        let text = found.text();
        assert!(text.contains("spiffe://td/ci (approle ci)"), "{text}");
        assert!(text.contains("cannot be turned off yet"), "{text}");
    }

    #[test]
    fn an_identity_that_moved_to_another_trust_domain_is_one_workload() {
        let uses = [
            ("spiffe://left/a/b", Way::OldTrustDomain, NOW - DAY),
            ("spiffe://td/a/b", Way::SvidLogin, NOW),
            ("spiffe://left/c", Way::OldTrustDomain, NOW - DAY),
        ];
        let found = verdicts(&summary(NOW - 30 * DAY, &uses));
        assert_eq!(
            found,
            pairs(&[("spiffe://left/c", "still_used"), ("spiffe://td/a/b", "still_used")])
        );
    }

    #[test]
    fn more_names_than_are_told_apart_are_counted_together() {
        let mut found = summary(NOW - 30 * DAY, &[]);
        for number in 0..MAX_WORKLOADS + 10 {
            let at = UnixTime::from_seconds(NOW);
            found.add(Use { who: number.to_string(), way: Way::StaticSecret, at });
        }
        assert_eq!(found.found.len(), MAX_WORKLOADS + 1);
        assert_eq!(found.found[OTHERS][&Way::StaticSecret].count, 10);
    }
}
