//! What is to be said of the facts.

use serde::Serialize;

use super::{ClockSkew, DurabilityFacts, OLDEST_SERVER, StreamFacts, SyncPolicy};

/// A stream this full is reported: there is time left to make room.
const NEARLY_FULL: f64 = 0.8;
/// Clocks that differ by more than this, in milliseconds, are reported.
const MOST_SKEW: i64 = 5_000;

/// What a warning is about; its text form is the label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningKind {
    /// The server is older than what we need.
    ServerVersion,
    /// The server acknowledges before it flushes.
    SyncInterval,
    /// How it flushes is not known.
    SyncUnknown,
    /// One copy only on a cluster.
    SingleReplica,
    /// A stream takes no more soon.
    NearlyFull,
    /// The clocks differ.
    ClockSkew,
}

impl WarningKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::ServerVersion,
        Self::SyncInterval,
        Self::SyncUnknown,
        Self::SingleReplica,
        Self::NearlyFull,
        Self::ClockSkew,
    ];

    /// The kind's text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServerVersion => "server_version",
            Self::SyncInterval => "sync_interval",
            Self::SyncUnknown => "sync_unknown",
            Self::SingleReplica => "single_replica",
            Self::NearlyFull => "nearly_full",
            Self::ClockSkew => "clock_skew",
        }
    }

    /// Whether a process that must have durability does not start with it. What is not known counts as not there.
    pub fn refuses(self) -> bool {
        matches!(self, Self::ServerVersion | Self::SyncInterval | Self::SyncUnknown | Self::SingleReplica)
    }
}

/// One warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DurabilityWarning {
    /// What it is about.
    pub kind: WarningKind,
    /// What is wrong and what to do, in one line.
    pub text: String,
}

/// What is wrong, the worst first.
pub fn judge(facts: &DurabilityFacts) -> Vec<DurabilityWarning> {
    let mut warnings = Vec::new();
    let mut say = |kind, text| warnings.push(DurabilityWarning { kind, text });
    if let Some(text) = too_old(&facts.server_version) {
        say(WarningKind::ServerVersion, text);
    }
    match &facts.sync {
        SyncPolicy::Always => {}
        SyncPolicy::Later { seconds } => say(
            WarningKind::SyncInterval,
            format!(
                "nats-server `{}` flushes what it has acknowledged only every {seconds} s: a crash of the machine loses \
                 events; set `sync_interval: always` in its `jetstream` block",
                facts.server_name
            ),
        ),
        SyncPolicy::Unknown { why } => say(
            WarningKind::SyncUnknown,
            format!("whether nats-server flushes before it acknowledges is not known: {why}"),
        ),
    }
    for stream in &facts.streams {
        let StreamFacts { stream: name, replicas, clustered, .. } = stream;
        if *clustered && *replicas < 2 {
            say(
                WarningKind::SingleReplica,
                format!(
                    "stream `{name}` has one copy on a cluster: the loss of one disk loses it; `nats stream edit {name} \
                     --replicas 3`"
                ),
            );
        }
    }
    for stream in &facts.streams {
        if let (Some(ratio), Some(most)) = (stream.fill_ratio().filter(|ratio| *ratio >= NEARLY_FULL), stream.max_bytes)
        {
            let StreamFacts { stream: name, bytes, .. } = stream;
            say(
                WarningKind::NearlyFull,
                format!(
                    "stream `{name}` is {:.0} % full ({bytes} of {most} bytes) and refuses everything once it is full; \
                     `nats stream edit {name} --max-bytes …`",
                    ratio * 100.0
                ),
            );
        }
    }
    if let Some(text) = facts.clock.and_then(clock_warning) {
        say(WarningKind::ClockSkew, text);
    }
    warnings
}

/// What is to be said of clocks that differ by more than five seconds, beyond what the measurement may be off by.
pub fn clock_warning(clock: ClockSkew) -> Option<String> {
    let (side, difference) = if clock.milliseconds > 0 {
        ("ahead of", clock.milliseconds)
    } else {
        ("behind", clock.milliseconds.saturating_neg())
    };
    (difference.saturating_sub(clock.uncertainty) > MOST_SKEW)
        .then(|| format!("the server's clock is {difference} ms {side} this machine's: set both by NTP"))
}

