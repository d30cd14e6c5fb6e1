//! Verification: the only way to a [`VerifiedRelease`].
//!
//! Announcing a release accepts nothing else, and switching to one only an [`UnverifiedRelease`] besides, which the
//! documented emergency flag alone can make: so bytes nobody checked can neither be announced nor become visible without
//! being shown as such.

mod failure;
mod side_by_side;
mod tree;

pub use self::failure::{VerificationFailure, VerifyError};
pub(crate) use self::side_by_side::{Ended, check_side_by_side, threads_for};
pub(crate) use self::tree::{CheckedFile, FileCheck, TreeVerification};
pub use self::tree::{check_files_without_digests, verify_files};
use crate::digest::Sha256Digest;
use crate::event::{FailedCheck, Published};
use crate::limits::ReleaseLimits;
use crate::release::Release;

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
mod tests;
