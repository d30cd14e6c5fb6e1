//! The node agent: follows a channel, fetches and verifies releases, switches to them atomically, reports.
//!
//! | promise | kept by |
//! |---|---|
//! | only what is verified becomes current | [`shared::verification::VerifiedRelease`] is all that `activation` accepts |
//! | at any instant one release is current, whole | one `rename(2)` in `activation` |
//! | the last good release keeps running | `plan`: nothing is given up before its successor is verified |
//! | messages only wake | `reconcile`: every step starts from the state of the log, read again |
//! | what happened is reported once it is durable | `reports`, through the outbox of `streams` |
//!
//! A crash at any instruction leaves the old or the new release current; the next start finishes or discards the rest.

mod activation;
mod activation_facts;
pub mod agent_presence;
mod agent_view;
mod alarms;
mod bounded_command;
pub mod cache;
pub mod catalogue;
pub mod checkout;
mod checkpoint_watch;
mod conditions;
pub mod config;
mod desired;
mod durable_file;
mod embedded;
pub mod entry_point;
mod failures;
mod feed_watchdog;
mod fetch;
mod file_watch;
mod health_check;
mod http;
pub mod local_pin;
mod local_request;
mod metrics;
pub mod node_report;
mod node_state;
pub mod one_round;
mod plan;
pub mod reader;
mod reconcile;
mod release_directory;
mod reports;
mod retention;
mod staging;
mod state_directory;
mod switch_hook;
mod tamper;
#[cfg(test)]
mod test_releases;
mod trial;
mod unreported;
mod wire_bytes;

pub use self::config::{AgentArguments, AgentConfig};
pub use self::entry_point::{main_with, run};
pub use self::reconcile::AgentError;
pub use self::release_directory::ReleaseDirectoryError;
pub use self::state_directory::StateError;
