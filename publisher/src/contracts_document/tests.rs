use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn found(bundle: &Value) -> Vec<String> {
    found_in(bundle.to_string().as_bytes())
}

fn found_in(bytes: &[u8]) -> Vec<String> {
    check(bytes).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

/// A bundle of these schemas, written as their files' texts.
fn bundle(schemas: &Value) -> Value {
    let texts = schemas.as_object().unwrap().iter().map(|(name, schema)| (name.clone(), json!(schema.to_string())));
    json!({ "version": "1.0.0", "schemas": Value::Object(texts.collect()) })
}

#[test]
fn sound_bundles_have_no_defects() {
    for bundle in [
        json!({ "schemas": { "a.json": "{}" } }),
        json!({ "schemas": { "a.json": "true" }, "wit_definitions": { "a.wit": "package a:b;" }, "more": [1] }),
        json!({ "schemas": {}, "wit": { "a.wit": "package a:b;" }, "wit_definitions": { "a.wit": "package a:b;" } }),
        json!({ "schemas": {}, "apiContracts": { "a.yaml": "openapi: 3.1.0" } }),
    ] {
        assert_eq!(found(&bundle), Vec::<String>::new(), "{bundle}");
    }
}

#[test]
fn defects_of_the_form_follow_the_table() {
    let long = "x".repeat(256);
    for (bundle, expected) in [
        ("", "/: it is not JSON: "),
        ("{\"schemas\": {", "/: it is not JSON: "),
        ("[]", "/: it is an array, not an object"),
        ("{}", "/schemas: it is missing"),
        (r#"{"schemas": null}"#, "/schemas: it is null, not an object of texts by name"),
        (r#"{"schemas": {}}"#, "/schemas: the bundle is empty"),
        (r#"{"schemas": {}, "wit": {}, "apiContracts": {}}"#, "/schemas: the bundle is empty"),
        (r#"{"schemas": {"a.json": {}}}"#, "/schemas/a.json: it is an object, not a string with the file's text"),
        (r#"{"schemas": {"a.json": "{"}}"#, "/schemas/a.json: the text is not JSON: "),
        (r#"{"schemas": {"a.json": ""}}"#, "/schemas/a.json: the text is not JSON: "),
        (r#"{"schemas": {"a.json": "[]"}}"#, "/schemas/a.json: it is an array, not a JSON Schema"),
        (r#"{"schemas": {"": "{}"}}"#, "/schemas/: the name is empty"),
        (r#"{"schemas": {"../a": "{}"}}"#, "/schemas/..~1a: the name is a path, not a file name"),
        (r#"{"schemas": {"..": "{}"}}"#, "/schemas/..: the name is a path, not a file name"),
        (r#"{"schemas": {"a\u001bb": "{}"}}"#, "/schemas/a\\u{1b}b: the name holds control characters"),
        (r#"{"schemas": {"a": "{}", "a": "{}"}}"#, "/schemas/a: the key is there more than once"),
        (r#"{"schemas": {"a": "{\"b\": 1, \"b\": 2}"}}"#, "/schemas/a#/b: the key is there more than once"),
        (r#"{"schemas": {"a": "{}"}, "version": 1}"#, "/version: it is a number, not a string"),
        (r#"{"schemas": {"a": "{}"}, "wit": []}"#, "/wit: it is an array, not an object of texts by name"),
        (r#"{"schemas": {"a": "{}"}, "wit": {"a": 1}}"#, "/wit/a: it is a number, not a string"),
        (r#"{"schemas": {"a": "{}"}, "wit": {"a": ""}}"#, "/wit/a: the WIT definition is empty"),
        (r#"{"schemas": {"a": "{}"}, "apiContracts": {"a": true}}"#, "/apiContracts/a: it is true or false, not"),
        (r#"{"schemas": {"a": "{}"}, "apiContracts": {"a": " "}}"#, "/apiContracts/a: the API description is empty"),
        (r#"{"schemas": {}, "wit": {"a": "x"}, "wit_definitions": {}}"#, "/wit_definitions: it differs from `wit`"),
        (&format!(r#"{{"schemas": {{"{long}": "{{}}"}}}}"#), "/schemas/xxx"),
    ] {
        let found = found_in(bundle.as_bytes());
        assert!(found.len() == 1 && found[0].starts_with(expected), "{bundle}: {found:?}");
    }
    assert!(found_in(b"\xff")[0].starts_with("/: it is not JSON"));
}

#[test]
fn defects_of_schemas_follow_the_table() {
    let deep = |keyword: &str, levels| (0..levels).fold(json!({ "type": 1 }), |inner, _| json!({ keyword: inner }));
    let draft_7 = "http://json-schema.org/draft-07/schema#";
    for (schema, expected) in [
        (json!({ "type": "intger" }), "#/type: `intger` is not a type of JSON"),
        (json!({ "required": "x" }), "#/required: \"x\" is not of type \"array\""),
        (json!({ "properties": { "x": { "minLength": -1 } } }), "#/properties/x/minLength: -1 is less than"),
        (json!({ "$defs": { "d/e": 1 } }), "#/$defs/d~1e: 1 is not of types"),
        (json!({ "pattern": "(" }), "#/pattern: `(` is not a regular expression"),
        (json!({ "patternProperties": { "[": {} } }), "#/patternProperties/[: `[` is not a regular expression"),
        (json!({ "$schema": "https://example.com/dialect" }), "#/$schema: it names no dialect"),
        (json!({ "$schema": draft_7, "items": 1 }), "#/items: 1 is not"),
        (json!({ "$schema": draft_7, "$id": 1 }), "#/$id: 1 is not of type \"string\""),
        (json!({ "$ref": 1 }), "#/$ref: 1 is not of type \"string\""),
        (json!({ "$ref": "#/$defs/none" }), "#/$ref: `#/$defs/none` points to nothing in `a.json`"),
        (
            json!({ "$ref": "#/enum/0", "enum": [1] }),
            "#/$ref: `#/enum/0` points into `a.json` at something that is not",
        ),
        (json!({ "$ref": "#none" }), "#/$ref: `#none` names an anchor that `a.json` does not have"),
        (json!({ "$dynamicRef": "#none" }), "#/$dynamicRef: `#none` names an anchor"),
        (json!({ "$ref": "b.json" }), "#/$ref: `b.json` is not in the bundle, and nothing is fetched"),
        (json!({ "$ref": "https://example.com/b.json" }), "#/$ref: `https://example.com/b.json` is not in the bundle"),
        (
            json!({ "$ref": "https://json-schema.org/draft/2020-12/meta/none" }),
            "#/$ref: `https://json-schema.org/draft",
        ),
        (json!({ "$ref": "file:///etc/passwd" }), "#/$ref: `file:///etc/passwd` is not in the bundle"),
        (json!({ "$ref": "#%zz" }), "#/$ref: "),
        (json!({ "allOf": [{ "$ref": "x y" }] }), "#/allOf/0/$ref: "),
        (
            json!({ "$anchor": "x", "$defs": { "d": { "$anchor": "x" } } }),
            "#/$defs/d: anchor `x` is there more than once",
        ),
        (json!({ "x": { "type": "nil" }, "$ref": "#/x" }), "#/x/type: `nil` is not a type of JSON"),
        (deep("not", 40), "#/not/not/"),
    ] {
        let found = found(&bundle(&json!({ "a.json": schema })));
        let place = format!("/schemas/a.json{expected}");
        assert!(found.iter().any(|defect| defect.starts_with(&place)), "{schema}: {found:?}");
        assert!(found.len() <= 2, "{schema}: {found:?}");
    }
}

#[test]
fn references_inside_the_bundle_are_resolved() {
    let id = |name: &str| format!("https://example.com/schemas/{name}");
    for schemas in [
        // By file name, here and in another file, by pointer and by anchor.
        json!({ "a.json": { "$ref": "b.json" }, "b.json": {} }),
        json!({ "a.json": { "$ref": "./b.json#/$defs/x~1y%20z" }, "b.json": { "$defs": { "x/y z": true } } }),
        json!({ "a.json": { "$ref": "b.json#there" }, "b.json": { "items": { "$anchor": "there" } } }),
        json!({ "a b.json": { "$ref": "c%20d.json" }, "c d.json": { "$ref": "a%20b.json#" } }),
        // By name, absolute and relative, and beside a name that is no path.
        json!({ "a.json": { "$ref": id("x") }, "b.json": { "$id": id("x") } }),
        json!({ "a.json": { "$id": id("a"), "$ref": "x" }, "b.json": { "$id": id("x") } }),
        json!({ "a.json": { "$id": "urn:x:a.json", "$ref": "b.json" }, "b.json": { "$id": "urn:x:b.json" } }),
        json!({ "a.json": { "$id": "urn:x:a.json", "$ref": "urn:x:b.json#/$defs/d" }, "b.json": { "$id": "urn:x:b.json", "$defs": { "d": {} } } }),
        json!({ "a.json": { "$ref": id("inner"), "$defs": { "d": { "$id": id("inner"), "$ref": "#/$defs/e", "$defs": { "e": {} } } } } }),
        // Cycles, dynamic references, older dialects, the dialects themselves.
        json!({ "a.json": { "properties": { "next": { "$ref": "#" } } } }),
        json!({ "a.json": { "$ref": "b.json" }, "b.json": { "$ref": "a.json" } }),
        json!({ "a.json": { "$dynamicAnchor": "node", "items": { "$dynamicRef": "#node" } } }),
        json!({ "a.json": { "$schema": "https://json-schema.org/draft/2019-09/schema", "$recursiveAnchor": true, "items": { "$recursiveRef": "#" } } }),
        json!({ "a.json": { "$schema": "http://json-schema.org/draft-07/schema#", "definitions": { "d": { "$id": "#d" } }, "items": { "$ref": "#d" } } }),
        json!({ "a.json": { "$schema": "http://json-schema.org/draft-04/schema#", "id": "http://x/a", "items": { "$ref": "a#/definitions/d" }, "definitions": { "d": { "exclusiveMinimum": true, "minimum": 1 } } } }),
        json!({ "a.json": { "$ref": "https://json-schema.org/draft/2020-12/schema" } }),
        json!({ "a.json": { "$ref": "http://json-schema.org/draft-07/schema#/definitions/nonNegativeInteger" } }),
        // What only looks like a reference.
        json!({ "a.json": { "const": { "$ref": "nowhere" }, "properties": { "$ref": { "type": "string" } } } }),
    ] {
        assert_eq!(found(&bundle(&schemas)), Vec::<String>::new(), "{schemas}");
    }
}

#[test]
fn two_files_cannot_have_one_name() {
    let twice = bundle(&json!({ "a.json": { "$id": "urn:x" }, "b.json": { "$id": "urn:x" } }));
    assert_eq!(found(&twice), ["/schemas/b.json#/$id: `a.json` has a schema of the same name"]);
}

#[test]
fn every_defect_is_reported_in_order() {
    let found = found(&bundle(&json!({
        "b.json": { "type": "x", "pattern": "(" }, "a.json": { "$ref": "c.json", "items": { "required": 1 } },
    })));
    let places: Vec<&str> = found.iter().map(|defect| defect.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "/schemas/a.json#/$ref",
            "/schemas/a.json#/items/required",
            "/schemas/b.json#/pattern",
            "/schemas/b.json#/type"
        ]
    );
}

#[test]
fn a_document_with_bad_schemas_still_parses() {
    let bytes = bundle(&json!({ "a.json": { "type": "x" } })).to_string();
    let document = ContractsDocument::parse(bytes.as_bytes()).unwrap();
    assert_eq!((document.version(), document.schemas().len()), (Some("1.0.0"), 1));
    assert_eq!(document.digest(), Sha256Digest::of(bytes.as_bytes()));
    let error = ContractsDocument::parse(b"{}").unwrap_err();
    assert_eq!(error.to_string(), "the contracts bundle is not valid: /schemas: it is missing");
}

#[test]
fn messages_stay_on_one_short_line() {
    let nasty = format!("\u{1b}[2J\n{}", "x".repeat(100_000));
    let text =
        found(&bundle(&json!({ "a.json": { "$ref": nasty, "properties": { (nasty.as_str()): { "type": nasty } } } })));
    assert!(!text.is_empty());
    for line in text {
        assert!(line.chars().count() < 1_500 && !line.contains(char::is_control), "{line}");
    }
}

#[test]
fn deep_schemas_come_to_an_end() {
    // As deep as the reader lets through, in text and in schemas.
    for keyword in ["not", "items", "additionalProperties"] {
        let levels = if keyword.len() > 10 { 90 } else { 120 };
        let deep = (0..levels).fold(json!({}), |inner, _| json!({ keyword: inner }));
        assert_eq!(found(&bundle(&json!({ "a.json": deep }))), Vec::<String>::new());
    }
    let deeper = format!("{}{}", "[".repeat(200), "]".repeat(200));
    assert!(found(&json!({ "schemas": { "a.json": deeper } }))[0].contains("not JSON"));
}

#[test]
fn long_chains_of_references_come_to_an_end() {
    let mut definitions = serde_json::Map::new();
    for index in 0..20_000 {
        definitions.insert(index.to_string(), json!({ "$ref": format!("#/$defs/{}", (index + 1) % 20_000) }));
    }
    assert_eq!(found(&bundle(&json!({ "a.json": { "$defs": definitions } }))), Vec::<String>::new());
}

#[test]
fn no_place_costs_the_length_of_the_keys_around_it() {
    let small: serde_json::Map<String, Value> = (0..5_000).map(|index| (index.to_string(), json!({}))).collect();
    for (length, sound) in [(1_000, true), (1 << 20, false)] {
        let long = json!({ "properties": { ("x".repeat(length)): { "properties": small } } });
        let found = found(&bundle(&json!({ "a.json": long })));
        assert_eq!(found.is_empty(), sound, "{found:?}");
    }
    let large = json!({ "description": "x".repeat(SCHEMA_BYTES) });
    assert!(found(&bundle(&json!({ "a.json": large })))[0].contains("more than the 2097152 allowed"));
}

#[test]
fn patterns_that_are_large_as_programs_are_refused() {
    let large = json!({ "pattern": "((((a{1,100}){1,100}){1,100}){1,100}){1,100}" });
    assert!(found(&bundle(&json!({ "a.json": large })))[0].contains("is not a regular expression"));
}

#[test]
fn more_defects_than_anybody_reads_are_counted() {
    let mut many = String::from("{\"schemas\": {\"a.json\": \"{}\"");
    for index in 0..5_000 {
        write!(many, ", \"{index}\": 1").unwrap();
    }
    many.push_str("}}");
    let found = found_in(many.as_bytes());
    assert_eq!((found.len(), found.last().unwrap().as_str()), (1_001, "/: and 4000 more defects"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let keyword = proptest::sample::select(vec![
        "$ref",
        "$dynamicRef",
        "$id",
        "$schema",
        "$anchor",
        "$defs",
        "properties",
        "items",
        "allOf",
        "type",
        "pattern",
        "a",
        "",
    ]);
    let text =
        proptest::sample::select(vec!["#", "#/$defs/a", "a.json", "#a", "a", "string", "#/~", "%", "urn:x", "(", ""]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<f64>().prop_map(|number| json!(number)),
        text.prop_map(|text| json!(text)),
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::btree_map(keyword.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_schema_makes_the_check_panic(schema in any_json()) {
        let _ = check(bundle(&json!({ "a.json": schema })).to_string().as_bytes());
    }

    #[test]
    fn no_bytes_make_the_check_panic(bytes in any::<Vec<u8>>()) {
        prop_assert!(check(&bytes).is_err());
    }
}
