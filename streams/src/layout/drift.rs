//! Comparing a stream that exists with its declaration: which promise is broken, and by what.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, PersistenceMode};
use serde::Serialize;
use serde_json::Value;

use super::Declaration;

/// One field of an existing stream that breaks what was declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// The field, by its name on the wire.
    pub field: &'static str,
    /// What was declared.
    pub declared: String,
    /// What is.
    pub actual: String,
}

impl fmt::Display for Drift {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "`{}` is declared `{}` but is `{}`", self.field, self.declared, self.actual)
    }
}

/// A promise that not every stream makes. Those that all make are compared always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Stored messages are republished as declared.
    Republish,
    /// Messages can be neither deleted nor purged.
    Deny,
    /// No message may remove earlier ones.
    NoRollup,
    /// A message may replace earlier ones of its subject.
    Rollup,
    /// No message may carry an end date.
    NoExpiry,
    /// A message may carry an end date.
    MessageTtl,
    /// Only the last message of a subject is kept.
    OneMessagePerSubject,
    /// The same message is recognised for at least this long.
    DuplicateWindowAtLeast(Duration),
    /// Messages of at least this size are taken.
    MessageSizeAtLeast(i32),
}

struct Comparison {
    found: Vec<Drift>,
}

impl Comparison {
    fn same<T: PartialEq + Serialize>(&mut self, field: &'static str, declared: &T, actual: &T) {
        self.hold(declared == actual, field, as_on_the_wire(declared), as_on_the_wire(actual));
    }

    fn hold(&mut self, holds: bool, field: &'static str, declared: String, actual: String) {
        if !holds {
            self.found.push(Drift { field, declared, actual });
        }
    }
}

/// The value as operators see it in `nats stream info --json`.
fn as_on_the_wire(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        Ok(value) => value.to_string(),
        // Plain fields always serialise.
        Err(_) => String::new(),
    }
}

/// Every broken promise; empty where the stream can be used.
pub(crate) fn compare(declaration: &Declaration, actual: &Config) -> Vec<Drift> {
    let declared = &declaration.config;
    let mut comparison = Comparison { found: Vec::new() };
    let sorted = |subjects: &[String]| {
        let mut subjects = subjects.to_vec();
        subjects.sort_unstable();
        subjects
    };
    comparison.same("subjects", &sorted(&declared.subjects), &sorted(&actual.subjects));
    comparison.same("retention", &declared.retention, &actual.retention);
    comparison.same("storage", &declared.storage, &actual.storage);
    comparison.same("discard", &declared.discard, &actual.discard);
    comparison.same("max_age", &declared.max_age.as_nanos(), &actual.max_age.as_nanos());
    comparison.same("allow_direct", &declared.allow_direct, &actual.allow_direct);
    comparison.same("sealed", &declared.sealed, &actual.sealed);
    comparison.same("no_ack", &declared.no_ack, &actual.no_ack);
    comparison.same("mirror", &false, &actual.mirror.is_some());
    comparison.same("subject_transform", &false, &actual.subject_transform.is_some());
    // Acknowledged before written is not stored.
    let asynchronous = actual.persist_mode == Some(PersistenceMode::Async);
    comparison.same("persist_mode", &"default", &if asynchronous { "async" } else { "default" });
    if !declaration.promises.contains(&Promise::OneMessagePerSubject) {
        // A limit here would forget history instead of refusing what is new.
        comparison.hold(
            actual.max_messages_per_subject <= 0,
            "max_msgs_per_subject",
            "unlimited".to_owned(),
            actual.max_messages_per_subject.to_string(),
        );
    }
    for promise in &declaration.promises {
        compare_promise(*promise, declared, actual, &mut comparison);
    }
    comparison.found
}

fn compare_promise(promise: Promise, declared: &Config, actual: &Config, comparison: &mut Comparison) {
    match promise {
        Promise::Republish => {
            let route = |config: &Config| {
                let republish = config.republish.as_ref();
                republish.map_or_else(|| "none".to_owned(), |to| format!("{} -> {}", to.source, to.destination))
            };
            comparison.same("republish", &route(declared), &route(actual));
        }
        Promise::Deny => {
            comparison.same("deny_delete", &true, &actual.deny_delete);
            comparison.same("deny_purge", &true, &actual.deny_purge);
        }
        Promise::NoRollup => comparison.same("allow_rollup_hdrs", &false, &actual.allow_rollup),
        Promise::Rollup => comparison.same("allow_rollup_hdrs", &true, &actual.allow_rollup),
        Promise::NoExpiry => comparison.same("allow_msg_ttl", &false, &actual.allow_message_ttl),
        Promise::MessageTtl => comparison.same("allow_msg_ttl", &true, &actual.allow_message_ttl),
        Promise::OneMessagePerSubject => {
            comparison.same("max_msgs_per_subject", &1, &actual.max_messages_per_subject);
        }
        Promise::DuplicateWindowAtLeast(least) => comparison.hold(
            actual.duplicate_window >= least,
            "duplicate_window",
            format!("at least {} s", least.as_secs()),
            format!("{} s", actual.duplicate_window.as_secs()),
        ),
        Promise::MessageSizeAtLeast(least) => comparison.hold(
            actual.max_message_size <= 0 || actual.max_message_size >= least,
            "max_msg_size",
            format!("at least {least}"),
            actual.max_message_size.to_string(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::stream::StorageType;

    use super::super::{Layout, LayoutLimits};
    use super::*;

    fn events() -> Declaration {
        Layout::declared(LayoutLimits::default()).streams.remove(0)
    }

    #[test]
    fn what_operators_own_may_differ() {
        let declaration = events();
        let mut actual = declaration.config.clone();
        actual.max_bytes = 5;
        actual.max_consumers = 7;
        actual.num_replicas = 3;
        actual.description = None;
        actual.compression = None;
        actual.max_message_size = -1;
        actual.metadata.insert("_nats.level".to_owned(), "2".to_owned());
        assert_eq!(compare(&declaration, &actual), []);
    }

    #[test]
    fn each_broken_promise_is_named_with_both_sides() {
        let declaration = events();
        let break_one = |change: fn(&mut Config)| {
            let mut actual = declaration.config.clone();
            change(&mut actual);
            compare(&declaration, &actual).into_iter().map(|drift| drift.field).collect::<Vec<_>>()
        };
        assert_eq!(break_one(|config| config.subjects.push("other.>".to_owned())), ["subjects"]);
        assert_eq!(break_one(|config| config.max_age = Duration::from_secs(1)), ["max_age"]);
        assert_eq!(break_one(|config| config.deny_purge = false), ["deny_purge"]);
        assert_eq!(break_one(|config| config.republish = None), ["republish"]);
        assert_eq!(break_one(|config| config.allow_direct = false), ["allow_direct"]);
        assert_eq!(break_one(|config| config.allow_message_ttl = true), ["allow_msg_ttl"]);
        assert_eq!(break_one(|config| config.max_messages_per_subject = 1), ["max_msgs_per_subject"]);
        assert_eq!(break_one(|config| config.duplicate_window = Duration::from_mins(2)), ["duplicate_window"]);
        assert_eq!(break_one(|config| config.max_message_size = 1024), ["max_msg_size"]);
        assert_eq!(break_one(|config| config.persist_mode = Some(PersistenceMode::Async)), ["persist_mode"]);

        let mut actual = declaration.config.clone();
        actual.deny_delete = false;
        actual.storage = StorageType::Memory;
        let shown: Vec<String> = compare(&declaration, &actual).iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["`storage` is declared `file` but is `memory`", "`deny_delete` is declared `true` but is `false`"]
        );
    }
}
