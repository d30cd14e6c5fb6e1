//! Reading every file of a tree and comparing it with its description.

use std::io::{self, Read, Write};

use super::side_by_side::{Ended, check_side_by_side, threads_for};
use super::{CheckedRelease, EmergencyFlag, UnverifiedRelease, VerificationFailure, VerifiedRelease, VerifyError};
use crate::digest::HashingWriter;
use crate::event::FailedCheck;
use crate::release::{Release, ReleaseFile};

const COPY_BUFFER: usize = 64 * 1024;

/// Collects the evidence for a release: file by file in the order of its list, or side by side.
#[derive(Debug)]
pub(crate) struct TreeVerification<'a> {
    release: &'a Release,
    /// Files whose check was handed out: so many from the first on.
    handed_out: usize,
    /// Which files have proved themselves.
    checked: Vec<bool>,
    /// Digests are not compared: what is collected is no evidence.
    emergency: Option<EmergencyFlag>,
}

/// The check of one file, still to be done. There is one for each file.
#[derive(Debug)]
pub(crate) struct FileCheck<'a> {
    pub(crate) file: &'a ReleaseFile,
    /// Its place in the list.
    pub(crate) index: usize,
    compares_digest: bool,
}

/// That the content of one file was read and is as described. Only reading it makes one.
#[derive(Debug)]
pub(crate) struct CheckedFile<'a> {
    file: &'a ReleaseFile,
    index: usize,
}

impl<'a> TreeVerification<'a> {
    pub(crate) fn new(release: &'a Release) -> Self {
        Self { release, handed_out: 0, checked: vec![false; release.files().len()], emergency: None }
    }

    /// One that compares everything but digests.
    pub(crate) fn without_digests(release: &'a Release, flag: EmergencyFlag) -> Self {
        Self { emergency: Some(flag), ..Self::new(release) }
    }

    /// The release that is verified.
    pub(crate) fn release(&self) -> &'a Release {
        self.release
    }

    /// The file whose content must come next.
    pub(crate) fn next_file(&self) -> Option<&'a ReleaseFile> {
        self.release.files().get(self.handed_out)
    }

    /// The check of the next file.
    pub(crate) fn next_check(&mut self) -> Option<FileCheck<'a>> {
        let file = self.next_file()?;
        let index = self.handed_out;
        self.handed_out += 1;
        Some(FileCheck { file, index, compares_digest: self.emergency.is_none() })
    }

    /// Takes the evidence for one file. That for a file of another release is none.
    pub(crate) fn accept(&mut self, checked: &CheckedFile<'a>) {
        let known = self.release.files().get(checked.index).is_some_and(|file| std::ptr::eq(file, checked.file));
        if known && let Some(place) = self.checked.get_mut(checked.index) {
            *place = true;
        }
    }

    /// Copies the next file's content to `output`, reading at most one byte more than its size, and compares.
    pub(crate) fn copy_next(&mut self, input: &mut dyn Read, output: impl Write) -> Result<(), VerifyError> {
        let Some(check) = self.next_check() else {
            return Err(VerificationFailure::rule("tree", "no further file", "a further file").into());
        };
        self.accept(&check.copy(input, output)?);
        Ok(())
    }

    /// Only a tree whose every file was checked is verified, and only where its digests were compared.
    pub(crate) fn finish(self) -> Result<CheckedRelease, VerificationFailure> {
        let missing = self.release.files().iter().zip(&self.checked).find(|(_, checked)| !**checked);
        match missing {
            None if self.emergency.is_some() => Ok(UnverifiedRelease(self.release.clone()).into()),
            None => Ok(VerifiedRelease(self.release.clone()).into()),
            Some((missing, _)) => Err(VerificationFailure {
                check: FailedCheck::File,
                item: missing.path.to_string(),
                expected: "the file".to_owned(),
                actual: "nothing".to_owned(),
            }),
        }
    }
}

impl<'a> FileCheck<'a> {
    /// Copies the file's content to `output`, reading at most one byte more than its size, and compares.
    pub(crate) fn copy(self, input: &mut dyn Read, output: impl Write) -> Result<CheckedFile<'a>, VerifyError> {
        let Self { file, index, compares_digest } = self;
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
        if digest != file.sha256 && compares_digest {
            return Err(differs(file.sha256.to_string(), digest.to_string()).into());
        }
        Ok(CheckedFile { file, index })
    }
}

/// Verifies files that are there already, for example a release in the cache, by reading every one of them, several side
/// by side. `open` gives the content of a file; a missing file is a failure of the release, not of the disk. Of several
/// failures the one of the first file in the list is returned.
pub fn verify_files<R: Read>(
    release: &Release,
    open: impl Fn(&ReleaseFile) -> io::Result<R> + Sync,
) -> Result<VerifiedRelease, VerifyError> {
    check_files(TreeVerification::new(release), open)?.verified()
}

/// Checks files as [`verify_files`] does, but for their digests.
pub fn check_files_without_digests<R: Read>(
    release: &Release,
    flag: EmergencyFlag,
    open: impl Fn(&ReleaseFile) -> io::Result<R> + Sync,
) -> Result<UnverifiedRelease, VerifyError> {
    check_files(TreeVerification::without_digests(release, flag), open)?.unverified()
}

fn check_files<'a, R: Read>(
    mut verification: TreeVerification<'a>,
    open: impl Fn(&ReleaseFile) -> io::Result<R> + Sync,
) -> Result<CheckedRelease, VerifyError> {
    let threads = threads_for(verification.release());
    let check = |check: FileCheck<'a>, ()| {
        let file = check.file;
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
        check.copy(&mut content, io::sink())
    };
    check_side_by_side(&mut verification, threads, check, |verification, hand_over| {
        while let Some(check) = verification.next_check() {
            if hand_over(check, ()) == Ended::Early {
                break;
            }
        }
        Ok(())
    })?;
    Ok(verification.finish()?)
}
