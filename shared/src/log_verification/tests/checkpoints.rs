//! Checkpoints in a log, and those kept elsewhere.

use super::*;
use crate::checkpoint::{Checkpoint, event_leaf};
use crate::event::{BundleEvent, Checkpointed, PreviousCheckpoint};
use crate::merkle::{Frontier, ProofBuilder};
use crate::signed_note::SignerKey;

fn key() -> SignerKey {
    SignerKey::from_seed("example.com/fleet".parse().unwrap(), &[1; 32])
}

/// A log with checkpoints of these sizes, each right behind the events it speaks of and as many events as are given.
struct CheckpointedLog {
    messages: Vec<Message>,
    chain: EventChain,
    last: Option<PreviousCheckpoint>,
}

impl CheckpointedLog {
    fn new(writers: &[u8]) -> Self {
        let chain = EventChain::new(Incarnation::from_uuid(Uuid::from_u128(50)), None);
        Self { messages: valid_log(writers), chain, last: None }
    }

    fn tree(&self, size: usize) -> Frontier {
        let mut tree = Frontier::default();
        for message in &self.messages[..size] {
            tree.push(event_leaf(&message.subject, DateTime::UNIX_EPOCH, &message.payload));
        }
        tree
    }

    fn signed(&self, size: usize, key: &SignerKey) -> SignedCheckpoint {
        let root = self.tree(size).root();
        let epoch = Some(Incarnation::from_uuid(Uuid::from_u128(9)));
        Checkpoint { origin: key.name().clone(), size: size as u64, root, epoch }.sign(key).unwrap()
    }

    fn checkpoint(mut self, size: usize) -> Self {
        let signed = self.signed(size, &key());
        let from = self.last.as_ref().map_or(0, |last| last.size);
        let mut builder = ProofBuilder::consistency(from, size as u64).unwrap();
        for message in &self.messages[..size] {
            builder.push(event_leaf(&message.subject, DateTime::UNIX_EPOCH, &message.payload));
        }
        let event = BundleEvent::Checkpointed(Checkpointed {
            stream: "BUNDLE_EVENTS".to_owned(),
            epoch: signed.checkpoint().epoch.unwrap(),
            size: size as u64,
            root: signed.checkpoint().root,
            note: signed.note(),
            previous: self.last.clone(),
            proof: builder.finish().unwrap(),
        });
        let stream_sequence = self.messages.len() as u64 + 1;
        let id = EventId::from_uuid(Uuid::from_u128(u128::from(stream_sequence) + 1000));
        let draft = EventDraft { id, time: DateTime::UNIX_EPOCH, event };
        let sealed = self.chain.seal(&"/publishers/main".parse().unwrap(), &draft).unwrap();
        self.chain = self.chain.after(&sealed);
        let root = signed.checkpoint().root;
        self.last = Some(PreviousCheckpoint { size: size as u64, root, stream_sequence });
        self.messages.push(Message { stream_sequence, subject: sealed.subject.to_string(), payload: sealed.bytes });
        self
    }
}

fn verify_with(keys: Option<&SignerKey>, outside: Vec<SignedCheckpoint>, log: &[Message]) -> VerificationReport {
    let mut verifier = LogVerifier::new(keys.map(|key| key.verifier().clone().into()), outside);
    for Message { stream_sequence, subject, payload } in log {
        let stored_at = DateTime::UNIX_EPOCH;
        verifier.check(StoredMessage { stream_sequence: *stream_sequence, stored_at, subject, payload }, None);
    }
    verifier.finish(None)
}

#[test]
fn good_checkpoints_are_clean_however_late_they_are_stored() {
    let log = CheckpointedLog::new(&[0, 1, 0, 1, 1]).checkpoint(5).checkpoint(6).checkpoint(6);
    let report = verify_with(Some(&key()), Vec::new(), &log.messages);
    assert!(report.clean, "{report:?}");
    assert_eq!((report.checkpoints, report.checkpointed_up_to, report.signatures_verified), (3, 6, true));
    let late = CheckpointedLog::new(&[0, 1, 0, 1, 1]).checkpoint(2).checkpoint(4);
    assert!(verify_with(None, Vec::new(), &late.messages).clean);
}

#[test]
fn an_altered_last_event_that_no_chain_shows_is_shown_by_a_checkpoint() {
    let mut log = CheckpointedLog::new(&[0, 1, 0]).checkpoint(3);
    let text = String::from_utf8(log.messages[2].payload.clone()).unwrap().replace("00Z\"", "01Z\"");
    assert_ne!(text.as_bytes(), log.messages[2].payload);
    log.messages[2].payload = text.into_bytes();
    let report = verify_with(None, Vec::new(), &log.messages);
    assert_eq!(problems(&report), [(4, "checkpoint_mismatch")], "{report:?}");
}

#[test]
fn a_strangers_signature_and_a_broken_line_are_found() {
    let log = CheckpointedLog::new(&[0, 1, 0]).checkpoint(3).checkpoint(4);
    let stranger = SignerKey::from_seed("example.com/fleet".parse().unwrap(), &[2; 32]);
    let report = verify_with(Some(&stranger), Vec::new(), &log.messages);
    assert_eq!(problems(&report), [(4, "bad_checkpoint"), (5, "bad_checkpoint")]);

    let mut forgetful = CheckpointedLog::new(&[0, 1, 0]).checkpoint(3);
    forgetful.last = None;
    let report = verify_with(None, Vec::new(), &forgetful.checkpoint(4).messages);
    assert_eq!(problems(&report), [(5, "bad_checkpoint")]);
}

#[test]
fn a_checkpoint_kept_elsewhere_shows_a_shorter_and_another_log() {
    let log = CheckpointedLog::new(&[0, 1, 0, 1]);
    let kept = log.signed(4, &key());
    let with_kept = |messages: &[Message]| verify_with(Some(&key()), vec![kept.clone()], messages);
    assert!(with_kept(&log.messages).clean);
    let report = with_kept(&log.messages[..3]);
    assert!(
        matches!(report.findings[0].problem, Problem::OutsideCheckpoint { size: 4, actual: None, available: 3, .. }),
        "{report:?}"
    );
    let other = valid_log(&[0, 1, 0, 0, 1]);
    let report = with_kept(&other);
    assert!(matches!(report.findings[0].problem, Problem::OutsideCheckpoint { actual: Some(_), .. }), "{report:?}");
}

#[test]
fn an_id_that_is_not_the_events_is_found() {
    let log = valid_log(&[0]);
    let Message { stream_sequence, subject, payload } = &log[0];
    let own = EventEnvelope::parse(payload).unwrap().id.to_string();
    for (id, found) in [(own.as_str(), 0), ("another", 1)] {
        let mut verifier = LogVerifier::default();
        let stored_at = DateTime::UNIX_EPOCH;
        verifier.check(StoredMessage { stream_sequence: *stream_sequence, stored_at, subject, payload }, Some(id));
        assert_eq!(verifier.finish(None).findings_total, found, "{id}");
    }
}
