//! The keys that may ask for a publish over HTTP. Two at once, so that one replaces the other without a gap.

use std::hint::black_box;
use std::path::Path;

use serde::Serialize;
use shared::digest::Sha256Digest;
use streams::secret::Secret;

/// Shorter ones can be guessed.
const SHORTEST_KEY: usize = 16;
const LONGEST_KEY: usize = 512;
const MOST_KEYS: usize = 2;
const MOST_FILE_BYTES: u64 = 4096;

/// One or two keys. Shown and serialised without them.
#[derive(Debug, Clone, Serialize)]
pub struct TriggerKeys(Vec<Secret>);

impl TriggerKeys {
    /// Reads keys separated by spaces or line ends. The error never repeats one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let keys: Vec<&str> = text.split_whitespace().collect();
        if keys.is_empty() || keys.len() > MOST_KEYS {
            return Err(format!("there are {} keys: give one, or two while one replaces the other", keys.len()));
        }
        if let Some(key) = keys.iter().find(|key| !(SHORTEST_KEY..=LONGEST_KEY).contains(&key.len())) {
            return Err(format!("a key of {} characters: give {SHORTEST_KEY} to {LONGEST_KEY}", key.len()));
        }
        if !keys.iter().all(|key| key.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err("a key holds characters that no header can carry: use visible ASCII".to_owned());
        }
        Ok(Self(keys.into_iter().map(Secret::from).collect()))
    }

    /// Reads a file of keys, one a line.
    pub fn read(path: &Path) -> Result<Self, String> {
        let size = std::fs::metadata(path).map_err(|error| format!("`{}`: {error}", path.display()))?.len();
        if size > MOST_FILE_BYTES {
            return Err(format!("`{}` has {size} bytes: a file of keys has at most {MOST_FILE_BYTES}", path.display()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
        Self::parse(&text).map_err(|fault| format!("`{}`: {fault}", path.display()))
    }

    /// Whether it is one of them. Takes the same time for every offer: digests are compared, all of every one.
    pub fn accept(&self, offered: &str) -> bool {
        let offered = Sha256Digest::of(offered.as_bytes());
        let mut accepted = false;
        for key in &self.0 {
            let key = Sha256Digest::of(key.expose().as_bytes());
            let difference = key
                .as_bytes()
                .iter()
                .zip(offered.as_bytes())
                .fold(0, |all, (one, other)| black_box(all | (one ^ other)));
            accepted |= black_box(difference) == 0;
        }
        accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0123456789abcdef";
    const OTHER: &str = "fedcba9876543210";

    #[test]
    fn each_of_two_keys_is_accepted_and_nothing_else() {
        let keys = TriggerKeys::parse(&format!("{ONE}\n{OTHER}\n")).unwrap();
        assert!(keys.accept(ONE) && keys.accept(OTHER));
        for wrong in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF"] {
            assert!(!keys.accept(wrong), "{wrong}");
        }
        assert!(!serde_json::to_string(&keys).unwrap().contains("abc"));
        assert!(!format!("{keys:?}").contains("abc"));
    }

    #[test]
    fn weak_and_superfluous_keys_are_refused_without_being_repeated() {
        for bad in ["", "short-one", &format!("{ONE} {OTHER} {ONE}"), "0123456789abcdé!", &"x".repeat(513)] {
            let fault = TriggerKeys::parse(bad).unwrap_err();
            assert!(!fault.contains("short-one") && !fault.contains("0123"), "{fault}");
        }
    }

    #[test]
    fn keys_are_read_from_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("keys");
        std::fs::write(&file, format!("{ONE}\n")).unwrap();
        assert!(TriggerKeys::read(&file).unwrap().accept(ONE));
        std::fs::write(&file, "x".repeat(5000)).unwrap();
        assert!(TriggerKeys::read(&file).unwrap_err().contains("at most"));
        assert!(TriggerKeys::read(&directory.path().join("none")).unwrap_err().contains("none"));
    }
}
