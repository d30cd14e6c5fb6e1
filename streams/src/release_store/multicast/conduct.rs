//! When a reader reads for itself, when it listens to another one, and when it reads for all. Pure: clock and chance are
//! passed in, the clock as the time since the reading began.
//!
//! A reader first waits for a short random time. Unless enough others have shown by then that they are there, it shows
//! itself and gives others time to do so. Nobody reads meanwhile: chunks would be in the way of what readers say. Are there
//! enough, one of them leads: what it asks for goes to all, and the others only listen. Nobody is elected: the smallest
//! name among those that were heard begins, another one where nothing comes of that, and of two leaders the one with the
//! larger name gives way. Are there too few, it reads alone.

use std::collections::BTreeSet;
use std::time::Duration;

use super::wire::ReaderId;

/// A reader has shown itself after this long, or heard of others.
const SHOW_WITHIN: Duration = Duration::from_millis(60);
/// Time for others to show themselves after it has heard itself, before one leads, listens, or reads alone.
const SETTLE: Duration = Duration::from_millis(100);
/// Not even itself was heard: it reads alone.
const UNHEARD: Duration = Duration::from_secs(1);
/// Nobody begins to lead: somebody else does after this long, and up to as much again.
const TAKE_OVER: Duration = Duration::from_secs(1);
/// A leader from which nothing new comes is done, or dead.
const SILENCE: Duration = Duration::from_secs(1);
/// Who falls behind by more than this lets the leader know.
const SOME_LAG: Duration = Duration::from_millis(150);
/// Time between two such reports.
const REPORT_EVERY: Duration = Duration::from_millis(150);
/// For who falls behind by more than this nobody waits. What is on its way to it waits in the server's memory, so it leaves
/// unless that cannot be much.
const MOST_LAG: Duration = Duration::from_secs(1);
/// What the server may keep for one that is behind: half of what it keeps before it closes a connection.
const MOST_WAITING_BYTES: u64 = 32 << 20;
/// A group larger than this needs more than one try to agree on a leader; it still agrees.
const LARGEST_GROUP: f64 = 10_000.0;
/// Names kept at most, whoever invents more.
const MOST_NAMES: usize = 4096;
/// Times that listening may bring nothing.
const FRUITLESS: u32 = 2;

/// What a reader does at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// It waits for others to show themselves.
    Waiting,
    /// It reads for itself, until there are enough.
    Alone,
    /// It takes what another one asks for.
    Listening,
    /// What it asks for goes to all.
    Leading,
    /// It reads for itself until the end.
    Left,
}

/// A reader's part among the others.
#[derive(Debug)]
pub(super) struct Conduct {
    own: ReaderId,
    /// Readers that make it worthwhile, this one included.
    readers: usize,
    mode: Mode,
    others: BTreeSet<ReaderId>,
    shown: bool,
    /// When what it does ends unless something happens.
    until: Duration,
    /// Whether listening has brought something.
    fruitful: bool,
    fruitless: u32,
    lag: Option<Lag>,
}

/// How long the first chunk of what a leader asks for at a time takes, by its clock and ours: only the difference to the
/// quickest one means something.
#[derive(Debug)]
struct Lag {
    leader: ReaderId,
    /// What was asked for last.
    stamp: u64,
    least: i128,
    /// When it may be reported again.
    report_at: Duration,
}

