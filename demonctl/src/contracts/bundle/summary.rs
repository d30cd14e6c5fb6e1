//! The summary of a bundle: what is in it, and how large.

use std::fmt::Write as _;

use publisher::contracts_document::ContractsDocument;

/// The summary of a bundle, a newline at the end.
pub(super) fn of(document: &ContractsDocument) -> String {
    let schemas: Vec<_> = document.schemas().iter().map(|(name, schema)| (name, &schema.text)).collect();
    let sections = [
        ("Schemas", schemas),
        ("API Contracts", document.api_contracts().iter().collect()),
        ("WIT Definitions", document.wit().iter().collect()),
    ];
    summary(&sections)
}

/// The summary where there is nothing.
pub(super) fn of_nothing() -> String {
    summary(&[("Schemas", Vec::new())])
}

fn summary(sections: &[(&str, Vec<(&String, &String)>)]) -> String {
    let mut text = "Contract Bundle Summary\n=======================\n\n".to_owned();
    let mut total = 0;
    for (index, (title, entries)) in sections.iter().enumerate() {
        // A bundle has schemas; everything else is shown where there is some.
        if index > 0 && entries.is_empty() {
            continue;
        }
        total += entries.len();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{title} ({}):", entries.len());
        for (name, content) in entries {
            let (lines, bytes) = (content.lines().count(), content.len());
            let _ = writeln!(text, "  - {} ({lines} lines, {bytes} bytes)", name.escape_debug());
        }
        text.push('\n');
    }
    let _ = writeln!(text, "Total contracts: {total}");
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_summary_has_its_documented_shape() {
        let bundle = json!({
            "schemas": { "b.json": "{\n}\n", "a.json": "{}" },
            "wit": { "demon-envelope.wit": "package demon:contracts@0.1.0;\n" },
        });
        let document = ContractsDocument::parse(bundle.to_string().as_bytes()).unwrap();
        assert_eq!(
            of(&document),
            "Contract Bundle Summary\n\
             =======================\n\
             \n\
             Schemas (2):\n  \
               - a.json (1 lines, 2 bytes)\n  \
               - b.json (2 lines, 4 bytes)\n\
             \n\
             WIT Definitions (1):\n  \
               - demon-envelope.wit (1 lines, 31 bytes)\n\
             \n\
             Total contracts: 3\n"
        );
        assert_eq!(
            of_nothing(),
            "Contract Bundle Summary\n=======================\n\nSchemas (0):\n\nTotal contracts: 0\n"
        );
    }
}
