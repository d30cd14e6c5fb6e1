//! Options of the HTTP interface and of what it says.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use clap::Args;
use serde::Serialize;
use shared::daemon::api_keys::ApiKeys;

use super::ConfigFaults;
use super::strict::{Requirement, StrictArguments};
use super::values::shown;

const DEFAULT_STALE_HOURS: u32 = 24;

/// Options of the HTTP interface.
#[derive(Debug, Clone, Args)]
pub struct HttpArguments {
    /// Port of the HTTP interface (status, health, metrics); 0 takes a free one, which the log names
    #[arg(long, env = "PORT", value_name = "PORT", default_value = "3000")]
    pub port: String,

    /// A second port with the same answers, for example 8080
    #[arg(long, env = "DEMON_SECOND_PORT", value_name = "PORT")]
    pub second_port: Option<String>,

    /// Address the HTTP interface listens on; any but a loopback one needs a key or `--allow-open-http`
    #[arg(long, env = "BIND_ADDR", value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub bind_address: String,

    /// Key that API requests must send in `x-api-key`, at least 16 characters; two, separated by a comma, while you change
    /// them. Health and metrics need none
    #[arg(long, env = "AGENT_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub api_key: Option<String>,

    /// Listen on an address that others can reach although no key is set
    #[arg(long, env = "DEMON_ALLOW_OPEN_HTTP", value_parser = clap::builder::BoolishValueParser::new())]
    pub allow_open_http: bool,

    /// Do not serve HTTP at all
    #[arg(long, env = "DEMON_NO_HTTP", value_parser = clap::builder::BoolishValueParser::new())]
    pub no_http: bool,

    /// Age in whole hours above which the running release counts as stale; what is no number counts as 24
    #[arg(long, env = "DEMON_CONTRACTS_STALE_THRESHOLD_HOURS", value_name = "HOURS", default_value = "24")]
    pub stale_threshold_hours: String,

    /// The strict health check.
    #[command(flatten)]
    pub strict: StrictArguments,
}

/// Settings of the HTTP interface, each of them checked. Serialising shows no key.
#[derive(Debug, Clone, Serialize)]
pub struct HttpConfig {
    /// Whether to serve at all.
    pub enabled: bool,
    /// The first port; 0 stands for a free one.
    pub port: u16,
    /// The second port.
    pub second_port: Option<u16>,
    /// The address.
    pub bind_address: IpAddr,
    /// The keys; `None` lets everybody ask.
    pub api_keys: Option<ApiKeys>,
    /// Hours after which a release is stale.
    pub stale_threshold_hours: u32,
    /// What the strict health check demands beyond a running release that is what it should be.
    pub strict_requires: BTreeSet<Requirement>,
}

impl HttpConfig {
    /// Where to listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        if !self.enabled {
            return Vec::new();
        }
        [Some(self.port), self.second_port].into_iter().flatten().map(|port| (self.bind_address, port).into()).collect()
    }
}

impl HttpArguments {
    pub(super) fn check(&self, faults: &mut ConfigFaults) -> Option<HttpConfig> {
        let port = port(&self.port, "--port (PORT)", faults);
        let second = self.second_port.as_deref().filter(|text| !text.is_empty());
        let second_port = second.map(|text| self::port(text, "--second-port (DEMON_SECOND_PORT)", faults));
        let address: Option<IpAddr> = if let Ok(address) = self.bind_address.parse() {
            Some(address)
        } else {
            faults.add("--bind-address (BIND_ADDR)", &format!("`{}` is no IP address", self.bind_address));
            None
        };
        let keys = ApiKeys::parse(self.api_key.as_deref().unwrap_or_default());
        let keys = keys.map_err(|error| faults.add_error("--api-key (AGENT_API_KEY)", &error)).ok();
        if let (Some(address), Some(None)) = (address, &keys)
            && !address.is_loopback()
            && !self.allow_open_http
            && !self.no_http
        {
            let fault = format!("others can reach `{address}`: set AGENT_API_KEY, or give --allow-open-http");
            faults.add("--bind-address (BIND_ADDR)", &fault);
        }
        let strict_requires = self.strict.check(faults);
        Some(HttpConfig {
            strict_requires,
            enabled: !self.no_http,
            port: port?,
            second_port: second_port.map_or(Some(None), |port| port.map(Some))?,
            bind_address: address?,
            api_keys: keys?,
            // A wrong number here must not keep a node from starting: the playbook says what counts then.
            stale_threshold_hours: self.stale_threshold_hours.trim().parse().unwrap_or(DEFAULT_STALE_HOURS),
        })
    }

    /// What is odd without being a fault.
    pub(super) fn warning(&self) -> Option<String> {
        let text = self.stale_threshold_hours.trim();
        let odd = text.parse::<u32>().is_err();
        odd.then(|| {
            let shown = shown(text);
            format!(
                "DEMON_CONTRACTS_STALE_THRESHOLD_HOURS: `{shown}` is no number of hours; {DEFAULT_STALE_HOURS} counts"
            )
        })
    }
}

fn port(text: &str, option: &str, faults: &mut ConfigFaults) -> Option<u16> {
    let port = text.trim().parse().ok();
    if port.is_none() {
        let shown = shown(text);
        faults.add(option, &format!("`{shown}` is no port, 0 to 65535"));
    }
    port
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        http: HttpArguments,
    }

    fn check(arguments: &[&str]) -> Result<HttpConfig, String> {
        let mut faults = ConfigFaults::default();
        let config = Program::try_parse_from([&["demon-runtime"], arguments].concat()).unwrap().http.check(&mut faults);
        if faults.is_empty() { Ok(config.unwrap()) } else { Err(faults.to_string()) }
    }

    #[test]
    fn loopback_is_the_default_and_others_need_a_key() {
        assert_eq!(check(&[]).unwrap().addresses(), ["127.0.0.1:3000".parse().unwrap()]);
        assert_eq!(check(&["--port", "0", "--second-port", "8080"]).unwrap().addresses().len(), 2);
        assert!(check(&["--bind-address", "0.0.0.0"]).unwrap_err().contains("AGENT_API_KEY"));
        assert!(check(&["--bind-address", "0.0.0.0", "--allow-open-http"]).is_ok());
        assert!(check(&["--bind-address", "0.0.0.0", "--api-key", "0123456789abcdef"]).is_ok());
        assert!(check(&["--no-http", "--bind-address", "0.0.0.0"]).unwrap().addresses().is_empty());
    }

    #[test]
    fn keys_are_not_shown() {
        let shown = serde_json::to_string(&check(&["--api-key", "0123456789abcdef"]).unwrap()).unwrap();
        assert!(shown.contains("\"api_keys\":\"***\"") && !shown.contains("0123456789"), "{shown}");
    }

    #[test]
    fn a_threshold_that_is_no_number_counts_as_the_default() {
        assert_eq!(check(&["--stale-threshold-hours", "72"]).unwrap().stale_threshold_hours, 72);
        assert_eq!(check(&["--stale-threshold-hours", "soon"]).unwrap().stale_threshold_hours, 24);
        assert!(check(&["--port", "http"]).unwrap_err().contains("PORT"));
    }
}
