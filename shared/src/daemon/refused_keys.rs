//! How often refused API keys are said in the log: a flood of them must not fill a disk.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines about peers of one class.
const QUIET: Duration = Duration::from_mins(1);

/// Where a peer is, as far as its address says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerClass {
    /// This host.
    Loopback,
    /// A network of its own: RFC 1918, RFC 4193, link-local.
    Private,
    /// Anywhere else, and where nothing is known.
    Public,
}

impl PeerClass {
    /// The class of an address.
    pub fn of(peer: Option<IpAddr>) -> Self {
        match peer.map(|peer| peer.to_canonical()) {
            Some(peer) if peer.is_loopback() => Self::Loopback,
            Some(IpAddr::V4(peer)) if peer.is_private() || peer.is_link_local() => Self::Private,
            Some(IpAddr::V6(peer)) if peer.is_unique_local() || peer.is_unicast_link_local() => Self::Private,
            Some(_) | None => Self::Public,
        }
    }
}

impl fmt::Display for PeerClass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::Public => "public",
        })
    }
}

/// Decides which refused key is worth a line: the first of a minute in each class. Holds a fixed amount of memory.
#[derive(Debug, Default)]
pub struct RefusedKeys(Mutex<[Silence; 3]>);

#[derive(Debug, Default, Clone, Copy)]
struct Silence {
    said: Option<Instant>,
    unsaid: u64,
}

impl RefusedKeys {
    /// Notes a refusal. Returns how many to say: this one and those since the last line; `None` where the last line is
    /// too recent.
    pub fn note(&self, class: PeerClass, now: Instant) -> Option<u64> {
        let mut classes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [loopback, private, public] = &mut *classes;
        let silence = match class {
            PeerClass::Loopback => loopback,
            PeerClass::Private => private,
            PeerClass::Public => public,
        };
        silence.unsaid += 1;
        if silence.said.is_some_and(|said| now.saturating_duration_since(said) < QUIET) {
            return None;
        }
        silence.said = Some(now);
        Some(std::mem::take(&mut silence.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_minute_with_a_count() {
        let (refused, start) = (RefusedKeys::default(), Instant::now());
        assert_eq!(refused.note(PeerClass::Public, start), Some(1));
        for millisecond in 0..1000 {
            assert_eq!(refused.note(PeerClass::Public, start + Duration::from_millis(millisecond)), None);
        }
        assert_eq!(refused.note(PeerClass::Loopback, start), Some(1), "another class has its own line");
        assert_eq!(refused.note(PeerClass::Public, start + QUIET), Some(1001));
        assert_eq!(refused.note(PeerClass::Public, start + QUIET), None);
    }

    #[test]
    fn addresses_fall_into_three_classes() {
        for (peer, class) in [
            ("127.0.0.1", PeerClass::Loopback),
            ("::ffff:127.0.0.1", PeerClass::Loopback),
            ("10.1.2.3", PeerClass::Private),
            ("fd00::1", PeerClass::Private),
            ("192.0.2.1", PeerClass::Public),
            ("2001:db8::1", PeerClass::Public),
        ] {
            assert_eq!(PeerClass::of(Some(peer.parse().unwrap())), class, "{peer}");
        }
        assert_eq!(PeerClass::of(None), PeerClass::Public);
    }
}
