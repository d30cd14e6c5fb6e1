//! `demonctl store verify`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use shared::daemon::ErrorChain;
use shared::event::{ObjectReference, Published};
use shared::identifiers::{BundleName, Tag};
use streams::event_log::EventLog;
use streams::release_store::{FetchError, ReleaseStore, TransferProgress};
use subscriber::catalogue::Catalogue;
use tokio::time::sleep;

use crate::checkout::ReaderArguments;
use crate::fetch_progress::FetchProgress;
use crate::output::{OutputFormat, note, print_rows};

/// Reads of an object before a replica that does not have it yet counts as damage.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// Verify this bundle only [default: every bundle]
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME")]
    bundle: Option<BundleName>,
    /// Verify this release only
    #[arg(long, env = "DEMON_VERIFY_TAG", value_name = "TAG", requires = "bundle")]
    tag: Option<Tag>,
    /// Form of the output
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    #[command(flatten)]
    reader: ReaderArguments,
}

impl VerifyArguments {
    /// The effective settings, secrets masked.
    pub(super) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "bundle": self.bundle, "tag": self.tag, "output": self.output, "connection": self.reader.settings()?,
        }))
    }
}

/// What reading an object showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Condition {
    Intact,
    /// Not in the bucket, or chunks of it are gone.
    Missing,
    /// Other bytes than were announced.
    Altered,
    /// Could not be read; says nothing about the object.
    Unreadable,
}

impl Condition {
    fn as_str(self) -> &'static str {
        match self {
            Self::Intact => "intact",
            Self::Missing => "missing",
            Self::Altered => "altered",
            Self::Unreadable => "unreadable",
        }
    }
}

#[derive(Debug, Serialize)]
struct Row {
    bundle: BundleName,
    tag: Tag,
    object: String,
    size: u64,
    condition: Condition,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// Reads every object and prints one row for each. Exit code 1 where one is not intact.
pub(super) async fn run(arguments: VerifyArguments) -> anyhow::Result<ExitCode> {
    let connection = arguments.reader.connect().await?;
    let log = EventLog::new(connection.clone());
    let catalogues = match &arguments.bundle {
        Some(bundle) => vec![Catalogue::read(&log, bundle).await?],
        None => Catalogue::read_all(&log).await?.into_values().collect(),
    };
    let releases: Vec<Published> =
        catalogues.into_iter().flat_map(|catalogue| catalogue.releases).map(|release| release.published).collect();
    let releases = match &arguments.tag {
        None => releases,
        Some(tag) => {
            let named: Vec<Published> = releases.into_iter().filter(|release| &release.tag == tag).collect();
            anyhow::ensure!(
                !named.is_empty(),
                "release `{tag}` is not announced: `demonctl bundle list` shows what is"
            );
            named
        }
    };
    let store = ReleaseStore::new(connection.clone());
    let total_bytes = releases.iter().flat_map(objects).map(|object| object.size).sum();
    let progress = FetchProgress::named("verifying", total_bytes);
    let mut rows = Vec::new();
    for release in &releases {
        for object in objects(release) {
            let (condition, detail) = condition(&store, object, &progress).await;
            let (bundle, tag) = (release.bundle.clone(), release.tag.clone());
            rows.push(Row { bundle, tag, object: object.name.clone(), size: object.size, condition, detail });
        }
    }
    drop(progress);
    connection.drain().await;
    print_rows(arguments.output, &["bundle", "tag", "object", "size", "condition", "detail"], &rows, cells)?;
    let damaged = rows.iter().filter(|row| row.condition != Condition::Intact).count();
    if damaged == 0 {
        note(&format!("{} objects of {} releases are intact", rows.len(), releases.len()));
        return Ok(ExitCode::SUCCESS);
    }
    note(&format!(
        "{damaged} of {} objects are not intact: restore them with `demonctl store repair TAG --from DIRECTORY` from a node that has the release",
        rows.len()
    ));
    Ok(ExitCode::FAILURE)
}

fn objects(release: &Published) -> impl Iterator<Item = &ObjectReference> {
    [&release.archive, &release.release].into_iter()
}

async fn condition(
    store: &ReleaseStore,
    object: &ObjectReference,
    progress: &dyn TransferProgress,
) -> (Condition, Option<String>) {
    let mut attempt = 1;
    loop {
        let Err(error) = store.check(object, progress).await else { return (Condition::Intact, None) };
        let found = judged(&error);
        // A replica may lag behind the leader; wrong bytes stay wrong.
        if found == Condition::Altered || attempt == ATTEMPTS {
            return (found, Some(ErrorChain(&error).to_string()));
        }
        attempt += 1;
        sleep(PAUSE).await;
    }
}

fn judged(error: &FetchError) -> Condition {
    match error {
        FetchError::NotFound { .. } => Condition::Missing,
        FetchError::SizeMismatch { expected, actual, .. } if actual < expected => Condition::Missing,
        FetchError::SizeMismatch { .. } | FetchError::DigestMismatch { .. } => Condition::Altered,
        FetchError::LookUp { .. } | FetchError::Read { .. } | FetchError::Hashing { .. } => Condition::Unreadable,
    }
}

fn cells(row: &Row) -> Vec<String> {
    vec![
        row.bundle.to_string(),
        row.tag.to_string(),
        row.object.clone(),
        crate::event_text::bytes(row.size),
        row.condition.as_str().to_owned(),
        row.detail.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_bytes_are_missing_and_other_bytes_are_altered() {
        let mismatch = |actual| FetchError::SizeMismatch { object: "o".to_owned(), expected: 10, actual };
        assert_eq!(judged(&mismatch(9)), Condition::Missing);
        assert_eq!(judged(&mismatch(11)), Condition::Altered);
        assert_eq!(judged(&FetchError::NotFound { object: "o".to_owned() }), Condition::Missing);
    }
}
