//! Bounds on what a release may hold, checked by publisher and agent alike.

/// Limits of one release. The defaults fit config, schemas, policies and wasm, not disk images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseLimits {
    /// Most files.
    pub files: u64,
    /// Largest file, in bytes.
    pub file_bytes: u64,
    /// All files together, in bytes.
    pub total_bytes: u64,
    /// Longest path, in bytes.
    pub path_bytes: usize,
    /// Largest `release.json`, in bytes; bounds what a reader takes into memory.
    pub release_json_bytes: u64,
}

impl Default for ReleaseLimits {
    fn default() -> Self {
        Self {
            files: 100_000,
            file_bytes: 1 << 30,
            total_bytes: 4 << 30,
            path_bytes: 512,
            release_json_bytes: 64 << 20,
        }
    }
}
