use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn document(schemas: &[(&str, Value)]) -> ContractsDocument {
    let schemas: BTreeMap<&str, String> = schemas.iter().map(|(name, value)| (*name, value.to_string())).collect();
    ContractsDocument::parse(json!({ "schemas": schemas }).to_string().as_bytes()).unwrap()
}

fn changes(base: Value, new: Value) -> Vec<String> {
    let (base, new) = (document(&[("a.json", base)]), document(&[("a.json", new)]));
    breaking_changes(&base, &new).iter().map(ToString::to_string).collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "it is one table")]
fn breaking_changes_follow_the_table() {
    let properties = |properties: Value| json!({ "type": "object", "properties": properties });
    for (base, new, expected) in [
        // Properties.
        (
            properties(json!({ "x": {}, "y": {} })),
            properties(json!({ "x": {} })),
            "/properties/y: the property was removed",
        ),
        (
            json!({ "patternProperties": { "^x": {} } }),
            json!({ "patternProperties": {} }),
            "/patternProperties/^x: the property was removed",
        ),
        (json!({}), json!({ "required": ["x"] }), "/required: property \"x\" is required now"),
        (
            json!({ "dependentRequired": { "a": ["b"] } }),
            json!({ "dependentRequired": { "a": ["b", "c"] } }),
            "/dependentRequired/a: property \"c\" is required now",
        ),
        (
            json!({}),
            json!({ "additionalProperties": false }),
            "/additionalProperties: additional properties are refused now",
        ),
        (
            json!({ "additionalProperties": { "type": "string" } }),
            json!({ "additionalProperties": false }),
            "/additionalProperties: additional properties are refused now",
        ),
        (
            json!({}),
            json!({ "unevaluatedProperties": false }),
            "/unevaluatedProperties: additional properties are refused now",
        ),
        // Types.
        (
            json!({ "type": "integer" }),
            json!({ "type": "string" }),
            "/type: the type was narrowed from \"integer\" to \"string\"",
        ),
        (
            json!({ "type": "number" }),
            json!({ "type": "integer" }),
            "/type: the type was narrowed from \"number\" to \"integer\"",
        ),
        (
            json!({ "type": ["string", "null"] }),
            json!({ "type": "string" }),
            "/type: the type was narrowed from [\"null\",\"string\"] to \"string\"",
        ),
        (json!({}), json!({ "type": "string" }), "/type: the type was narrowed from anything to \"string\""),
        (json!(true), json!(false), ": nothing is allowed here any more"),
        // Values.
        (json!({ "enum": ["a", "b"] }), json!({ "enum": ["a"] }), "/enum: value \"b\" is not allowed any more"),
        (json!({ "const": 1 }), json!({ "const": 2 }), "/const: value 1 is not allowed any more"),
        (json!({ "type": "string" }), json!({ "type": "string", "enum": ["a"] }), "/enum: only [\"a\"] is allowed now"),
        (json!({ "type": "string" }), json!({ "type": "string", "const": "a" }), "/const: only [\"a\"] is allowed now"),
        // Bounds.
        (json!({ "minimum": 1 }), json!({ "minimum": 2 }), "/minimum: the constraint was tightened from 1 to 2"),
        (json!({ "maximum": 2.5 }), json!({ "maximum": 2 }), "/maximum: the constraint was tightened from 2.5 to 2"),
        (
            json!({ "minimum": 1 }),
            json!({ "exclusiveMinimum": 1 }),
            "/exclusiveMinimum: the constraint was tightened from 1 to 1",
        ),
        (json!({}), json!({ "exclusiveMaximum": -1 }), "/exclusiveMaximum: the constraint was added: -1"),
        (json!({}), json!({ "minLength": 1 }), "/minLength: the constraint was added: 1"),
        (json!({ "maxLength": 9 }), json!({ "maxLength": 8 }), "/maxLength: the constraint was tightened from 9 to 8"),
        (json!({}), json!({ "minItems": 1 }), "/minItems: the constraint was added: 1"),
        (json!({}), json!({ "maxItems": 1 }), "/maxItems: the constraint was added: 1"),
        (json!({}), json!({ "minProperties": 1 }), "/minProperties: the constraint was added: 1"),
        (json!({}), json!({ "maxProperties": 1 }), "/maxProperties: the constraint was added: 1"),
        (
            json!({ "multipleOf": 2 }),
            json!({ "multipleOf": 4 }),
            "/multipleOf: the constraint was tightened from 2 to 4",
        ),
        (json!({}), json!({ "uniqueItems": true }), "/uniqueItems: the constraint was added: true"),
        (json!({}), json!({ "pattern": "^a" }), "/pattern: the constraint was added: \"^a\""),
        (
            json!({ "pattern": "a" }),
            json!({ "pattern": "b" }),
            "/pattern: the constraint was tightened from \"a\" to \"b\"",
        ),
        (json!({}), json!({ "format": "uuid" }), "/format: the constraint was added: \"uuid\""),
        (
            json!({ "format": "uri" }),
            json!({ "format": "uuid" }),
            "/format: the constraint was tightened from \"uri\" to \"uuid\"",
        ),
        // Conditions.
        (json!({}), json!({ "not": { "const": 1 } }), "/not: the condition was added or changed"),
        (
            json!({ "if": { "required": ["a"] } }),
            json!({ "if": { "required": ["a"] }, "then": { "required": ["b"] } }),
            "/if: the condition was added or changed",
        ),
        // Everywhere inside.
        (
            properties(json!({ "x": { "items": { "type": "number" } } })),
            properties(json!({ "x": { "items": { "type": "integer" } } })),
            "/properties/x/items/type: the type was narrowed from \"number\" to \"integer\"",
        ),
        (
            json!({ "prefixItems": [{}, { "maximum": 2 }] }),
            json!({ "prefixItems": [{}, { "maximum": 1 }] }),
            "/prefixItems/1/maximum: the constraint was tightened from 2 to 1",
        ),
        (
            json!({ "$schema": "http://json-schema.org/draft-07/schema#", "items": [{}, { "maximum": 2 }] }),
            json!({ "$schema": "http://json-schema.org/draft-07/schema#", "items": [{}, { "maximum": 1 }] }),
            "/items/1/maximum: the constraint was tightened from 2 to 1",
        ),
        (
            json!({ "$defs": { "d": { "maximum": 2 } } }),
            json!({ "$defs": { "d": { "maximum": 1 } } }),
            "/$defs/d/maximum: the constraint was tightened from 2 to 1",
        ),
        (
            json!({ "allOf": [{ "maximum": 2 }] }),
            json!({ "allOf": [{ "maximum": 2 }, { "maximum": 1 }] }),
            "/maximum: the constraint was tightened from 2 to 1",
        ),
        (
            json!({ "anyOf": [{ "type": "string" }, { "type": "null" }] }),
            json!({ "anyOf": [{ "type": "string" }] }),
            "/anyOf/1: the alternative was removed",
        ),
        (
            json!({ "oneOf": [{ "maximum": 2 }] }),
            json!({ "oneOf": [{ "maximum": 1 }] }),
            "/oneOf/0/maximum: the constraint was tightened from 2 to 1",
        ),
        (
            json!({ "type": "string" }),
            json!({ "anyOf": [{ "type": "null" }, { "type": "number" }] }),
            "/anyOf: the constraint was added: \"2 alternatives\"",
        ),
        (
            properties(json!({ "x/y~z": { "minLength": 1 } })),
            properties(json!({ "x/y~z": { "minLength": 2 } })),
            "/properties/x~1y~0z/minLength: the constraint was tightened from 1 to 2",
        ),
    ] {
        let found = changes(base.clone(), new.clone());
        let place = if expected.starts_with(':') { "a.json" } else { "a.json#" };
        assert_eq!(found, [format!("{place}{expected}")], "{base} -> {new}");
    }
}

