//! Which subjects the log holds, without reading an event.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
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
            subjects: Option<Names>,
        }
        let operation = format!("STREAM.INFO.{EVENT_STREAM}");
        let mut names = Vec::new();
        loop {
            let request = json!({ "subjects_filter": filter, "offset": names.len() });
            let info: Info = api_request(&self.connection, &operation, &request).await.map_err(ReadError::Leader)?;
            let Names(page) = info.state.subjects.unwrap_or_default();
            let ended = page.is_empty();
            names.extend(page);
            if ended || names.len() >= info.total {
                return Ok(names);
            }
        }
    }
}

/// The keys of a JSON object.
#[derive(Default)]
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = Names;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object with a key for each subject")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }

        deserializer.deserialize_map(Keys)
    }
}
