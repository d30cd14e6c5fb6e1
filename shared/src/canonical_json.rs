//! Canonical JSON: one byte form for one value, so that it can be hashed.
//!
//! The subset of RFC 8785 (JSON Canonicalization Scheme) for our documents: object keys sorted, no white space,
//! strings and integers only. Floating-point numbers do not occur in them and are refused.

use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

/// A value that has no canonical form here.
#[derive(Debug, Error)]
pub enum CanonicalError {
    /// It cannot be written as JSON at all.
    #[error("value cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// It holds a number that is no integer.
    #[error("number `{0}` is no integer")]
    Number(serde_json::Number),
}

/// The value's canonical bytes.
pub fn to_canonical_json(value: &impl Serialize) -> Result<Vec<u8>, CanonicalError> {
    let mut output = Vec::new();
    write(&serde_json::to_value(value)?, &mut output)?;
    Ok(output)
}

fn write(value: &Value, output: &mut Vec<u8>) -> Result<(), CanonicalError> {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => serde_json::to_writer(output, value)?,
        Value::Number(number) if number.is_f64() => return Err(CanonicalError::Number(number.clone())),
        Value::Number(number) => serde_json::to_writer(output, number)?,
        Value::Array(items) => {
            output.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    output.push(b',');
                }
                write(item, output)?;
            }
            output.push(b']');
        }
        Value::Object(members) => {
            // Sorted here and not left to the map, whose order depends on a feature that any crate can switch on.
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
            output.push(b'{');
            for (index, (key, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    output.push(b',');
                }
                serde_json::to_writer(&mut *output, key)?;
                output.push(b':');
                write(member, output)?;
            }
            output.push(b'}');
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_and_nothing_is_added() {
        let value = json!({"b": [1, {"z": null, "a": "é\n"}], "a": true});
        assert_eq!(to_canonical_json(&value).unwrap(), "{\"a\":true,\"b\":[1,{\"a\":\"é\\n\",\"z\":null}]}".as_bytes());
    }

    #[test]
    fn floating_point_numbers_are_refused() {
        assert!(matches!(to_canonical_json(&json!([1.5])), Err(CanonicalError::Number(_))));
    }
}
