//! Signed notes, checkpoints and proofs.

use shared::checkpoint::{Checkpoint, SignedCheckpoint};
use shared::log_proof::LogProof;
use shared::signed_note::{SignerKey, VerifierKeys};

/// What is accepted is written as the same text, and no key that is not known verifies it.
pub fn checkpoint(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(checkpoint) = text.parse::<Checkpoint>() {
        let again: Checkpoint = checkpoint.to_text().parse().expect("what was written can be read");
        assert_eq!(again, checkpoint);
    }
    let Ok(signed) = text.parse::<SignedCheckpoint>() else { return };
    let again: SignedCheckpoint = signed.note().parse().expect("what was written can be read");
    assert_eq!(again, signed);
    assert!(signed.verify(&strangers()).is_err());
}

/// A proof that reads is judged without a panic, with keys and without.
pub fn log_proof(data: &[u8]) {
    let Ok(proof) = serde_json::from_slice::<LogProof>(data) else { return };
    let _ = proof.verify(Some(&strangers()));
    let _ = proof.verify(None);
}

/// A key that signed none of the inputs.
fn strangers() -> VerifierKeys {
    let name = "example.com/strangers".parse().expect("a name");
    SignerKey::from_seed(name, &[2; 32]).verifier().clone().into()
}
