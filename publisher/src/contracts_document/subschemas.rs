//! Where a JSON Schema holds further schemas, over all dialects from draft 4 on.

use std::fmt;
use std::rc::Rc;

use serde_json::Value;

use super::push_token;

/// Keywords whose value is a schema.
const SCHEMA: [&str; 12] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords whose value is a list of schemas. `items` was one of them.
const LIST: [&str; 5] = ["allOf", "anyOf", "items", "oneOf", "prefixItems"];
/// Keywords whose value is schemas by name. `dependencies` may also hold lists of names.
const BY_NAME: [&str; 6] =
    ["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"];

/// A place in a schema's text. Shares its beginning with the places around it, so that a hostile schema with long keys
/// cannot make each of its places cost their length. Shown as a JSON Pointer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place<'a>(Option<Rc<(Place<'a>, Step<'a>)>>);

/// One step from a place to one inside it.
#[derive(Debug, Clone)]
pub(crate) enum Step<'a> {
    /// Into an object, by key.
    Key(&'a str),
    /// Into a list.
    Index(usize),
    /// Several steps at once, as a JSON Pointer.
    Pointer(Rc<str>),
}

impl<'a> Place<'a> {
    /// The place one step further.
    pub(crate) fn then(&self, step: Step<'a>) -> Self {
        Self(Some(Rc::new((self.clone(), step))))
    }

    /// The place of a key.
    pub(crate) fn key(&self, key: &'a str) -> Self {
        self.then(Step::Key(key))
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps = Vec::new();
        let mut place = self;
        while let Some(inner) = &place.0 {
            steps.push(&inner.1);
            place = &inner.0;
        }
        let mut pointer = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Key(key) => push_token(&mut pointer, key),
                Step::Index(index) => push_token(&mut pointer, &index.to_string()),
                Step::Pointer(inner) => pointer.push_str(inner),
            }
        }
        formatter.write_str(&pointer)
    }
}

/// Whether a value can be a schema at all.
pub(crate) fn is_schema(value: &Value) -> bool {
    value.is_object() || value.is_boolean()
}

/// The schemas directly inside a schema, each with its place.
pub(crate) fn subschemas<'a>(schema: &'a Value, place: &Place<'a>) -> Vec<(Place<'a>, &'a Value)> {
    let Value::Object(keywords) = schema else { return Vec::new() };
    let mut found = Vec::new();
    for (keyword, value) in keywords {
        let keyword = keyword.as_str();
        if let (Value::Array(values), true) = (value, LIST.contains(&keyword)) {
            let place = place.key(keyword);
            found.extend(values.iter().enumerate().map(|(index, value)| (place.then(Step::Index(index)), value)));
        } else if let (Value::Object(values), true) = (value, BY_NAME.contains(&keyword)) {
            let place = place.key(keyword);
            found.extend(values.iter().map(|(name, value)| (place.key(name), value)));
        } else if SCHEMA.contains(&keyword) {
            found.push((place.key(keyword), value));
        }
    }
    found.retain(|(_, value)| is_schema(value));
    found
}

/// Takes the references out of a schema and all schemas inside it, so that it can be compiled by itself.
pub(super) fn remove_references(schema: &mut Value) {
    let Value::Object(keywords) = schema else { return };
    for reference in ["$ref", "$dynamicRef", "$recursiveRef"] {
        keywords.remove(reference);
    }
    for (keyword, value) in keywords {
        let keyword = keyword.as_str();
        if let (Value::Array(values), true) = (&mut *value, LIST.contains(&keyword)) {
            values.iter_mut().for_each(remove_references);
        } else if let (Value::Object(values), true) = (&mut *value, BY_NAME.contains(&keyword)) {
            values.values_mut().for_each(remove_references);
        } else if SCHEMA.contains(&keyword) {
            remove_references(value);
        }
    }
}
