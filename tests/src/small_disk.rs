//! A file system with little room, for what happens when a disk is full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system in memory, unmounted with the test.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of so many bytes. Nothing where this user may not mount: the reason is printed, and the test that
    /// asked has nothing to do.
    pub fn mount(path: &Path, bytes: u64) -> Option<Self> {
        fs::create_dir_all(path).expect("the directory can be made");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(path);
        let reason = match mount.output() {
            Ok(output) if output.status.success() => return Some(Self { path: path.to_owned() }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        #[expect(clippy::print_stderr, reason = "a test that shows nothing says so")]
        {
            eprintln!("skipped: no small file system can be mounted here, which takes root on Linux: {reason}");
        }
        None
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        use std::io::Write as _;
        let mut file = fs::File::create(self.ballast()).expect("a file can be made");
        let piece = vec![0x5a; 4 << 10];
        while file.write_all(&piece).is_ok() {}
    }

    /// Gives it back.
    pub fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("the disk was filled");
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that ends a moment later may still hold a file of it.
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}
