//! The file of keys that may ask for a publish over HTTP: one or two, so that one replaces the other without a gap.

use std::path::Path;

use shared::daemon::api_keys::ApiKeys;

const MOST_FILE_BYTES: u64 = 4096;

/// Reads a file of keys, one a line. The error never repeats one.
pub(super) fn read_keys(path: &Path) -> Result<ApiKeys, String> {
    let size = std::fs::metadata(path).map_err(|error| format!("`{}`: {error}", path.display()))?.len();
    if size > MOST_FILE_BYTES {
        return Err(format!("`{}` has {size} bytes: a file of keys has at most {MOST_FILE_BYTES}", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
    let keys = ApiKeys::parse(&text).map_err(|error| format!("`{}`: {error}", path.display()))?;
    keys.ok_or_else(|| format!("`{}` holds no key", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("keys");
        let key = "0123456789abcdef";
        std::fs::write(&file, format!("{key}\n")).unwrap();
        assert!(read_keys(&file).unwrap().accept(key.as_bytes()));
        std::fs::write(&file, "x".repeat(5000)).unwrap();
        assert!(read_keys(&file).unwrap_err().contains("at most"));
        std::fs::write(&file, "short-one").unwrap();
        assert!(!read_keys(&file).unwrap_err().contains("short-one"));
        std::fs::write(&file, "\n").unwrap();
        assert!(read_keys(&file).unwrap_err().contains("no key"));
        assert!(read_keys(&directory.path().join("none")).unwrap_err().contains("none"));
    }
}
