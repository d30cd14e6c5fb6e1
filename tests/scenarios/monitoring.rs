//! The monitoring files against the running agent: what they name exists, and the two forms of the rules are one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use acceptance::http_request::get;
use acceptance::operations::publish_contracts;
use acceptance::sample_trees::contracts;
use acceptance::waiting::{PATIENCE, eventually};
use acceptance::world::World;
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the repository").to_owned()
}

fn yaml(path: &str) -> Value {
    let text = fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn rules() -> Vec<Value> {
    let raw = yaml("monitoring/prometheus/bundle-alerts.rules.yml");
    raw["groups"][0]["rules"].as_array().expect("a group has rules").clone()
}

fn dashboard() -> Value {
    let path = repository().join("monitoring/grafana/contract-bundle-dashboard.json");
    serde_json::from_slice(&fs::read(path).expect("the dashboard is there")).expect("it is JSON")
}

fn expressions() -> Vec<String> {
    let of_rules = rules().into_iter().map(|rule| rule["expr"].as_str().expect("a rule has one").to_owned());
    let panels = dashboard()["dashboard"]["panels"].as_array().expect("a dashboard has panels").clone();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let of_panels = targets.map(|target| target["expr"].as_str().expect("a target has one").to_owned());
    of_rules.chain(of_panels).collect()
}

/// The series selectors of an expression: a metric's name and the labels in its braces.
fn selectors(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find("demon_") {
        rest = &rest[at..];
        let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let labels = after.strip_prefix('{').and_then(|after| after.split_once('}')).map_or("", |(labels, _)| labels);
        let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| label.trim().to_owned());
        found.push((name.to_owned(), labels.collect()));
        rest = after;
    }
    found
}

#[test]
fn both_forms_of_the_rules_hold_the_same_groups() {
    let (raw, object) =
        (yaml("monitoring/prometheus/bundle-alerts.rules.yml"), yaml("monitoring/prometheus/bundle-alerts.yml"));
    assert_eq!(object["apiVersion"], "monitoring.coreos.com/v1");
    assert_eq!(object["kind"], "PrometheusRule");
    assert!(object["metadata"]["name"].is_string());
    assert_eq!(object["spec"]["groups"], raw["groups"]);
    assert_eq!(raw["groups"][0]["name"], "bundle.rules");
}

#[test]
fn every_alert_is_shown_to_fire_and_to_clear() {
    // `scripts/check-monitoring.sh` runs them.
    let tests = yaml("monitoring/prometheus/bundle-alerts.test.yml");
    let cases: Vec<(String, bool)> = tests["tests"]
        .as_array()
        .expect("a list of tests")
        .iter()
        .flat_map(|test| test["alert_rule_test"].as_array().expect("cases").clone())
        .map(|case| {
            let fires = case["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
            (case["alertname"].as_str().expect("a name").to_owned(), fires)
        })
        .collect();
    for rule in rules() {
        let name = rule["alert"].as_str().expect("a name").to_owned();
        let steps: Vec<bool> = cases.iter().filter(|(of, _)| *of == name).map(|(_, fires)| *fires).collect();
        assert!(steps.contains(&true) && steps.contains(&false), "{name}: {steps:?}");
    }
}

#[test]
fn every_alert_has_a_section_that_says_what_to_do() {
    let text = fs::read_to_string(repository().join("docs/alerts.md")).expect("the document is there");
    let sections: BTreeSet<String> =
        text.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_lowercase).collect();
    for rule in rules() {
        let url = rule["annotations"]["runbook_url"].as_str().expect("an alert names its section").to_owned();
        let (page, anchor) = url.split_once('#').expect("with an anchor");
        assert!(page.ends_with("docs/alerts.md"), "{url}");
        assert!(sections.contains(anchor), "{url}");
        assert_eq!(rule["alert"].as_str().expect("a name").to_lowercase(), anchor);
        assert!(rule["labels"]["team"].is_string() && rule["labels"]["severity"].is_string());
    }
}

#[test]
fn the_dashboard_can_be_posted_as_it_is() {
    let dashboard = dashboard();
    let inner = &dashboard["dashboard"];
    assert!(inner["id"].is_null());
    assert_eq!(inner["title"], "Contract Bundle Operations");
    assert!(inner["panels"].as_array().is_some_and(|panels| panels.len() >= 7));
}

#[tokio::test]
async fn every_series_that_rules_and_dashboard_name_is_in_a_live_scrape() {
    let world = World::start(&["n1"]).await;
    let mut agent = world.start_agent("n1");
    // The age is that of a release.
    publish_contracts(&world, &contracts(world.directory()), "v1").await;
    agent.switched_to("v1").await;
    let address = agent.http_address().await;
    let page = eventually("the age of what runs", PATIENCE, async || {
        let page = get(address, "/metrics", &[]).await;
        let shown = page.body.lines().any(|line| line.starts_with("demon_bundle_age_hours"));
        if shown { Ok(page) } else { Err(page.body) }
    })
    .await;
    let series: Vec<&str> = page.body.lines().filter(|line| !line.starts_with('#')).collect();
    let mut checked = 0;
    for expression in expressions() {
        for (name, labels) in selectors(&expression) {
            let matching = series.iter().filter(|line| {
                let line_name = line.split(['{', ' ']).next().unwrap_or_default();
                // A quantile appears once something was measured; its summary is there from the start.
                line_name == name && labels.iter().all(|label| line.contains(label.as_str()))
            });
            let summary = series.iter().any(|line| line.starts_with(&format!("{name}_count")));
            let quantile = labels.iter().any(|label| label.starts_with("quantile="));
            assert!(
                matching.count() > 0 || (quantile && summary),
                "{name} {labels:?} of `{expression}`\n{}",
                page.body
            );
            checked += 1;
        }
    }
    assert!(checked >= 20, "{checked}");
}
