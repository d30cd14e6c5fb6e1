//! Releases for the tests of this crate, made in memory and on disk.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use shared::archive::write_archive;
use shared::digest::Sha256Digest;
use shared::limits::ReleaseLimits;
use shared::release::{FileMode, Release, ReleaseFile};

use crate::release_directory::{FILES, RELEASE_JSON};

pub(crate) fn release_of(files: &[(&str, &str)], tag: &str) -> Release {
    let files = files
        .iter()
        .map(|(path, content)| ReleaseFile {
            path: path.parse().unwrap(),
            size: content.len() as u64,
            mode: FileMode::Plain,
            sha256: Sha256Digest::of(content.as_bytes()),
        })
        .collect();
    Release::new("contracts".parse().unwrap(), tag.parse().unwrap(), None, files, &ReleaseLimits::default()).unwrap()
}

pub(crate) fn contracts_files(bundle: &str) -> [(&'static str, String); 3] {
    let digest = Sha256Digest::of(bundle.as_bytes());
    [
        ("bundle.json", bundle.to_owned()),
        ("manifest.json", format!("{{\"bundle_sha256\":\"{digest}\"}}")),
        ("bundle.sha256", format!("{digest}  bundle.json\n")),
    ]
}

pub(crate) fn contracts_release(tag: &str, bundle: &str) -> Release {
    let files = contracts_files(bundle);
    let files: Vec<_> = files.iter().map(|(path, content)| (*path, content.as_str())).collect();
    release_of(&files, tag)
}

pub(crate) fn archive_of(files: &[(&str, &str)], tag: &str) -> Vec<u8> {
    let content = |path: &str| {
        let (_, content) = files.iter().find(|(known, _)| *known == path).unwrap();
        content.as_bytes()
    };
    write_archive(&release_of(files, tag), |file| Ok(content(file.path.as_str())), Vec::new()).unwrap()
}

/// Writes a release's directory as an agent leaves it.
pub(crate) fn store_release(directory: &Path, files: &[(&str, &str)], tag: &str) -> Release {
    let release = release_of(files, tag);
    for (path, content) in files {
        let path = directory.join(FILES).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    }
    fs::write(directory.join(RELEASE_JSON), release.to_json().unwrap()).unwrap();
    release
}