#[test]
fn what_adds_or_loosens_is_not_breaking() {
    for (base, new) in [
        (json!({ "properties": { "x": {} } }), json!({ "properties": { "x": {}, "y": { "type": "string" } } })),
        (json!({ "required": ["x", "y"] }), json!({ "required": ["x"] })),
        (json!({ "type": "integer" }), json!({ "type": "number" })),
        (json!({ "type": "string" }), json!({ "type": ["string", "null"] })),
        (json!({ "type": "string" }), json!({})),
        (json!({ "enum": ["a"] }), json!({ "type": "string", "enum": ["a", "b"] })),
        (json!({ "const": 1 }), json!({ "enum": [1.0, 2] })),
        (json!({ "minimum": 2, "maxLength": 3 }), json!({ "minimum": 1, "maxLength": 4 })),
        (json!({ "exclusiveMinimum": 1 }), json!({ "minimum": 1 })),
        (json!({ "multipleOf": 0.3 }), json!({ "multipleOf": 0.1 })),
        (json!({ "pattern": "a", "format": "uuid" }), json!({})),
        (json!({ "additionalProperties": false }), json!({ "additionalProperties": true })),
        (json!({ "properties": { "x": false } }), json!({ "properties": {} })),
        (json!(false), json!({ "type": "string" })),
        (json!({ "type": "string" }), json!({ "anyOf": [{ "type": "null" }, { "type": "string" }] })),
        (
            json!({ "anyOf": [{ "type": "string" }, { "type": "null" }] }),
            json!({ "anyOf": [{ "type": "number" }, { "type": "null" }, { "type": "string" }] }),
        ),
        (
            json!({ "properties": { "x": { "type": "string" } } }),
            json!({ "properties": { "x": { "$ref": "#/$defs/d" } }, "$defs": { "d": { "type": "string" } } }),
        ),
        (json!({ "required": ["x"] }), json!({ "allOf": [{ "required": ["x"] }] })),
        (json!({ "not": { "const": 1 } }), json!({ "title": "t", "not": { "const": 1 } })),
        (
            json!({ "$schema": "http://json-schema.org/draft-07/schema#", "items": [{ "type": "string" }] }),
            json!({ "prefixItems": [{ "type": "string" }] }),
        ),
    ] {
        assert_eq!(changes(base.clone(), new.clone()), Vec::<String>::new(), "{base} -> {new}");
    }
}

