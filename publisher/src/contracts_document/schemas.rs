//! Whether the schemas of a bundle are JSON Schemas: each against its dialect's meta-schema, each pattern, each
//! reference, and at last compiled.
//!
//! References are resolved by [`SchemaIndex`] and taken out before a schema is compiled, so that the work is bounded by
//! the text of that schema alone: no cycle or chain of references, however long, is followed by the compiler.

use std::collections::{BTreeMap, HashSet};

use jsonschema::{Draft, PatternOptions};
use serde_json::{Value, json};

use super::schema_index::{Meaning, SchemaIndex, SchemaNode};
use super::subschemas::{Place, is_schema, remove_references, subschemas};
use super::{ContractsDocument, Defect, form, in_schema};

/// Largest program that one pattern may become, in bytes.
const PATTERN_BYTES: usize = 4 << 20;
/// Most defects of one schema.
const DEFECTS_OF_ONE: usize = 100;

/// Everything that is wrong with the schemas.
pub(super) fn defects(document: &ContractsDocument) -> Vec<Defect> {
    let index = SchemaIndex::new(&document.schemas);
    let mut check = SchemaCheck { index: &index, patterns: BTreeMap::new(), defects: Vec::new() };
    for (name, schema) in &document.schemas {
        if !is_schema(&schema.value) {
            let message = format!("it is {}, not a JSON Schema", form::kind_of(&schema.value));
            check.defects.push(Defect::new(in_schema(name, &""), message));
        } else if let Some(root) = index.root(name) {
            check.schema(name, &Place::default(), root);
        }
    }
    check.references();
    for fault in index.faults() {
        check.defects.push(Defect::new(in_schema(fault.document, &fault.place), &fault.message));
    }
    check.defects
}

struct SchemaCheck<'a> {
    index: &'a SchemaIndex<'a>,
    /// What was found out about each pattern.
    patterns: BTreeMap<&'a str, Option<String>>,
    defects: Vec<Defect>,
}

impl<'a> SchemaCheck<'a> {
    /// Checks a schema whose place no other schema contains.
    fn schema(&mut self, document: &str, place: &Place<'a>, node: SchemaNode<'a>) {
        let draft = self.index.draft(node).detect(node.value);
        if draft == Draft::Unknown {
            return; // Reported by the index: without its dialect nothing can be said of it.
        }
        let mut found: Vec<(String, String)> = Vec::new();
        for error in meta_schema(draft).iter_errors(node.value).take(DEFECTS_OF_ONE) {
            let inner = error.instance_path().as_str();
            let message = match (inner.rsplit('/').next(), error.instance().as_str()) {
                (Some("type"), Some(name)) => format!("`{name}` is not a type of JSON"),
                (Some(_) | None, _) => error.to_string(),
            };
            found.push((inner.to_owned(), message));
        }
        for (inner, pattern) in patterns(node.value) {
            let fault = self.patterns.entry(pattern).or_insert_with(|| fault_of_pattern(pattern));
            if let Some(fault) = fault.as_ref().filter(|_| found.len() < DEFECTS_OF_ONE) {
                found.push((inner.to_string(), format!("`{pattern}` is not a regular expression: {fault}")));
            }
        }
        if found.is_empty()
            && let Err(error) = compile_alone(draft, node.value)
        {
            found.push((error.instance_path().as_str().to_owned(), error.to_string()));
        }
        let place = place.to_string();
        let defect = |(inner, message)| Defect::new(in_schema(document, &format_args!("{place}{inner}")), message);
        self.defects.extend(found.into_iter().map(defect));
    }

    /// Checks every reference, and what only a reference makes a schema.
    fn references(&mut self) {
        let mut contained = self.contained();
        for reference in self.index.references() {
            let at = in_schema(reference.document, &reference.place);
            if reference.keyword == "$recursiveRef" && reference.text != "#" {
                self.defects.push(Defect::new(at, "a recursive reference is always `#`"));
                continue;
            }
            match self.index.meaning_of(reference) {
                Err(error) => self.defects.push(Defect::new(at, error)),
                Ok(Meaning::Dialect) => {}
                Ok(Meaning::Schema { node, document, place }) => {
                    if !contained.contains(&std::ptr::from_ref(node.value)) {
                        add_with_subschemas(&mut contained, node.value);
                        self.schema(document, &place, node);
                    }
                }
            }
        }
    }

    /// The schemas that a file's own schema contains, by address.
    fn contained(&self) -> HashSet<*const Value> {
        let mut contained = HashSet::new();
        for root in self.index.roots() {
            add_with_subschemas(&mut contained, root.value);
        }
        contained
    }
}

fn add_with_subschemas(contained: &mut HashSet<*const Value>, schema: &Value) {
    let mut waiting = vec![schema];
    while let Some(schema) = waiting.pop() {
        if contained.insert(schema) {
            waiting.extend(subschemas(schema, &Place::default()).into_iter().map(|(_, schema)| schema));
        }
    }
}

fn meta_schema(draft: Draft) -> jsonschema::meta::MetaValidator<'static> {
    match draft {
        Draft::Draft4 => jsonschema::draft4::meta::validator(),
        Draft::Draft6 => jsonschema::draft6::meta::validator(),
        Draft::Draft7 => jsonschema::draft7::meta::validator(),
        Draft::Draft201909 => jsonschema::draft201909::meta::validator(),
        Draft::Draft202012 | _ => jsonschema::draft202012::meta::validator(),
    }
}

/// The regular expressions of a schema and all schemas inside it, each with its place.
fn patterns(schema: &Value) -> Vec<(Place<'_>, &str)> {
    let mut found = Vec::new();
    let mut waiting = vec![(Place::default(), schema)];
    while let Some((place, schema)) = waiting.pop() {
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
            found.push((place.key("pattern"), pattern));
        }
        if let Some(Value::Object(by_pattern)) = schema.get("patternProperties") {
            let place = place.key("patternProperties");
            found.extend(by_pattern.keys().map(|pattern| (place.key(pattern), pattern.as_str())));
        }
        waiting.extend(subschemas(schema, &place));
    }
    found
}

/// Compiles a schema without its references.
fn compile_alone(draft: Draft, schema: &Value) -> Result<(), jsonschema::ValidationError<'static>> {
    let mut alone = schema.clone();
    remove_references(&mut alone);
    let options = PatternOptions::fancy_regex().size_limit(PATTERN_BYTES);
    jsonschema::options().offline().with_draft(draft).with_pattern_options(options).build(&alone).map(drop)
}

fn fault_of_pattern(pattern: &str) -> Option<String> {
    let options = PatternOptions::fancy_regex().size_limit(PATTERN_BYTES);
    let compiled = jsonschema::options().offline().with_pattern_options(options).build(&json!({ "pattern": pattern }));
    compiled.err().map(|error| error.to_string())
}