impl Conduct {
    /// A reader that begins; `chance` is from 0 to 1.
    pub(super) fn new(own: ReaderId, readers: usize, chance: f64) -> Self {
        Self {
            own,
            readers,
            mode: Mode::Waiting,
            others: BTreeSet::new(),
            shown: false,
            until: SHOW_WITHIN.mul_f64(early(chance)),
            fruitful: false,
            fruitless: 0,
            lag: None,
        }
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// When [`Conduct::turn`] has something to do next.
    pub(super) fn wakes_at(&self) -> Duration {
        self.until
    }

    /// Does what the time has come for; says whether to show itself now.
    pub(super) fn turn(&mut self, now: Duration, chance: f64) -> bool {
        if now < self.until {
            return false;
        }
        self.until = Duration::MAX;
        match self.mode {
            Mode::Waiting if !self.shown => {
                self.until = now + UNHEARD;
                self.shown = true;
                return true;
            }
            Mode::Waiting if self.are_enough() => self.begin_together(now, chance),
            Mode::Waiting => self.mode = Mode::Alone,
            Mode::Listening if self.lag.is_none() => self.mode = Mode::Leading,
            Mode::Listening => self.give_up_listening(now, chance),
            Mode::Alone | Mode::Leading | Mode::Left => {}
        }
        false
    }

    /// A reader has shown itself.
    pub(super) fn present(&mut self, reader: ReaderId, now: Duration, chance: f64) {
        if reader == self.own {
            if self.mode == Mode::Waiting && self.shown {
                self.until = self.until.min(now + SETTLE);
            }
            return;
        }
        if self.others.len() < MOST_NAMES {
            self.others.insert(reader);
        }
        // Who has shown itself decides when all had time to.
        if self.are_enough() && (self.mode == Mode::Alone || self.mode == Mode::Waiting && !self.shown) {
            self.begin_together(now, chance);
        }
    }

    fn are_enough(&self) -> bool {
        self.others.len() + 1 >= self.readers
    }

    fn begin_together(&mut self, now: Duration, chance: f64) {
        if self.shown && self.others.first().is_none_or(|other| self.own < *other) {
            self.mode = Mode::Leading;
            self.until = Duration::MAX;
        } else {
            self.listen(now + TAKE_OVER + TAKE_OVER.mul_f64(early(chance)));
        }
    }

    /// A chunk that `leader` has asked for arrived; `new` where it was missing, `stamp` is that reader's clock in
    /// milliseconds, and so many bytes of the object stand behind it. Says how far behind the leader is to know that we are.
    pub(super) fn chunk(
        &mut self,
        leader: ReaderId,
        stamp: u64,
        new: bool,
        bytes_behind: u64,
        now: Duration,
    ) -> Option<Duration> {
        if leader == self.own || self.mode == Mode::Left {
            return None;
        }
        let lag = self.lag(leader, stamp, now);
        if lag > MOST_LAG && bytes_behind > MOST_WAITING_BYTES {
            self.leave();
            return None;
        }
        match self.mode {
            Mode::Waiting | Mode::Alone if new => self.listen(now + SILENCE),
            Mode::Leading if leader < self.own => self.listen(now + SILENCE),
            Mode::Listening if new => self.until = now + SILENCE,
            Mode::Waiting | Mode::Alone | Mode::Leading | Mode::Listening | Mode::Left => {}
        }
        self.fruitful |= new;
        let measured = self.lag.as_mut().filter(|lag| lag.report_at <= now)?;
        let reported = self.mode == Mode::Listening && (SOME_LAG..=MOST_LAG).contains(&lag);
        reported.then(|| measured.report_at = now + REPORT_EVERY).map(|()| lag)
    }

    /// Reads for itself from now on.
    pub(super) fn leave(&mut self) {
        self.mode = Mode::Left;
        self.until = Duration::MAX;
    }

    fn listen(&mut self, until: Duration) {
        self.mode = Mode::Listening;
        self.until = until;
        self.fruitful = false;
    }

    /// The leader is done, or gone: those that lack something find together anew.
    fn give_up_listening(&mut self, now: Duration, chance: f64) {
        self.fruitless = if self.fruitful { 0 } else { self.fruitless + 1 };
        if self.fruitless >= FRUITLESS {
            self.leave();
            return;
        }
        self.mode = Mode::Waiting;
        self.others.clear();
        self.shown = false;
        self.until = now + SHOW_WITHIN.mul_f64(early(chance));
        self.lag = None;
    }

    /// How far behind the quickest time this chunk's answer is; the first one of an answer says so for all of it.
    fn lag(&mut self, leader: ReaderId, stamp: u64, now: Duration) -> Duration {
        let took = i128::try_from(now.as_millis()).unwrap_or(i128::MAX) - i128::from(stamp);
        let lag = match &mut self.lag {
            // The others follow the first one as fast as the line is.
            Some(lag) if lag.leader == leader && lag.stamp == stamp => return Duration::ZERO,
            Some(lag) if lag.leader == leader => lag,
            Some(_) | None => self.lag.insert(Lag { leader, stamp, least: took, report_at: Duration::ZERO }),
        };
        lag.stamp = stamp;
        lag.least = lag.least.min(took);
        Duration::from_millis(u64::try_from(took - lag.least).unwrap_or(u64::MAX))
    }
}

/// A random part of a span, from 0 to 1, by RFC 5740 (section 3, truncated exponential): of many readers only a few are
/// early, so that the others hear of them before they act themselves.
fn early(chance: f64) -> f64 {
    let lambda = LARGEST_GROUP.ln() + 1.0;
    ((chance.clamp(0.0, 1.0) * lambda.exp_m1()).ln_1p() / lambda).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn reader(name: u64, readers: usize) -> Conduct {
        Conduct::new(ReaderId(name), readers, 0.5)
    }

    #[test]
    fn one_that_stays_alone_shows_itself_once_and_reads_then() {
        let mut conduct = reader(1, 3);
        assert_eq!(conduct.mode(), Mode::Waiting);
        assert!(conduct.wakes_at() <= SHOW_WITHIN && !conduct.turn(at(0), 0.5));
        assert!(conduct.turn(at(60), 0.5) && !conduct.turn(at(61), 0.5));
        conduct.present(ReaderId(1), at(70), 0.5);
        conduct.present(ReaderId(9), at(71), 0.5);
        assert!(!conduct.turn(at(169), 0.5) && conduct.mode() == Mode::Waiting);
        conduct.turn(at(170), 0.5);
        assert_eq!((conduct.mode(), conduct.wakes_at()), (Mode::Alone, Duration::MAX));
        conduct.present(ReaderId(0), at(3000), 0.5);
        assert_eq!(conduct.mode(), Mode::Listening, "late ones make it worthwhile too");
    }

    #[test]
    fn one_that_hears_nothing_at_all_reads_too() {
        let mut conduct = reader(1, 3);
        conduct.turn(at(60), 0.5);
        conduct.turn(at(1060), 0.5);
        assert_eq!(conduct.mode(), Mode::Alone);
    }

    #[test]
    fn the_smallest_name_leads_and_somebody_else_where_it_does_not() {
        let mut first = reader(2, 2);
        assert!(first.turn(at(60), 0.5));
        first.present(ReaderId(2), at(65), 0.5);
        first.present(ReaderId(3), at(70), 0.5);
        assert_eq!(first.mode(), Mode::Waiting, "a smaller one may still show itself");
        let mut yields = reader(2, 2);
        assert!(yields.turn(at(60), 0.5));
        yields.present(ReaderId(2), at(65), 0.5);
        yields.present(ReaderId(1), at(90), 0.5);
        assert!(!first.turn(at(165), 0.5) && !yields.turn(at(165), 0.5));
        assert_eq!((first.mode(), yields.mode()), (Mode::Leading, Mode::Listening));

        let mut second = reader(2, 2);
        second.present(ReaderId(1), at(10), 0.0);
        assert_eq!(second.mode(), Mode::Listening);
        assert!(!second.turn(at(1009), 0.5), "enough have shown themselves");
        second.turn(at(1010), 0.5);
        assert_eq!(second.mode(), Mode::Leading);
        second.chunk(ReaderId(3), 5, true, 0, at(1020));
        assert_eq!(second.mode(), Mode::Leading);
        second.chunk(ReaderId(1), 5, false, 0, at(1030));
        assert_eq!(second.mode(), Mode::Listening, "two lead, and one gives way");
    }

    #[test]
    fn a_leader_that_is_done_or_dead_is_left() {
        let mut conduct = reader(5, 9);
        conduct.chunk(ReaderId(7), 0, true, 0, at(50));
        assert_eq!(conduct.mode(), Mode::Listening);
        conduct.chunk(ReaderId(7), 200, true, 0, at(250));
        conduct.chunk(ReaderId(7), 400, false, 0, at(450));
        conduct.turn(at(1249), 0.5);
        assert_eq!(conduct.mode(), Mode::Listening);
        conduct.turn(at(1250), 0.5);
        assert_eq!(conduct.mode(), Mode::Waiting);
        assert!(conduct.turn(at(1310), 0.5), "it shows itself again");
    }

    #[test]
    fn one_that_is_held_up_with_nothing_reads_for_itself() {
        let mut conduct = reader(5, 2);
        let mut now = 0;
        for _ in 0..FRUITLESS {
            conduct.present(ReaderId(1), at(now), 0.0);
            conduct.chunk(ReaderId(1), now, false, 0, at(now + 50));
            conduct.turn(at(now + 2000), 0.5);
            now += 2000;
        }
        assert_eq!((conduct.mode(), conduct.wakes_at()), (Mode::Left, Duration::MAX));
    }

    #[test]
    fn one_that_falls_behind_says_so_and_leaves_where_much_could_wait_for_it() {
        let little = MOST_WAITING_BYTES;
        let mut conduct = reader(5, 2);
        // The leader's clock has nothing to do with ours.
        assert_eq!(conduct.chunk(ReaderId(1), 7_000_000, true, little, at(50)), None);
        assert_eq!(conduct.chunk(ReaderId(1), 7_000_100, true, little, at(450)), Some(at(300)));
        assert_eq!(conduct.chunk(ReaderId(1), 7_000_100, true, little, at(900)), None, "of the same answer");
        assert_eq!(conduct.chunk(ReaderId(1), 7_000_900, true, little, at(1200)), Some(at(250)));
        assert_eq!(conduct.chunk(ReaderId(1), 7_000_950, true, little, at(1300)), None, "just reported");
        assert_eq!(conduct.chunk(ReaderId(1), 7_001_000, true, little, at(2100)), None, "nobody is to wait for it");
        assert_eq!(conduct.mode(), Mode::Listening);
        conduct.chunk(ReaderId(1), 7_001_100, true, little + 1, at(2200));
        assert_eq!(conduct.mode(), Mode::Left);
        conduct.chunk(ReaderId(1), 7_001_300, true, 0, at(2202));
        assert_eq!(conduct.mode(), Mode::Left);
        // Another leader has another clock.
        let mut conduct = reader(5, 2);
        conduct.chunk(ReaderId(1), 0, true, little + 1, at(50));
        conduct.chunk(ReaderId(2), 9_000_000, true, little + 1, at(60));
        conduct.chunk(ReaderId(2), u64::MAX, true, little + 1, at(70));
        assert_eq!(conduct.mode(), Mode::Listening);
    }

    #[test]
    fn invented_names_are_forgotten() {
        let mut conduct = reader(5, usize::MAX);
        (0..10_000).for_each(|name| conduct.present(ReaderId(name), at(1), 0.5));
        assert_eq!(conduct.others.len(), MOST_NAMES);
    }

    #[test]
    fn of_a_thousand_only_a_few_are_early() {
        let parts: Vec<f64> = (0..1000).map(|number| early(f64::from(number) / 999.0)).collect();
        assert!(parts.is_sorted() && parts.iter().all(|part| (0.0..=1.0).contains(part)));
        assert!(parts[0] < 0.01 && parts[999] > 0.99);
        let early = parts.iter().filter(|part| **part < 0.5).count();
        assert!((1..20).contains(&early), "{early} in the first half");
    }
}
