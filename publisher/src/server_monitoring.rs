//! The server's monitoring page: the only place where it says when it flushes its files.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use serde::Deserialize;
use shared::daemon::ErrorChain;
use streams::durability::SyncPolicy;

/// Largest page that is read.
const LARGEST_PAGE: usize = 1 << 20;
const NOT_ASKED: &str = "the monitoring page is not known; name it with --nats-monitor-url (DEMON_NATS_MONITOR_URL)";

/// The address of a monitoring page, such as `http://127.0.0.1:8222`. It bears no login: it would be shown with the settings.
pub fn parse_monitor_url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|_| "it is no URL such as `http://127.0.0.1:8222`".to_owned())?;
    if !matches!(url.scheme(), "http" | "https") || url.cannot_be_a_base() {
        return Err("it is no http or https URL such as `http://127.0.0.1:8222`".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds a login, and a monitoring page takes none".to_owned());
    }
    Ok(url)
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    jetstream: Option<JetStreamPart>,
}

#[derive(Deserialize)]
struct JetStreamPart {
    #[serde(default)]
    config: Option<JetStreamConfig>,
}

#[derive(Deserialize)]
struct JetStreamConfig {
    /// Nanoseconds; stands there with `always` too.
    #[serde(default)]
    sync_interval: u64,
    #[serde(default)]
    sync_always: bool,
}

/// Reads when the server flushes, from `/varz` of its monitoring page. What cannot be read is unknown, with the reason.
pub async fn read_sync_policy(monitoring: Option<&Url>, limit: Duration) -> SyncPolicy {
    let Some(url) = monitoring else { return SyncPolicy::Unknown { why: NOT_ASKED.to_owned() } };
    match page(url, limit).await {
        Ok(bytes) => sync_policy(&bytes),
        Err(why) => SyncPolicy::Unknown { why: format!("`{url}` does not say: {why}") },
    }
}

async fn page(url: &Url, limit: Duration) -> Result<Vec<u8>, String> {
    let said = |error: reqwest::Error| ErrorChain(&error.without_url()).to_string();
    let client = Client::builder().no_proxy().timeout(limit).redirect(Policy::none()).build().map_err(said)?;
    let url = url.join("/varz").map_err(|error| error.to_string())?;
    let mut response = client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(said)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(said)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LARGEST_PAGE {
            return Err(format!("its page is larger than {LARGEST_PAGE} bytes"));
        }
    }
    Ok(bytes)
}

fn sync_policy(page: &[u8]) -> SyncPolicy {
    let config = serde_json::from_slice::<Page>(page).ok().and_then(|page| page.jetstream?.config);
    match config {
        Some(JetStreamConfig { sync_always: true, .. }) => SyncPolicy::Always,
        Some(JetStreamConfig { sync_interval: nanoseconds @ 1.., .. }) => {
            SyncPolicy::Later { seconds: nanoseconds.div_ceil(1_000_000_000) }
        }
        Some(_) | None => {
            SyncPolicy::Unknown { why: "the monitoring page names no sync interval of JetStream".to_owned() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_when_the_server_flushes() {
        let of =
            |config: &str| sync_policy(format!(r#"{{"server_id":"N","jetstream":{{"config":{config}}}}}"#).as_bytes());
        assert_eq!(of(r#"{"sync_interval":120000000000,"sync_always":true,"strict":true}"#), SyncPolicy::Always);
        assert_eq!(of(r#"{"sync_interval":120000000000}"#), SyncPolicy::Later { seconds: 120 });
        for silent in [&b"{}"[..], b"", br#"{"jetstream":{}}"#, br#"{"jetstream":{"config":{}}}"#] {
            assert!(matches!(sync_policy(silent), SyncPolicy::Unknown { .. }));
        }
    }

    #[test]
    fn a_page_has_an_http_address_without_a_login() {
        assert!(parse_monitor_url("http://127.0.0.1:8222").is_ok());
        for bad in ["127.0.0.1:8222", "nats://host:4222", "http://a:geheim@host", ""] {
            assert!(!parse_monitor_url(bad).expect_err(bad).contains("geheim"));
        }
    }
}
