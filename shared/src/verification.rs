//! Verification: the only way to a [`VerifiedRelease`].
//!
//! Announcing a release accepts nothing else, and switching to one only an [`UnverifiedRelease`] besides, which the
//! documented emergency flag alone can make: so bytes nobody checked can neither be announced nor become visible without
//! being shown as such.

use std::io::{self, Read, Write};

use thiserror::Error;

use crate::digest::{HashingWriter, Sha256Digest};
use crate::event::{FailedCheck, Published};
use crate::limits::ReleaseLimits;
use crate::release::{Release, ReleaseFile};

const COPY_BUFFER: usize = 64 * 1024;

/// A release whose every file was read and matched its `release.json`, which itself matched what was announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRelease(Release);

impl VerifiedRelease {
    /// The release.
    pub fn release(&self) -> &Release {
        &self.0
    }
}

/// That somebody raised the emergency flag by which digests are not compared. Made where the setting is read, and nowhere
/// else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmergencyFlag(());

impl EmergencyFlag {
    /// The flag, where the setting says so.
    pub fn raised(setting: bool) -> Option<Self> {
        setting.then_some(Self(()))
    }
}

/// A release whose digests were not compared. Its description is the announced one, and its paths, sizes and modes are as
/// described; its bytes may be anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnverifiedRelease(Release);

impl UnverifiedRelease {
    /// The release.
    pub fn release(&self) -> &Release {
        &self.0
    }
}

/// A release that may be switched to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckedRelease {
    /// Every byte was compared.
    Verified(VerifiedRelease),
    /// The emergency flag let it through.
    Unverified(UnverifiedRelease),
}

impl From<VerifiedRelease> for CheckedRelease {
    fn from(release: VerifiedRelease) -> Self {
        Self::Verified(release)
    }
}

impl From<UnverifiedRelease> for CheckedRelease {
    fn from(release: UnverifiedRelease) -> Self {
        Self::Unverified(release)
    }
}

/// What may be put into its place and switched to: a verified release, or one that the emergency flag let through. Nobody
/// else can implement it.
pub trait Activatable: sealed::Sealed {
    /// The release.
    fn release(&self) -> &Release;

    /// Whether every byte was compared with what was announced.
    fn is_verified(&self) -> bool;
}

impl Activatable for VerifiedRelease {
    fn release(&self) -> &Release {
        &self.0
    }

    fn is_verified(&self) -> bool {
        true
    }
}

impl Activatable for UnverifiedRelease {
    fn release(&self) -> &Release {
        &self.0
    }

    fn is_verified(&self) -> bool {
        false
    }
}

impl Activatable for CheckedRelease {
    fn release(&self) -> &Release {
        match self {
            Self::Verified(release) => release.release(),
            Self::Unverified(release) => release.release(),
        }
    }

    fn is_verified(&self) -> bool {
        matches!(self, Self::Verified(_))
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::VerifiedRelease {}
    impl Sealed for super::UnverifiedRelease {}
    impl Sealed for super::CheckedRelease {}
}

/// What differed first. Both sides are kept as text: digests, sizes, or the words of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{item}` does not match: expected {expected}, actual {actual}")]
pub struct VerificationFailure {
    /// What was compared.
    pub check: FailedCheck,
    /// The object, file or rule.
    pub item: String,
    /// What was announced.
    pub expected: String,
    /// What was found.
    pub actual: String,
}

impl VerificationFailure {
    /// A rule that does not hold.
    pub fn rule(item: impl Into<String>, expected: impl Into<String>, actual: impl Into<String>) -> Self {
        Self { check: FailedCheck::Rule, item: item.into(), expected: expected.into(), actual: actual.into() }
    }

