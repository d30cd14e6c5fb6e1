//! One entry of `--bundle`: `NAME[=DIRECTORY][,channel=NAME][,tag=TAG][,prefetch=on|off]`.

use std::path::PathBuf;

use shared::identifiers::{BundleName, ChannelName, Tag};

use super::super::ConfigFaults;
use super::super::values::{parsed, shown};
use super::UNPINNED;

/// What an entry says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: BundleName,
    pub(super) directory: Option<PathBuf>,
    pub(super) channel: Option<ChannelName>,
    pub(super) tag: Option<Tag>,
    pub(super) prefetch: Option<bool>,
}

impl Entry {
    /// Reads an entry; every fault is named with the option.
    pub(super) fn parse(text: &str, option: &str, faults: &mut ConfigFaults) -> Option<Self> {
        let mut parts = text.split(',').map(str::trim);
        let (name, directory) = match parts.next().unwrap_or_default().split_once('=') {
            Some((name, directory)) => (name.trim(), Some(directory.trim())),
            None => (text.split(',').next().unwrap_or_default().trim(), None),
        };
        let mut wrong = false;
        if directory == Some("") {
            faults.add(option, &format!("`{}` names no directory behind `=`", shown(text)));
            wrong = true;
        }
        let name: Option<BundleName> = parsed(name, option, faults);
        let (mut channel, mut tag, mut prefetch) = (None, None, None);
        for part in parts {
            match part.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
                Some(("channel", value)) if channel.is_none() => channel = Some(parsed(value, option, faults)),
                // As in `DEMON_CONTRACTS_TAG`.
                Some(("tag", UNPINNED)) if tag.is_none() => {}
                Some(("tag", value)) if tag.is_none() => tag = Some(parsed(value, option, faults)),
                Some(("prefetch", "on" | "true" | "yes" | "1")) if prefetch.is_none() => prefetch = Some(true),
                Some(("prefetch", "off" | "false" | "no" | "0")) if prefetch.is_none() => prefetch = Some(false),
                _ => {
                    let fault = format!(
                        "`{}` in `{}` is none of `channel=NAME`, `tag=TAG` and `prefetch=on|off`, once each",
                        shown(part),
                        shown(text)
                    );
                    faults.add(option, &fault);
                    wrong = true;
                }
            }
        }
        if channel.is_some() && tag.is_some() {
            faults.add(option, &format!("`{}` names a channel and a tag: which of them is followed?", shown(text)));
            wrong = true;
        }
        // `Some(None)` is a fault that is told already.
        let (channel, tag) =
            (channel.map_or(Some(None), |found| found.map(Some)), tag.map_or(Some(None), |found| found.map(Some)));
        let directory = directory.map(PathBuf::from);
        let entry = Self { name: name?, directory, channel: channel?, tag: tag?, prefetch };
        (!wrong).then_some(entry)
    }
}
