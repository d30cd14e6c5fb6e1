//! A `bundle.json` from outside: read with limits, and checked until nothing is left to complain about.
//!
//! [`ContractsDocument::parse`] takes the form apart, [`check`] looks at every schema and reference as well. Both report
//! every defect, not only the first. Nothing is ever fetched, and no input makes them panic or run without end.

mod form;
pub mod manifest;
pub(crate) mod schema_index;
mod schemas;
mod strict_json;
pub(crate) mod subschemas;
#[cfg(test)]
mod tests;
mod wit;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;
use shared::digest::Sha256Digest;
use thiserror::Error;

use crate::source::list;

/// Largest `bundle.json`, in bytes.
pub const BUNDLE_BYTES: usize = 64 << 20;
/// Largest text of one schema, in bytes.
pub const SCHEMA_BYTES: usize = 2 << 20;
/// Most entries of one section of a bundle.
pub const SECTION_ENTRIES: usize = 50_000;
/// Most defects that are reported one by one.
const DEFECTS_REPORTED: usize = 1_000;
/// Most characters of one path.
const PATH_CHARACTERS: usize = 1_000;
/// Most characters of one message.
const MESSAGE_CHARACTERS: usize = 300;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Defect {
    /// JSON Pointer into the document; what lies inside a schema's text follows after `#`, as in
    /// `/schemas/a.json#/properties/x/type`. Empty: the whole document.
    pub path: String,
    /// What is wrong there, in one line.
    pub message: String,
}

impl Defect {
    pub(crate) fn new(path: impl Into<String>, message: impl fmt::Display) -> Self {
        let mut path = path.into();
        if let Some((end, _)) = path.char_indices().nth(PATH_CHARACTERS) {
            path.truncate(end);
            path.push('…');
        }
        Self { path, message: one_line(&message.to_string(), MESSAGE_CHARACTERS) }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "/" } else { &self.path };
        write!(formatter, "{}: {}", one_line(path, PATH_CHARACTERS + 1), self.message)
    }
}

/// A document that is no contracts bundle.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the contracts bundle is not valid: {}", list(defects))]
pub struct DocumentError {
    /// Everything that is wrong, sorted by place.
    pub defects: Vec<Defect>,
}

/// One schema of a bundle.
#[derive(Debug, Clone, PartialEq)]
pub struct SchemaText {
    /// As it stands in the bundle.
    pub text: String,
    /// What the text says.
    pub value: Value,
}

/// A `bundle.json`, taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct ContractsDocument {
    version: Option<String>,
    schemas: BTreeMap<String, SchemaText>,
    api_contracts: BTreeMap<String, String>,
    wit: BTreeMap<String, String>,
    digest: Sha256Digest,
}

impl ContractsDocument {
    /// Reads the text of a `bundle.json`, with its `wit` or, in the older form, its `wit_definitions`. Other keys are
    /// ignored. Fails where it is too large, no JSON, not of this form or empty, and where a schema is no JSON; whether
    /// the schemas are any good is [`check`]'s business.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        form::read(bytes).map_err(|defects| DocumentError { defects: limited(defects) })
    }

    /// Version of the form, where the document says one.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The schemas, by file name.
    pub fn schemas(&self) -> &BTreeMap<String, SchemaText> {
        &self.schemas
    }

    /// The API descriptions' texts, by file name.
    pub fn api_contracts(&self) -> &BTreeMap<String, String> {
        &self.api_contracts
    }

    /// The WIT definitions' texts, by file name.
    pub fn wit(&self) -> &BTreeMap<String, String> {
        &self.wit
    }

    /// SHA-256 of the bytes that were read.
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }
}

/// Reads a `bundle.json` and checks everything in it: the form, every schema against its dialect, every pattern, every
/// reference, every WIT definition. Returns every defect, sorted by place. API descriptions are only held to be text.
pub fn check(bytes: &[u8]) -> Result<ContractsDocument, Vec<Defect>> {
    let document = ContractsDocument::parse(bytes).map_err(|error| error.defects)?;
    let mut defects = schemas::defects(&document);
    defects.extend(wit::defects(&document.wit));
    for (name, text) in &document.api_contracts {
        if text.trim().is_empty() {
            defects.push(Defect::new(pointer(&["apiContracts", name]), "the API description is empty"));
        }
    }
    if defects.is_empty() { Ok(document) } else { Err(limited(defects)) }
}

/// Sorted, each once, and not without end.
fn limited(mut defects: Vec<Defect>) -> Vec<Defect> {
    defects.sort();
    defects.dedup();
    if defects.len() > DEFECTS_REPORTED {
        let more = defects.len() - DEFECTS_REPORTED;
        defects.truncate(DEFECTS_REPORTED);
        defects.push(Defect::new("", format!("and {more} more defects")));
    }
    defects
}

/// A JSON Pointer of these tokens.
pub(crate) fn pointer(tokens: &[&str]) -> String {
    let mut pointer = String::new();
    for token in tokens {
        push_token(&mut pointer, token);
    }
    pointer
}

/// Appends one token to a JSON Pointer.
pub(crate) fn push_token(pointer: &mut String, token: &str) {
    pointer.push('/');
    for character in token.chars() {
        match character {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
}

/// Where a place inside a schema's text is.
fn in_schema(name: &str, inner: &impl fmt::Display) -> String {
    let (outer, inner) = (pointer(&["schemas", name]), inner.to_string());
    if inner.is_empty() { outer } else { format!("{outer}#{inner}") }
}

/// One line of bounded length that no terminal takes for a command.
fn one_line(text: &str, limit: usize) -> String {
    let mut line = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == limit {
            line.push('…');
            break;
        }
        if character.is_control() {
            line.extend(character.escape_debug());
        } else {
            line.push(character);
        }
    }
    line
}
