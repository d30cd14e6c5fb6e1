//! Signed notes: a text and, below a blank line, who signed it. The form is that of `c2sp.org/signed-note`, so that the
//! tools of other transparency logs read it.
//!
//! ```text
//! any text, ending with a line end
//!
//! — <name of the key> <base64 of the key's id and the Ed25519 signature of the text>
//! ```

mod keys;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::Signer as _;
use thiserror::Error;

pub use self::keys::{KeyError, KeyName, SignerKey, VerifierKey, VerifierKeys};

/// Largest note that is read, in bytes.
pub const MAX_NOTE_BYTES: usize = 16 * 1024;
/// Most signatures of a note; more than any has.
const MOST_SIGNATURES: usize = 64;
/// What a signature line begins with: an em dash and a space.
const SIGNATURE_START: &str = "\u{2014} ";

/// A note whose signatures were read, but not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedNote {
    text: String,
    signatures: Vec<NoteSignature>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct NoteSignature {
    name: String,
    key_id: [u8; 4],
    signature: Vec<u8>,
}

/// A note that cannot be read or is not signed as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoteError {
    /// Too large, not of the form, or with control characters.
    #[error("no signed note: {0}")]
    Form(&'static str),
    /// None of the known keys signed it.
    #[error("the note is signed by none of the known keys, but by {}", .signed_by.join(", "))]
    UnknownKey {
        /// The names and ids under it.
        signed_by: Vec<String>,
    },
    /// A known key's signature does not fit the text.
    #[error("the signature of key `{key}` does not fit the note: it was altered, or the key is another's")]
    BadSignature {
        /// Name and id of the key.
        key: String,
    },
}

impl SignedNote {
    /// Reads a note. Verifies nothing.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > MAX_NOTE_BYTES {
            return Err(NoteError::Form("it is too large"));
        }
        if note.chars().any(|character| character.is_control() && character != '\n') {
            return Err(NoteError::Form("it holds control characters"));
        }
        let end = note.rfind("\n\n").ok_or(NoteError::Form("no blank line stands before its signatures"))?;
        let (text, signatures) = (&note[..=end], &note[end + 2..]);
        let lines = signatures.strip_suffix('\n').ok_or(NoteError::Form("its last line has no end"))?;
        let signatures: Vec<_> = lines
            .split('\n')
            .map(|line| signature(line).ok_or(NoteError::Form("a line below the blank one is no signature")))
            .collect::<Result<_, _>>()?;
        if signatures.len() > MOST_SIGNATURES {
            return Err(NoteError::Form("it has too many signatures"));
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// Signs a text, which must end with a line end and hold no control characters but line ends.
    pub fn sign(text: &str, key: &SignerKey) -> Result<Self, NoteError> {
        if !text.ends_with('\n') {
            return Err(NoteError::Form("its last line has no end"));
        }
        let signature = key.signing_key().sign(text.as_bytes()).to_bytes().to_vec();
        let signature = NoteSignature { name: key.name().to_string(), key_id: key.id(), signature };
        let note = Self { text: text.to_owned(), signatures: vec![signature] };
        Self::parse(&note.to_string())
    }

    /// The text, with its last line end.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The key that signed it, one of those known. Fails where none did, or a known key's signature does not fit.
    pub fn verified_by<'k>(&self, keys: &'k VerifierKeys) -> Result<&'k VerifierKey, NoteError> {
        let mut verified = None;
        for signature in &self.signatures {
            let known = keys.iter().find(|key| key.name().as_str() == signature.name && key.id() == signature.key_id);
            let Some(key) = known else { continue };
            if !key.verifies(self.text.as_bytes(), &signature.signature) {
                return Err(NoteError::BadSignature { key: key.label() });
            }
            verified = verified.or(Some(key));
        }
        verified.ok_or_else(|| NoteError::UnknownKey {
            signed_by: self.signatures.iter().map(|by| format!("`{}+{}`", by.name, hex::encode(by.key_id))).collect(),
        })
    }

    /// Whether a signature under it claims to be by this key. Verifies nothing.
    pub fn names(&self, key: &VerifierKey) -> bool {
        self.signatures.iter().any(|by| by.name == key.name().as_str() && by.key_id == key.id())
    }
}

impl std::fmt::Display for SignedNote {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(formatter, "{}", self.text)?;
        for NoteSignature { name, key_id, signature } in &self.signatures {
            let encoded = BASE64_STANDARD.encode([&key_id[..], signature].concat());
            writeln!(formatter, "{SIGNATURE_START}{name} {encoded}")?;
        }
        Ok(())
    }
}

fn signature(line: &str) -> Option<NoteSignature> {
    let (name, encoded) = line.strip_prefix(SIGNATURE_START)?.split_once(' ')?;
    let bytes = BASE64_STANDARD.decode(encoded).ok()?;
    let (key_id, signature) = bytes.split_first_chunk::<4>()?;
    let name: KeyName = name.parse().ok()?;
    (!signature.is_empty()).then(|| NoteSignature {
        name: name.to_string(),
        key_id: *key_id,
        signature: signature.to_vec(),
    })
}

#[cfg(test)]
mod tests;
