//! Creating what is missing and refusing what has drifted.

use std::fmt::Write as _;

use async_nats::jetstream::stream::{Config, StorageType};
use serde::Deserialize;
use thiserror::Error;

use super::drift::{Drift, compare};
use super::{Declaration, Layout};
use crate::connection::Connection;
use crate::jetstream_api::{ApiError, api_request, code};

/// A layout that could not be made.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// A stream exists and breaks what was declared. Nothing was changed.
    #[error("stream `{stream}` is not as declared: {}", list(.drift))]
    Drift {
        /// The stream.
        stream: String,
        /// What differs, field by field.
        drift: Vec<Drift>,
    },
    /// The server has no room for the stream.
    #[error("the server has no room for stream `{stream}` of {max_bytes} bytes")]
    NoRoom {
        /// The stream.
        stream: String,
        /// Its declared size.
        max_bytes: i64,
        /// What the server says.
        #[source]
        source: ApiError,
    },
    /// The server does not let us.
    #[error("stream `{stream}` cannot be provisioned")]
    Api {
        /// The stream.
        stream: String,
        /// Why.
        #[source]
        source: ApiError,
    },
}

fn list(drift: &[Drift]) -> String {
    let mut text = String::new();
    for (index, drift) in drift.iter().enumerate() {
        let separator = if index == 0 { "" } else { "; " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{drift}");
    }
    text
}

/// What [`ensure`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provisioned {
    /// Streams that were missing and that this call or one beside it has created.
    pub created: Vec<String>,
}

#[derive(Deserialize)]
struct StreamAnswer {
    config: Config,
}

/// Creates the streams that are missing and checks those that exist. Needs operator rights. Safe when several
/// processes do it at once; changes nothing that exists.
pub async fn ensure(connection: &Connection, layout: &Layout) -> Result<Provisioned, LayoutError> {
    let mut provisioned = Provisioned::default();
    for declaration in &layout.streams {
        if ensure_stream(connection, declaration).await? {
            tracing::info!(stream = %declaration.config.name, "stream created");
            provisioned.created.push(declaration.config.name.clone());
        }
    }
    Ok(provisioned)
}

/// Creates the streams that a restart of the server may have lost, those in memory, and checks those that exist. The others
/// are left alone: a log that is not there any more is restored by people, not begun anew.
pub async fn ensure_memory_streams(connection: &Connection, layout: &Layout) -> Result<Provisioned, LayoutError> {
    let mut provisioned = Provisioned::default();
    for declaration in layout.streams.iter().filter(|declaration| declaration.config.storage == StorageType::Memory) {
        if ensure_stream(connection, declaration).await? {
            tracing::info!(stream = %declaration.config.name, "stream created again: the server has lost it with its memory");
            provisioned.created.push(declaration.config.name.clone());
        }
    }
    Ok(provisioned)
}

/// Names the streams that are missing and checks those that exist, as [`ensure`] does, but changes nothing.
pub async fn missing(connection: &Connection, layout: &Layout) -> Result<Vec<String>, LayoutError> {
    let mut missing = Vec::new();
    for declaration in &layout.streams {
        match existing(connection, &declaration.config.name).await? {
            Some(actual) => checked(declaration, &actual)?,
            None => missing.push(declaration.config.name.clone()),
        }
    }
    Ok(missing)
}

async fn ensure_stream(connection: &Connection, declaration: &Declaration) -> Result<bool, LayoutError> {
    let declared = &declaration.config;
    if let Some(actual) = existing(connection, &declared.name).await? {
        return checked(declaration, &actual).map(|()| false);
    }
    let operation = format!("STREAM.CREATE.{}", declared.name);
    match api_request::<StreamAnswer>(connection, &operation, declared).await {
        // Creating what exists with the same configuration succeeds: two who start at once both get here.
        Ok(answer) => checked(declaration, &answer.config).map(|()| true),
        Err(ApiError::Refused(refusal)) if refusal.err_code == code::STREAM_NAME_EXISTS => {
            // Somebody else was faster, with other sizes: the promises decide.
            match existing(connection, &declared.name).await? {
                Some(actual) => checked(declaration, &actual).map(|()| false),
                None => Err(api_error(declared, ApiError::Refused(refusal))),
            }
        }
        Err(source) => Err(api_error(declared, source)),
    }
}

async fn existing(connection: &Connection, stream: &str) -> Result<Option<Config>, LayoutError> {
    let nothing = serde_json::Map::new();
    match api_request::<StreamAnswer>(connection, &format!("STREAM.INFO.{stream}"), &nothing).await {
        Ok(answer) => Ok(Some(answer.config)),
        Err(ApiError::Refused(refusal)) if refusal.err_code == code::STREAM_NOT_FOUND => Ok(None),
        Err(source) => Err(LayoutError::Api { stream: stream.to_owned(), source }),
    }
}

fn checked(declaration: &Declaration, actual: &Config) -> Result<(), LayoutError> {
    let drift = compare(declaration, actual);
    if drift.is_empty() { Ok(()) } else { Err(LayoutError::Drift { stream: declaration.config.name.clone(), drift }) }
}

fn api_error(declared: &Config, source: ApiError) -> LayoutError {
    let stream = declared.name.clone();
    match &source {
        ApiError::Refused(refusal) if code::NO_ROOM.contains(&refusal.err_code) => {
            LayoutError::NoRoom { stream, max_bytes: declared.max_bytes, source }
        }
        ApiError::Refused(_) | ApiError::Request(_) | ApiError::NoLeader(_) | ApiError::Malformed { .. } => {
            LayoutError::Api { stream, source }
        }
    }
}