/// Why a server of this version cannot be used; a version that cannot be read is let pass.
pub fn too_old(version: &str) -> Option<String> {
    let mut numbers = version.trim_start_matches('v').split(['.', '-']).map(str::parse::<u64>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { return None };
    let (oldest_major, oldest_minor) = OLDEST_SERVER;
    ((major, minor) < OLDEST_SERVER)
        .then(|| format!("nats-server {version} is too old: {oldest_major}.{oldest_minor} or newer is needed"))
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::*;

    fn good() -> DurabilityFacts {
        let stream = |name: &str| StreamFacts {
            stream: name.to_owned(),
            replicas: 3,
            clustered: true,
            bytes: 10,
            max_bytes: Some(100),
        };
        DurabilityFacts {
            server_version: "2.15.1".to_owned(),
            server_name: "n1".to_owned(),
            sync: SyncPolicy::Always,
            streams: vec![stream("BUNDLE_EVENTS"), stream("OBJ_BUNDLES")],
            clock: Some(ClockSkew { milliseconds: 40, uncertainty: 30 }),
        }
    }

    fn kinds(facts: &DurabilityFacts) -> Vec<WarningKind> {
        judge(facts).into_iter().map(|warning| warning.kind).collect()
    }

    #[test]
    fn a_durable_server_has_no_warning() {
        assert_eq!(judge(&good()), []);
    }

    #[test]
    fn a_server_that_flushes_later_or_does_not_say_is_named() {
        let mut facts = good();
        facts.sync = SyncPolicy::Later { seconds: 120 };
        assert!(judge(&facts)[0].text.contains("`n1` flushes what it has acknowledged only every 120 s"));
        facts.sync = SyncPolicy::Unknown { why: "nobody was asked".to_owned() };
        assert_eq!(kinds(&facts), [WarningKind::SyncUnknown]);
        assert!(WarningKind::SyncUnknown.refuses() && !WarningKind::NearlyFull.refuses());
    }

    #[test]
    fn one_copy_is_too_few_on_a_cluster_only() {
        let mut facts = good();
        facts.streams[0].replicas = 1;
        assert_eq!(kinds(&facts), [WarningKind::SingleReplica]);
        facts.streams[0].clustered = false;
        assert_eq!(kinds(&facts), []);
    }

    #[test]
    fn a_stream_is_reported_before_it_is_full() {
        let mut facts = good();
        facts.streams[1].bytes = 79;
        assert_eq!(kinds(&facts), []);
        facts.streams[1].bytes = 80;
        assert!(judge(&facts)[0].text.contains("`OBJ_BUNDLES` is 80 % full (80 of 100 bytes)"));
        facts.streams[1].max_bytes = None;
        assert_eq!(kinds(&facts), []);
    }

    #[test]
    fn clocks_are_compared_as_well_as_the_answer_allows() {
        let time = |milliseconds| DateTime::UNIX_EPOCH + TimeDelta::milliseconds(milliseconds);
        let skew = ClockSkew::measured(time(0), time(7_000), time(2_000));
        assert_eq!(skew, ClockSkew { milliseconds: 6_000, uncertainty: 1_000 });
        let mut facts = good();
        facts.clock = Some(skew);
        assert_eq!(kinds(&facts), []);
        facts.clock = Some(ClockSkew { milliseconds: -6_001, uncertainty: 1_000 });
        assert!(judge(&facts)[0].text.contains("6001 ms behind"));
    }

    #[test]
    fn a_server_is_refused_by_its_version() {
        for old in ["2.10.29", "1.9.0", "v2.10.0-beta.1"] {
            assert!(too_old(old).is_some_and(|text| text.contains(old) && text.contains("2.11")), "{old}");
        }
        for usable in ["2.11.0", "2.15.1", "3.0.0-dev", "", "custom"] {
            assert_eq!(too_old(usable), None, "{usable}");
        }
    }
}