#[test]
fn a_change_behind_a_reference_is_named_where_it_stands() {
    let base = document(&[
        ("a.json", json!({ "properties": { "x": { "$ref": "b.json#/$defs/d" } } })),
        ("b.json", json!({ "$defs": { "d": { "maximum": 2 } } })),
    ]);
    let new = document(&[
        ("a.json", json!({ "properties": { "x": { "$ref": "b.json#/$defs/d" } } })),
        ("b.json", json!({ "$defs": { "d": { "maximum": 1 } } })),
    ]);
    let found: Vec<String> = breaking_changes(&base, &new).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["b.json#/$defs/d/maximum: the constraint was tightened from 2 to 1"]);
}

#[test]
fn removed_files_are_breaking_and_changed_texts_are_only_noted() {
    let parse = |value: Value| ContractsDocument::parse(value.to_string().as_bytes()).unwrap();
    let base = parse(json!({
        "schemas": { "a.json": "{}", "b.json": "{}" },
        "apiContracts": { "x.yaml": "a", "y.yaml": "a" },
        "wit": { "x.wit": "a", "y.wit": "a" },
    }));
    let new = parse(json!({
        "schemas": { "b.json": "{}" }, "apiContracts": { "y.yaml": "b" }, "wit": { "y.wit": "b" },
    }));
    let found: Vec<String> = breaking_changes(&base, &new).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "a.json: the schema was removed",
            "x.wit: the WIT definition was removed",
            "x.yaml: the API description was removed"
        ]
    );
    assert_eq!(
        changes_not_judged(&base, &new),
        ["API description `y.yaml` changed: not judged", "WIT definition `y.wit` changed: not judged"]
    );
}

#[test]
fn scripts_read_place_and_both_sides() {
    let (base, new) =
        (document(&[("a.json", json!({ "maximum": 2 }))]), document(&[("a.json", json!({ "maximum": 1 }))]));
    assert_eq!(
        serde_json::to_value(breaking_changes(&base, &new)).unwrap(),
        json!([{ "schema": "a.json", "path": "/maximum", "change": "constraint_tightened", "from": 2, "to": 1 }])
    );
}

