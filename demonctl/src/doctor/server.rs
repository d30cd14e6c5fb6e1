//! What NATS says: connection, login, streams, log, the channel's release, the node's failures.

use chrono::{TimeDelta, Utc};
use shared::daemon::ErrorChain;
use shared::event::Published;
use shared::event_type::EventType;
use shared::identifiers::{BundleName, ChannelName, NodeName};
use shared::subjects::{EVENT_STREAM, EventSubject, node_filter};
use streams::connection::{ConnectError, Connection};
use streams::connection_settings::ConnectionSettings;
use streams::event_log::{EventLog, Reader};
use streams::layout::{Layout, LayoutError, LayoutLimits, missing};
use streams::release_store::ReleaseStore;
use subscriber::catalogue::{Wanted, resolve};

use super::check::Check;
use crate::event_text::describe;
use crate::output::printable;

const REACHABLE: &str = "nats_reachable";
const LOGIN: &str = "nats_login";
const STREAMS: &str = "streams";
const EPOCH: &str = "log_epoch";
const CHANNEL: &str = "channel_head";
const OBJECTS: &str = "release_objects";
const FAILURES: &str = "recent_failures";
/// How far back failures are looked for.
const FAILURE_DAYS: i64 = 7;
/// Names of the checks that need a connection, in order.
pub(super) const BEHIND_CONNECTION: [&str; 5] = [STREAMS, EPOCH, CHANNEL, OBJECTS, FAILURES];

/// What is asked for.
pub(super) struct Questions<'a> {
    pub(super) bundle: &'a BundleName,
    pub(super) channel: &'a ChannelName,
    pub(super) node: &'a NodeName,
    pub(super) failures: usize,
}

/// Connects once.
pub(crate) async fn connect(settings: &ConnectionSettings) -> (Vec<Check>, Option<Connection>) {
    let address = settings.address.to_string();
    match Connection::open(settings).await {
        Ok(connection) => {
            let version = connection.server_version();
            let reachable = Check::yes(REACHABLE, format!("`{address}`, nats-server {version}"));
            (vec![reachable, Check::yes(LOGIN, "the login is accepted")], Some(connection))
        }
        Err(error) => {
            let detail = ErrorChain(&error).to_string();
            let not = |name, why| Check::not_checked(name, why);
            let checks = match &error {
                ConnectError::CredentialsRefused { .. } => {
                    let remedy = "check NATS_USER and NATS_PASSWORD, NATS_CREDS_PATH or NATS_NKEY_PATH";
                    vec![Check::yes(REACHABLE, format!("`{address}` answers")), Check::no(LOGIN, detail, remedy)]
                }
                ConnectError::CredentialsFile { .. } => {
                    let remedy = "check that the file exists and that you may read it";
                    vec![not(REACHABLE, "no login to connect with"), Check::no(LOGIN, detail, remedy)]
                }
                ConnectError::Tls { .. } | ConnectError::TlsFile { .. } => {
                    let remedy = "check NATS_TLS_CA, NATS_TLS_CERT and NATS_TLS_KEY, and the server's certificate";
                    vec![Check::no(REACHABLE, detail, remedy), not(LOGIN, "NATS was not reached")]
                }
                ConnectError::Unreachable { .. } => {
                    let remedy = "check NATS_URL, the server and the firewall between; agents keep serving meanwhile";
                    vec![Check::no(REACHABLE, detail, remedy), not(LOGIN, "NATS was not reached")]
                }
            };
            (checks, None)
        }
    }
}

/// Whether the streams are there and as declared.
pub(super) async fn streams(connection: &Connection) -> Check {
    judge_streams(missing(connection, &Layout::declared(LayoutLimits::default())).await)
}

/// Judges a comparison of the streams with their declaration.
pub(crate) fn judge_streams(compared: Result<Vec<String>, LayoutError>) -> Check {
    match compared {
        Ok(missing) if missing.is_empty() => Check::yes(STREAMS, "all present and as declared"),
        Ok(missing) => Check::no(
            STREAMS,
            format!("missing: {}", missing.join(", ")),
            "start `demon-publisher serve`, which creates what is missing; restore a lost log from its backup first",
        ),
        Err(error) => Check::no(
            STREAMS,
            ErrorChain(&error).to_string(),
            "correct the named fields with `nats stream edit`; where access is denied, log in as an operator",
        ),
    }
}

