//! Whether a bundle can take the place of another: every change that what worked with the old one may not survive.
//!
//! Breaking is what takes something away from whoever relies on it: a schema, a property, a value, an alternative, or
//! the freedom that a constraint now takes. What was added or loosened is not. Where a change cannot be judged with
//! certainty it counts as breaking; the texts of API descriptions and WIT definitions are not judged at all.

mod comparison;
mod conjunction;
mod constraints;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::contracts_document::ContractsDocument;

/// Most characters of a value in a message.
const VALUE_CHARACTERS: usize = 60;

/// One change that breaks somebody.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BreakingChange {
    /// File name of the schema, API description or WIT definition.
    pub schema: String,
    /// JSON Pointer inside the schema to what changed, as it is reached from the schema's root. Empty: the whole of it.
    pub path: String,
    /// What happened.
    pub change: Change,
    /// What it was; null where there was nothing.
    pub from: Value,
    /// What it is now; null where there is nothing.
    pub to: Value,
}

/// What happened at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The schema is gone.
    SchemaRemoved,
    /// The API description is gone.
    ApiContractRemoved,
    /// The WIT definition is gone.
    WitRemoved,
    /// A property is not described any more.
    PropertyRemoved,
    /// A property that could be left out cannot be any more.
    PropertyRequired,
    /// A type is not allowed any more.
    TypeNarrowed,
    /// A value is not allowed any more.
    ValueRemoved,
    /// Only listed values are allowed now.
    ValuesRestricted,
    /// A constraint was added, or leaves less room.
    ConstraintTightened,
    /// Properties beside those described are refused now.
    AdditionalPropertiesClosed,
    /// One of several alternatives is not there any more.
    AlternativeRemoved,
    /// Nothing at all is allowed any more.
    NothingAllowed,
    /// A condition was added or changed, which cannot be judged.
    ConditionChanged,
    /// There is too much to compare, so it was given up.
    NotCompared,
}

impl fmt::Display for BreakingChange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.schema.escape_debug().to_string())?;
        if !self.path.is_empty() {
            write!(formatter, "#{}", self.path.escape_debug())?;
        }
        let (from, to) = (Shown(&self.from), Shown(&self.to));
        formatter.write_str(": ")?;
        match self.change {
            Change::SchemaRemoved => formatter.write_str("the schema was removed"),
            Change::ApiContractRemoved => formatter.write_str("the API description was removed"),
            Change::WitRemoved => formatter.write_str("the WIT definition was removed"),
            Change::PropertyRemoved => formatter.write_str("the property was removed"),
            Change::PropertyRequired => write!(formatter, "property {to} is required now"),
            Change::TypeNarrowed => write!(formatter, "the type was narrowed from {from} to {to}"),
            Change::ValueRemoved => write!(formatter, "value {from} is not allowed any more"),
            Change::ValuesRestricted => write!(formatter, "only {to} is allowed now"),
            Change::ConstraintTightened if self.from.is_null() => {
                write!(formatter, "the constraint was added: {to}")
            }
            Change::ConstraintTightened => write!(formatter, "the constraint was tightened from {from} to {to}"),
            Change::AdditionalPropertiesClosed => formatter.write_str("additional properties are refused now"),
            Change::AlternativeRemoved => formatter.write_str("the alternative was removed"),
            Change::NothingAllowed => formatter.write_str("nothing is allowed here any more"),
            Change::ConditionChanged => formatter.write_str("the condition was added or changed"),
            Change::NotCompared => formatter.write_str("there is too much to compare from here on"),
        }
    }
}

/// A value in few words.
struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_null() {
            return formatter.write_str("anything");
        }
        let text = self.0.to_string();
        let short: String = text.chars().take(VALUE_CHARACTERS).collect();
        let rest = if short.len() < text.len() { "…" } else { "" };
        write!(formatter, "{short}{rest}")
    }
}

/// Every breaking change from one bundle to another, by schema. Pure; takes bounded time on any input: where the
/// bound is met, that is reported as a change too.
pub fn breaking_changes(base: &ContractsDocument, new: &ContractsDocument) -> Vec<BreakingChange> {
    if base.digest() == new.digest() {
        return Vec::new();
    }
    let removed = |schema: &String, change| BreakingChange {
        schema: schema.clone(),
        path: String::new(),
        change,
        from: Value::Null,
        to: Value::Null,
    };
    let mut changes = Vec::new();
    let schemas = base.schemas().keys().filter(|name| !new.schemas().contains_key(*name));
    changes.extend(schemas.map(|name| removed(name, Change::SchemaRemoved)));
    let apis = base.api_contracts().keys().filter(|name| !new.api_contracts().contains_key(*name));
    changes.extend(apis.map(|name| removed(name, Change::ApiContractRemoved)));
    let wit = base.wit().keys().filter(|name| !new.wit().contains_key(*name));
    changes.extend(wit.map(|name| removed(name, Change::WitRemoved)));
    changes.extend(comparison::compare(base.schemas(), new.schemas()));
    changes.sort_by(|one, other| (&one.schema, &one.path).cmp(&(&other.schema, &other.path)));
    changes
}

/// Texts that changed and were not judged, one line each: for a person to look at.
pub fn changes_not_judged(base: &ContractsDocument, new: &ContractsDocument) -> Vec<String> {
    let sections =
        [("API description", base.api_contracts(), new.api_contracts()), ("WIT definition", base.wit(), new.wit())];
    let mut notes = Vec::new();
    for (what, base, new) in sections {
        let changed = base.iter().filter(|(name, text)| new.get(*name).is_some_and(|other| other != *text));
        notes.extend(changed.map(|(name, _)| format!("{what} `{}` changed: not judged", name.escape_debug())));
    }
    notes
}
