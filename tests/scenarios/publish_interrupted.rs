//! Publishing at once, and publishing that is cut off: nothing is announced twice, and the next run finishes.

use std::time::Instant;

use acceptance::operations::operated_json;
use acceptance::process::Process;
use acceptance::publishing::{ServerContent, contracts_publish, document};
use acceptance::sample_trees::{change_one_contract, contracts, noise};
use acceptance::world::{World, finished, succeeded};

const HEAD: &str = "bundle.promoted.contracts.channel.latest";

#[tokio::test]
async fn of_many_who_publish_the_same_at_once_one_announces() {
    let world = World::unprovisioned(&[]).await;
    let source = contracts(world.directory());
    let commands = (0..4).map(|_| finished(contracts_publish(&world, &source, &[])));
    let outputs = futures_util::future::join_all(commands).await;
    let announced = outputs.iter().filter(|output| document(output)["novelty"] == "announced").count();
    assert_eq!(announced, 1);
    let content = ServerContent::of(&world.raw_operator().await).await;
    assert_eq!((content.count("bundle.published"), content.count("bundle.promoted")), (1, 1));
}

#[tokio::test]
async fn a_publish_killed_at_any_moment_is_finished_by_the_next() {
    let world = World::start(&[]).await;
    let operator = world.raw_operator().await;
    let source = contracts(world.directory());
    // The next run is at another time and for another reason: what was begun decides about the release's facts.
    let begun = ["--timestamp", "2025-09-21T06:00:00Z", "--trigger", "workflow_run"];
    let finished_by = ["--timestamp", "2025-09-21T07:00:00Z", "--trigger", "local"];
    let publish = |round: u64, options: &[&str]| {
        contracts_publish(&world, &source, &[options, &["--tag", &format!("v{round}")]].concat())
    };
    let change = |round: u64| {
        change_one_contract(&source, &hex(&noise(400_000, round)));
    };
    // How long a whole publish takes here, so that the kills fall into it and not behind it.
    change(0);
    let start = Instant::now();
    succeeded(publish(0, &begun)).await;
    let whole = start.elapsed();
    let mut cut_off = 0;
    for round in 1..=20_u32 {
        change(round.into());
        let mut process = Process::start(&format!("publish-{round}"), publish(round.into(), &begun), world.directory());
        // Not a wait for anything: the moment of the kill is what varies.
        tokio::time::sleep(whole.mul_f64(f64::from(round) / 20.0)).await;
        cut_off += usize::from(process.runs());
        process.kill();
        let row = document(&succeeded(publish(round.into(), &finished_by)).await);
        assert_eq!(row["tag"], format!("v{round}"));
        let content = ServerContent::of(&operator).await;
        let announced = content.on(&format!("bundle.published.contracts.release.v{round}"));
        assert_eq!(announced.len(), 1, "round {round}");
        assert_eq!(announced[0].data()["tree_digest"], row["tree_digest"], "round {round}");
        let heads = content.on(HEAD);
        let to_this = heads.iter().filter(|head| head.data()["tag"] == format!("v{round}")).count();
        assert_eq!((to_this, heads.len()), (1, round as usize + 1), "round {round}");
    }
    // What the killed runs left is nobody's: it is collected, and nothing else is.
    let collected = operated_json(&world, &["store", "gc", "--older-than", "1ms", "--apply"]).await;
    let outcomes = collected.as_array().expect("rows").iter().map(|row| &row["outcome"]);
    assert!(outcomes.clone().all(|outcome| outcome == "collected"), "{collected}");
    assert_eq!(operated_json(&world, &["store", "gc", "--older-than", "1ms"]).await.as_array().map(Vec::len), Some(0));
    let intact = operated_json(&world, &["store", "verify"]).await;
    assert_eq!(intact.as_array().map(Vec::len), Some(2 * 21), "every release is whole");
    assert!(cut_off >= 5, "only {cut_off} of 20 runs were cut off: a whole one takes {whole:?}");
}

/// Text that does not compress to nothing.
fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).expect("four bits");
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
