//! What a case says: numbers of each way, ratios with their limits, and what was checked. A table or JSON.

use std::io::{self, Write as _};

use anyhow::Context as _;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::measurement::Samples;

/// The result of a case.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    case: &'static str,
    /// The sizes that were asked for.
    settings: Map<String, Value>,
    rows: Vec<Row>,
    ratios: Vec<Ratio>,
    /// What else was found, first of all that the work was done.
    facts: Vec<Fact>,
}

/// One way of doing the work.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    unit: &'static str,
    samples: usize,
    median: f64,
    p99: f64,
    min: f64,
    max: f64,
}

/// One way beside another.
#[derive(Debug, Serialize)]
struct Ratio {
    what: String,
    value: f64,
    limit: Option<Limit>,
    /// Whether the value keeps the limit; absent where there is none.
    met: Option<bool>,
}

/// Where a ratio has to be, and where we want it.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Limit {
    side: Side,
    must: f64,
    aim: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Side {
    AtLeast,
    AtMost,
}

#[derive(Debug, Serialize)]
struct Fact {
    what: String,
    value: Value,
}

impl Limit {
    pub(crate) const fn at_least(must: f64, aim: f64) -> Self {
        Self { side: Side::AtLeast, must, aim }
    }

    pub(crate) const fn at_most(must: f64, aim: f64) -> Self {
        Self { side: Side::AtMost, must, aim }
    }

    fn keeps(self, value: f64) -> bool {
        match self.side {
            Side::AtLeast => value >= self.must,
            Side::AtMost => value <= self.must,
        }
    }
}

impl Report {
    pub(crate) fn new(case: &'static str) -> Self {
        Self { case, settings: Map::new(), rows: Vec::new(), ratios: Vec::new(), facts: Vec::new() }
    }

    pub(crate) fn setting(&mut self, name: &str, value: impl Into<Value>) {
        self.settings.insert(name.to_owned(), value.into());
    }

    pub(crate) fn row(&mut self, what: impl Into<String>, unit: &'static str, samples: &Samples) {
        self.rows.push(Row {
            what: what.into(),
            unit,
            samples: samples.count(),
            median: samples.median(),
            p99: samples.p99(),
            min: samples.min(),
            max: samples.max(),
        });
    }

    /// `value / beside`, with a limit where there is one.
    pub(crate) fn ratio(&mut self, what: impl Into<String>, value: f64, beside: f64, limit: Option<Limit>) {
        let value = if beside > 0.0 { value / beside } else { 0.0 };
        self.ratios.push(Ratio { what: what.into(), value, limit, met: limit.map(|limit| limit.keeps(value)) });
    }

    pub(crate) fn fact(&mut self, what: impl Into<String>, value: impl Into<Value>) {
        self.facts.push(Fact { what: what.into(), value: value.into() });
    }

    pub(crate) fn to_json(&self) -> anyhow::Result<String> {
        serde_json::to_string_pretty(self).context("the report cannot be written as JSON")
    }

    pub(crate) fn to_table(&self) -> String {
        let settings: Vec<String> =
            self.settings.iter().map(|(name, value)| format!("{name} {}", plain(value))).collect();
        let mut parts = vec![format!("{}: {}", self.case, settings.join(", "))];
        if !self.rows.is_empty() {
            let rows = self.rows.iter().map(|row| {
                vec![
                    row.what.clone(),
                    number(row.median),
                    number(row.p99),
                    number(row.min),
                    number(row.max),
                    row.unit.to_owned(),
                    row.samples.to_string(),
                ]
            });
            parts.push(table(&["what", "median", "p99", "min", "max", "unit", "samples"], rows));
        }
        if !self.ratios.is_empty() {
            let rows = self.ratios.iter().map(|ratio| {
                let limit = ratio.limit.map_or_else(String::new, |limit| {
                    let side = if limit.side == Side::AtLeast { "≥" } else { "≤" };
                    format!("must {side} {}, aim {side} {}", number(limit.must), number(limit.aim))
                });
                let met = ratio.met.map_or("", |met| if met { "met" } else { "NOT met" });
                vec![ratio.what.clone(), number(ratio.value), limit, met.to_owned()]
            });
            parts.push(table(&["ratio", "value", "limit", ""], rows));
        }
        if !self.facts.is_empty() {
            parts.push(table(
                &["checked and counted", ""],
                self.facts.iter().map(|fact| vec![fact.what.clone(), plain(&fact.value)]),
            ));
        }
        parts.join("\n\n")
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(found) => found.as_f64().map_or_else(|| found.to_string(), number),
        Value::Null => "-".to_owned(),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Three digits, or all before the point, grouped.
fn number(value: f64) -> String {
    if value.abs() < 10.0 && value.fract() != 0.0 {
        return format!("{value:.2}");
    }
    if value.abs() < 100.0 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    match digits.strip_prefix('-') {
        Some(digits) => format!("-{}", in_groups(digits)),
        None => in_groups(&digits),
    }
}

/// `10,000`.
pub(crate) fn grouped(count: u64) -> String {
    in_groups(&count.to_string())
}

fn in_groups(digits: &str) -> String {
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|part| std::str::from_utf8(part).unwrap_or_default()).collect();
    groups.join(",")
}

fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| column.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Writes data to standard output; a reader that went away is no fault of ours.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("the report cannot be printed"),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Says something on standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_has_a_side() {
        let mut report = Report::new("test");
        report.ratio("a", 3.0, 2.0, Some(Limit::at_least(1.5, 2.0)));
        report.ratio("b", 3.0, 2.0, Some(Limit::at_most(1.4, 1.0)));
        report.ratio("c", 3.0, 0.0, None);
        let met: Vec<Option<bool>> = report.ratios.iter().map(|ratio| ratio.met).collect();
        assert_eq!(met, [Some(true), Some(false), None]);
        assert!(report.to_table().contains("NOT met"), "{}", report.to_table());
    }

    #[test]
    fn numbers_are_as_exact_as_they_are_measured() {
        assert_eq!([0.123, 45.67, 1234.5, 1_234_567.0, 3.0].map(number), ["0.12", "45.7", "1,234", "1,234,567", "3"]);
    }

    #[test]
    fn scripts_read_every_number() {
        let mut report = Report::new("test");
        report.setting("events", 10);
        report.row("ours", "ms", &[1.0, 2.0, 3.0].into_iter().collect());
        report.fact("digests equal", true);
        let json: Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
        assert_eq!(json["rows"][0]["median"], 2.0);
        assert_eq!(json["settings"]["events"], 10);
        assert_eq!(json["facts"][0]["value"], true);
    }
}
