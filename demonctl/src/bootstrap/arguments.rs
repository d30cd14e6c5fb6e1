//! Options of the bootstrap: the agent's own, so that both mean the same node, and where the agent answers.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use reqwest::Url;
use serde_json::{Value, json};
use streams::connection_arguments::parse_duration;
use streams::secret::Secret;
use subscriber::{AgentArguments, AgentConfig};

use crate::agent_api::AgentApi;
use crate::environment_masking::masked;

/// Time for one answer of the agent.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The agent's port where the settings name none that is fixed.
const USUAL_PORT: u16 = 3000;

/// Options of `bootstrap`.
#[derive(Debug, Args)]
pub(crate) struct BootstrapArguments {
    /// Change nothing: check that NATS, its streams and buckets and the agent are there and well. The checks that fail are
    /// named, and the exit code is 1.
    #[arg(long, env = "DEMON_BOOTSTRAP_VERIFY", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) verify: bool,
    /// Longest time until the bundle is loaded: a whole number with `ms`, `s` or `m`.
    #[arg(long, env = "DEMON_BOOTSTRAP_TIMEOUT", value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub(super) timeout: Duration,
    /// Address of the agent's HTTP interface, where one runs here [default: loopback at the agent's PORT]
    #[arg(long, alias = "ui-base-url", env = "DEMON_AGENT_URL", value_name = "URL", hide_env_values = true)]
    agent_url: Option<Url>,
    /// Sent to the agent as `X-Admin-Token`; better given by its variable.
    #[arg(long, env = "ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    admin_token: Option<String>,
    #[command(flatten)]
    pub(super) agent: AgentArguments,
}

impl BootstrapArguments {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        let config = self.agent.check()?;
        Ok(json!({
            "verify": self.verify, "timeout_ms": u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
            "agent_url": self.shown_agent_url(&config)?,
            "admin_token": secret(self.admin_token.as_deref()), "agent": config,
        }))
    }

    /// How to ask the agent.
    pub(super) fn agent_api(&self, config: &AgentConfig) -> anyhow::Result<AgentApi> {
        Ok(AgentApi {
            url: self.url(config)?,
            key: secret(self.agent.http.api_key.as_deref()),
            admin_token: secret(self.admin_token.as_deref()),
            limit: ANSWER_LIMIT.min(self.timeout),
        })
    }

    /// The agent's address without a login.
    pub(super) fn shown_agent_url(&self, config: &AgentConfig) -> anyhow::Result<String> {
        Ok(masked("DEMON_AGENT_URL", self.url(config)?.as_str()))
    }

    fn url(&self, config: &AgentConfig) -> anyhow::Result<Url> {
        if let Some(url) = &self.agent_url {
            return Ok(url.clone());
        }
        let port = if config.http.port == 0 { USUAL_PORT } else { config.http.port };
        let address = config.http.bind_address;
        let host = if address.is_unspecified() { "127.0.0.1".to_owned() } else { host_of(address) };
        format!("http://{host}:{port}").parse().context("the agent's address is none: give --agent-url")
    }
}

fn host_of(address: std::net::IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}

fn secret(text: Option<&str>) -> Option<Secret> {
    text.map(str::trim).filter(|text| !text.is_empty()).map(Secret::new)
}
