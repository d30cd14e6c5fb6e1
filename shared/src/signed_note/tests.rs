use proptest::prelude::*;

use super::*;

/// The example that the documentation of `golang.org/x/mod/sumdb/note` signs.
const SIGNER: &str = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
const VERIFIER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const TEXT: &str =
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
const SIGNATURE: &str = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

fn keys(text: &str) -> VerifierKeys {
    text.parse().unwrap()
}

#[test]
fn the_known_note_is_signed_and_verified_byte_for_byte() {
    let signer: SignerKey = SIGNER.parse().unwrap();
    assert_eq!(signer.to_private_text(), SIGNER);
    assert_eq!(signer.verifier().to_string(), VERIFIER);
    let note = SignedNote::sign(TEXT, &signer).unwrap();
    assert_eq!(note.to_string(), format!("{TEXT}\n{SIGNATURE}"));
    let read = SignedNote::parse(&note.to_string()).unwrap();
    assert_eq!((read.text(), &read), (TEXT, &note));
    assert_eq!(read.verified_by(&keys(VERIFIER)).unwrap().label(), "PeterNeumann+c74f20a3");
}

#[test]
fn another_key_or_another_text_is_refused() {
    let other = SignerKey::from_seed("other".parse().unwrap(), &[7; 32]);
    let note = SignedNote::sign(TEXT, &other).unwrap();
    assert!(
        matches!(note.verified_by(&keys(VERIFIER)), Err(NoteError::UnknownKey { signed_by }) if signed_by.len() == 1)
    );
    assert!(note.verified_by(&keys(&format!("{VERIFIER}\n{}", other.verifier()))).is_ok(), "one of two keys");
    let altered = note.to_string().replace("answer", "Answer");
    let altered = SignedNote::parse(&altered).unwrap();
    let error = altered.verified_by(&other.verifier().clone().into()).unwrap_err();
    assert!(matches!(error, NoteError::BadSignature { .. }), "{error}");
}

#[test]
fn what_is_no_note_is_refused() {
    for bad in [
        "",
        "text\n",
        "text\n\n",
        "text\n\nno signature\n",
        "a\tb\n\n\u{2014} k eHh4eHh4\n",
        "text\n\n\u{2014} k eHh4eHh4",
    ] {
        assert!(SignedNote::parse(bad).is_err(), "{bad:?}");
    }
    assert!(SignedNote::parse("text\n\n\u{2014} k eHh4eHh4\n").is_ok());
    assert!(SignedNote::sign("no end", &SIGNER.parse().unwrap()).is_err());
}

#[test]
fn keys_are_checked_and_private_ones_never_shown() {
    let altered = VERIFIER.replace("c74f20a3", "c74f20a4");
    assert_eq!(altered.parse::<VerifierKey>(), Err(KeyError::Id));
    assert_eq!(SIGNER.parse::<VerifierKey>(), Err(KeyError::Private));
    assert!(VERIFIER.parse::<SignerKey>().is_err());
    assert!("name".parse::<VerifierKey>().is_err());
    for name in ["", "a b", "a+b", "a\n"] {
        assert_eq!(name.parse::<KeyName>(), Err(KeyError::Name), "{name:?}");
    }
    assert_eq!("".parse::<VerifierKeys>(), Err(KeyError::Count(0)));
    let signer: SignerKey = SIGNER.parse().unwrap();
    assert_eq!(format!("{signer:?}"), "SignerKey(PeterNeumann+c74f20a3)");
}

proptest! {
    #[test]
    fn reading_never_panics(text in "\\PC{0,80}(\n\n\u{2014} )?\\PC{0,40}\n?") {
        let _ = SignedNote::parse(&text);
        let _ = text.parse::<VerifierKey>();
        let _ = text.parse::<SignerKey>();
    }
}
