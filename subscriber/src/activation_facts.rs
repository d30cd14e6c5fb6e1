//! Which switch a question is about, in the forms that checks and hooks get it, and whether an answer is about the same.

use serde::Deserialize;
use shared::digest::Sha256Digest;
use shared::identifiers::{BundleName, Tag};

/// Variables of a command.
const VARIABLES: [&str; 4] = ["DEMON_BUNDLE", "DEMON_TAG", "DEMON_TREE_DIGEST", "DEMON_ACTIVATION_EPOCH"];
/// Header lines of a request, and of an answer that says what it is about.
const HEADERS: [&str; 4] = ["x-demon-bundle", "x-demon-tag", "x-demon-tree-digest", "x-demon-activation-epoch"];
/// The most that is read of an answer's words about its release.
const LARGEST_ANSWER: usize = 16 << 10;

/// One switch: a release and the number of the switch that made it current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActivationFacts {
    /// The bundle.
    pub bundle: BundleName,
    /// The release's tag.
    pub tag: Tag,
    /// The release's identity.
    pub tree_digest: Sha256Digest,
    /// Number of the switch, one higher with each.
    pub activation_epoch: u64,
}

/// What an application may say in the body of its answer; other members are its own affair.
#[derive(Debug, Deserialize)]
struct Answer {
    tree_digest: Option<String>,
    activation_epoch: Option<u64>,
}

impl ActivationFacts {
    fn values(&self) -> [String; 4] {
        let (bundle, tag) = (self.bundle.to_string(), self.tag.to_string());
        [bundle, tag, self.tree_digest.to_string(), self.activation_epoch.to_string()]
    }

    /// As environment variables.
    pub(crate) fn variables(&self) -> [(&'static str, String); 4] {
        let mut values = self.values().into_iter();
        VARIABLES.map(|name| (name, values.next().unwrap_or_default()))
    }

    /// As header lines.
    pub(crate) fn headers(&self) -> [(&'static str, String); 4] {
        let mut values = self.values().into_iter();
        HEADERS.map(|name| (name, values.next().unwrap_or_default()))
    }

    /// What an answer says that contradicts these facts: it is about another release, or an earlier switch. An answer that
    /// says nothing about it is not asked to.
    pub(crate) fn contradiction<'a>(
        &self,
        header: impl Fn(&'static str) -> Option<&'a str>,
        body: &[u8],
    ) -> Option<String> {
        let expected = self.headers();
        let in_headers = expected.iter().find_map(|(name, expected)| {
            let said = header(name).map(str::trim).filter(|said| said != expected)?;
            Some(format!("it answers for {name} `{}`, not `{expected}`", shortened(said)))
        });
        in_headers.or_else(|| self.contradiction_in_body(body))
    }

    fn contradiction_in_body(&self, body: &[u8]) -> Option<String> {
        if body.len() > LARGEST_ANSWER {
            return None;
        }
        let answer: Answer = serde_json::from_slice(body).ok()?;
        let expected = self.tree_digest.to_string();
        if let Some(said) = answer.tree_digest.filter(|said| *said != expected) {
            return Some(format!("it answers for tree digest `{}`, not `{expected}`", shortened(&said)));
        }
        let said = answer.activation_epoch.filter(|said| *said != self.activation_epoch)?;
        Some(format!("it answers for activation epoch {said}, not {}", self.activation_epoch))
    }
}

fn shortened(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(80).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn facts() -> ActivationFacts {
        ActivationFacts {
            bundle: "contracts".parse().unwrap(),
            tag: "v2".parse().unwrap(),
            tree_digest: Sha256Digest::of(b"2"),
            activation_epoch: 7,
        }
    }

    #[test]
    fn commands_and_requests_get_the_same_four_facts() {
        let (variables, headers) = (facts().variables(), facts().headers());
        assert_eq!(variables[3], ("DEMON_ACTIVATION_EPOCH", "7".to_owned()));
        assert_eq!(headers[2], ("x-demon-tree-digest", Sha256Digest::of(b"2").to_string()));
        assert!(variables.iter().zip(&headers).all(|(variable, header)| variable.1 == header.1));
    }

    #[test]
    fn an_answer_about_another_release_or_switch_is_none() {
        let judge = |header: Option<(&str, &str)>, body: &str| {
            let header = |name| header.filter(|(key, _)| *key == name).map(|(_, value)| value);
            facts().contradiction(header, body.as_bytes())
        };
        let own = Sha256Digest::of(b"2").to_string();
        assert_eq!(judge(None, "OK"), None);
        assert_eq!(judge(None, "{\"status\":\"ok\"}"), None);
        assert_eq!(judge(Some(("x-demon-tree-digest", &own)), &format!("{{\"tree_digest\":\"{own}\"}}")), None);
        assert!(judge(Some(("x-demon-activation-epoch", "6")), "").unwrap().contains("`6`, not `7`"));
        assert!(judge(None, "{\"activation_epoch\":6}").unwrap().contains("6, not 7"));
        assert!(judge(None, "{\"tree_digest\":\"6b86\"}").unwrap().contains("6b86"));
    }
}
