//! The keys of the log's checkpoints as programs are given them: in a variable or in a file.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;
use shared::signed_note::{KeyError, SignerKey, VerifierKeys};
use thiserror::Error;

/// Far above what a file of keys needs.
const MOST_FILE_BYTES: u64 = 16 * 1024;

/// Which keys may sign the log's checkpoints.
#[derive(Debug, Clone, Default, Args)]
pub struct LogKeyArguments {
    /// Verifier key of the log's checkpoints as `demonctl log keygen` prints it (`<name>+<id>+<base64>`), or a file with
    /// it; several, separated by spaces or lines, while a new key replaces an old one. Without it signatures are not
    /// verified, roots are all the same
    #[arg(long, env = "DEMON_LOG_KEY", value_name = "KEY|FILE")]
    pub log_key: Option<String>,
}

/// Keys that cannot be used.
#[derive(Debug, Error)]
pub enum LogKeyError {
    /// The text is neither a key nor a file.
    #[error("neither a key of the form `<name>+<id>+<base64>` nor a file with one")]
    Text(#[source] KeyError),
    /// The file cannot be read.
    #[error("key file `{}` cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file holds something else.
    #[error("key file `{}` is refused", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyError,
    },
}

impl LogKeyArguments {
    /// The keys given; `None` where none are. Reads the file, where it is one.
    pub fn keys(&self) -> Result<Option<VerifierKeys>, LogKeyError> {
        let Some(text) = self.log_key.as_ref().filter(|text| !text.is_empty()) else { return Ok(None) };
        let path = Path::new(text);
        if path.is_file() {
            let content = read(path)?;
            let refused = |source| LogKeyError::Content { path: path.to_owned(), source };
            return content.parse().map(Some).map_err(refused);
        }
        text.parse().map(Some).map_err(LogKeyError::Text)
    }
}

/// Reads the file of a key that signs. The error never repeats it.
pub fn read_signer_key(path: &Path) -> Result<SignerKey, LogKeyError> {
    let refused = |source| LogKeyError::Content { path: path.to_owned(), source };
    read(path)?.trim().parse().map_err(refused)
}

fn read(path: &Path) -> Result<String, LogKeyError> {
    let failed = |source| LogKeyError::File { path: path.to_owned(), source };
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(MOST_FILE_BYTES).read_to_string(&mut text)).map_err(failed)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> LogKeyArguments {
        LogKeyArguments { log_key: Some(text.to_owned()) }
    }

    #[test]
    fn keys_come_from_text_or_file_and_private_ones_are_never_repeated() {
        let directory = tempfile::tempdir().unwrap();
        let (file, private) = (directory.path().join("log.pub"), directory.path().join("log.key"));
        let signer = SignerKey::from_seed("example.com/fleet".parse().unwrap(), &[3; 32]);
        let text = signer.verifier().to_string();
        std::fs::write(&file, format!("{text}\n")).unwrap();
        std::fs::write(&private, format!("{}\n", signer.to_private_text())).unwrap();

        let expected = Some(VerifierKeys::from(signer.verifier().clone()));
        assert_eq!(given(&text).keys().unwrap(), expected);
        assert_eq!(given(file.to_str().unwrap()).keys().unwrap(), expected);
        assert_eq!(LogKeyArguments::default().keys().unwrap(), None);
        assert_eq!(given("").keys().unwrap(), None);
        assert_eq!(read_signer_key(&private).unwrap().verifier(), signer.verifier());

        let errors = [given("none").keys().unwrap_err(), given(private.to_str().unwrap()).keys().unwrap_err()];
        for error in errors {
            assert!(!format!("{error:?}").contains(&signer.to_private_text()[30..]), "{error:?}");
        }
        assert!(read_signer_key(&directory.path().join("missing")).is_err());
    }
}
