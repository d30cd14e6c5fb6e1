//! A port that stays a test's own while nothing listens on it.
//!
//! A server that is killed and comes back needs its old port. A port that the system chose for it lies in the range from
//! which the system also takes the client side of every connection, so meanwhile somebody else could get it; a client
//! that keeps trying to reach the dead server could even get connected to itself. These ports lie below that range.

use std::fs::{self, File};
use std::net::TcpListener;
use std::ops::Range;

/// Below the range of Linux (32768) and macOS (49152), above the well-known ones.
const PORTS: Range<u16> = 20_000..30_000;

/// A port held by a file lock, which also keeps tests of other processes away.
#[derive(Debug)]
pub struct ReservedPort {
    port: u16,
    _lock: File,
}

impl ReservedPort {
    /// Takes the first that is free.
    pub fn take() -> Self {
        let user = rustix::process::getuid().as_raw();
        let directory = std::env::temp_dir().join(format!("demon-test-ports-{user}"));
        fs::create_dir_all(&directory).expect("the temporary directory is writable");
        for port in PORTS {
            let lock = File::create(directory.join(port.to_string())).expect("the lock file can be made");
            // The listener is gone again at once; it only shows whether some other program has the port.
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return Self { port, _lock: lock };
            }
        }
        panic!("no port of {PORTS:?} is free");
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}
