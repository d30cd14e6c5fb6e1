//! Reading every file of a tree and comparing it with its description.

use std::io::{self, Read, Write};

use super::{CheckedRelease, EmergencyFlag, UnverifiedRelease, VerificationFailure, VerifiedRelease, VerifyError};
use crate::digest::HashingWriter;
use crate::event::FailedCheck;
use crate::release::{Release, ReleaseFile};

const COPY_BUFFER: usize = 64 * 1024;

/// Collects the evidence for a release file by file, in the order of its list.
#[derive(Debug)]
pub(crate) struct TreeVerification<'a> {
    release: &'a Release,
    checked: usize,
    /// Digests are not compared: what is collected is no evidence.
    emergency: Option<EmergencyFlag>,
}

impl<'a> TreeVerification<'a> {
    pub(crate) fn new(release: &'a Release) -> Self {
        Self { release, checked: 0, emergency: None }
    }

    /// One that compares everything but digests.
    pub(crate) fn without_digests(release: &'a Release, flag: EmergencyFlag) -> Self {
        Self { emergency: Some(flag), ..Self::new(release) }
    }

    /// The file whose content must come next.
    pub(crate) fn next_file(&self) -> Option<&'a ReleaseFile> {
        self.release.files().get(self.checked)
    }

    /// Copies the next file's content to `output`, reading at most one byte more than its size, and compares.
    pub(crate) fn copy_next(&mut self, input: &mut dyn Read, output: impl Write) -> Result<(), VerifyError> {
        let Some(file) = self.next_file() else {
            return Err(VerificationFailure::rule("tree", "no further file", "a further file").into());
        };
        let item = || file.path.to_string();
        let mut output = HashingWriter::new(output);
        let mut input = input.take(file.size.saturating_add(1));
        let mut buffer = vec![0; COPY_BUFFER];
        loop {
            match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    output.write_all(&buffer[..count]).map_err(|source| VerifyError::Write { item: item(), source })?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(VerifyError::Read { item: item(), source }),
            }
        }
        output.flush().map_err(|source| VerifyError::Write { item: item(), source })?;
        let (_, digest, size) = output.finish();
        let differs = |expected: String, actual: String| VerificationFailure {
            check: FailedCheck::File,
            item: file.path.to_string(),
            expected,
            actual,
        };
        if size != file.size {
            let actual =
                if size > file.size { format!("more than {} bytes", file.size) } else { format!("{size} bytes") };
            return Err(differs(format!("{} bytes", file.size), actual).into());
        }
        if digest != file.sha256 && self.emergency.is_none() {
            return Err(differs(file.sha256.to_string(), digest.to_string()).into());
        }
        self.checked += 1;
        Ok(())
    }

    /// Only a tree whose every file was checked is verified, and only where its digests were compared.
    pub(crate) fn finish(self) -> Result<CheckedRelease, VerificationFailure> {
        match self.next_file() {
            None if self.emergency.is_some() => Ok(UnverifiedRelease(self.release.clone()).into()),
            None => Ok(VerifiedRelease(self.release.clone()).into()),
            Some(missing) => Err(VerificationFailure {
                check: FailedCheck::File,
                item: missing.path.to_string(),
                expected: "the file".to_owned(),
                actual: "nothing".to_owned(),
            }),
        }
    }
}

/// Verifies files that are there already, for example a release in the cache, by reading every one of them.
/// `open` gives the content of a file; a missing file is a failure of the release, not of the disk.
pub fn verify_files<R: Read>(
    release: &Release,
    open: impl FnMut(&ReleaseFile) -> io::Result<R>,
) -> Result<VerifiedRelease, VerifyError> {
    check_files(TreeVerification::new(release), open)?.verified()
}

/// Checks files as [`verify_files`] does, but for their digests.
pub fn check_files_without_digests<R: Read>(
    release: &Release,
    flag: EmergencyFlag,
    open: impl FnMut(&ReleaseFile) -> io::Result<R>,
) -> Result<UnverifiedRelease, VerifyError> {
    check_files(TreeVerification::without_digests(release, flag), open)?.unverified()
}

fn check_files<R: Read>(
    mut verification: TreeVerification<'_>,
    mut open: impl FnMut(&ReleaseFile) -> io::Result<R>,
) -> Result<CheckedRelease, VerifyError> {
    while let Some(file) = verification.next_file() {
        let mut content = open(file).map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                VerifyError::Refused(VerificationFailure {
                    check: FailedCheck::File,
                    item: file.path.to_string(),
                    expected: file.sha256.to_string(),
                    actual: "missing".to_owned(),
                })
            } else {
                VerifyError::Read { item: file.path.to_string(), source }
            }
        })?;
        verification.copy_next(&mut content, io::sink())?;
    }
    Ok(verification.finish()?)
}
