//! Tells a child process that its parent is gone: standard input, a pipe that nobody writes to, closes.

use std::io::{self, Read as _};
use std::thread;

use tokio_util::sync::CancellationToken;

/// Cancels the token when standard input ends or fails.
pub(crate) fn cancel_when_parent_ends(stop: CancellationToken) {
    // A plain thread: a blocking read in the runtime's pool would delay the process's end.
    thread::spawn(move || {
        let mut buffer = [0; 64];
        let mut input = io::stdin().lock();
        loop {
            match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        stop.cancel();
    });
}
