//! `demonctl doctor`: every question that support asks, answered yes or no, with a remedy.
//!
//! Each check is bounded in time and stands alone: what cannot be checked because something else failed says so, so that
//! the page names what is broken and nothing else.

mod agent;
mod arguments;
mod cache;
pub(crate) mod check;
mod durability;
mod environment;
mod github;
pub(crate) mod server;
mod support_archive;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use chrono::Utc;
use serde::Serialize;
use serde_json::{Value, json};
use shared::daemon::ErrorChain;
use shared::event::Published;
use shared::subjects::EVENT_SUBJECTS;
use streams::connection::Connection;
use streams::event_log::EventLog;
use tokio::time::timeout;

pub(crate) use self::arguments::DoctorArguments;
use self::arguments::Source;
use self::check::{Check, Outcome};
use self::environment::Variables;
use crate::agent_api::AgentApi;
use crate::environment_masking::scrubbed;
use crate::output::{self, OutputFormat, print_document, print_rows, printable, table};

/// Most events in the archive.
const COLLECTED_EVENTS: u64 = 200;

/// The page.
#[derive(Serialize)]
struct Report {
    /// Whether nothing failed.
    ok: bool,
    checked_at: String,
    version: &'static str,
    checks: Vec<Check>,
    environment: Variables,
}

