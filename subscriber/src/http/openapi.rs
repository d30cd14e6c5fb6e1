//! `GET /openapi.json`: what the other paths answer, for people and generated clients. Why it is written by hand:
//! `docs/adr/0015-openapi-by-hand.md`.

use axum::http::header;
use axum::response::IntoResponse;

const DOCUMENT: &str = include_str!("openapi.json");

/// The document.
pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::router::{Access, VERSION, routes};
    use super::*;
    use crate::agent_view::BundleState;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document = document();
        let described: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(described, routes().iter().map(|route| route.path).collect());
        for route in routes() {
            let operations = document["paths"][route.path].as_object().unwrap();
            assert_eq!(operations.keys().collect::<Vec<_>>(), ["get"], "{}", route.path);
            let needs_key = operations["get"]["responses"]["401"].is_object();
            assert_eq!(needs_key, route.access == Access::WithKey, "{}", route.path);
            assert_eq!(operations["get"]["security"].as_array().unwrap().is_empty(), !needs_key, "{}", route.path);
        }
    }

    #[test]
    fn every_state_and_the_version_are_in_it() {
        let document = document();
        let states: BTreeSet<&str> = document["components"]["schemas"]["Standing"]["properties"]["status"]["enum"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(states, BundleState::ALL.iter().map(|state| state.as_str()).collect());
        assert_eq!(document["info"]["version"], VERSION);
        assert_eq!(document["components"]["headers"]["apiVersion"]["schema"]["const"], VERSION);
    }

    fn references<'d>(value: &'d Value, found: &mut BTreeSet<&'d str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_component_is_used() {
        let document = document();
        let mut used = BTreeSet::new();
        references(&document, &mut used);
        for reference in &used {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        for (kind, components) in document["components"].as_object().unwrap() {
            for name in components.as_object().unwrap().keys().filter(|_| kind != "securitySchemes") {
                assert!(used.contains(format!("#/components/{kind}/{name}").as_str()), "{kind}/{name} is not used");
            }
        }
    }
}
