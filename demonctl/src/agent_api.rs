//! Questions to a node's agent over HTTP. Answers are bounded in size and time; no proxy stands between.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use serde_json::Value;
use shared::daemon::ErrorChain;
use streams::secret::Secret;

/// Largest answer that is read.
const LARGEST_ANSWER: usize = 1 << 20;

/// Where an agent answers, and how to ask it.
#[derive(Debug, Clone)]
pub(crate) struct AgentApi {
    /// Its address.
    pub(crate) url: Url,
    /// Sent as `x-api-key`. Of two keys, valid while one replaces the other, the first.
    pub(crate) key: Option<Secret>,
    /// Sent as `X-Admin-Token`.
    pub(crate) admin_token: Option<Secret>,
    /// Time for one answer.
    pub(crate) limit: Duration,
}

impl AgentApi {
    /// The code and the document that a path answers with; no document where the answer is none. The error says in one
    /// line why there is no answer.
    pub(crate) async fn get(&self, path: &str) -> Result<(StatusCode, Value), String> {
        let url = self.url.join(path).map_err(|error| error.to_string())?;
        let client =
            Client::builder().no_proxy().timeout(self.limit).redirect(reqwest::redirect::Policy::none()).build();
        let mut request = client.map_err(|error| ErrorChain(&error).to_string())?.get(url);
        if let Some(key) = &self.key {
            request = request.header("x-api-key", key.expose().split(',').next().unwrap_or_default().trim());
        }
        if let Some(token) = &self.admin_token {
            request = request.header("x-admin-token", token.expose());
        }
        let said = |error: reqwest::Error| ErrorChain(&error.without_url()).to_string();
        let mut response = request.send().await.map_err(said)?;
        let (code, mut body) = (response.status(), Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(said)? {
            body.extend_from_slice(&chunk);
            if body.len() > LARGEST_ANSWER {
                return Err(format!("the answer is larger than {LARGEST_ANSWER} bytes"));
            }
        }
        Ok((code, serde_json::from_slice(&body).unwrap_or_default()))
    }
}

/// What to do about an answer that is no success.
pub(crate) fn remedy(code: StatusCode) -> &'static str {
    match code {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "set AGENT_API_KEY to the key the agent runs with",
        _ => "is this the agent's address? check --agent-url and PORT",
    }
}
