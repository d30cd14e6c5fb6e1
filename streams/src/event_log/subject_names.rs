//! Which subjects the log holds, without reading an event.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use shared::subjects::EVENT_STREAM;

use super::{EventLog, ReadError};
use crate::jetstream_api::api_request;

impl EventLog {
    /// The subjects that match a filter and hold an event, in no order, as the leader has them. One request for every
    /// 100,000 of them. Needs operator rights.
    pub async fn subject_names(&self, filter: &str) -> Result<Vec<String>, ReadError> {
        #[derive(Deserialize)]
        struct Info {
            state: State,
            #[serde(default)]
            total: usize,
        }
        #[derive(Deserialize)]
        struct State {
            #[serde(default)]
            subjects: Option<BTreeMap<String, u64>>,
        }
        let operation = format!("STREAM.INFO.{EVENT_STREAM}");
        let mut names = Vec::new();
        loop {
            let request = json!({ "subjects_filter": filter, "offset": names.len() });
            let info: Info = api_request(&self.connection, &operation, &request).await.map_err(ReadError::Leader)?;
            let page = info.state.subjects.unwrap_or_default();
            let ended = page.is_empty();
            names.extend(page.into_keys());
            if ended || names.len() >= info.total {
                return Ok(names);
            }
        }
    }
}
