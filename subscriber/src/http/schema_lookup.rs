//! `GET /api/schema/metadata?schemaName=NAME`: one schema of the release that runs, or of those compiled into the agent
//! where none does. So an application finds its schemas whatever became of the network.

use std::collections::HashMap;
use std::path::Path;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::router::Shown;
use crate::embedded::EmbeddedContracts;
use crate::reader::CurrentRelease;

/// The file of a contracts release that holds the schemas.
const BUNDLE: &str = "bundle.json";

#[derive(Deserialize)]
struct Bundle {
    schemas: HashMap<String, String>,
}

/// Where a schema came from.
struct Found {
    schema: Value,
    tag: String,
}

pub(super) async fn schema_metadata(
    State(shown): State<Shown>,
    Query(parameters): Query<HashMap<String, String>>,
) -> Response {
    let Some(name) = parameters.get("schemaName").filter(|name| !name.is_empty() && name.len() <= 256).cloned() else {
        return (StatusCode::BAD_REQUEST, Json(json!({ "error": "schemaName is missing or too long" })))
            .into_response();
    };
    let (cache, runs) = {
        let view = shown.view.borrow();
        (view.cache.clone(), view.report.active.is_some() && !view.disabled)
    };
    let wanted = name.clone();
    match spawn_blocking(move || look_up(&cache, runs, &wanted)).await {
        Ok(Some(Found { schema, tag })) => {
            let id = schema.get("$id").and_then(Value::as_str).unwrap_or(&name).to_owned();
            Json(json!({ "schema": schema, "schemaId": id, "source": "local", "tag": tag })).into_response()
        }
        Ok(None) | Err(_) => {
            let shown: String = name.chars().take(80).collect();
            let error = format!("Failed to load local schema: `{shown}` is not in the bundle");
            (StatusCode::NOT_FOUND, Json(json!({ "error": error }))).into_response()
        }
    }
}

/// A schema by its name, with or without `.json`. Names are keys of a document and never become paths.
fn look_up(cache: &Path, runs: bool, name: &str) -> Option<Found> {
    let (bytes, tag) = if runs { running(cache).or_else(embedded)? } else { embedded()? };
    let mut bundle: Bundle = serde_json::from_slice(&bytes).ok()?;
    let text = bundle.schemas.remove(&format!("{name}.json")).or_else(|| bundle.schemas.remove(name))?;
    Some(Found { schema: serde_json::from_str(&text).ok()?, tag })
}

fn running(cache: &Path) -> Option<(Vec<u8>, String)> {
    let current = CurrentRelease::open(cache).ok()?;
    // What somebody changed on disk is not handed out as the released schema.
    let bytes = current.read(BUNDLE).ok()?;
    Some((bytes, current.release().tag().to_string()))
}

fn embedded() -> Option<(Vec<u8>, String)> {
    let embedded = EmbeddedContracts::make().ok()?;
    Some((embedded.bundle_json()?.to_vec(), embedded.release().tag().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_release_the_embedded_schemas_answer_and_names_are_no_paths() {
        let nowhere = Path::new("/nonexistent");
        for runs in [false, true] {
            let found = look_up(nowhere, runs, "approval.requested.v1").unwrap();
            assert!(found.schema.is_object() && found.tag.starts_with("contracts-embedded-"));
            assert!(look_up(nowhere, runs, "approval.requested.v1.json").is_some());
            for unknown in ["", "no.such.v1", "../../etc/passwd", "/etc/passwd"] {
                assert!(look_up(nowhere, runs, unknown).is_none(), "{unknown}");
            }
        }
    }
}
