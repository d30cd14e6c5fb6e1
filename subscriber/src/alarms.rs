//! What is wrong with a bundle or the whole node right now, one text for each subject, said once when it changes.

use std::collections::BTreeMap;

use shared::identifiers::BundleName;

/// What an alarm is about. Each subject has at most one alarm at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// The log cannot be read, or has no beginning yet.
    Log,
    /// The log answers with a state that is older than what was seen.
    Outdated,
    /// The log is not the one whose checkpoints this node has seen.
    Checkpoint,
    /// The desired state cannot be understood.
    Head,
    /// The desired state cannot be carried out.
    Desired,
    /// The local pin cannot be read or written.
    Pin,
    /// The node's own files cannot be written.
    Disk,
    /// Files of the running release were changed.
    Tamper,
    /// Another agent runs under this node's name.
    Rival,
    /// Events do not get through.
    Outbox,
    /// The log lacks events that it had confirmed.
    LostEvents,
    /// The server's clock and this machine's differ.
    Clock,
    /// Live messages do not arrive.
    Feed,
    /// The application could not be told of a switch.
    SwitchHook,
}

/// The alarms that are on.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    on: BTreeMap<Subject, String>,
    /// The bundle they are about; none for those of the whole node.
    bundle: Option<BundleName>,
}

impl Alarms {
    /// The alarms of one bundle.
    pub(crate) fn of(bundle: BundleName) -> Self {
        Self { bundle: Some(bundle), ..Self::default() }
    }

    /// Raises an alarm; logged where it says something new.
    pub(crate) fn raise(&mut self, subject: Subject, text: String) {
        if self.on.get(&subject) != Some(&text) {
            tracing::warn!(bundle = self.bundle(), alarm = ?subject, "{text}");
            self.on.insert(subject, text);
        }
    }

    /// Ends an alarm; logged where it was on.
    pub(crate) fn clear(&mut self, subject: Subject) {
        if let Some(text) = self.on.remove(&subject) {
            tracing::info!(bundle = self.bundle(), alarm = ?subject, "over: {text}");
        }
    }

    /// Raises the alarm with this text, or ends it.
    pub(crate) fn set(&mut self, subject: Subject, text: Option<String>) {
        match text {
            Some(text) => self.raise(subject, text),
            None => self.clear(subject),
        }
    }

    fn bundle(&self) -> Option<&str> {
        self.bundle.as_ref().map(BundleName::as_str)
    }

    /// Their texts, in a fixed order.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.on.values().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subject_has_one_alarm_until_it_is_over() {
        let mut alarms = Alarms::default();
        alarms.raise(Subject::Rival, "two agents".to_owned());
        alarms.raise(Subject::Log, "no log".to_owned());
        alarms.raise(Subject::Log, "no beginning".to_owned());
        assert_eq!(alarms.texts().collect::<Vec<_>>(), ["no beginning", "two agents"]);
        alarms.set(Subject::Log, None);
        alarms.clear(Subject::Disk);
        assert_eq!(alarms.texts().collect::<Vec<_>>(), ["two agents"]);
    }
}
