//! A node whose agent is killed again and again, and what must be true after each time.
//!
//! After every kill: `current` leads to one whole release, the one from before or one that was desired since. After every
//! start that is left alone: the desired release runs, and everything the node recorded is in the log.

mod preparation;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use streams::event_log::EventLog;
use streams::release_store::ReleaseStore;
use subscriber::reader::CurrentRelease;
use tokio::time::{Instant, sleep};

pub use self::preparation::Preparation;
use crate::agent::{AgentDirectories, active_tag};
use crate::audit_trail::AuditTrail;
use crate::hammering_readers::{HammeringReaders, read_all, read_plainly, read_with_library};
use crate::handmade_release::{HandmadeRelease, contracts_files};
use crate::process::Process;
use crate::waiting::{PATIENCE, eventually};
use crate::world::World;

/// Between two looks at a process and its files.
const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// How a wait for an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It killed itself where it was told to.
    Killed,
    /// It has done all there was to do, and lives.
    Settled,
}

/// One node, its agent's process while that lives, and what was promised about it.
#[derive(Debug)]
pub struct CrashingNode<'a> {
    world: &'a World,
    name: String,
    bundle: String,
    directories: AgentDirectories,
    store: ReleaseStore,
    log: EventLog,
    agent: Option<Process>,
    readers: HammeringReaders,
    /// A release that a reader holds open over several switches.
    held: Option<CurrentRelease>,
    published: u64,
    /// What should run in the end.
    desired: String,
    /// Where the channel points.
    head: String,
    /// What may be current now.
    allowed: BTreeSet<String>,
    /// Ids of events that were durable in the outbox when the agent was killed.
    recorded: BTreeSet<String>,
    memories_destroyed: usize,
    entries_spoiled: usize,
    kills: u64,
}

impl<'a> CrashingNode<'a> {
    /// A node with a bundle of its own, which nothing runs on yet.
    pub async fn new(world: &'a World, name: &str) -> Self {
        let directories = AgentDirectories::below(world.directory(), name);
        Self {
            world,
            name: name.to_owned(),
            bundle: format!("bundle-of-{name}"),
            store: ReleaseStore::new(world.operator().await),
            log: world.log().await,
            agent: None,
            readers: HammeringReaders::start(&directories.cache),
            held: None,
            directories,
            published: 0,
            desired: String::new(),
            head: String::new(),
            allowed: BTreeSet::new(),
            recorded: BTreeSet::new(),
            memories_destroyed: 0,
            entries_spoiled: 0,
            kills: 0,
        }
    }

    /// How often its agent was killed.
    pub fn kills(&self) -> u64 {
        self.kills
    }

    /// How many whole releases its readers read.
    pub fn reads(&self) -> u64 {
        self.readers.reads()
    }

    /// Publishes a new contracts release, and moves the channel to it.
    pub async fn publish(&mut self) {
        let tag = self.next_tag();
        self.publish_files(&tag, &contracts_files(&tag)).await;
    }

    fn next_tag(&mut self) -> String {
        self.published += 1;
        format!("{}-r{}", self.name, self.published)
    }

    async fn publish_files(&mut self, tag: &str, files: &[(&str, Vec<u8>)]) {
        let release = HandmadeRelease::stored(&self.store, &self.bundle, tag, files).await;
        // From the moment of the promotion on it may become current.
        tag.clone_into(&mut self.desired);
        tag.clone_into(&mut self.head);
        self.allowed.insert(tag.to_owned());
        release.announced(&self.log).await;
    }

    /// Starts the agent; `crash_at` is where it is to kill itself.
    pub fn start(&mut self, crash_at: Option<&str>) {
        let mut command = self.world.agent_command(&self.name);
        command.args(["--bundle", &self.bundle]);
        command.arg("--cache").arg(&self.directories.cache).arg("--state-dir").arg(&self.directories.state);
        // Old releases go as soon as they may, and what fails is tried again at once.
        command.env("DEMON_KEEP_RELEASES", "1").env("DEMON_RETRY_FIRST", "20ms");
        if let Some(place) = crash_at {
            command.env("DEMON_CRASH_AT", place);
        }
        self.agent = Some(Process::start(&self.name, command, self.world.directory()));
    }

    /// Kills the agent, and looks at what it left.
    pub fn kill(&mut self) {
        self.agent.as_mut().expect("the agent was started").kill();
        self.look_after_kill();
    }