/// Checks everything, prints the page, writes the archive where one is asked for.
pub(crate) async fn run(arguments: DoctorArguments) -> anyhow::Result<ExitCode> {
    let variables = environment::relevant(
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))),
    );
    let secrets = secrets(&arguments, &variables);
    let settings = arguments.connection.settings("demonctl", "_INBOX")?;
    let limit = arguments.check_timeout;
    let api = AgentApi { url: arguments.agent_url.clone(), key: arguments.key(), admin_token: None, limit };
    let ((agent, status), (mut nats, connection), github) = tokio::join!(
        agent::check(&api),
        async {
            let late = || vec![late("nats_reachable", limit), Check::not_checked("nats_login", "NATS was not reached")];
            timeout(limit, server::connect(&settings)).await.unwrap_or_else(|_| (late(), None))
        },
        ask_github(&arguments),
    );
    let (behind, newest) = behind_connection(&arguments, connection.as_ref()).await?;
    nats.extend(behind);
    let mut checks: Vec<Check> = agent.into_iter().chain(nats).collect();
    checks.extend(look_at_cache(&arguments, newest).await);
    checks.extend(github);
    checks.push(environment::switches(&variables));
    for check in &mut checks {
        check.detail = scrubbed(&check.detail, &secrets);
    }
    let report = Report {
        ok: checks.iter().all(|check| check.outcome != Outcome::No),
        checked_at: Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        version: env!("CARGO_PKG_VERSION"),
        checks,
        environment: environment::shown(&variables),
    };
    print(arguments.output, &report)?;
    if arguments.bundle_file.is_some() {
        collect(&arguments, &report, &status, connection.as_ref(), &secrets).await?;
    }
    if let Some(connection) = connection {
        connection.drain().await;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Secrets of the environment and of the command line.
fn secrets(arguments: &DoctorArguments, variables: &Variables) -> Vec<String> {
    let given = [
        arguments.key(),
        arguments.connection.nats_password.clone(),
        arguments.github.github_token.clone(),
        arguments.github.second_token.clone(),
    ];
    let given =
        given.into_iter().flatten().map(|secret| secret.expose().trim().to_owned()).filter(|text| text.len() > 3);
    let addresses = [arguments.connection.nats_url.expose(), arguments.agent_url.as_str()];
    let addresses = addresses.iter().flat_map(|url| crate::environment_masking::secrets_in("NATS_URL", url));
    environment::secrets(variables).into_iter().chain(given).chain(addresses).collect()
}

fn late(name: &'static str, limit: Duration) -> Check {
    let detail = format!("no answer within {limit:?}");
    Check::no(name, detail, "check the network and the load on the other side, or give it longer: --check-timeout")
}

async fn ask_github(arguments: &DoctorArguments) -> Vec<Check> {
    let mut settings = match arguments.github.settings() {
        Ok(settings) => settings,
        Err(error) => return vec![Check::no(github::REACHABLE, ErrorChain(&error).to_string(), "correct the option")],
    };
    if arguments.source != Source::Github && settings.token.is_none() {
        let why = "releases do not come from GitHub and no token is set; --source github asks it";
        return vec![Check::not_checked(github::REACHABLE, why), Check::not_checked(github::TOKEN, why)];
    }
    settings.attempts = 1;
    let limit = arguments.check_timeout;
    let late = || vec![late(github::REACHABLE, limit), Check::not_checked(github::TOKEN, "GitHub was not reached")];
    timeout(limit, github::check(&settings, arguments.known_tag.as_ref())).await.unwrap_or_else(|_| late())
}

/// The checks that need a connection, and what the channel leads to.
async fn behind_connection(
    arguments: &DoctorArguments,
    connection: Option<&Connection>,
) -> anyhow::Result<(Vec<Check>, Option<Published>)> {
    let Some(connection) = connection else {
        let not = |name: &&'static str| Check::not_checked(name, "NATS was not reached");
        return Ok((server::BEHIND_CONNECTION.iter().chain(&durability::NAMES).map(not).collect(), None));
    };
    let node = arguments.node_name()?;
    let questions = server::Questions {
        bundle: &arguments.bundle,
        channel: &arguments.channel,
        node: &node,
        failures: arguments.failures,
    };
    let (log, limit) = (EventLog::new(connection.clone()), arguments.check_timeout);
    let (monitoring, required) = (arguments.nats_monitor_url.as_ref(), arguments.require_durable);
    let (streams, epoch, release, failures, durable) = tokio::join!(
        timeout(limit, server::streams(connection)),
        timeout(limit, server::epoch(&log)),
        timeout(limit, server::release(&log, &questions)),
        timeout(limit, server::failures(&log, &questions)),
        timeout(limit, durability::check(connection, monitoring, required, limit / 2)),
    );
    let [streams_name, epoch_name, head_name, objects_name, failures_name] = server::BEHIND_CONNECTION;
    let (release, newest) = release.unwrap_or_else(|_| {
        (vec![late(head_name, limit), Check::not_checked(objects_name, "no release to look for")], None)
    });
    let mut checks =
        vec![streams.unwrap_or_else(|_| late(streams_name, limit)), epoch.unwrap_or_else(|_| late(epoch_name, limit))];
    checks.extend(release);
    checks.push(failures.unwrap_or_else(|_| late(failures_name, limit)));
    checks.extend(durable.unwrap_or_else(|_| durability::NAMES.map(|name| late(name, limit)).to_vec()));
    Ok((checks, newest))
}

async fn look_at_cache(arguments: &DoctorArguments, newest: Option<Published>) -> Vec<Check> {
    let (cache, limit) = (arguments.cache.clone(), arguments.check_timeout);
    let looked = tokio::task::spawn_blocking(move || [cache::release(&cache), cache::disk(&cache, newest.as_ref())]);
    match timeout(limit, looked).await {
        Ok(Ok(checks)) => checks.to_vec(),
        Ok(Err(error)) => vec![Check::no(cache::RELEASE, ErrorChain(&error).to_string(), "look at the cache by hand")],
        Err(_) => vec![late(cache::RELEASE, limit)],
    }
}

fn print(format: OutputFormat, report: &Report) -> anyhow::Result<()> {
    match format {
        OutputFormat::Jsonl => print_rows(format, &[], &report.checks, |_| Vec::new()),
        OutputFormat::Table | OutputFormat::Json => print_document(format, report, || for_people(report)),
    }
}

fn for_people(report: &Report) -> String {
    let rows = report.checks.iter().flat_map(|check| {
        let first = vec![check.name.to_owned(), check.outcome.to_string(), printable(&check.detail)];
        let remedy = check.remedy.as_ref().map(|remedy| vec![String::new(), String::new(), format!("-> {remedy}")]);
        [Some(first), remedy].into_iter().flatten()
    });
    let checks = table(&["check", "ok", "detail"], rows);
    let variables = report.environment.iter().map(|(name, value)| vec![name.clone(), value.clone()]);
    let environment = table(&["variable", "value"], variables);
    let failed: Vec<&str> =
        report.checks.iter().filter(|check| check.outcome == Outcome::No).map(|check| check.name).collect();
    let verdict = if failed.is_empty() { "all well".to_owned() } else { format!("failing: {}", failed.join(", ")) };
    format!("{checks}\n\n{environment}\n\n{verdict}")
}

async fn collect(
    arguments: &DoctorArguments,
    report: &Report,
    status: &Value,
    connection: Option<&Connection>,
    secrets: &[String],
) -> anyhow::Result<()> {
    let Some(path) = &arguments.bundle_file else { return Ok(()) };
    let events = match connection {
        Some(connection) => timeout(arguments.check_timeout, last_events(&EventLog::new(connection.clone())))
            .await
            .map_err(anyhow::Error::from)
            .flatten()
            .unwrap_or_else(|error| json!({ "unavailable": ErrorChain(error.as_ref()).to_string() }).to_string()),
        None => json!({ "unavailable": "NATS was not reached" }).to_string(),
    };
    let log = match &arguments.log {
        Some(log) => support_archive::log_tail(log)
            .unwrap_or_else(|error| format!("`{}` cannot be read: {error}\n", log.display())),
        None => "no log was named (--log)\n".to_owned(),
    };
    let members = [
        ("status.json", serde_json::to_string_pretty(status)?),
        ("events.jsonl", events),
        ("environment.json", serde_json::to_string_pretty(&report.environment)?),
        ("doctor.json", serde_json::to_string_pretty(report)?),
        ("doctor.txt", for_people(report)),
        ("log.txt", log),
        ("note.txt", arguments.note.clone().unwrap_or_default()),
    ];
    let time = u64::try_from(Utc::now().timestamp()).unwrap_or_default();
    support_archive::write(path, &members, secrets, time)
        .with_context(|| format!("archive `{}` cannot be written", path.display()))?;
    output::note(&format!("archive written to `{}`; look through it before you send it", path.display()));
    Ok(())
}

/// The last events as JSON Lines, oldest first.
async fn last_events(log: &EventLog) -> anyhow::Result<String> {
    let last = log.state().await?.last_sequence;
    let first = last.saturating_sub(COLLECTED_EVENTS - 1).max(1);
    let mut pages = log.replay(EVENT_SUBJECTS, first, last);
    let mut lines = String::new();
    while let Some(page) = pages.next_page().await? {
        for event in page {
            let payload: Value = serde_json::from_slice(&event.payload).unwrap_or_default();
            let line = json!({
                "stream_sequence": event.stream_sequence, "stored_at": event.stored_at, "subject": event.subject,
                "event": payload,
            });
            lines.push_str(&line.to_string());
            lines.push('\n');
        }
    }
    Ok(lines)
}
