//! Programs whose clock is wrong, by the library of the program `faketime`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where distributions put it.
const PLACES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
];

/// The library that tells programs a wrong time.
#[derive(Debug)]
pub struct WrongClocks {
    library: PathBuf,
}

impl WrongClocks {
    /// Looks for it. Nothing where it is not installed: that is printed, and the test that asked has nothing to do.
    pub fn found() -> Option<Self> {
        let found = PLACES.iter().map(Path::new).find(|place| place.exists());
        if found.is_none() {
            #[expect(clippy::print_stderr, reason = "a test that shows nothing says so")]
            {
                eprintln!("skipped: libfaketime is not installed here (`apt-get install faketime`)");
            }
        }
        found.map(|library| Self { library: library.to_owned() })
    }

    /// Has a program believe that it is so much later, such as `+7h`, or earlier. How long something takes it knows rightly.
    pub fn set<'a>(&self, command: &'a mut Command, offset: &str) -> &'a mut Command {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME", offset)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1")
    }
}
