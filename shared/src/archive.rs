//! The archive object: a deterministic tar, compressed with zstd.
//!
//! Described in `docs/ARCHITECTURE.md`, "Releases".
//!
//! Same tree, same bytes (for one zstd version): entries in the order of `release.json`, fixed owner, mode and
//! time, no directory entries. Anyone can unpack it with `tar --zstd -xf`; our own reader accepts exactly the
//! files that `release.json` lists and stops at the sizes it states.

mod side_by_side;

use std::io::{self, Read, Write};

use thiserror::Error;

use self::side_by_side::unpack_side_by_side;
use crate::release::{Release, ReleaseFile};
use crate::verification::{
    CheckedRelease, EmergencyFlag, TreeVerification, UnverifiedRelease, VerificationFailure, VerifiedRelease,
    VerifyError, threads_for,
};

/// zstd level of archives: near the smallest size at which writing stays faster than a common network.
const LEVEL: i32 = 9;
/// Time of every entry. Not 0, which some versions of tar warn about.
const ENTRY_TIME: u64 = 1;
/// Largest window a reader allocates for: 128 MiB, far above what [`LEVEL`] uses.
const MAX_WINDOW_LOG: u32 = 27;

/// Why an archive could not be written.
#[derive(Debug, Error)]
pub enum WriteArchiveError {
    /// A file could not be read, or no longer has the content that was listed.
    #[error("file `{path}` could not be packed")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file changed after it was listed.
    #[error("file changed while it was packed")]
    Changed(#[source] VerificationFailure),
    /// The archive could not be written.
    #[error("archive could not be written")]
    Output(#[source] io::Error),
}

/// Writes the archive of a release and returns the output, flushed. `open` gives the content of a file; every
/// byte is compared with the release's digests on the way.
pub fn write_archive<R: Read, W: Write>(
    release: &Release,
    mut open: impl FnMut(&ReleaseFile) -> io::Result<R>,
    output: W,
) -> Result<W, WriteArchiveError> {
    let mut encoder = zstd::Encoder::new(output, LEVEL).map_err(WriteArchiveError::Output)?;
    encoder.include_checksum(true).map_err(WriteArchiveError::Output)?;
    let mut tar = tar::Builder::new(encoder);
    let mut verification = TreeVerification::new(release);
    while let Some(file) = verification.next_file() {
        let failed = |source| WriteArchiveError::File { path: file.path.to_string(), source };
        let mut content = open(file).map_err(failed)?;
        let mut writer = EntryWriter::new(&mut tar, file).map_err(WriteArchiveError::Output)?;
        verification.copy_next(&mut content, &mut writer).map_err(|error| match error {
            VerifyError::Refused(failure) => WriteArchiveError::Changed(failure),
            VerifyError::Read { source, .. } => failed(source),
            VerifyError::Write { source, .. } => WriteArchiveError::Output(source),
        })?;
        writer.finish().map_err(WriteArchiveError::Output)?;
    }
    let encoder = tar.into_inner().map_err(WriteArchiveError::Output)?;
    let mut output = encoder.finish().map_err(WriteArchiveError::Output)?;
    output.flush().map_err(WriteArchiveError::Output)?;
    Ok(output)
}

/// Writes one entry: header (and long name, where needed) first, then content, then padding.
struct EntryWriter<'a, W: Write> {
    tar: &'a mut tar::Builder<W>,
    written: u64,
}

impl<'a, W: Write> EntryWriter<'a, W> {
    fn new(tar: &'a mut tar::Builder<W>, file: &ReleaseFile) -> io::Result<Self> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(file.mode.archive_bits());
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(ENTRY_TIME);
        header.set_size(file.size);
        // With an empty reader this writes long name and header only; the content follows through `write`.
        tar.append_data(&mut header, file.path.as_str(), io::empty())?;
        Ok(Self { tar, written: 0 })
    }

