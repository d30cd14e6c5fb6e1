//! Who may order a publish: whoever has a key. Wrong keys are counted, and a peer with many has to wait.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use shared::daemon::api_keys::ApiKeys;
use shared::daemon::refused_keys::PeerClass;

use super::{ApiState, Refusal};
use crate::serving::count_refused_trigger;

const HOW_TO_ENABLE: &str = "publishing over HTTP is off: give the publisher a key with --trigger-key-file or \
                             DEMON_PUBLISHER_TRIGGER_KEY";
const HOW_TO_AUTHORIZE: &str = "a key is needed: `Authorization: token KEY` or `Authorization: Bearer KEY`";
/// Wrong keys from one address within [`WINDOW`] before its keys are not looked at any more.
const MOST_WRONG: u32 = 10;
const WINDOW: Duration = Duration::from_mins(1);
/// Addresses remembered at most.
const MOST_PEERS: usize = 1024;

/// Lets a request with a right key through.
pub(super) fn authorize(state: &ApiState, headers: &HeaderMap, peer: IpAddr) -> Result<(), Refusal> {
    let Some(keys) = &state.api.trigger_keys else { return Err(Refusal::new(StatusCode::FORBIDDEN, HOW_TO_ENABLE)) };
    if !state.wrong_attempts.may_try(peer, Instant::now()) {
        count_refused_trigger();
        let message = "too many wrong keys from this address: wait a minute";
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, message));
    }
    check(keys, headers).inspect_err(|_| {
        count_refused_trigger();
        state.wrong_attempts.note(peer, Instant::now());
        let class = PeerClass::of(Some(peer));
        if let Some(count) = state.refused_keys.note(class, Instant::now()) {
            tracing::warn!(
                %peer, %class, count,
                "orders to publish without a right key were refused; at most one line a minute"
            );
        }
    })
}

fn check(keys: &ApiKeys, headers: &HeaderMap) -> Result<(), Refusal> {
    let unauthorized = |message| Refusal::new(StatusCode::UNAUTHORIZED, message);
    let header = headers.get(AUTHORIZATION).ok_or_else(|| unauthorized(HOW_TO_AUTHORIZE))?;
    let text = header.to_str().map_err(|_| unauthorized(HOW_TO_AUTHORIZE))?;
    let (scheme, key) = text.split_once(' ').ok_or_else(|| unauthorized(HOW_TO_AUTHORIZE))?;
    if !["token", "bearer"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(unauthorized(HOW_TO_AUTHORIZE));
    }
    if keys.accept(key.trim().as_bytes()) { Ok(()) } else { Err(unauthorized("this key is not right")) }
}

/// Wrong keys by address, in windows of a minute.
#[derive(Debug, Default)]
pub(super) struct WrongAttempts(Mutex<BTreeMap<IpAddr, (Instant, u32)>>);

impl WrongAttempts {
    fn may_try(&self, peer: IpAddr, now: Instant) -> bool {
        let attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.get(&peer).is_none_or(|(since, count)| *count < MOST_WRONG || now - *since >= WINDOW)
    }

    fn note(&self, peer: IpAddr, now: Instant) {
        let mut attempts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.retain(|_, (since, _)| now - *since < WINDOW);
        if attempts.len() >= MOST_PEERS {
            attempts.clear();
        }
        attempts.entry(peer).or_insert((now, 0)).1 += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn checked(header: Option<&str>) -> Option<StatusCode> {
        let keys = ApiKeys::parse("0123456789abcdef").unwrap().unwrap();
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, header.parse().unwrap());
        }
        check(&keys, &headers).err().map(|refusal| refusal.status)
    }

    #[test]
    fn both_forms_of_the_header_are_understood() {
        for right in ["token 0123456789abcdef", "Bearer 0123456789abcdef", "TOKEN  0123456789abcdef"] {
            assert_eq!(checked(Some(right)), None, "{right}");
        }
        for wrong in ["", "token", "token 0123", "Basic 0123456789abcdef", "0123456789abcdef"] {
            assert_eq!(checked(Some(wrong)), Some(StatusCode::UNAUTHORIZED), "{wrong}");
        }
        assert_eq!(checked(None), Some(StatusCode::UNAUTHORIZED));
    }

    #[test]
    fn a_peer_with_many_wrong_keys_waits_and_others_do_not() {
        let attempts = WrongAttempts::default();
        let (peer, other) = (IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::from(Ipv4Addr::LOCALHOST));
        let now = Instant::now();
        for _ in 0..MOST_WRONG {
            assert!(attempts.may_try(peer, now));
            attempts.note(peer, now);
        }
        assert!(!attempts.may_try(peer, now));
        assert!(attempts.may_try(other, now));
        assert!(attempts.may_try(peer, now + WINDOW));
    }
}
