//! A published release as the base of deltas: read back from the bucket, verified, its files in one temporary file.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use shared::archive::read_archive;
use shared::event::Published;
use shared::limits::ReleaseLimits;
use shared::release::{Release, ReleaseFile};
use shared::release_path::ReleasePath;
use streams::release_store::ReleaseStore;
use tokio::task::spawn_blocking;

use crate::stored_release::{AnnouncedFileError, fetch_announced};

/// A release with its content on disk, in a file without a name.
#[derive(Debug)]
pub(super) struct BaseRelease {
    release: Release,
    content: Arc<File>,
    places: BTreeMap<ReleasePath, (u64, u64)>,
}

impl BaseRelease {
    /// Fetches an announced release and verifies every file of it.
    pub(super) async fn fetch(
        bucket: &ReleaseStore,
        announced: &Published,
        limits: ReleaseLimits,
    ) -> Result<Arc<Self>, AnnouncedFileError> {
        let (release, archive) = fetch_announced(bucket, announced, limits).await?;
        let unpacked = spawn_blocking(move || Self::unpack(release, archive));
        unpacked.await.map_err(AnnouncedFileError::Interrupted)?.map(Arc::new)
    }

    fn unpack(release: Release, archive: impl Read) -> Result<Self, AnnouncedFileError> {
        let content = tempfile::tempfile().map_err(AnnouncedFileError::Spool)?;
        let mut places = BTreeMap::new();
        let mut end = 0;
        let output = RefCell::new(BufWriter::new(&content));
        read_archive(archive, &release, |file| {
            places.insert(file.path.clone(), (end, file.size));
            end += file.size;
            Ok(Appended(&output))
        })
        .map_err(AnnouncedFileError::Archive)?;
        output.borrow_mut().flush().map_err(AnnouncedFileError::Spool)?;
        drop(output);
        Ok(Self { release, content: Arc::new(content), places })
    }

    pub(super) fn release(&self) -> &Release {
        &self.release
    }

    pub(super) fn open(&self, file: &ReleaseFile) -> io::Result<Section> {
        let (start, size) = *self.places.get(&file.path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Section { content: Arc::clone(&self.content), start, size, position: 0 })
    }
}

/// Writes behind what was written before.
struct Appended<'a, W>(&'a RefCell<W>);

impl<W: Write> Write for Appended<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Once, behind the last file.
        Ok(())
    }
}

/// One file of a base. Several may be read at once.
#[derive(Debug)]
pub(super) struct Section {
    content: Arc<File>,
    start: u64,
    size: u64,
    position: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let count = self.content.read_at(&mut buffer[..wanted], self.start + self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Section {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use shared::archive::write_archive;
    use shared::digest::Sha256Digest;
    use shared::release::FileMode;

    use super::*;

    #[test]
    fn files_are_found_again_in_any_order() {
        let contents = [("a", &b"first"[..]), ("b/c", b""), ("d", b"third")];
        let files = contents.map(|(path, content)| ReleaseFile {
            path: path.parse().unwrap(),
            size: content.len() as u64,
            mode: FileMode::Plain,
            sha256: Sha256Digest::of(content),
        });
        let (bundle, tag) = ("policies".parse().unwrap(), "v1".parse().unwrap());
        let release = Release::new(bundle, tag, None, files.to_vec(), &ReleaseLimits::default()).unwrap();
        let content = |file: &ReleaseFile| contents.iter().find(|(path, _)| *path == file.path.as_str()).unwrap().1;
        let archive = write_archive(&release, |file| Ok(content(file)), Vec::new()).unwrap();

        let base = BaseRelease::unpack(release, &archive[..]).unwrap();
        for file in base.release().files().iter().rev() {
            let mut read = Vec::new();
            let mut section = base.open(file).unwrap();
            section.read_to_end(&mut read).unwrap();
            assert_eq!(read, content(file));
            read.clear();
            section.seek(SeekFrom::Start(file.size / 2)).unwrap();
            section.read_to_end(&mut read).unwrap();
            assert_eq!(read, &content(file)[content(file).len() / 2..]);
        }
    }
}
