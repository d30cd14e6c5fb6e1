//! The form of a `bundle.json`: which keys, of which types, with which names.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use shared::digest::Sha256Digest;

use super::{
    BUNDLE_BYTES, ContractsDocument, Defect, SCHEMA_BYTES, SECTION_ENTRIES, SchemaText, in_schema, pointer, strict_json,
};

/// Longest name of an entry, in bytes: as long as a file name may be.
const NAME_BYTES: usize = 255;

/// Takes a document apart, or returns everything that is wrong with its form.
pub(super) fn read(bytes: &[u8]) -> Result<ContractsDocument, Vec<Defect>> {
    if bytes.len() > BUNDLE_BYTES {
        let message = format!("it has {} bytes, more than the {BUNDLE_BYTES} allowed", bytes.len());
        return Err(vec![Defect::new("", message)]);
    }
    let json = strict_json::read(bytes).map_err(|error| vec![Defect::new("", format!("it is not JSON: {error}"))])?;
    let mut defects: Vec<Defect> =
        json.duplicates.into_iter().map(|path| Defect::new(path, "the key is there more than once")).collect();
    let Value::Object(mut object) = json.value else {
        return Err(vec![Defect::new("", format!("it is {}, not an object", kind_of(&json.value)))]);
    };

    let version = object.remove("version");
    if let Some(other) = version.as_ref().filter(|version| !version.is_string()) {
        defects.push(Defect::new("/version", format!("it is {}, not a string", kind_of(other))));
    }
    let version = version.and_then(|version| version.as_str().map(str::to_owned));
    if !object.contains_key("schemas") {
        defects.push(Defect::new("/schemas", "it is missing"));
    }
    let mut section = |key: &str| section(&mut object, key, &mut defects);
    let (texts, api_contracts) = (section("schemas"), section("apiContracts"));
    let (wit, older_wit) = (section("wit"), section("wit_definitions"));
    let wit = match (wit, older_wit) {
        (Some(wit), Some(older)) if wit != older => {
            defects.push(Defect::new("/wit_definitions", "it differs from `wit`: give one of the two"));
            wit
        }
        (wit, older) => wit.or(older).unwrap_or_default(),
    };
    let (texts, api_contracts) = (texts.unwrap_or_default(), api_contracts.unwrap_or_default());
    if defects.is_empty() && texts.is_empty() && api_contracts.is_empty() && wit.is_empty() {
        defects.push(Defect::new("/schemas", "the bundle is empty: no schema, API description or WIT definition"));
    }
    let schemas = schemas(texts, &mut defects);
    if !defects.is_empty() {
        return Err(defects);
    }
    Ok(ContractsDocument { version, schemas, api_contracts, wit, digest: Sha256Digest::of(bytes) })
}

/// A section of texts by name; `None` where it is absent.
fn section(object: &mut Map<String, Value>, key: &str, defects: &mut Vec<Defect>) -> Option<BTreeMap<String, String>> {
    let section = object.remove(key)?;
    let Value::Object(entries) = section else {
        let message = format!("it is {}, not an object of texts by name", kind_of(&section));
        defects.push(Defect::new(pointer(&[key]), message));
        return None;
    };
    if entries.len() > SECTION_ENTRIES {
        let message = format!("it has {} entries, more than the {SECTION_ENTRIES} allowed", entries.len());
        defects.push(Defect::new(pointer(&[key]), message));
        return None;
    }
    let mut texts = BTreeMap::new();
    for (name, value) in entries {
        let path = pointer(&[key, &name]);
        if let Some(fault) = fault_of_name(&name) {
            defects.push(Defect::new(&path, fault));
        }
        if let Value::String(text) = value {
            texts.insert(name, text);
        } else {
            let message = format!("it is {}, not a string with the file's text", kind_of(&value));
            defects.push(Defect::new(path, message));
        }
    }
    Some(texts)
}

/// Why a name cannot be a file's: whoever unpacks the bundle makes files of the names.
fn fault_of_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("the name is empty")
    } else if name.len() > NAME_BYTES {
        Some("the name is longer than a file name may be")
    } else if name.contains(['/', '\\']) || name == "." || name == ".." {
        Some("the name is a path, not a file name")
    } else if name.chars().any(char::is_control) {
        Some("the name holds control characters")
    } else {
        None
    }
}

fn schemas(texts: BTreeMap<String, String>, defects: &mut Vec<Defect>) -> BTreeMap<String, SchemaText> {
    let mut schemas = BTreeMap::new();
    for (name, text) in texts {
        let mut refuse = |message: String| defects.push(Defect::new(in_schema(&name, &""), message));
        if text.len() > SCHEMA_BYTES {
            refuse(format!("it has {} bytes, more than the {SCHEMA_BYTES} allowed", text.len()));
            continue;
        }
        match strict_json::read(text.as_bytes()) {
            Ok(json) if json.too_far_inside => {
                refuse(format!(
                    "it holds something at a JSON Pointer of more than {} bytes",
                    strict_json::POINTER_BYTES
                ));
            }
            Ok(json) => {
                let twice = |inner: String| Defect::new(in_schema(&name, &inner), "the key is there more than once");
                defects.extend(json.duplicates.into_iter().map(twice));
                schemas.insert(name, SchemaText { text, value: json.value });
            }
            Err(error) => refuse(format!("the text is not JSON: {error}")),
        }
    }
    schemas
}

/// What a value is, in words.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
