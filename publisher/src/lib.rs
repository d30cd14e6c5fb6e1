//! Turns a directory into a verified release, stores it, announces it and moves a channel to it.
//!
//! The steps are separate functions whose types force their order, so that a caller may stop between any two of
//! them and a process that died there finishes when it runs again:
//!
//! | step | function | gives | promise |
//! |---|---|---|---|
//! | read | [`source::directory::read_directory`] | [`source::SourceTree`] | every rule of a release's files holds |
//! | build | [`build::build`] | [`build::BuiltRelease`] | same tree and facts, same bytes |
//! | store | [`stored_release::store`] | [`stored_release::PutRelease`] | both objects are in the bucket, names written once |
//! | read back | [`stored_release::read_back`] | [`stored_release::StoredRelease`] | what the server gives back was compared, byte for byte and file for file |
//! | announce | [`announcement::announce`] | [`announcement::AnnouncedRelease`] | the event is in the log |
//! | promote | [`channel::promote_published`] | [`channel::AutomaticPromotion`] | the head is in the log, or why it was left alone |
//!
//! [`publish_cycle::publish`] takes all of them. Nothing here prints: progress goes to a
//! [`progress::ProgressReporter`], results and errors to the caller.

pub mod announcement;
pub mod author;
pub mod build;
pub mod channel;
pub mod channel_history;
pub mod checkpoints;
pub mod compatibility;
pub mod config;
pub mod contracts_bundle;
pub mod contracts_document;
pub mod delta;
pub mod durability_gate;
pub mod git_facts;
pub mod github;
pub mod http_api;
pub mod progress;
pub mod publish_cycle;
pub mod publish_preview;
pub mod release_comparison;
pub mod release_facts;
pub mod release_register;
pub mod reseeding;
pub mod schedule;
pub mod server_monitoring;
pub mod service;
pub mod serving;
pub mod source;
pub mod stored_release;
pub mod tag;
#[cfg(test)]
mod test_releases;
pub mod withdrawal;
