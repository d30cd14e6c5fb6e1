//! GitHub's own request for running a workflow, so that the operators' command works with another host and key:
//! `{"ref": "main", "inputs": {"force_release": "false"}}`, answered with 204 and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::authorization::authorize;
use super::request_body::read_json;
use super::{ApiState, Refusal};

/// The workflow's file name; its number is GitHub's own affair.
const WORKFLOW: &str = "contracts-release.yml";
const FORCE: &str = "force_release";

#[derive(Debug, Deserialize)]
struct Dispatch {
    #[serde(rename = "ref")]
    reference: Option<String>,
    #[serde(default)]
    inputs: Map<String, Value>,
}

pub(super) async fn dispatch(
    State(state): State<Arc<ApiState>>,
    Path((owner, repository, workflow)): Path<(String, String, String)>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refusal> {
    authorize(&state, &headers, peer.ip())?;
    if workflow != WORKFLOW {
        return Err(Refusal::new(StatusCode::NOT_FOUND, format!("the only workflow here is `{WORKFLOW}`")));
    }
    let dispatch: Dispatch = read_json(body).await?;
    if dispatch.reference.is_none_or(|reference| reference.is_empty()) {
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "`ref` is missing, such as \"main\""));
    }
    let force = force(&dispatch.inputs).map_err(|fault| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, fault))?;
    tracing::info!(%owner, %repository, force, "a publish was asked for");
    state.api.queue.ask(force);
    Ok(StatusCode::NO_CONTENT)
}

/// GitHub's inputs are texts: the text "false" is false.
fn force(inputs: &Map<String, Value>) -> Result<bool, String> {
    if let Some(unknown) = inputs.keys().find(|name| *name != FORCE) {
        let unknown: String = unknown.chars().take(40).flat_map(char::escape_debug).collect();
        return Err(format!("unexpected input `{unknown}`: the only one is `{FORCE}`"));
    }
    match inputs.get(FORCE) {
        None => Ok(false),
        Some(Value::Bool(force)) => Ok(*force),
        Some(Value::String(text)) if ["true", "1"].contains(&text.as_str()) => Ok(true),
        Some(Value::String(text)) if ["false", "0"].contains(&text.as_str()) => Ok(false),
        Some(_) => Err(format!("`{FORCE}` is neither \"true\" nor \"false\"")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_that_say_false_are_false() {
        for (inputs, expected) in [
            (json!({}), Some(false)),
            (json!({"force_release": "false"}), Some(false)),
            (json!({"force_release": "0"}), Some(false)),
            (json!({"force_release": false}), Some(false)),
            (json!({"force_release": "true"}), Some(true)),
            (json!({"force_release": "1"}), Some(true)),
            (json!({"force_release": true}), Some(true)),
            (json!({"force_release": ""}), None),
            (json!({"force_release": "yes"}), None),
            (json!({"force_release": 1}), None),
            (json!({"force_release": null}), None),
            (json!({"other": "true"}), None),
        ] {
            assert_eq!(force(inputs.as_object().unwrap()).ok(), expected, "{inputs}");
        }
    }
}
