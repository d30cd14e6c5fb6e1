//! The options about the server's durability.

use clap::Args;
use clap::builder::BoolishValueParser;
use reqwest::Url;
use serde::{Serialize, Serializer};

use super::faults::ConfigFaults;
use crate::server_monitoring::parse_monitor_url;

const MONITOR_URL: &str = "--nats-monitor-url (DEMON_NATS_MONITOR_URL)";

/// What is asked of the server before it is trusted with events.
#[derive(Debug, Clone, Args)]
pub struct DurabilityArguments {
    /// The server's monitoring page, such as `http://127.0.0.1:8222`: only there it says whether it flushes before it
    /// acknowledges. Without it that is reported as unknown
    #[arg(long, env = "DEMON_NATS_MONITOR_URL", value_name = "URL")]
    pub nats_monitor_url: Option<String>,

    /// Do not start on a server that may lose what it has acknowledged: one that is too old, that does not flush before
    /// it acknowledges (or does not say so), or that keeps one copy on a cluster
    #[arg(long, env = "DEMON_REQUIRE_DURABLE", value_parser = BoolishValueParser::new())]
    pub require_durable: bool,
}

/// The same, checked.
#[derive(Debug, Clone, Serialize)]
pub struct DurabilityConfig {
    /// The monitoring page.
    #[serde(serialize_with = "as_text")]
    pub nats_monitor_url: Option<Url>,
    /// Whether a server without durability is refused.
    pub require_durable: bool,
}

#[expect(clippy::ref_option, reason = "the signature of a serializer")]
fn as_text<S: Serializer>(url: &Option<Url>, serializer: S) -> Result<S::Ok, S::Error> {
    url.as_ref().map(Url::as_str).serialize(serializer)
}

impl DurabilityArguments {
    /// Checks them by themselves.
    pub fn checked(&self) -> Result<DurabilityConfig, ConfigFaults> {
        let mut faults = ConfigFaults::default();
        let config = self.check(&mut faults);
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }

    pub(super) fn check(&self, faults: &mut ConfigFaults) -> DurabilityConfig {
        let given = self.nats_monitor_url.as_ref().filter(|text| !text.is_empty());
        let url = given.and_then(|text| faults.take(MONITOR_URL, parse_monitor_url(text)));
        DurabilityConfig { nats_monitor_url: url, require_durable: self.require_durable }
    }
}
