//! One archive with everything that support asks for, secrets taken out.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::environment_masking::scrubbed;

/// Folder inside the archive.
const FOLDER: &str = "demon-support";
/// Most that is taken of a log's end.
const LOG_TAIL: u64 = 256 * 1024;

/// The end of a file, beginning with a whole line.
pub(super) fn log_tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(LOG_TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(match text.split_once('\n') {
        Some((_, rest)) if start > 0 => rest.to_owned(),
        Some(_) | None => text,
    })
}

/// Writes the archive at once, readable by its owner only. Returns after it is on disk.
pub(super) fn write(path: &Path, members: &[(&str, String)], secrets: &[String], time: u64) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, content) in members {
        let content = scrubbed(content, secrets);
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(time);
        archive.append_data(&mut header, format!("{FOLDER}/{name}"), content.as_bytes())?;
    }
    file.write_all(&archive.into_inner()?.finish()?)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o600))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}
