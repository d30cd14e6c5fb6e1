//! Copies of the contracts with one file changed: what the demo publishes after release A.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// Copies the tree into `target` and writes a comment into its first schema. Returns the changed file, relative.
pub(super) fn copy_with_one_change(source: &Path, target: &Path, comment: &str) -> anyhow::Result<PathBuf> {
    copy_tree(source, target)?;
    let schemas = target.join("schemas");
    let mut names: Vec<PathBuf> = fs::read_dir(&schemas)
        .with_context(|| format!("cannot list `{}`", schemas.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    names.sort();
    let Some(changed) = names.into_iter().next() else {
        bail!("`{}` holds no schema to change", schemas.display());
    };
    let bytes = fs::read(&changed).with_context(|| format!("cannot read `{}`", changed.display()))?;
    let mut schema: Value =
        serde_json::from_slice(&bytes).with_context(|| format!("`{}` is no JSON", changed.display()))?;
    let Some(members) = schema.as_object_mut() else { bail!("`{}` is no JSON object", changed.display()) };
    members.insert("$comment".to_owned(), Value::from(comment));
    fs::write(&changed, serde_json::to_vec_pretty(&schema)?)
        .with_context(|| format!("cannot write `{}`", changed.display()))?;
    Ok(changed.strip_prefix(target).unwrap_or(&changed).to_owned())
}

fn copy_tree(source: &Path, target: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(target).with_context(|| format!("cannot create `{}`", target.display()))?;
    for entry in fs::read_dir(source).with_context(|| format!("cannot list `{}`", source.display()))? {
        let entry = entry.with_context(|| format!("cannot list `{}`", source.display()))?;
        let to = target.join(entry.file_name());
        let kind = entry.file_type().with_context(|| format!("cannot look at `{}`", entry.path().display()))?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &to).with_context(|| format!("cannot copy `{}`", entry.path().display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_file_changes() {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) = (directory.path().join("a"), directory.path().join("b"));
        fs::create_dir_all(source.join("schemas")).unwrap();
        fs::write(source.join("schemas/b.json"), "{}").unwrap();
        fs::write(source.join("schemas/a.json"), "{\"type\":\"object\"}").unwrap();
        let changed = copy_with_one_change(&source, &target, "release B").unwrap();
        assert_eq!(changed, Path::new("schemas/a.json"));
        assert_eq!(fs::read(target.join("schemas/b.json")).unwrap(), b"{}");
        let schema: Value = serde_json::from_slice(&fs::read(target.join("schemas/a.json")).unwrap()).unwrap();
        assert_eq!(schema, serde_json::json!({"$comment": "release B", "type": "object"}));
    }
}
