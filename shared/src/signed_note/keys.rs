//! The keys of signed notes and their text forms, which are those of `golang.org/x/mod/sumdb/note`:
//! `<name>+<id>+<base64>` for whoever verifies, `PRIVATE+KEY+<name>+<id>+<base64>` for whoever signs. The base64 holds one
//! byte that says "Ed25519" and 32 bytes of key; the id is the beginning of a hash of name and public key.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use thiserror::Error;

use crate::digest::DigestBuilder;

const ED25519: u8 = 1;
const PRIVATE: &str = "PRIVATE+KEY+";
const LONGEST_NAME: usize = 128;
/// Most keys that a reader knows at once: an old and a new one, and some to spare.
const MOST_KEYS: usize = 16;

/// Text that is no key. It is never repeated: it may be a private one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not of the form.
    #[error("no key of the form `{0}`")]
    Form(&'static str),
    /// The name cannot be one.
    #[error("the name of a key has 1 to {LONGEST_NAME} characters, no spaces and no `+`")]
    Name,
    /// Another algorithm than Ed25519.
    #[error("the key is of an algorithm other than Ed25519")]
    Algorithm,
    /// The id does not follow from name and key.
    #[error("the key's id does not fit its name and content: it was mistyped or altered")]
    Id,
    /// No point on the curve.
    #[error("the key is no valid Ed25519 key")]
    Invalid,
    /// A private key where a public one is expected.
    #[error("this is a private key: give the verifier key, which `demonctl log keygen` printed with it")]
    Private,
    /// None, or far too many.
    #[error("1 to {MOST_KEYS} keys are expected, {0} were given")]
    Count(usize),
}

/// Name of a key; by custom the log's, like `example.com/fleet`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyName(String);

impl KeyName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl FromStr for KeyName {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let wrong = |character: char| character.is_whitespace() || character.is_control() || character == '+';
        if text.is_empty() || text.len() > LONGEST_NAME || text.chars().any(wrong) {
            return Err(KeyError::Name);
        }
        Ok(Self(text.to_owned()))
    }
}

/// A key that verifies notes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: KeyName,
    key: VerifyingKey,
}

impl VerifierKey {
    /// Its name.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// Its id: what a signature says it is by.
    pub fn id(&self) -> [u8; 4] {
        let mut digest = DigestBuilder::default();
        for part in [self.name.as_str().as_bytes(), b"\n", &[ED25519], self.key.as_bytes()] {
            digest.update(part);
        }
        let [a, b, c, d, ..] = *digest.finish().as_bytes();
        [a, b, c, d]
    }

    /// Name and id, for people.
    pub fn label(&self) -> String {
        format!("{}+{}", self.name, hex::encode(self.id()))
    }

    pub(super) fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|signature| self.key.verify_strict(text, &signature).is_ok())
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}+{}", self.label(), encoded(self.key.as_bytes()))
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.starts_with(PRIVATE) {
            return Err(KeyError::Private);
        }
        let (name, id, bytes) = parts(text).ok_or(KeyError::Form("<name>+<id>+<base64>"))?;
        let key = VerifyingKey::from_bytes(&content(&bytes)?).map_err(|_| KeyError::Invalid)?;
        let key = Self { name: name.parse()?, key };
        if hex::encode(key.id()) == id { Ok(key) } else { Err(KeyError::Id) }
    }
}

/// A key that signs notes. Never printed but by [`SignerKey::to_private_text`].
#[derive(Clone)]
pub struct SignerKey {
    verifier: VerifierKey,
    key: SigningKey,
}

impl SignerKey {
    /// The key that grows from 32 random bytes.
    pub fn from_seed(name: KeyName, seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        Self { verifier: VerifierKey { name, key: key.verifying_key() }, key }
    }

    /// Its name.
    pub fn name(&self) -> &KeyName {
        &self.verifier.name
    }

    /// Its id.
    pub fn id(&self) -> [u8; 4] {
        self.verifier.id()
    }

    /// The key that verifies what this one signs.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Its text form, for a file that only its owner can read.
    pub fn to_private_text(&self) -> String {
        format!("{PRIVATE}{}+{}", self.verifier.label(), encoded(self.key.as_bytes()))
    }

    pub(super) fn signing_key(&self) -> &SigningKey {
        &self.key
    }
}

impl fmt::Debug for SignerKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SignerKey({})", self.verifier.label())
    }
}

impl FromStr for SignerKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let form = KeyError::Form("PRIVATE+KEY+<name>+<id>+<base64>");
        let (name, id, bytes) = text.strip_prefix(PRIVATE).and_then(parts).ok_or(form)?;
        let key = Self::from_seed(name.parse()?, &content(&bytes)?);
        if hex::encode(key.id()) == id { Ok(key) } else { Err(KeyError::Id) }
    }
}

/// The keys that a reader trusts: more than one while a new one replaces an old one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKeys(Vec<VerifierKey>);

impl VerifierKeys {
    /// One key after the other.
    pub fn iter(&self) -> impl Iterator<Item = &VerifierKey> {
        self.0.iter()
    }
}

impl From<VerifierKey> for VerifierKeys {
    fn from(key: VerifierKey) -> Self {
        Self(vec![key])
    }
}

impl fmt::Display for VerifierKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(VerifierKey::to_string).collect();
        formatter.write_str(&texts.join(" "))
    }
}

impl FromStr for VerifierKeys {
    type Err = KeyError;

    /// Keys with white space between them.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let count = text.split_whitespace().count();
        if count == 0 || count > MOST_KEYS {
            return Err(KeyError::Count(count));
        }
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

fn encoded(key: &[u8; 32]) -> String {
    BASE64_STANDARD.encode([&[ED25519][..], key].concat())
}

fn parts(text: &str) -> Option<(&str, &str, Vec<u8>)> {
    let (name, rest) = text.split_once('+')?;
    let (id, key) = rest.split_once('+')?;
    Some((name, id, BASE64_STANDARD.decode(key).ok()?))
}

fn content(bytes: &[u8]) -> Result<[u8; 32], KeyError> {
    match bytes.split_first() {
        Some((&ED25519, key)) => key.try_into().map_err(|_| KeyError::Invalid),
        Some(_) | None => Err(KeyError::Algorithm),
    }
}
