//! Building a release: its `release.json` and its archive, from content that was read and facts that were decided.
//!
//! The archive goes to a temporary file without a name, so that nothing is left behind however the process ends.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use shared::archive::{WriteArchiveError, write_archive};
use shared::digest::{HashingWriter, Sha256Digest};
use shared::event::ObjectReference;
use shared::identifiers::BundleName;
use shared::limits::ReleaseLimits;
use shared::release::{Release, ReleaseError, ReleaseFile, digest_of_tree};
use shared::subjects::{archive_object, release_object};
use thiserror::Error;
use tokio::task::{JoinError, spawn_blocking};

use crate::contracts_bundle::{CONTRACTS_BUNDLE, ContractsBundle, ContractsError};
use crate::progress::{Progress, ProgressReporter, Stage};
use crate::release_facts::ReleaseFacts;
use crate::source::directory::read_directory;
use crate::source::{ContentReader, SourceError, SourceTree};

/// A release that could not be built. Nothing was stored.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The source cannot be used.
    #[error("the source cannot be read")]
    Source(#[source] SourceError),
    /// The source makes no contracts bundle.
    #[error("the contracts bundle cannot be made")]
    Contracts(#[source] ContractsError),
    /// The files make no release.
    #[error("the files make no release")]
    Release(#[source] ReleaseError),
    /// The temporary file cannot be used.
    #[error("the archive cannot be written in temporary directory `{}`", directory.display())]
    Spool {
        /// The directory; `TMPDIR` chooses it.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive could not be written.
    #[error("the archive cannot be written")]
    Archive(#[source] WriteArchiveError),
    /// The work was given up in the middle.
    #[error("building was interrupted")]
    Interrupted(#[source] JoinError),
}

/// What will be released, without the facts that are only decided with the tag.
#[derive(Debug, Clone)]
pub struct SourceContent {
    kind: ContentKind,
    content_digest: Sha256Digest,
}

#[derive(Debug, Clone)]
enum ContentKind {
    Contracts(ContractsBundle),
    Tree(SourceTree),
    PrebuiltContracts { tree: SourceTree, bundle_json: Bytes },
}

impl SourceContent {
    /// The content of a bundle made from this source. Blocks: contracts are read whole.
    pub fn new(bundle: &BundleName, source: SourceTree) -> Result<Self, BuildError> {
        if bundle.as_str() == CONTRACTS_BUNDLE {
            let contracts = ContractsBundle::from_source(&source).map_err(BuildError::Contracts)?;
            return Ok(Self { content_digest: contracts.digest(), kind: ContentKind::Contracts(contracts) });
        }
        let files: Vec<ReleaseFile> = source.files().cloned().collect();
        let content_digest = digest_of_tree(&files).map_err(BuildError::Release)?;
        Ok(Self { content_digest, kind: ContentKind::Tree(source) })
    }

    /// Contracts that are a release's tree already, byte for byte: nothing is derived from facts. Their digest is that
    /// of their `bundle.json`, as it is wherever else they are published; the caller has verified the other files.
    pub fn prebuilt_contracts(tree: SourceTree, bundle_json: Bytes) -> Self {
        Self {
            content_digest: Sha256Digest::of(&bundle_json),
            kind: ContentKind::PrebuiltContracts { tree, bundle_json },
        }
    }

    /// What "unchanged" compares: the SHA-256 of `bundle.json` for contracts, else the tree digest.
    pub fn content_digest(&self) -> Sha256Digest {
        self.content_digest
    }

    /// The `bundle.json`, where the content is contracts.
    pub(crate) fn bundle_json(&self) -> Option<Bytes> {
        match &self.kind {
            ContentKind::Contracts(contracts) => Some(contracts.bundle_json_bytes()),
            ContentKind::PrebuiltContracts { bundle_json, .. } => Some(bundle_json.clone()),
            ContentKind::Tree(_) => None,
        }
    }

    /// The files that are released with these facts.
    pub(crate) fn tree(&self, facts: &ReleaseFacts) -> Result<SourceTree, BuildError> {
        match &self.kind {
            ContentKind::Contracts(contracts) => contracts.tree(facts).map_err(BuildError::Contracts),
            ContentKind::Tree(tree) | ContentKind::PrebuiltContracts { tree, .. } => Ok(tree.clone()),
        }
    }
}

/// Reads a directory as the content of a bundle, on a blocking thread.
pub async fn read_source(
    directory: PathBuf,
    bundle: BundleName,
    limits: ReleaseLimits,
    progress: Progress,
) -> Result<SourceContent, BuildError> {
    spawn_blocking(move || {
        let source = read_directory(&directory, &limits, &*progress).map_err(BuildError::Source)?;
        SourceContent::new(&bundle, source)
    })
    .await
    .map_err(BuildError::Interrupted)?
}

/// A release that is ready to be stored. Only [`crate::stored_release::store`] takes it.
#[derive(Debug)]
pub struct BuiltRelease {
    facts: ReleaseFacts,
    release: Release,
    release_json: Vec<u8>,
    release_reference: ObjectReference,
    archive: File,
    archive_reference: ObjectReference,
}

impl BuiltRelease {
    /// What was decided about it.
    pub fn facts(&self) -> &ReleaseFacts {
        &self.facts
    }

    /// What it consists of.
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// Its `release.json`.
    pub fn release_json(&self) -> &[u8] {
        &self.release_json
    }

    /// How the `release.json` will be named in the bucket.
    pub fn release_reference(&self) -> &ObjectReference {
        &self.release_reference
    }

    /// How the archive will be named in the bucket.
    pub fn archive_reference(&self) -> &ObjectReference {
        &self.archive_reference
    }

    /// The archive, from its beginning. Handles share one position: one at a time.
    pub(crate) fn archive(&self) -> io::Result<File> {
        let mut file = self.archive.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }
}

/// Builds a release on a blocking thread, with its archive in the system's temporary directory. The same content and
/// facts give the same bytes (the archive's for one version of zstd).
pub async fn build(
    content: SourceContent,
    facts: ReleaseFacts,
    limits: ReleaseLimits,
    progress: Progress,
) -> Result<BuiltRelease, BuildError> {
    spawn_blocking(move || build_in(&content, facts, &limits, &*progress, &std::env::temp_dir()))
        .await
        .map_err(BuildError::Interrupted)?
}

fn build_in(
    content: &SourceContent,
    facts: ReleaseFacts,
    limits: &ReleaseLimits,
    progress: &dyn ProgressReporter,
    spool: &Path,
) -> Result<BuiltRelease, BuildError> {
    let tree = content.tree(&facts)?;
    let files: Vec<ReleaseFile> = tree.files().cloned().collect();
    let (bundle, tag) = (facts.bundle.clone(), facts.tag.clone());
    let release =
        Release::new(bundle, tag, Some(content.content_digest), files, limits).map_err(BuildError::Release)?;
    let release_json = release.to_json().map_err(BuildError::Release)?;
    // What we write, we can read.
    Release::parse(&release_json, limits).map_err(BuildError::Release)?;

    let PackedArchive { file: archive, sha256, size } = pack_archive(&release, &tree, spool, progress)?;
    Ok(BuiltRelease {
        archive_reference: ObjectReference { name: archive_object(&facts.bundle, &facts.tag), size, sha256 },
        release_reference: ObjectReference {
            name: release_object(&facts.bundle, &facts.tag),
            size: release_json.len() as u64,
            sha256: Sha256Digest::of(&release_json),
        },
        facts,
        release,
        release_json,
        archive,
    })
}

/// An archive in a temporary file without a name, written to its end.
pub(crate) struct PackedArchive {
    /// The file, at the archive's end.
    pub(crate) file: File,
    /// The archive's digest.
    pub(crate) sha256: Sha256Digest,
    /// Its size in bytes.
    pub(crate) size: u64,
}

/// Packs the files of a release. Blocks. Every byte is compared with the release's digests on the way.
pub(crate) fn pack_archive(
    release: &Release,
    tree: &SourceTree,
    spool: &Path,
    progress: &dyn ProgressReporter,
) -> Result<PackedArchive, BuildError> {
    progress.begin(Stage::Pack, Some(release.total_bytes()));
    let unusable = |source| BuildError::Spool { directory: spool.to_owned(), source };
    let file = tempfile::tempfile_in(spool).map_err(unusable)?;
    let output = HashingWriter::new(BufWriter::new(file));
    let open = |file: &ReleaseFile| tree.open(&file.path).map(|content| Counted { content, progress });
    let (output, sha256, size) = write_archive(release, open, output).map_err(BuildError::Archive)?.finish();
    let file = output.into_inner().map_err(|error| unusable(error.into_error()))?;
    Ok(PackedArchive { file, sha256, size })
}

struct Counted<'a> {
    content: ContentReader,
    progress: &'a dyn ProgressReporter,
}

impl io::Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.progress.advance(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    use chrono::DateTime;
    use shared::archive::read_archive;
    use shared::event::Trigger;

    use super::*;
    use crate::progress::Silent;

    fn facts(bundle: &str) -> ReleaseFacts {
        ReleaseFacts {
            bundle: bundle.parse().unwrap(),
            tag: "v1".parse().unwrap(),
            timestamp: DateTime::UNIX_EPOCH,
            git: None,
            trigger: Trigger::Local,
        }
    }

    fn write_files(root: &Path, files: &[(&str, &str)]) {
        for (path, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    fn built(root: &Path, bundle: &str) -> Result<BuiltRelease, BuildError> {
        let limits = ReleaseLimits::default();
        let source = read_directory(root, &limits, &Silent).map_err(BuildError::Source)?;
        let content = SourceContent::new(&bundle.parse().unwrap(), source)?;
        build_in(&content, facts(bundle), &limits, &Silent, &std::env::temp_dir())
    }

    fn archive_bytes(built: &BuiltRelease) -> Vec<u8> {
        let mut bytes = Vec::new();
        built.archive().unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes_in_whatever_order_it_was_made() {
        let files = [("b/two.json", "2"), ("a.json", "1"), ("b/a/three.txt", "3")];
        let mut reversed = files;
        reversed.reverse();
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_files(one.path(), &files);
        write_files(other.path(), &reversed);
        // Permissions beyond "executable" do not travel.
        fs::set_permissions(other.path().join("a.json"), fs::Permissions::from_mode(0o600)).unwrap();

        let (one, other) = (built(one.path(), "policies").unwrap(), built(other.path(), "policies").unwrap());
        assert_eq!(one.release_json(), other.release_json());
        assert_eq!(one.archive_reference(), other.archive_reference());
        assert_eq!(archive_bytes(&one), archive_bytes(&other));
        assert_eq!(one.release().content_digest(), one.release().tree_digest());
        assert_eq!(one.archive_reference().name, "policies/v1.tar.zst");
        assert_eq!(Sha256Digest::of(&archive_bytes(&one)), one.archive_reference().sha256);
    }

    #[test]
    fn an_archive_holds_what_was_in_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        write_files(directory.path(), &[("x", "one"), ("y/z", "two")]);
        let built = built(directory.path(), "policies").unwrap();
        let unpacked = tempfile::tempdir().unwrap();
        let target = |file: &ReleaseFile| unpacked.path().join(file.path.as_str().replace('/', "-"));
        read_archive(built.archive().unwrap(), built.release(), |file| File::create(target(file))).unwrap();
        assert_eq!(fs::read_to_string(unpacked.path().join("y-z")).unwrap(), "two");
    }

    #[test]
    fn a_contracts_release_has_its_three_files_and_the_digest_of_its_bundle() {
        let directory = tempfile::tempdir().unwrap();
        write_files(directory.path(), &[("schemas/a.json", "{}"), ("README.md", "not a contract")]);
        let built = built(directory.path(), CONTRACTS_BUNDLE).unwrap();
        let files: BTreeMap<&str, Sha256Digest> =
            built.release().files().iter().map(|file| (file.path.as_str(), file.sha256)).collect();
        assert_eq!(files.keys().copied().collect::<Vec<_>>(), ["bundle.json", "bundle.sha256", "manifest.json"]);
        assert_eq!(built.release().content_digest(), files["bundle.json"]);
    }

    #[test]
    fn a_file_that_changes_after_it_was_listed_stops_the_build() {
        let directory = tempfile::tempdir().unwrap();
        write_files(directory.path(), &[("x", "one")]);
        let limits = ReleaseLimits::default();
        let source = read_directory(directory.path(), &limits, &Silent).unwrap();
        let content = SourceContent::new(&"policies".parse().unwrap(), source).unwrap();
        fs::write(directory.path().join("x"), "two").unwrap();
        let error = build_in(&content, facts("policies"), &limits, &Silent, &std::env::temp_dir()).unwrap_err();
        assert!(matches!(error, BuildError::Archive(WriteArchiveError::Changed(_))), "{error}");
    }

    #[test]
    fn the_products_own_contracts_are_a_bundle() {
        let contracts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts");
        let source = read_directory(&contracts, &ReleaseLimits::default(), &Silent).unwrap();
        let bundle = ContractsBundle::from_source(&source).unwrap();
        let document: serde_json::Value = serde_json::from_slice(bundle.bundle_json()).unwrap();
        for (section, name) in [
            ("schemas", "result-envelope.json"),
            ("schemas", "bootstrap.bundle.v0.json"),
            ("schemas", "events.ritual.started.v1.json"),
            ("schemas", "events.bundle.published.v1.json"),
            ("wit", "demon-envelope.wit"),
        ] {
            assert!(document[section][name].is_string(), "{section}/{name}");
        }
    }
}