#[test]
fn cycles_and_long_chains_end() {
    let tree = |limit: u64| {
        json!({ "properties": {
            "value": { "maximum": limit },
            "left": { "$ref": "#" }, "right": { "anyOf": [{ "$ref": "#" }, { "type": "null" }] },
        } })
    };
    assert_eq!(changes(tree(2), tree(2)), Vec::<String>::new());
    assert_eq!(
        changes(tree(2), tree(1)),
        ["a.json#/properties/value/maximum: the constraint was tightened from 2 to 1"]
    );
    assert_eq!(changes(json!({ "$ref": "#" }), json!({ "allOf": [{ "$ref": "#" }] })), Vec::<String>::new());

    let chain = |last: Value| {
        let next = |index: usize| json!({ "properties": { "next": { "$ref": format!("#/$defs/{}", index + 1) } } });
        let mut definitions: serde_json::Map<String, Value> =
            (0..20_000).map(|index| (index.to_string(), next(index))).collect();
        definitions.insert("20000".to_owned(), last);
        json!({ "$ref": "#/$defs/0", "$defs": definitions })
    };
    let found = changes(chain(json!({})), chain(json!({ "type": "null" })));
    assert_eq!(found, ["a.json#/$defs/20000/type: the type was narrowed from anything to \"null\""]);
}

#[test]
fn too_much_to_compare_counts_as_breaking() {
    let many = |extra: &str| {
        let mut all: Vec<Value> = (0..1_000).map(|number| json!({ "not": { "const": number } })).collect();
        all.push(json!({ "title": extra }));
        json!({ "allOf": all })
    };
    let found = changes(many("a"), many("b"));
    assert!(found.iter().any(|change| change.ends_with("too much to compare from here on")), "{found:?}");
}

#[test]
fn long_lists_of_values_and_alternatives_end() {
    let values = |count: u64| json!({ "enum": (0..count).collect::<Vec<_>>() });
    assert_eq!(changes(values(20_000), values(20_000)), Vec::<String>::new());
    assert_eq!(changes(values(20_000), values(19_999)), ["a.json#/enum: value 19999 is not allowed any more"]);

    let alternatives =
        |from: u64| json!({ "anyOf": (from..from + 600).map(|n| json!({ "const": n })).collect::<Vec<_>>() });
    let found = changes(alternatives(0), alternatives(1));
    assert_eq!(found, ["a.json#/anyOf/0/const: value 0 is not allowed any more"]);
}

fn any_json() -> impl Strategy<Value = Value> {
    let keyword = proptest::sample::select(vec![
        "$ref",
        "$id",
        "$anchor",
        "$defs",
        "properties",
        "items",
        "prefixItems",
        "allOf",
        "anyOf",
        "type",
        "enum",
        "const",
        "required",
        "minimum",
        "exclusiveMinimum",
        "pattern",
        "not",
        "additionalProperties",
        "a",
        "",
    ]);
    let text = proptest::sample::select(vec!["#", "#/$defs/a", "a.json", "a", "object", "#/x~1", "%", "urn:x", "["]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(|number| json!(number)),
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
    fn nothing_breaks_between_a_bundle_and_itself(schema in any_json()) {
        let (one, mut again) = (document(&[("a.json", schema.clone())]), document(&[("a.json", schema)]));
        prop_assert_eq!(breaking_changes(&one, &again), vec![]);
        // Not by the digest alone.
        again = document(&[("a.json", one.schemas()["a.json"].value.clone()), ("b.json", json!({}))]);
        prop_assert_eq!(breaking_changes(&one, &again), vec![]);
    }

    #[test]
    fn an_optional_property_more_breaks_nothing(schema in any_json(), added in any_json()) {
        let mut base = json!({ "properties": { "known": schema } });
        let before = document(&[("a.json", base.clone())]);
        base["properties"]["added"] = added;
        prop_assert_eq!(breaking_changes(&before, &document(&[("a.json", base)])), vec![]);
    }

    #[test]
    fn whatever_is_compared_it_ends(base in any_json(), new in any_json()) {
        breaking_changes(&document(&[("a.json", base)]), &document(&[("a.json", new)]));
    }
}
