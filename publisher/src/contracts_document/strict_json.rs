//! JSON as everybody reads it the same way: an object that names a key twice is reported, not silently halved.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::push_token;

/// Most keys that are reported.
const DUPLICATES_REPORTED: usize = 100;
/// Longest JSON Pointer to a place, in bytes: whoever compiles a schema keeps one for each place.
pub(super) const POINTER_BYTES: usize = 2_048;

/// A JSON text, read.
#[derive(Debug)]
pub(super) struct StrictJson {
    /// What it says; of keys that are there twice, the last.
    pub(super) value: Value,
    /// JSON Pointers of the keys that are there twice.
    pub(super) duplicates: Vec<String>,
    /// Whether some place is further inside than [`POINTER_BYTES`] can say.
    pub(super) too_far_inside: bool,
}

/// Reads a JSON text. Nesting is limited to 128 levels by the reader.
pub(super) fn read(bytes: &[u8]) -> Result<StrictJson, serde_json::Error> {
    let mut place = Place { pointer: String::new(), duplicates: Vec::new(), too_far_inside: false };
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Seed(&mut place).deserialize(&mut reader)?;
    reader.end()?;
    Ok(StrictJson { value, duplicates: place.duplicates, too_far_inside: place.too_far_inside })
}

struct Place {
    pointer: String,
    duplicates: Vec<String>,
    too_far_inside: bool,
}

struct Seed<'a>(&'a mut Place);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        let length = self.0.pointer.len();
        loop {
            push_token(&mut self.0.pointer, &values.len().to_string());
            let next = items.next_element_seed(Seed(self.0));
            self.0.pointer.truncate(length);
            match next? {
                Some(value) => values.push(value),
                None => return Ok(Value::Array(values)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        let length = self.0.pointer.len();
        while let Some(key) = entries.next_key::<String>()? {
            push_token(&mut self.0.pointer, &key);
            self.0.too_far_inside |= self.0.pointer.len() > POINTER_BYTES;
            if object.contains_key(&key) && self.0.duplicates.len() < DUPLICATES_REPORTED {
                self.0.duplicates.push(self.0.pointer.clone());
            }
            let value = entries.next_value_seed(Seed(self.0))?;
            self.0.pointer.truncate(length);
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_those_of_the_usual_reader() {
        let text = r#"{"a": [1, -2, 2.5, 1e300, "x\u00e9", null, true, {}], "b": {"c": 18446744073709551615}}"#;
        let read = read(text.as_bytes()).unwrap();
        assert_eq!(read.value, serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(read.duplicates, Vec::<String>::new());
    }

    #[test]
    fn keys_that_are_there_twice_are_named() {
        let read = read(br#"{"a": [0, {"x/y": 1, "x/y": 2}], "a": 3}"#).unwrap();
        assert_eq!(read.value, json!({ "a": 3 }));
        assert_eq!(read.duplicates, ["/a/1/x~1y", "/a"]);
    }

    #[test]
    fn hostile_texts_are_errors() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        for text in ["", "{", "{} {}", "nul", "\u{feff}{}", deep.as_str()] {
            assert!(read(text.as_bytes()).is_err(), "{}", &text[..text.len().min(20)]);
        }
    }
}
