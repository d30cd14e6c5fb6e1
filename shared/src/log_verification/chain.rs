//! The chains of one source: where each incarnation stands, with its latest events at hand.

use std::collections::{BTreeMap, VecDeque};

use super::finding::{Finding, Problem, Unnamed};
use crate::digest::Sha256Digest;
use crate::event_envelope::EventEnvelope;
use crate::fleet_history::StoredMessage;
use crate::identifiers::Incarnation;
use crate::source::Source;

/// How many events of an incarnation are kept to tell a duplicate from a fork and to check a late one against its
/// neighbours. Everything older is found too, but not told apart.
const WINDOW: usize = 16;

/// What the chain needs of one event.
#[derive(Debug, Clone)]
pub(super) struct Link {
    sequence: u64,
    digest: Sha256Digest,
    prevhash: Option<Sha256Digest>,
    stream_sequence: u64,
}

impl Link {
    pub(super) fn new(message: &StoredMessage<'_>, envelope: &EventEnvelope) -> Self {
        Self {
            sequence: envelope.sequence,
            digest: Sha256Digest::of(message.payload),
            prevhash: envelope.prevhash,
            stream_sequence: message.stream_sequence,
        }
    }
}

/// Numbers that are missing, and the message before which they are.
#[derive(Debug, Clone)]
pub(super) struct MissingNumbers {
    pub(super) first: u64,
    pub(super) last: u64,
    /// Stream sequence of the incarnation's last message before them; 0 where they are its first numbers.
    pub(super) behind: u64,
    pub(super) noticed_at: u64,
    noticed_subject: String,
    noticed_sequence: u64,
}

impl MissingNumbers {
    pub(super) fn noticed(&self, source: &Source, incarnation: Incarnation) -> Unnamed {
        Finding::at(self.noticed_at, &self.noticed_subject).of(source, incarnation, self.noticed_sequence)
    }
}

/// All incarnations of one source.
#[derive(Debug, Default)]
pub(super) struct SourceChains {
    incarnations: BTreeMap<Incarnation, Chain>,
}

/// One incarnation.
#[derive(Debug, Default)]
struct Chain {
    /// Its highest number.
    last: u64,
    /// Its latest events, in the order they were read.
    window: VecDeque<Link>,
    gaps: Vec<MissingNumbers>,
}

impl SourceChains {
    /// Adds the next event, and says what is wrong with it.
    pub(super) fn append(&mut self, incarnation: Incarnation, link: Link, subject: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !self.incarnations.contains_key(&incarnation)
            && let Some(named) = link.prevhash
            && link.sequence == 1
            && !self.has_recent(named)
        {
            problems.push(Problem::UnknownPredecessor { named });
        }
        let chain = self.incarnations.entry(incarnation).or_default();
        problems.extend(chain.append(link, subject));
        problems
    }

    fn has_recent(&self, digest: Sha256Digest) -> bool {
        self.incarnations.values().any(|chain| chain.window.iter().any(|link| link.digest == digest))
    }

    pub(super) fn incarnations(&self) -> u64 {
        self.incarnations.len() as u64
    }

    /// Numbers that stayed missing.
    pub(super) fn gaps(&self) -> impl Iterator<Item = (Incarnation, &MissingNumbers)> {
        self.incarnations.iter().flat_map(|(incarnation, chain)| chain.gaps.iter().map(|gap| (*incarnation, gap)))
    }
}

impl Chain {
    fn append(&mut self, link: Link, subject: &str) -> Vec<Problem> {
        if link.sequence > self.last {
            return self.append_newest(link, subject);
        }
        if let Some(earlier) = self.find(link.sequence) {
            let at = earlier.stream_sequence;
            let same = earlier.digest == link.digest;
            return vec![if same { Problem::Duplicate { first_at: at } } else { Problem::Fork { other_at: at } }];
        }
        if !self.fill_gap(link.sequence) {
            return vec![Problem::Repeated { after: self.last }];
        }
        let mut problems = vec![Problem::Reordered { after: self.last }];
        problems.extend(self.find(link.sequence - 1).and_then(|before| mismatch(before, &link)));
        problems.extend(self.find(link.sequence + 1).and_then(|after| mismatch(&link, after)));
        self.remember(link);
        problems
    }

    fn append_newest(&mut self, link: Link, subject: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        if link.sequence == self.last + 1 {
            problems.extend(self.find(self.last).and_then(|before| mismatch(before, &link)));
        } else {
            self.gaps.push(MissingNumbers {
                first: self.last + 1,
                last: link.sequence - 1,
                behind: self.window.iter().map(|link| link.stream_sequence).max().unwrap_or(0),
                noticed_at: link.stream_sequence,
                noticed_subject: subject.to_owned(),
                noticed_sequence: link.sequence,
            });
        }
        self.last = link.sequence;
        self.remember(link);
        problems
    }

    fn find(&self, sequence: u64) -> Option<&Link> {
        self.window.iter().rev().find(|link| link.sequence == sequence)
    }

    fn remember(&mut self, link: Link) {
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(link);
    }

    /// Takes a number out of those that are missing; says whether it was.
    fn fill_gap(&mut self, sequence: u64) -> bool {
        let Some(place) = self.gaps.iter().position(|gap| (gap.first..=gap.last).contains(&sequence)) else {
            return false;
        };
        let gap = self.gaps.remove(place);
        if sequence < gap.last {
            self.gaps.insert(place, MissingNumbers { first: sequence + 1, ..gap.clone() });
        }
        if sequence > gap.first {
            self.gaps.insert(place, MissingNumbers { last: sequence - 1, ..gap });
        }
        true
    }
}

/// Whether an event names other bytes than those of the one before it.
fn mismatch(before: &Link, after: &Link) -> Option<Problem> {
    (after.prevhash != Some(before.digest)).then_some(Problem::Altered {
        named_at: before.stream_sequence,
        named_sequence: before.sequence,
        expected: after.prevhash,
        actual: before.digest,
    })
}