    fn finish(self) -> io::Result<()> {
        let padding = (512 - self.written % 512) % 512;
        self.tar.get_mut().write_all(&[0; 512][..usize::try_from(padding).unwrap_or_default()])
    }
}

impl<W: Write> Write for EntryWriter<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.tar.get_mut().write(buffer)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Unpacks an archive and verifies it against its release on the way.
///
/// `create` gives the output for a file; it is flushed but neither synced nor closed here. Fails on the first
/// entry that is not the next file of `release.json` with its exact size, mode and content, and on anything
/// that is no regular file. Never reads more than the release states, however the archive was made.
pub fn read_archive<W: Write>(
    input: impl Read,
    release: &Release,
    create: impl FnMut(&ReleaseFile) -> io::Result<W>,
) -> Result<VerifiedRelease, VerifyError> {
    unpack(input, release, TreeVerification::new(release), create)?.verified()
}

/// Unpacks an archive as [`read_archive`] does, but hashes and writes files side by side on a few threads while this one
/// decompresses. `create` is called on those threads. Holds some megabytes, whatever the sizes.
pub fn read_archive_side_by_side<W: Write>(
    input: impl Read,
    release: &Release,
    create: impl Fn(&ReleaseFile) -> io::Result<W> + Sync,
) -> Result<VerifiedRelease, VerifyError> {
    match threads_for(release) {
        0 => read_archive(input, release, create),
        threads => unpack_side_by_side(input, release, threads, create)?.verified(),
    }
}

/// Unpacks an archive as [`read_archive`] does, but compares no digests.
pub fn read_archive_without_digests<W: Write>(
    input: impl Read,
    release: &Release,
    flag: EmergencyFlag,
    create: impl FnMut(&ReleaseFile) -> io::Result<W>,
) -> Result<UnverifiedRelease, VerifyError> {
    unpack(input, release, TreeVerification::without_digests(release, flag), create)?.unverified()
}

fn unpack<W: Write>(
    input: impl Read,
    release: &Release,
    mut verification: TreeVerification<'_>,
    mut create: impl FnMut(&ReleaseFile) -> io::Result<W>,
) -> Result<CheckedRelease, VerifyError> {
    let mut tar = open_archive(input, release)?;
    for entry in tar.entries().map_err(|error| unreadable(&error))? {
        let mut entry = entry.map_err(|error| unreadable(&error))?;
        let file = verification.next_file().ok_or_else(|| superfluous(&entry))?;
        check_entry(&entry, file)?;
        let output = create(file).map_err(|source| VerifyError::Write { item: file.path.to_string(), source })?;
        verification.copy_next(&mut entry, output).map_err(|error| match error {
            // The input is the archive, so what cannot be read is the archive's fault.
            VerifyError::Read { source, .. } => unreadable(&source),
            VerifyError::Refused(_) | VerifyError::Write { .. } => error,
        })?;
    }
    Ok(verification.finish()?)
}

/// The tar within an archive, bounded by what the release may need.
fn open_archive<R: Read>(input: R, release: &Release) -> Result<tar::Archive<impl Read + use<R>>, VerifyError> {
    let mut decoder = zstd::Decoder::new(input).map_err(|error| unreadable(&error))?;
    decoder.window_log_max(MAX_WINDOW_LOG).map_err(|error| unreadable(&error))?;
    Ok(tar::Archive::new(decoder.take(unpacked_bound(release))))
}

/// An entry behind the last file.
fn superfluous<R: Read>(entry: &tar::Entry<'_, R>) -> VerifyError {
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    VerificationFailure::rule("archive", "no further entry", format!("entry `{}`", shown(&name))).into()
}

fn check_entry<R: Read>(entry: &tar::Entry<'_, R>, file: &ReleaseFile) -> Result<(), VerificationFailure> {
    let header = entry.header();
    let name = entry.path_bytes();
    if name.as_ref() != file.path.as_str().as_bytes() {
        let actual = format!("entry `{}`", shown(&String::from_utf8_lossy(&name)));
        return Err(VerificationFailure::rule("archive", format!("entry `{}`", file.path), actual));
    }
    let rule = |expected: String, actual: String| Err(VerificationFailure::rule(file.path.as_str(), expected, actual));
    if header.entry_type() != tar::EntryType::Regular {
        return rule("a regular file".to_owned(), format!("tar entry type {:?}", header.entry_type()));
    }
    if entry.size() != file.size {
        return rule(format!("{} bytes", file.size), format!("{} bytes", entry.size()));
    }
    match header.mode() {
        Ok(mode) if mode == file.mode.archive_bits() => Ok(()),
        Ok(mode) => rule(format!("mode {}", file.mode), format!("mode {mode:04o}")),
        Err(_) => rule(format!("mode {}", file.mode), "no readable mode".to_owned()),
    }
}

/// Upper bound of the tar's size: content and padding, header, and a long name where the path needs one.
fn unpacked_bound(release: &Release) -> u64 {
    let files = release.files().len() as u64;
    let long_names: u64 = release.files().iter().map(|file| file.path.as_str().len() as u64 + 1024).sum();
    release.total_bytes().saturating_add(files * 1024).saturating_add(long_names).saturating_add(1 << 20)
}

fn unreadable(error: &io::Error) -> VerifyError {
    VerificationFailure::rule("archive", "a readable tar in zstd", error.to_string()).into()
}

fn shown(name: &str) -> String {
    name.chars().take(200).flat_map(char::escape_debug).collect()
}
