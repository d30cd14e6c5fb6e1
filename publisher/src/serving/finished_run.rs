//! What a run came to, as status, metrics and answers tell it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::event::Trigger;

use crate::publish_cycle::{Novelty, PublishReport};
use crate::service::{FailureKind, RunError, RunReport, describe};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunResult {
    /// At least one release was announced.
    Published,
    /// There was nothing to announce.
    Unchanged,
    /// A rule forbids what was to be published.
    Refused,
    /// The server was not there.
    Unavailable,
    /// Something went wrong.
    Failed,
}

impl RunResult {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Published, Self::Unchanged, Self::Refused, Self::Unavailable, Self::Failed];

    /// The result's text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
        }
    }

    /// Whether everything was done that there was to do.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Published | Self::Unchanged)
    }
}

/// One release that a run looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReleaseOutcome {
    /// The bundle.
    pub bundle: String,
    /// The tag.
    pub tag: String,
    /// What "unchanged" compares.
    pub content_digest: String,
    /// The release's identity.
    pub tree_digest: String,
    /// Stream sequence of its announcement.
    pub stream_sequence: u64,
    /// Whether this run announced it.
    pub announced: bool,
    /// What was done, in words, the channel included.
    pub summary: String,
}

impl From<&PublishReport> for ReleaseOutcome {
    fn from(report: &PublishReport) -> Self {
        let published = &report.release.published;
        Self {
            bundle: published.bundle.to_string(),
            tag: published.tag.to_string(),
            content_digest: published.content_digest.to_string(),
            tree_digest: published.tree_digest.to_string(),
            stream_sequence: report.release.stream_sequence,
            announced: matches!(report.novelty, Novelty::Announced | Novelty::AnnouncedAgain),
            summary: describe(report),
        }
    }
}

/// One run that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FinishedRun {
    /// What made us publish.
    pub trigger: Trigger,
    /// Whether unchanged content was to be released.
    pub forced: bool,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// How it ended.
    pub result: RunResult,
    /// The releases it looked at, oldest first.
    pub releases: Vec<ReleaseOutcome>,
    /// What went wrong, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl FinishedRun {
    /// What a run came to.
    pub fn new(
        (trigger, forced): (Trigger, bool),
        (started_at, finished_at): (DateTime<Utc>, DateTime<Utc>),
        outcome: &Result<RunReport, RunError>,
    ) -> Self {
        let releases: Vec<ReleaseOutcome> = outcome
            .as_ref()
            .map(|report| report.releases.iter().map(ReleaseOutcome::from).collect())
            .unwrap_or_default();
        let result = match outcome {
            Ok(_) if releases.iter().any(|release| release.announced) => RunResult::Published,
            Ok(_) => RunResult::Unchanged,
            Err(error) => match error.kind() {
                FailureKind::Refused => RunResult::Refused,
                FailureKind::Unavailable => RunResult::Unavailable,
                FailureKind::Failed => RunResult::Failed,
            },
        };
        let error = outcome.as_ref().err().map(RunError::in_one_line);
        Self { trigger, forced, started_at, finished_at, result, releases, error }
    }

    /// How it ended, in one line.
    pub fn words(&self) -> String {
        if let Some(error) = &self.error {
            return error.clone();
        }
        let summaries: Vec<&str> = self.releases.iter().map(|release| release.summary.as_str()).collect();
        if summaries.is_empty() { "nothing new at the source".to_owned() } else { summaries.join("; ") }
    }
}
