//! Publishing into a local stack: what to publish from a directory, and as whom.

use std::path::PathBuf;

use anyhow::Context as _;
use chrono::Utc;
use publisher::author::Author;
use publisher::build::{SourceContent, read_source};
use publisher::git_facts::read_commit;
use publisher::progress::Silent;
use publisher::publish_cycle::PublishRequest;
use shared::identifiers::{BundleName, ChannelName};
use shared::limits::ReleaseLimits;

use super::LocalStack;

/// The bundle that local stacks carry.
pub(crate) fn bundle() -> anyhow::Result<BundleName> {
    Ok("contracts".parse()?)
}

/// The channel that their agents follow.
pub(crate) fn channel() -> anyhow::Result<ChannelName> {
    Ok("latest".parse()?)
}

/// Reads a directory of contracts, and what there is to say about a release made of it now.
pub(crate) async fn read_contracts(directory: PathBuf) -> anyhow::Result<(SourceContent, PublishRequest)> {
    let limits = ReleaseLimits::default();
    let commit = {
        let directory = directory.clone();
        tokio::task::spawn_blocking(move || read_commit(&directory)).await.context("git was not asked to the end")?
    };
    let content = read_source(directory, bundle()?, limits, Silent::shared()).await?;
    let request =
        PublishRequest { commit, channel: Some(channel()?), limits, ..PublishRequest::new(bundle()?, Utc::now()) };
    Ok((content, request))
}

impl LocalStack {
    /// The stack's publisher `main`, with its own state directory.
    pub(crate) fn publisher(&self) -> anyhow::Result<Author> {
        Ok(Author::publisher("main".parse()?, &self.directory.publisher())?)
    }
}
