//! Waiting for a condition: bounded, and a failure says what was missing.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// How long anything may take that is done within a second on an idle machine. Test machines are not idle.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Between two looks at a condition that nobody announces.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks again and again until the look succeeds, and returns what it found.
///
/// # Panics
/// After `limit`, with the reason that the last look gave.
pub async fn eventually<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    let mut reason = "the first look did not end".to_owned();
    loop {
        match timeout_at(deadline, look()).await {
            Ok(Ok(found)) => return found,
            Ok(Err(missing)) => reason = missing,
            Err(_) => break,
        }
        if Instant::now() >= deadline {
            break;
        }
        sleep(LOOK_AGAIN).await;
    }
    panic!("waited {limit:?} for {what}: {reason}");
}

/// The condition as a result, for [`eventually`].
pub fn satisfied(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise()) }
}