    /// An object whose bytes are not those that were announced.
    pub fn object(item: impl Into<String>, expected: Sha256Digest, actual: Sha256Digest) -> Self {
        Self {
            check: FailedCheck::Object,
            item: item.into(),
            expected: expected.to_string(),
            actual: actual.to_string(),
        }
    }
}

/// Why a tree could not be verified.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// It is not what was announced.
    #[error(transparent)]
    Refused(#[from] VerificationFailure),
    /// A file's content could not be read; says nothing about the release.
    #[error("`{item}` could not be read")]
    Read {
        /// The file.
        item: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file's content could not be written; says nothing about the release.
    #[error("`{item}` could not be written")]
    Write {
        /// The file.
        item: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Reads the `release.json` that an announcement names and checks that it is the announced one.
pub fn verify_release_json(
    bytes: &[u8],
    announced: &Published,
    limits: &ReleaseLimits,
) -> Result<Release, VerificationFailure> {
    let item = announced.release.name.as_str();
    let actual = Sha256Digest::of(bytes);
    if actual != announced.release.sha256 {
        return Err(VerificationFailure::object(item, announced.release.sha256, actual));
    }
    let release = Release::parse(bytes, limits).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        VerificationFailure::rule(item, "a valid release.json", format!("{error}{cause}"))
    })?;
    if release.bundle() != &announced.bundle || release.tag() != &announced.tag {
        return Err(VerificationFailure::rule(
            item,
            format!("{} {}", announced.bundle, announced.tag),
            format!("{} {}", release.bundle(), release.tag()),
        ));
    }
    if release.tree_digest() != announced.tree_digest {
        return Err(VerificationFailure {
            check: FailedCheck::Tree,
            item: item.to_owned(),
            expected: announced.tree_digest.to_string(),
            actual: release.tree_digest().to_string(),
        });
    }
    Ok(release)
}

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

impl CheckedRelease {
    /// The verified release; one that is not is a failed check.
    pub(crate) fn verified(self) -> Result<VerifiedRelease, VerifyError> {
        match self {
            Self::Verified(release) => Ok(release),
            Self::Unverified(_) => Err(VerificationFailure::rule("digests", "compared", "not compared").into()),
        }
    }

    /// The release as one that nobody relies on.
    pub(crate) fn unverified(self) -> Result<UnverifiedRelease, VerifyError> {
        match self {
            Self::Unverified(release) => Ok(release),
            Self::Verified(_) => Err(VerificationFailure::rule("digests", "not compared", "compared").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::archive::{read_archive, read_archive_without_digests, write_archive};
    use crate::release::FileMode;

    fn tree() -> BTreeMap<&'static str, Vec<u8>> {
        let long = "directory-with-a-long-name/".repeat(5) + "file.json";
        BTreeMap::from([
            ("a.json", b"{}".to_vec()),
            ("b/empty", Vec::new()),
            (Box::leak(long.into_boxed_str()), vec![7; 100_000]),
        ])
    }

    fn release_of(tree: &BTreeMap<&str, Vec<u8>>) -> Release {
        let files = tree
            .iter()
            .map(|(path, content)| ReleaseFile {
                path: path.parse().unwrap(),
                size: content.len() as u64,
                mode: if path.ends_with("empty") { FileMode::Executable } else { FileMode::Plain },
                sha256: Sha256Digest::of(content),
            })
            .collect();
        Release::new("contracts".parse().unwrap(), "v1".parse().unwrap(), None, files, &ReleaseLimits::default())
            .unwrap()
    }

    fn archive_of(tree: &BTreeMap<&str, Vec<u8>>) -> Vec<u8> {
        write_archive(&release_of(tree), |file| Ok(&tree[file.path.as_str()][..]), Vec::new()).unwrap()
    }

    #[test]
    fn an_archive_gives_back_what_was_packed() {
        let tree = tree();
        let release = release_of(&tree);
        let mut unpacked = BTreeSet::new();
        let archive = archive_of(&tree);
        assert_eq!(archive, archive_of(&tree), "same tree, same bytes");
        let verified = read_archive(&archive[..], &release, |file| {
            unpacked.insert(file.path.clone());
            Ok(io::sink())
        })
        .unwrap();
        assert_eq!(verified.release(), &release);
        assert_eq!(unpacked.len(), tree.len());
    }

    #[test]
    fn an_archive_of_another_tree_is_refused_with_both_digests() {
        let release = release_of(&tree());
        let mut altered = tree();
        altered.insert("a.json", b"[]".to_vec());
        let error = read_archive(&archive_of(&altered)[..], &release, |_| Ok(io::sink())).unwrap_err();
        let VerifyError::Refused(failure) = error else { panic!("{error}") };
        assert_eq!(failure.check, FailedCheck::File);
        assert_eq!(
            (failure.expected, failure.actual),
            (Sha256Digest::of(b"{}").to_string(), Sha256Digest::of(b"[]").to_string())
        );
    }

    #[test]
    fn missing_added_and_cut_archives_are_refused() {
        let release = release_of(&tree());
        let mut missing = tree();
        missing.remove("b/empty");
        let mut added = tree();
        added.insert("z", b"more".to_vec());
        let whole = archive_of(&tree());
        for archive in [
            archive_of(&missing),
            archive_of(&added),
            whole[..whole.len() / 2].to_vec(),
            b"no archive".to_vec(),
            Vec::new(),
        ] {
            let error = read_archive(&archive[..], &release, |_| Ok(io::sink())).unwrap_err();
            assert!(matches!(error, VerifyError::Refused(_)), "{error}");
        }
    }

    #[test]
    fn a_full_disk_says_nothing_about_the_release() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = read_archive(&archive_of(&tree())[..], &release_of(&tree()), |_| Ok(Full)).unwrap_err();
        assert!(matches!(error, VerifyError::Write { .. }), "{error}");
    }

    #[test]
    fn the_emergency_flag_skips_digests_and_nothing_else() {
        assert_eq!(EmergencyFlag::raised(false), None);
        let flag = EmergencyFlag::raised(true).unwrap();
        let release = release_of(&tree());
        let check = |tree: &BTreeMap<&str, Vec<u8>>| {
            let read = |archive: &[u8]| read_archive_without_digests(archive, &release, flag, |_| Ok(io::sink()));
            let unpacked = read(&archive_of(tree)).is_ok();
            let stored = check_files_without_digests(&release, flag, |file| {
                tree.get(file.path.as_str()).map(Vec::as_slice).ok_or(io::ErrorKind::NotFound.into())
            });
            (unpacked, stored.is_ok())
        };
        let mut altered = tree();
        altered.insert("a.json", b"[]".to_vec());
        assert_eq!(check(&altered), (true, true), "other bytes");
        altered.insert("a.json", b"longer".to_vec());
        assert_eq!(check(&altered), (false, false), "another size");
        altered.remove("a.json");
        assert_eq!(check(&altered), (false, false), "a file is missing");
        let mut added = tree();
        added.insert("z", b"more".to_vec());
        assert!(!check(&added).0, "a file is added");
    }

    #[test]
    fn files_on_disk_are_compared_one_by_one() {
        let mut tree = tree();
        let release = release_of(&tree);
        let verify = |tree: &BTreeMap<&str, Vec<u8>>| {
            verify_files(&release, |file| {
                tree.get(file.path.as_str()).map(Vec::as_slice).ok_or(io::ErrorKind::NotFound.into())
            })
        };
        assert!(verify(&tree).is_ok());
        tree.insert("b/empty", b"x".to_vec());
        assert!(matches!(verify(&tree), Err(VerifyError::Refused(failure)) if failure.item == "b/empty"));
        tree.remove("b/empty");
        assert!(matches!(verify(&tree), Err(VerifyError::Refused(failure)) if failure.actual == "missing"));
    }
}
