//! The last scheduled run that is done, on disk: a run that found nothing to release leaves no event in the log.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use thiserror::Error;

const FILE: &str = "schedule.json";
const MOST_BYTES: u64 = 4096;

/// The record's file in a publisher's state directory.
#[derive(Debug, Clone)]
pub struct ScheduleRecord {
    path: PathBuf,
}

/// A record that cannot be read or written.
#[derive(Debug, Error)]
#[error("the record of scheduled runs `{}` cannot be used", path.display())]
pub struct RecordError {
    path: PathBuf,
    source: io::Error,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    done_until: DateTime<Utc>,
}

impl ScheduleRecord {
    /// The record of a publisher with this state directory. Touches no disk.
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE) }
    }

    /// Until when every due time is done; `None` where nothing was recorded, or what was recorded is damaged: the log
    /// knows the rest. Blocks.
    pub fn read(&self) -> Result<Option<DateTime<Utc>>, RecordError> {
        let content = match std::fs::metadata(&self.path) {
            Ok(facts) if facts.len() <= MOST_BYTES => std::fs::read(&self.path),
            Ok(_) => return Ok(None),
            Err(error) => Err(error),
        };
        match content {
            Ok(bytes) => Ok(serde_json::from_slice::<Content>(&bytes).ok().map(|content| content.done_until)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Records it. Returns only after it is on disk. Blocks.
    pub fn write(&self, done_until: DateTime<Utc>) -> Result<(), RecordError> {
        self.replace(&Content { done_until }).map_err(|error| self.failed(error))
    }

    fn replace(&self, content: &Content) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or_else(|| Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&serde_json::to_vec(content)?)?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        File::open(directory)?.sync_all()
    }

    fn failed(&self, source: io::Error) -> RecordError {
        RecordError { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_back_and_damage_counts_as_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let record = ScheduleRecord::new(directory.path());
        assert_eq!(record.read().unwrap(), None);
        let time = DateTime::from_timestamp(1_770_098_400, 0).unwrap();
        record.write(DateTime::UNIX_EPOCH).unwrap();
        record.write(time).unwrap();
        assert_eq!(record.read().unwrap(), Some(time));
        std::fs::write(directory.path().join(FILE), "{").unwrap();
        assert_eq!(record.read().unwrap(), None);
        assert!(ScheduleRecord::new(&directory.path().join("none")).write(time).is_err());
    }
}