/// Whether the log has begun.
pub(crate) async fn epoch(log: &EventLog) -> Check {
    match log.last(&EventSubject::epoch_started(EVENT_STREAM), Reader::AnyReplica).await {
        Ok(Some(event)) => {
            let (sequence, since) = (event.stream_sequence, event.stored_at.format("%Y-%m-%dT%H:%M:%SZ"));
            Check::yes(EPOCH, format!("began with event {sequence} at {since}"))
        }
        Ok(None) => Check::no(EPOCH, "the log has no beginning", "start `demon-publisher serve`, which begins it"),
        Err(error) => Check::no(EPOCH, ErrorChain(&error).to_string(), "check the streams first"),
    }
}

/// Whether the channel leads to a release whose objects are stored, and that release.
pub(super) async fn release(log: &EventLog, questions: &Questions<'_>) -> (Vec<Check>, Option<Published>) {
    let (bundle, channel) = (questions.bundle, questions.channel);
    let published = match resolve(log, bundle, &Wanted::HeadOf(channel.clone())).await {
        Ok(resolved) => resolved.release.published,
        Err(error) => {
            let remedy = "publish a release, or move the channel with `demonctl channel promote` to a usable one";
            let failed = Check::no(CHANNEL, ErrorChain(&error).to_string(), remedy);
            return (vec![failed, Check::not_checked(OBJECTS, "no release to look for")], None);
        }
    };
    let head = Check::yes(CHANNEL, format!("`{channel}` of `{bundle}` leads to `{}`", published.tag));
    let store = ReleaseStore::new(log.connection().clone());
    let mut faults = Vec::new();
    for expected in [&published.archive, &published.release] {
        match store.info(&expected.name).await {
            Ok(Some(found)) if found.reference() == *expected => {}
            Ok(Some(_)) => faults.push(format!("`{}` is not the object that was announced", expected.name)),
            Ok(None) => faults.push(format!("`{}` is missing", expected.name)),
            Err(error) => faults.push(format!("`{}`: {}", expected.name, ErrorChain(&error))),
        }
    }
    let objects = if faults.is_empty() {
        Check::yes(OBJECTS, "archive and description are stored as announced")
    } else {
        Check::no(OBJECTS, faults.join("; "), "restore the store from its backup, or publish under a new tag")
    };
    (vec![head, objects], Some(published))
}

/// The node's last failures.
pub(super) async fn failures(log: &EventLog, questions: &Questions<'_>) -> Check {
    let mut pages = log.stored_since(node_filter(questions.node), Utc::now() - TimeDelta::days(FAILURE_DAYS));
    let mut found = Vec::new();
    loop {
        match pages.next_page().await {
            Ok(Some(page)) => found.extend(page.iter().filter_map(|event| {
                let envelope = event.envelope().ok()?.1;
                let failed = [EventType::VerificationFailed, EventType::DownloadFailed, EventType::Reverted];
                let text = || {
                    let (time, what) = (event.stored_at.format("%Y-%m-%dT%H:%M:%SZ"), describe(&envelope.event));
                    format!("{time} {} {}", envelope.event.event_type(), printable(&what))
                };
                failed.contains(&envelope.event.event_type()).then(text)
            })),
            Ok(None) => break,
            Err(error) => return Check::no(FAILURES, ErrorChain(&error).to_string(), "check the streams first"),
        }
        let surplus = found.len().saturating_sub(questions.failures);
        found.drain(..surplus);
    }
    let node = questions.node;
    if found.is_empty() {
        return Check::yes(FAILURES, format!("node `{node}` reported none in {FAILURE_DAYS} days"));
    }
    let remedy = format!("`demonctl node show {node}` says whether it has got over them");
    Check::warning(FAILURES, found.join("; "), remedy)
}
