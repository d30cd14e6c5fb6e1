//! Options about reading large releases together with other nodes.

use clap::Args;
use serde::Serialize;
use streams::release_store::MulticastSettings;

use super::ConfigFaults;
use super::values::parsed;

const MOST_READERS: usize = 10_000;

/// Options about reading large releases together with other nodes.
#[derive(Debug, Clone, Args)]
pub struct MulticastArguments {
    /// Archives of at least so many bytes, 4194304 for one, are read together with other nodes that read them at the same
    /// time: the server reads each part once and sends it to all. 0: never, since where server and nodes share a machine it was
    /// slower than each for itself; measure it where you are (`bench multicast`)
    #[arg(long, env = "DEMON_MULTICAST_FROM", value_name = "BYTES", default_value = "0")]
    pub multicast_from: String,

    /// As soon as so many nodes read one archive, this one included: 2 to 10000. Without effect where `--multicast-from` is 0
    #[arg(long, env = "DEMON_MULTICAST_READERS", value_name = "NUMBER", default_value = "16")]
    pub multicast_readers: String,
}

/// Settings about reading large releases together with other nodes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MulticastConfig {
    /// Smallest archive, in bytes; 0: none.
    pub from: u64,
    /// Fewest readers.
    pub readers: usize,
}

impl MulticastConfig {
    pub(crate) fn settings(self) -> MulticastSettings {
        MulticastSettings { from_bytes: (self.from > 0).then_some(self.from), readers: self.readers }
    }
}

impl MulticastArguments {
    pub(super) fn check(&self, faults: &mut ConfigFaults) -> Option<MulticastConfig> {
        let from = parsed(&self.multicast_from, "--multicast-from (DEMON_MULTICAST_FROM)", faults);
        let option = "--multicast-readers (DEMON_MULTICAST_READERS)";
        let readers: Option<usize> = parsed(&self.multicast_readers, option, faults);
        let readers = readers.filter(|readers| {
            let possible = (2..=MOST_READERS).contains(readers);
            if !possible {
                faults.add(option, &format!("`{readers}` is not between 2 and {MOST_READERS}"));
            }
            possible
        });
        Some(MulticastConfig { from: from?, readers: readers? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: &str, readers: &str) -> Result<MulticastSettings, String> {
        let arguments = MulticastArguments { multicast_from: from.to_owned(), multicast_readers: readers.to_owned() };
        let mut faults = ConfigFaults::default();
        let config = arguments.check(&mut faults);
        config.map(MulticastConfig::settings).ok_or_else(|| faults.to_string())
    }

    #[test]
    fn it_can_be_switched_off_and_what_makes_no_sense_is_named() {
        assert_eq!(check("1", "2"), Ok(MulticastSettings { from_bytes: Some(1), readers: 2 }));
        assert_eq!(check("0", "16"), Ok(MulticastSettings { from_bytes: None, readers: 16 }));
        for (from, readers, option) in [
            ("-1", "2", "DEMON_MULTICAST_FROM"),
            ("1 MiB", "2", "DEMON_MULTICAST_FROM"),
            ("1", "1", "DEMON_MULTICAST_READERS"),
            ("1", "10001", "DEMON_MULTICAST_READERS"),
            ("1", "few", "DEMON_MULTICAST_READERS"),
        ] {
            let fault = check(from, readers).unwrap_err();
            assert!(fault.contains(option), "{fault}");
        }
    }
}
