//! What a WIT definition must at least have: content, and with its neighbours one package.

use std::collections::BTreeMap;

use super::{Defect, pointer};

/// What is wrong with the definitions. Files of one package share its declaration: one of them must carry it, and
/// those that do must agree.
pub(super) fn defects(wit: &BTreeMap<String, String>) -> Vec<Defect> {
    let mut defects = Vec::new();
    let mut declared: Option<(&str, String)> = None;
    for (name, text) in wit {
        let path = pointer(&["wit", name]);
        let code = without_comments(text);
        if code.trim().is_empty() {
            defects.push(Defect::new(path, "the WIT definition is empty"));
            continue;
        }
        let Some(package) = package_of(&code) else { continue };
        if !is_package_name(&package) {
            let message =
                format!("`package {package}` names no package: it is `namespace:name`, with `@version` or not");
            defects.push(Defect::new(path, message));
        }
        match &declared {
            Some((first, other)) if *other != package => {
                let message = format!("it declares package `{package}`, but `{first}` declares `{other}`");
                defects.push(Defect::new(pointer(&["wit", name]), message));
            }
            Some(_) => {}
            None => declared = Some((name, package)),
        }
    }
    if declared.is_none() && defects.is_empty() {
        let missing = |name: &String| Defect::new(pointer(&["wit", name]), "no `package namespace:name;` declares it");
        defects.extend(wit.keys().map(missing));
    }
    defects
}

/// The package that a definition declares: what stands between `package` and the next `;` or `{`.
fn package_of(code: &str) -> Option<String> {
    let start = code.match_indices("package").find(|(at, _)| {
        let before = code[..*at].chars().next_back();
        let after = code[at + "package".len()..].chars().next();
        before.is_none_or(|before| before.is_whitespace() || before == ';') && after.is_some_and(char::is_whitespace)
    })?;
    let rest = &code[start.0 + "package".len()..];
    let end = rest.find([';', '{'])?;
    Some(rest[..end].trim().to_owned())
}

fn is_package_name(package: &str) -> bool {
    let (name, version) = package.split_once('@').map_or((package, None), |(name, version)| (name, Some(version)));
    let word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'%')
    };
    let version_is_plain = version.is_none_or(|version| {
        !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+".contains(&byte))
    });
    name.split_once(':').is_some_and(|(namespace, name)| word(namespace) && name.split(['/', ':']).all(word))
        && version_is_plain
}

/// The code alone; a comment becomes a space.
fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    let mut depth = 0_usize;
    while let Some(character) = rest.chars().next() {
        if rest.starts_with("/*") {
            depth += 1;
            rest = &rest[2..];
        } else if depth > 0 && rest.starts_with("*/") {
            depth -= 1;
            code.push(' ');
            rest = &rest[2..];
        } else if depth == 0 && rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else {
            if depth == 0 {
                code.push(character);
            }
            rest = &rest[character.len_utf8()..];
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let wit = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        defects(&wit).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn definitions_follow_the_table() {
        for (files, expected) in [
            (&[("a.wit", "package demon:contracts@0.1.0;\n")][..], None),
            (&[("a.wit", "// package x\n/* package /* y */ */ package a:b/c { }")], None),
            (&[("a.wit", "package a:b;"), ("b.wit", "interface i { }")], None),
            (&[("a.wit", "")], Some("/wit/a.wit: the WIT definition is empty")),
            (&[("a.wit", " // only a comment")], Some("/wit/a.wit: the WIT definition is empty")),
            (&[("a.wit", "interface package-of { }")], Some("/wit/a.wit: no `package namespace:name;` declares it")),
            (&[("a.wit", "package ;")], Some("/wit/a.wit: `package ` names no package")),
            (&[("a.wit", "package contracts;")], Some("/wit/a.wit: `package contracts` names no package")),
            (&[("a.wit", "package a:b;"), ("b.wit", "package a:c;")], Some("/wit/b.wit: it declares package `a:c`")),
        ] {
            let found = found(files);
            match expected {
                None => assert_eq!(found, Vec::<String>::new(), "{files:?}"),
                Some(text) => assert!(found.len() == 1 && found[0].starts_with(text), "{files:?}: {found:?}"),
            }
        }
    }
}
