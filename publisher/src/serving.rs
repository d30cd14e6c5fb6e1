//! A publisher that stays: it looks at its source again and again, cuts the day's release on schedule, and takes
//! orders. One run at a time, whoever asked for it; no request over HTTP can hold the loop up.

mod checkpoint_schedule;
mod durability_watch;
mod finished_run;
mod publish_loop;
mod run_queue;
mod service_metrics;
mod service_status;

pub use self::checkpoint_schedule::CheckpointStatus;
pub use self::durability_watch::DurabilityStatus;
pub use self::finished_run::{FinishedRun, ReleaseOutcome, RunResult};
pub use self::publish_loop::{ServeError, serve};
pub use self::run_queue::{QueuedRun, RunQueue};
pub(crate) use self::service_metrics::count_refused_trigger;
pub use self::service_metrics::{MetricsError, ServiceMetrics};
pub use self::service_status::{RunningRun, ScheduleStatus, ServiceStatus, StatusBoard};
