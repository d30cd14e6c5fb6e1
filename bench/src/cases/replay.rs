//! `replay`: the whole log read and folded, beside a bare ordered consumer that only counts what comes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{DeliverPolicy, push};
use clap::Args;
use futures_util::StreamExt as _;
use shared::fleet_history::{FleetHistory, StoredMessage};
use shared::subjects::{EVENT_STREAM, EVENT_SUBJECTS};
use streams::event_log::EventLog;

use crate::CommonArguments;
use crate::bench_server::{BenchServer, Durability};
use crate::event_maker::{EventMaker, fill};
use crate::measurement::{Samples, as_number, rate};
use crate::process_usage;
use crate::report::{Limit, Report};

/// A log of so many events is read through a consumer, or else what is measured is the way it falls back to.
const SURELY_BY_CONSUMER: u64 = 5000;
const MEBIBYTE: f64 = 1_048_576.0;

#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// Events in the log. A tenth of them is replayed first, to compare the memory.
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(10..=100_000_000))]
    events: u64,
    /// Nodes that wrote them.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: u32,
    #[command(flatten)]
    pub(crate) common: CommonArguments,
}

/// What one reading of the log gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Read {
    events: u64,
    bytes: u64,
}

pub(crate) async fn run(arguments: &ReplayArguments) -> anyhow::Result<Report> {
    let mut report = Report::new("replay");
    let ReplayArguments { events, nodes, common } = arguments;
    report.setting("events", *events);
    report.setting("nodes", *nodes);
    report.setting("rounds", common.rounds);

    let server = BenchServer::start(common.directory.as_deref(), Durability::Later).await?;
    let client = server.client().await?;
    let log = EventLog::new(server.connection("bench replay").await?);
    let mut maker = EventMaker::new("contracts".parse()?, "production".parse()?, usize::try_from(*nodes)?)?;

    let begun = Instant::now();
    let first = events / 10;
    let mut bytes = fill(&client, &mut maker, first).await?;
    let tenth = peak_of_replay(&log).await?;
    bytes += fill(&client, &mut maker, events - first).await?;
    report.fact("seconds to fill the log", begun.elapsed().as_secs_f64());
    report.fact("bytes an event", as_number(bytes) / as_number(*events));

    let state = log.state().await?;
    ensure!(state.events >= *events, "the log holds {} events of {events}", state.events);
    let whole = peak_of_replay(&log).await?;

    let (mut floor, mut ours, mut unfolded) = (Samples::default(), Samples::default(), Samples::default());
    let mut folded = FleetHistory::default();
    for _ in 0..common.rounds {
        let (read, time) = ordered_consumer(&client, state.events).await?;
        ensure!(read.events == state.events, "the ordered consumer gave {} of {} events", read.events, state.events);
        floor.add(rate(read.events, time));
        let (same, time) = pages(&log, |_| {}).await?;
        ensure!(same == read, "our pages gave {same:?}, the ordered consumer {read:?}");
        unfolded.add(rate(same.events, time));
        let mut history = FleetHistory::default();
        let (same, time) = pages(&log, |message| history.apply(message)).await?;
        ensure!(same == read, "our replay gave {same:?}, the ordered consumer {read:?}");
        ours.add(rate(same.events, time));
        folded = history;
    }
    ensure!(folded.oddities.is_empty(), "{} events could not be folded", folded.oddities.len());
    ensure!(folded.last_sequence == state.last_sequence, "the fold ended at {}", folded.last_sequence);

    report.row("floor: bare ordered consumer", "events/s", &floor);
    report.row("ours, without the fold", "events/s", &unfolded);
    report.row("ours: replay and fold", "events/s", &ours);
    report.ratio("ours / floor", ours.median(), floor.median(), Some(Limit::at_least(0.7, 0.9)));
    report.ratio("ours without the fold / floor", unfolded.median(), floor.median(), None);
    if let (Some(tenth), Some(whole)) = (tenth, whole) {
        report.fact("peak MiB while a tenth is replayed", as_number(tenth) / MEBIBYTE);
        report.fact("peak MiB while all is replayed", as_number(whole) / MEBIBYTE);
        report.ratio("peak memory, all / a tenth", as_number(whole), as_number(tenth), Some(Limit::at_most(1.5, 1.1)));
    }
    report.fact("events replayed and folded", folded.last_sequence);
    report.fact("nodes in the fold", folded.nodes.len());
    server.stop().await?;
    Ok(report)
}

/// Memory at its highest while the whole log is replayed; `None` where that is not to be known.
async fn peak_of_replay(log: &EventLog) -> anyhow::Result<Option<u64>> {
    let forgotten = process_usage::forget_peak();
    let mut history = FleetHistory::default();
    pages(log, |message| history.apply(message)).await?;
    Ok(process_usage::own().filter(|_| forgotten).map(|usage| usage.peak_resident))
}

async fn pages(log: &EventLog, mut each: impl FnMut(StoredMessage<'_>)) -> anyhow::Result<(Read, Duration)> {
    let begun = Instant::now();
    let (mut read, mut by_consumer) = (Read { events: 0, bytes: 0 }, true);
    let up_to = log.state().await?.last_sequence;
    let mut pages = log.replay(EVENT_SUBJECTS, 1, up_to);
    while let Some(page) = pages.next_page().await? {
        by_consumer &= pages.reads_by_consumer();
        for event in &page {
            read.events += 1;
            read.bytes += event.payload.len() as u64;
            each(StoredMessage {
                stream_sequence: event.stream_sequence,
                stored_at: event.stored_at,
                subject: &event.subject,
                payload: &event.payload,
            });
        }
    }
    let time = begun.elapsed();
    ensure!(by_consumer || read.events < SURELY_BY_CONSUMER, "the log was not read by a consumer to its end");
    Ok((read, time))
}

async fn ordered_consumer(client: &async_nats::Client, expected: u64) -> anyhow::Result<(Read, Duration)> {
    let begun = Instant::now();
    let stream = jetstream::new(client.clone()).get_stream(EVENT_STREAM).await.context("the log is not there")?;
    let config = push::OrderedConfig {
        deliver_subject: client.new_inbox(),
        filter_subject: EVENT_SUBJECTS.to_owned(),
        deliver_policy: DeliverPolicy::All,
        ..push::OrderedConfig::default()
    };
    let consumer = stream.create_consumer(config).await.context("no consumer can be created")?;
    let mut messages = consumer.messages().await.context("the consumer gives nothing")?;
    let mut read = Read { events: 0, bytes: 0 };
    while read.events < expected {
        let message = messages.next().await.context("the consumer ended early")??;
        read.events += 1;
        read.bytes += message.payload.len() as u64;
    }
    Ok((read, begun.elapsed()))
}
