//! Publisher, operator and agents on clocks that are hours off: what they do is right, and each of them is named.

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::http_request::get;
use acceptance::node_status::told_times;
use acceptance::operations::{operated, operator_command, publish_command, text_of};
use acceptance::promises::{Acknowledged, assert_kept};
use acceptance::sample_trees::{change_one_contract, contracts};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs, finished, succeeded};
use acceptance::wrong_clock::WrongClocks;

use super::publish_until_done;

const HOURS: [(&str, &str); 2] = [("ahead", "+7h"), ("behind", "-7h")];

#[tokio::test(flavor = "multi_thread")]
async fn programs_on_clocks_that_are_hours_off_lose_nothing_and_are_named() {
    let Some(clocks) = WrongClocks::found() else { return };
    let world = World::start(&["ahead", "behind"]).await;
    let source = contracts(world.directory());
    let mut done = Acknowledged::default();
    let mut agents = Vec::new();
    for (node, offset) in HOURS {
        let mut command = world.agent_command(node);
        clocks.set(&mut command, offset);
        let directories = AgentDirectories::below(world.directory(), node);
        agents.push(Agent::start(node, command, directories, world.directory()));
    }
    // Each release comes from a publisher that is further back than the one before.
    for (tag, offset) in [("first", "+5h"), ("second", "+0h"), ("third", "-5h")] {
        change_one_contract(&source, tag);
        let mut command = publish_command(&world, &source, tag);
        clocks.set(&mut command, offset);
        let published = succeeded(command).await;
        let named = text_of(&published.stdout).contains("DURABILITY: the server's clock is");
        assert_eq!(named, offset != "+0h", "{}", both_outputs(&published));
        done.published.insert(tag.to_owned());
        for agent in &mut agents {
            agent.switched_to(tag).await;
        }
    }
    // An operator whose day is over already moves back, and one whose day has not begun moves on.
    for (tag, offset) in [("first", "+9h"), ("third", "-9h")] {
        let mut command =
            operator_command(&world, &["channel", "promote", "latest", tag, "--reason", &format!("at {offset}")]);
        clocks.set(&mut command, offset);
        succeeded(command).await;
        done.moved.insert((tag.to_owned(), format!("at {offset}")));
        for agent in &mut agents {
            agent.switched_to(tag).await;
        }
    }
    for (agent, (node, offset)) in agents.iter_mut().zip(HOURS) {
        told_times(&world, node, "bundle.loaded", 5).await;
        let side = if offset.starts_with('+') { "behind this machine's" } else { "ahead of this machine's" };
        let named = |line: &str| line.contains("\"alarm\":\"Clock\"") && line.contains(side);
        agent.process.log_line("that its clock is wrong", PATIENCE, named).await;
        let address = agent.http_address().await;
        let metrics = get(address, "/metrics", &[]).await.body;
        let skew = metrics.lines().find_map(|line| line.strip_prefix("demon_agent_server_clock_skew_seconds "));
        let skew: f64 = skew.and_then(|skew| skew.parse().ok()).unwrap_or_else(|| panic!("no skew in {metrics}"));
        let expected = if offset.starts_with('+') { -25_200.0 } else { 25_200.0 };
        assert!((skew - expected).abs() < 60.0, "{node}: {skew}");
        let status = get(address, "/api/contracts/status", &[]).await.body;
        assert!(status.contains("the server's clock is"), "{status}");
    }
    eventually("the clocks in the fleet's status", PATIENCE, async || {
        let fleet = operated(&world, &["fleet", "status", "--output", "json"]).await;
        satisfied(fleet.matches("the server's clock is").count() >= 2, || fleet.clone())
    })
    .await;
    assert_kept(&world, &done, &["ahead", "behind"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_publish_that_requires_durability_is_refused_before_it_stores_anything() {
    let world = World::monitored(&["n1"]).await;
    let source = contracts(world.directory());
    let page = format!("http://{}", world.server.monitoring());
    let mut done = Acknowledged::default();
    publish_until_done(&world, &source, "first", &mut done).await;
    change_one_contract(&source, "second");
    let path = source.to_str().expect("it is text").to_owned();
    let sha = "1".repeat(40);
    let by_operator = ["contracts", "publish", path.as_str(), "--tag", "second", "--git-sha", sha.as_str()];
    for mut command in [publish_command(&world, &source, "second"), operator_command(&world, &by_operator)] {
        command.env("DEMON_REQUIRE_DURABLE", "1");
        let refused = finished(command).await;
        let words = text_of(&refused.stderr);
        let complaints: Vec<&str> = words.lines().filter(|line| line.contains("--require-durable")).collect();
        assert_eq!((refused.status.code(), complaints.len()), (Some(1), 1), "{}", both_outputs(&refused));
        assert!(words.contains("--nats-monitor-url"), "{words}");
    }
    assert_kept(&world, &done, &[]).await;
    let mut command = publish_command(&world, &source, "second");
    command.env("DEMON_REQUIRE_DURABLE", "1").env("DEMON_NATS_MONITOR_URL", page);
    succeeded(command).await;
}
