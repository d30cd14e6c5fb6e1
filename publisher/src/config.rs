//! What a publisher is told: flags, environment variables, defaults, and the one check that reports every fault at once.
//!
//! The only place of this crate that knows an option's name. Nothing else reads the environment.

mod checkpoints;
mod durability;
mod faults;
mod publish;
mod publisher;
mod serve;
mod trigger_keys;

use clap::{Parser, Subcommand, ValueEnum};
use shared::daemon::LogFormat;
use shared::event::Trigger;

pub use self::checkpoints::{CheckpointArguments, CheckpointConfig};
pub use self::durability::{DurabilityArguments, DurabilityConfig};
pub use self::faults::ConfigFaults;
pub use self::publish::{PublishArguments, PublishConfig, parse_time};
pub use self::publisher::{PublisherArguments, PublisherConfig, SourceConfig, SourceKind};
pub use self::serve::{Listen, ServeArguments, ServeConfig};

/// Publishes a source as releases of a bundle and moves a channel to them: once, or whenever there is something new.
///
/// Creates stream, bucket and node table where they are missing. Stops on SIGINT or SIGTERM at any point; the next run
/// finishes what was begun.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "demon-publisher",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 ok (nothing to do included), 1 refused or failed, 2 wrong usage.\n\
                  Logs go to standard output, filtered by RUST_LOG (default: info)."
)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: PublisherCommand,
}

/// What a publisher can do.
#[derive(Debug, Clone, Subcommand)]
pub enum PublisherCommand {
    /// Publish what there is and exit
    Publish(PublishArguments),
    /// Stay: publish on change, on schedule and on demand
    Serve(ServeArguments),
}

/// The trigger as an option names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum TriggerArgument {
    /// A person or a script on some machine
    Local,
    /// The daily schedule
    Schedule,
    /// A CI workflow that completed
    WorkflowRun,
    /// A workflow started by hand
    WorkflowDispatch,
}

impl From<TriggerArgument> for Trigger {
    fn from(argument: TriggerArgument) -> Self {
        match argument {
            TriggerArgument::Local => Self::Local,
            TriggerArgument::Schedule => Self::Schedule,
            TriggerArgument::WorkflowRun => Self::WorkflowRun,
            TriggerArgument::WorkflowDispatch => Self::WorkflowDispatch,
        }
    }
}

/// The log's form as an option names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArgument {
    /// One JSON object a line
    Json,
    /// For people
    Text,
}

impl From<LogFormatArgument> for LogFormat {
    fn from(argument: LogFormatArgument) -> Self {
        match argument {
            LogFormatArgument::Json => Self::Json,
            LogFormatArgument::Text => Self::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_options_are_consistent() {
        CommandLine::command().debug_assert();
    }
}