    /// Waits until the agent has killed itself, or has done all there was to do.
    ///
    /// # Panics
    /// Where neither happens, or it ends in another way.
    pub async fn killed_or_settled(&mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let agent = self.agent.as_mut().expect("the agent was started");
            if !agent.runs() {
                let status = agent.ended(PATIENCE).await;
                assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "the agent ended with {status}");
                self.look_after_kill();
                return Ended::Killed;
            }
            let Some(reason) = self.unsettled() else { return Ended::Settled };
            assert!(Instant::now() < deadline, "`{}` does not get done in {PATIENCE:?}: {reason}", self.name);
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until the agent has killed itself at the place it was told, and looks at what it left.
    ///
    /// # Panics
    /// Where it never comes there.
    pub async fn killed_at(&mut self, place: &str) {
        let agent = self.agent.as_mut().expect("the agent was started");
        let what = format!("`{}` to kill itself at `{place}`", self.name);
        let status = eventually(&what, PATIENCE, async || {
            if agent.runs() { Err("it lives".to_owned()) } else { Ok(agent.ended(PATIENCE).await) }
        });
        let status = status.await;
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "the agent ended with {status}");
        self.look_after_kill();
    }

    /// Starts the agent, waits until it has done all there was to do, and kills it. Returns how long it took.
    pub async fn settle(&mut self) -> Duration {
        let begun = Instant::now();
        self.start(None);
        assert_eq!(self.killed_or_settled().await, Ended::Settled, "nobody told it to crash");
        let took = begun.elapsed();
        self.kill();
        assert_eq!(active_tag(&self.directories.cache).as_deref(), Some(self.desired.as_str()));
        self.allowed = BTreeSet::from([self.desired.clone()]);
        self.readers.assert_faultless();
        // Its log is of interest until here.
        let _ = fs::remove_file(self.world.directory().join(format!("{}.log", self.name)));
        took
    }

    /// A reader opens the current release and reads on in it later, whatever happens meanwhile.
    pub fn hold_current(&mut self) {
        self.held = CurrentRelease::open(&self.directories.cache).ok();
    }

    /// The reader that holds a release reads all of it.
    ///
    /// # Panics
    /// Where a file of it is gone or changed.
    pub fn read_held(&mut self) {
        if let Some(held) = self.held.take() {
            read_all(&held).unwrap_or_else(|fault| panic!("a release was taken from its reader: {fault}"));
        }
    }

    /// What must be true of the log in the end.
    ///
    /// # Panics
    /// Where an event that was durable is missing, a switch is missing or doubled, or the fold says another release.
    pub fn assert_told(&self, trail: &AuditTrail) {
        let lost: Vec<&String> = self.recorded.iter().filter(|id| !trail.contains(id)).collect();
        assert!(lost.is_empty(), "`{}` recorded events that never came: {lost:?}", self.name);
        assert!(trail.assert_each_switch_once(&self.name, self.memories_destroyed) > 0, "`{}` did nothing", self.name);
        assert_eq!(trail.running(&self.name, &self.bundle).as_deref(), Some(self.desired.as_str()));
        let set_aside = files_in(&self.outbox().join("set-aside"));
        assert_eq!(set_aside.len(), self.entries_spoiled, "{set_aside:?}");
    }

    fn look_after_kill(&mut self) {
        self.kills += 1;
        for read in [read_with_library, read_plainly] {
            match read(&self.directories.cache) {
                Ok(Some(tag)) => assert!(self.allowed.contains(&tag), "{tag} is current, allowed: {:?}", self.allowed),
                Ok(None) => assert!(!self.readers.saw_one(), "after a kill of `{}` nothing is current", self.name),
                Err(fault) => panic!("after a kill of `{}`: {fault}", self.name),
            }
        }
        self.readers.assert_faultless();
        self.recorded.extend(self.waiting());
    }

    /// What there still is to do; `None` where the agent may rest. In this order: what is recorded while this looks is
    /// not missed.
    fn unsettled(&self) -> Option<String> {
        let active = active_tag(&self.directories.cache);
        if active.as_deref() != Some(self.desired.as_str()) {
            return Some(format!("{active:?} is current instead of {}", self.desired));
        }
        let Some(state) = json_file(&self.directories.state.join(format!("state.{}.json", self.bundle))) else {
            return Some("it has no memory yet".to_owned());
        };
        if state["active"]["id"]["tag"] != self.desired.as_str() {
            return Some(format!("it remembers {}", state["active"]["id"]["tag"]));
        }
        if state["unreported_switches"].as_array().is_none_or(|waiting| !waiting.is_empty()) {
            return Some("a switch is not recorded".to_owned());
        }
        let waiting = self.waiting();
        if !waiting.is_empty() || !files_in(&self.outbox().join("waiting")).is_empty() {
            return Some(format!("events wait: {waiting:?}"));
        }
        let writer = json_file(&self.outbox().join("writer.json"))?;
        (!writer["in_flight"].is_null()).then(|| "an event is under way".to_owned())
    }

    /// Ids of the events that wait in the outbox. Nobody was told that one is durable whose line is not whole.
    fn waiting(&self) -> BTreeSet<String> {
        let text = fs::read_to_string(self.outbox().join("waiting.jsonl")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut waiting = BTreeSet::new();
        for line in whole.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if let Some(gone) = line["gone"].as_str() {
                waiting.remove(gone);
            } else if let Some(id) = line["id"].as_str() {
                waiting.insert(id.to_owned());
            }
        }
        waiting
    }

    fn outbox(&self) -> PathBuf {
        self.directories.state.join("outbox")
    }
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn json_file(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
