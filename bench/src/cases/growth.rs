//! `growth`: the same work at ten times the size, and how much more it costs.
//!
//! What another case measures is measured by that case, in a process of its own for every size and round: memory that
//! one size left behind does not help or hurt the next.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::Command;

use super::growth_of_releases::costs_of_releases;
use crate::CommonArguments;
use crate::measurement::{Samples, as_number};
use crate::report::{Limit, Report, grouped};

/// 1 is linear; a fifth is left to noise.
const LINEAR: Limit = Limit::at_most(1.2, 1.0);
/// Files of the trees whose bytes grow.
const FILES: u64 = 10;
/// Bytes of each file of the trees whose files grow.
const FILE_BYTES: u64 = 1000;
const MEGABYTE: u64 = 1_000_000;

#[derive(Debug, Args)]
pub(crate) struct GrowthArguments {
    /// What grows.
    #[arg(long, value_name = "WHAT", value_enum)]
    of: Dimension,
    /// Sizes, smallest first [default: two, of which the larger is ten times the smaller and ends within a minute or two]
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    sizes: Vec<u64>,
    #[command(flatten)]
    pub(crate) common: CommonArguments,
}

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Dimension {
    /// Agents that take one small release.
    Nodes,
    /// Megabytes of a tree of ten files that a node fetches.
    Megabytes,
    /// Files of a tree that a node fetches.
    Files,
    /// Releases that are published already when the next one is.
    Releases,
    /// Events in a log that is replayed.
    Events,
}

/// One thing that a size costs.
struct Cost {
    /// What the other case's row or fact is called.
    found_as: &'static str,
    what: &'static str,
    unit: &'static str,
    reading: Reading,
}

/// How the cost follows from the other case's number.
#[derive(Clone, Copy)]
enum Reading {
    /// The median of a row.
    Row,
    /// A row that is so many a second: the seconds for all.
    Rate,
    /// A number that was counted.
    Fact,
}

/// What was measured of one thing at each size.
pub(super) struct Curve {
    pub(super) what: String,
    pub(super) unit: &'static str,
    pub(super) points: Vec<(u64, Samples)>,
}

#[derive(Deserialize)]
struct OtherReport {
    rows: Vec<OtherRow>,
    facts: Vec<OtherFact>,
}

#[derive(Deserialize)]
struct OtherRow {
    what: String,
    median: f64,
}

#[derive(Deserialize)]
struct OtherFact {
    what: String,
    value: Value,
}

impl Dimension {
    fn sizes(self) -> &'static [u64] {
        match self {
            Self::Nodes | Self::Files | Self::Releases => &[10, 100],
            Self::Megabytes => &[1, 10],
            Self::Events => &[10_000, 100_000],
        }
    }

    /// The other case that measures a size, and what of it.
    fn case(self, size: u64) -> Option<(Vec<String>, &'static [Cost])> {
        const NODES: &[Cost] = &[
            Cost::row("ours: announced → last node switched", "announced → last node switched", "ms"),
            Cost::row("ours: server's processor time a release", "server's processor time", "ms"),
            Cost::fact("server's peak memory, MiB", "server's peak memory", "MiB"),
            Cost::fact("this process's peak memory, MiB", "memory of all agents", "MiB"),
        ];
        const TREE: &[Cost] = &[
            Cost::row("ours: fetch, verify, unpack, switch", "fetch, verify, unpack, switch", "ms"),
            Cost::fact("memory that our fetch added at its peak, MiB", "memory that the fetch added", "MiB"),
        ];
        const EVENTS: &[Cost] = &[
            Cost {
                found_as: "ours: replay and fold",
                what: "replay and fold of all",
                unit: "s",
                reading: Reading::Rate,
            },
            Cost::fact("peak MiB while all is replayed", "peak memory", "MiB"),
        ];
        let (arguments, costs) = match self {
            Self::Nodes => (format!("fleet --without-naive --nodes {size}"), NODES),
            Self::Megabytes => {
                (format!("fetch --files {FILES} --file-bytes {}", (size * MEGABYTE).div_ceil(FILES)), TREE)
            }
            Self::Files => (format!("fetch --files {size} --file-bytes {FILE_BYTES}"), TREE),
            Self::Events => (format!("replay --events {size}"), EVENTS),
            Self::Releases => return None,
        };
        Some((arguments.split(' ').map(str::to_owned).collect(), costs))
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Megabytes => "MB",
            Self::Files => "files",
            Self::Releases => "releases",
            Self::Events => "events",
        }
    }
}

impl Cost {
    const fn row(found_as: &'static str, what: &'static str, unit: &'static str) -> Self {
        Self { found_as, what, unit, reading: Reading::Row }
    }

    const fn fact(found_as: &'static str, what: &'static str, unit: &'static str) -> Self {
        Self { found_as, what, unit, reading: Reading::Fact }
    }

    /// The cost, if the other case knows it on this system.
    fn of(&self, report: &OtherReport, size: u64) -> Option<f64> {
        let row = || report.rows.iter().find(|row| row.what == self.found_as).map(|row| row.median);
        match self.reading {
            Reading::Row => row(),
            Reading::Rate => row().filter(|rate| *rate > 0.0).map(|rate| as_number(size) / rate),
            Reading::Fact => report.facts.iter().find(|fact| fact.what == self.found_as)?.value.as_f64(),
        }
    }
}

