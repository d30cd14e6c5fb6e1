//! Between which promotions to search.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use serde::{Serialize, Serializer};
use shared::identifiers::{IdentifierError, Tag};

/// A promotion as the user names it. A number is a stream sequence first, and a tag where no promotion has that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    sequence: Option<u64>,
    tag: Tag,
}

impl FromStr for Place {
    type Err = IdentifierError;

    fn from_str(text: &str) -> Result<Self, IdentifierError> {
        Ok(Self { sequence: text.parse().ok(), tag: text.parse()? })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tag.fmt(formatter)
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The two ends among a channel's promotions, oldest first: the last bad one that fits, and the last good one before it.
pub(super) fn range(promotions: &[(u64, Tag)], good: &Place, bad: &Place) -> anyhow::Result<(usize, usize)> {
    let last = find(promotions, bad).with_context(|| missing(bad, "--bad"))?;
    if let Some(first) = find(&promotions[..last], good) {
        return Ok((first, last));
    }
    match find(promotions, good) {
        Some(_) => bail!("no promotion to `{good}` lies before the bad one, event {}", promotions[last].0),
        None => bail!(missing(good, "--good")),
    }
}

fn missing(place: &Place, option: &str) -> String {
    format!("the channel never moved to `{place}` ({option}); `demonctl channel history` shows where it did")
}

fn find(promotions: &[(u64, Tag)], place: &Place) -> Option<usize> {
    let by_sequence = promotions.iter().position(|(sequence, _)| Some(*sequence) == place.sequence);
    by_sequence.or_else(|| promotions.iter().rposition(|(_, tag)| *tag == place.tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(good: &str, bad: &str) -> Result<(usize, usize), String> {
        let promotions: Vec<(u64, Tag)> = [(2, "v1"), (5, "v2"), (9, "v1"), (12, "v3"), (14, "20250921")]
            .map(|(sequence, tag)| (sequence, tag.parse().unwrap()))
            .into();
        range(&promotions, &good.parse().unwrap(), &bad.parse().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn tags_and_sequences_name_promotions() {
        assert_eq!(found("v1", "v3"), Ok((2, 3)));
        assert_eq!(found("2", "v3"), Ok((0, 3)));
        assert_eq!(found("v1", "v2"), Ok((0, 1)), "the good one before the bad one");
        assert_eq!(found("v1", "20250921"), Ok((2, 4)), "a tag of digits");
        assert!(found("v3", "v2").unwrap_err().contains("lies before"));
        assert!(found("v9", "v2").unwrap_err().contains("--good"));
        assert!(found("v1", "v9").unwrap_err().contains("--bad"));
    }
}
