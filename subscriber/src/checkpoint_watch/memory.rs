//! The file that holds the newest checkpoint seen: small, readable, replaced whole.

use std::fs;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::SeenCheckpoint;
use crate::durable_file::write_atomically;

/// A checkpoint that cannot be remembered, or is not remembered any more.
#[derive(Debug, Error)]
pub(crate) enum MemoryFault {
    /// The disk says no.
    #[error("the last seen checkpoint `{}` cannot be used", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("the last seen checkpoint `{}` cannot be read: look what happened to it, then remove it", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct CheckpointFile(PathBuf);

impl CheckpointFile {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// `None` before the first checkpoint. Blocks.
    pub(crate) fn read(&self) -> Result<Option<SeenCheckpoint>, MemoryFault> {
        match fs::read(&self.0) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| MemoryFault::Content { path: self.0.clone(), source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(MemoryFault::Disk { path: self.0.clone(), source }),
        }
    }

    /// Returns only after it is on disk. Blocks.
    pub(crate) fn write(&self, seen: &SeenCheckpoint) -> Result<(), MemoryFault> {
        let content = |source| MemoryFault::Content { path: self.0.clone(), source };
        let bytes = serde_json::to_vec_pretty(seen).map_err(content)?;
        write_atomically(&self.0, &bytes, 0o600).map_err(|source| MemoryFault::Disk { path: self.0.clone(), source })
    }
}