pub(crate) async fn run(arguments: &GrowthArguments) -> anyhow::Result<Report> {
    let GrowthArguments { of, common, .. } = arguments;
    let sizes = if arguments.sizes.is_empty() { of.sizes() } else { &arguments.sizes };
    ensure!(sizes.len() > 1 && sizes.is_sorted_by(|one, next| one < next), "sizes: at least two, smallest first");
    let mut report = Report::new("growth");
    report.setting("of", of.unit());
    report.setting("sizes", sizes);
    report.setting("rounds", common.rounds);

    let curves = match of {
        Dimension::Releases => costs_of_releases(common, sizes).await?,
        Dimension::Nodes | Dimension::Megabytes | Dimension::Files | Dimension::Events => {
            costs_by_other_case(*of, common, sizes).await?
        }
    };
    for curve in &curves {
        for (size, samples) in &curve.points {
            report.row(format!("{} {}: {}", grouped(*size), of.unit(), curve.what), curve.unit, samples);
        }
        for (what, times_as_much, times_the_size) in steps(curve) {
            report.ratio(
                format!("{what} {}: {} / size", of.unit(), curve.what),
                times_as_much,
                times_the_size,
                Some(LINEAR),
            );
        }
    }
    report.fact("sizes measured", sizes.len());
    Ok(report)
}

async fn costs_by_other_case(of: Dimension, common: &CommonArguments, sizes: &[u64]) -> anyhow::Result<Vec<Curve>> {
    let mut curves = Vec::new();
    for size in sizes {
        let (case, costs) = of.case(*size).context("no other case measures this")?;
        if curves.is_empty() {
            curves = costs.iter().map(|cost| Curve::new(cost.what, cost.unit)).collect();
        }
        for _ in 0..common.rounds {
            let report = other_report(&case, common.directory.as_deref()).await?;
            for (cost, curve) in costs.iter().zip(&mut curves) {
                if let Some(value) = cost.of(&report, *size) {
                    curve.add(*size, value);
                }
            }
        }
    }
    curves.retain(|curve| !curve.points.is_empty());
    ensure!(!curves.is_empty(), "the other case measured nothing that is known here");
    Ok(curves)
}

/// Runs another case once, in a process of its own.
async fn other_report(case: &[String], directory: Option<&Path>) -> anyhow::Result<OtherReport> {
    let mut command = Command::new(std::env::current_exe().context("this program cannot be found")?);
    command.args(case).args(["--rounds", "1", "--output", "json"]);
    if let Some(directory) = directory {
        command.arg("--directory").arg(directory);
    }
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("`{}` cannot be started", case.join(" ")))?;
    ensure!(output.status.success(), "`{}` ended with {}", case.join(" "), output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("`{}` gave no report", case.join(" ")))
}

impl Curve {
    pub(super) fn new(what: &str, unit: &'static str) -> Self {
        Self { what: what.to_owned(), unit, points: Vec::new() }
    }

    pub(super) fn add(&mut self, size: u64, value: f64) {
        self.at(size).add(value);
    }

    pub(super) fn add_time(&mut self, size: u64, time: Duration) {
        self.at(size).add_time(time);
    }

    /// The samples of a size, which is the last one or a new one.
    fn at(&mut self, size: u64) -> &mut Samples {
        if self.points.last().is_none_or(|(last, _)| *last != size) {
            self.points.push((size, Samples::default()));
        }
        let last = self.points.len() - 1;
        &mut self.points[last].1
    }
}

/// Each step from one size to the next: how much more it costs, and how much larger it is.
fn steps(curve: &Curve) -> Vec<(String, f64, f64)> {
    let step = |pair: &[(u64, Samples)]| {
        let [(one, cost), (next, next_cost)] = pair else { return None };
        let more = if cost.median() > 0.0 { next_cost.median() / cost.median() } else { 0.0 };
        Some((format!("{} → {}", grouped(*one), grouped(*next)), more, as_number(*next) / as_number(*one)))
    };
    curve.points.windows(2).filter_map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_says_how_much_more_ten_times_the_size_costs() {
        let mut curve = Curve::new("work", "ms");
        for (size, value) in [(10, 2.0), (10, 4.0), (10, 3.0), (100, 15.0), (1000, 300.0)] {
            curve.add(size, value);
        }
        let steps = steps(&curve);
        assert_eq!(steps[0], ("10 → 100".to_owned(), 5.0, 10.0));
        assert_eq!(steps[1], ("100 → 1,000".to_owned(), 20.0, 10.0));
    }

    #[test]
    fn a_rate_becomes_the_time_for_all() {
        let report = OtherReport {
            rows: vec![OtherRow { what: "ours: replay and fold".to_owned(), median: 500.0 }],
            facts: vec![OtherFact { what: "peak MiB while all is replayed".to_owned(), value: 28.into() }],
        };
        let (_, costs) = Dimension::Events.case(1000).unwrap();
        let found: Vec<_> = costs.iter().map(|cost| cost.of(&report, 1000)).collect();
        assert_eq!(found, [Some(2.0), Some(28.0)]);
    }
}
