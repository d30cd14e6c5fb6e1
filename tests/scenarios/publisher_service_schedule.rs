//! The day's release on schedule, and what becomes of one that was missed.

use std::path::Path;
use std::process::Command;

use acceptance::publisher_service::PublisherService;
use acceptance::sample_trees::contracts;
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, succeeded};
use chrono::{TimeDelta, Utc};
use rustix::process::Signal;

use crate::publisher_service::{announced, announcements, ready};

/// A release of the source as of another day, by hand.
async fn released_long_ago(world: &World, source: &Path) {
    let mut command = world.publisher();
    command.args(["--timestamp", "2025-09-21T06:00:00Z"]).arg("--source").arg(source);
    succeeded(command).await;
}

fn scheduled(world: &World, source: &Path, schedule: &str) -> Command {
    let mut command = world.publisher_service();
    command.args(["--interval", "60m", "--schedule", schedule]).arg("--source").arg(source);
    command
}

#[tokio::test]
async fn the_schedule_cuts_a_days_release_of_unchanged_content_once() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    released_long_ago(&world, &source).await;
    let mut service =
        PublisherService::start("service", scheduled(&world, &source, "* * * * * *"), world.directory()).await;
    let all = announced(&world, 2).await;
    let (first, second) = (all[0].data(), all[1].data());
    assert_eq!((&first["trigger"], &second["trigger"]), (&"local".into(), &"schedule".into()));
    assert_eq!(first["content_digest"], second["content_digest"]);
    assert_ne!(first["tag"], second["tag"], "a tag of its day");
    // Further due times of the same day find it there.
    eventually("three scheduled runs", PATIENCE, async || {
        let metrics = service.get("/metrics").await.body;
        let unchanged = r#"demon_publisher_runs_total{trigger="schedule",result="unchanged"} "#;
        let count = metrics.lines().find_map(|line| line.strip_prefix(unchanged)?.parse::<u64>().ok());
        satisfied(count >= Some(2), || format!("{count:?} found nothing to do"))
    })
    .await;
    // At midnight another day's release is right.
    let days = announcements(&world).await.iter().filter(|event| event.data()["trigger"] == "schedule").count();
    assert!((1..=2).contains(&days), "{days} scheduled releases");

    service.process.signal(Signal::TERM);
    assert_eq!(service.process.ended(PATIENCE).await.code(), Some(0));
    // Without its own record, the log says what was done last.
    std::fs::remove_file(world.directory().join("publisher/schedule.json")).expect("the record is there");
    let stopped = Utc::now();
    eventually("three due times more", PATIENCE, async || {
        satisfied(Utc::now() - stopped > TimeDelta::seconds(3), || "they have not passed".to_owned())
    })
    .await;
    let mut again =
        PublisherService::start("again", scheduled(&world, &source, "* * * * * *"), world.directory()).await;
    again.process.log_line("a missed release", PATIENCE, |line| line.contains("was missed")).await;
}

#[tokio::test]
async fn missed_days_are_told_once_and_made_up_for_by_one_release() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    released_long_ago(&world, &source).await;
    let long_ago = (Utc::now() - TimeDelta::days(3)).to_rfc3339();
    let record = serde_json::json!({ "done_until": long_ago }).to_string();
    std::fs::write(world.directory().join("publisher/schedule.json"), record).expect("the state directory is there");

    let service = PublisherService::start("service", scheduled(&world, &source, "0 6 * * *"), world.directory()).await;
    let made_up = announced(&world, 2).await[1].data();
    assert_eq!(made_up["trigger"], "schedule");
    ready(&service).await;
    let schedule = eventually("a schedule that is done", PATIENCE, async || {
        let status = service.get("/api/publisher/status").await.json();
        if status["schedule"]["pending_due"].is_null() {
            Ok(status["schedule"].clone())
        } else {
            Err(status.to_string())
        }
    })
    .await;
    assert!((2..=4).contains(&schedule["missed"].as_u64().expect("a number")), "{schedule}");
    assert_eq!(schedule["last_missed"], schedule["done_until"], "{schedule}");
    assert!(schedule["next_due"].as_str().is_some_and(|due| due.ends_with("T06:00:00Z")), "{schedule}");
    let health = service.get("/readyz").await.json();
    assert_eq!(health["missed_schedules"], schedule["missed"]);
    let log = service.process.log();
    assert_eq!(log.lines().filter(|line| line.contains("was missed")).count(), 1, "{log}");
    assert_eq!(announcements(&world).await.len(), 2, "one release for all of them");
}

#[tokio::test]
async fn a_schedule_that_begins_has_missed_nothing() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    released_long_ago(&world, &source).await;
    let service = PublisherService::start("service", scheduled(&world, &source, "0 6 * * *"), world.directory()).await;
    ready(&service).await;
    let status = eventually("a known schedule", PATIENCE, async || {
        let status = service.get("/api/publisher/status").await.json();
        if status["schedule"]["done_until"].is_null() { Err(status.to_string()) } else { Ok(status) }
    })
    .await;
    assert_eq!(status["schedule"]["missed"], 0);
    assert_eq!(status["last_run"]["result"], "unchanged");
    assert_eq!(announcements(&world).await.len(), 1);
}
