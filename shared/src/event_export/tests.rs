use chrono::{DateTime, TimeDelta};
use proptest::prelude::*;

use super::*;

fn header() -> ExportHeader {
    ExportHeader {
        format: EXPORT_FORMAT.to_owned(),
        version: EXPORT_VERSION,
        stream: "BUNDLE_EVENTS".to_owned(),
        epoch: None,
        last_sequence: 3,
        exported_at: DateTime::UNIX_EPOCH,
    }
}

fn event(stream_sequence: u64, payload: &[u8]) -> ExportedEvent {
    ExportedEvent {
        stream_sequence,
        stored_at: DateTime::UNIX_EPOCH + TimeDelta::nanoseconds(123_456_789),
        subject: "bundle.promoted.contracts.channel.latest".to_owned(),
        message_id: Some("0193b1c2-7e1f-7a55-8c11-0242ac120002".to_owned()),
        payload: payload.to_vec(),
    }
}

fn written(events: &[ExportedEvent]) -> Vec<u8> {
    let mut writer = ExportWriter::begin(Vec::new(), &header()).unwrap();
    for event in events {
        writer.write(event.clone()).unwrap();
    }
    writer.finish().unwrap().0
}

fn read(bytes: &[u8]) -> Result<Vec<ExportedEvent>, ExportError> {
    let mut reader = ExportReader::begin(bytes)?;
    let mut events = Vec::new();
    while let Some(event) = reader.next_event()? {
        events.push(event);
    }
    assert_eq!(reader.footer().unwrap().events, events.len() as u64);
    Ok(events)
}

fn plain(compressed: &[u8]) -> Vec<u8> {
    zstd::decode_all(compressed).unwrap()
}

fn three() -> Vec<ExportedEvent> {
    vec![event(1, b"{\"a\":1}"), event(2, &[0xff, 0x00, 0x7f]), event(3, "\u{0}\"\n\u{fffd}".as_bytes())]
}

#[test]
fn what_is_written_is_read_back_byte_for_byte() {
    let bytes = written(&three());
    assert_eq!(read(&bytes).unwrap(), three());
    assert_eq!(read(&plain(&bytes)).unwrap(), three());
    assert_eq!(read(&written(&[])).unwrap(), []);
}

#[test]
fn the_footer_is_the_digest_of_all_lines_before_it() {
    let text = String::from_utf8(plain(&written(&three()[..1]))).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let before = format!("{}\n{}\n", lines[0], lines[1]);
    let footer: ExportFooter = serde_json::from_str(lines[2]).unwrap();
    assert_eq!(footer.sha256, Sha256Digest::of(before.as_bytes()));
    assert!(lines[2].as_bytes().starts_with(FOOTER_START));
}

#[test]
fn other_files_are_refused_in_words() {
    assert!(matches!(read(b""), Err(ExportError::NotAnExport)));
    assert!(matches!(read(b"{\"a\":1}\n"), Err(ExportError::NotAnExport)));
    let newer = ExportHeader { version: 2, ..header() };
    let bytes = ExportWriter::begin(Vec::new(), &newer).unwrap().finish().unwrap().0;
    assert!(matches!(read(&bytes), Err(ExportError::Version { actual: 2 })));
    let mut longer = plain(&written(&three()));
    longer.extend(b"{}\n");
    assert!(matches!(read(&longer), Err(ExportError::BehindFooter)));
    let endless = vec![b'x'; MAX_LINE_BYTES + 2];
    assert!(matches!(read(&endless), Err(ExportError::LongLine { line: 1 })));
    let huge = event(1, &vec![0_u8; MAX_LINE_BYTES / 6]);
    let mut writer = ExportWriter::begin(Vec::new(), &header()).unwrap();
    assert!(matches!(writer.write(huge), Err(ExportError::TooLarge { stream_sequence: 1 })));
}

#[test]
fn a_cut_off_export_says_so() {
    let text = plain(&written(&three()));
    let without_footer = text.len() - 1 - text[..text.len() - 1].iter().rev().position(|byte| *byte == b'\n').unwrap();
    assert!(matches!(read(&text[..without_footer]), Err(ExportError::Truncated { line: 4 })));
    let compressed = written(&three());
    assert!(matches!(read(&compressed[..compressed.len() - 6]), Err(ExportError::Truncated { .. })));
}

#[test]
fn every_byte_of_the_footer_counts() {
    let text = String::from_utf8(plain(&written(&three()))).unwrap();
    let other_name = text.replace(r#"{"end":"demon-event-log""#, r#"{"end":"demon-event-lof""#);
    assert!(matches!(read(other_name.as_bytes()), Err(ExportError::Footer { line: 5 })));
    let other_form = text.replace(r#"","events":3"#, r#"", "events":3"#);
    assert!(matches!(read(other_form.as_bytes()), Err(ExportError::Footer { line: 5 })));
    let footer = text.trim_end().rfind('\n').unwrap() + 1;
    for at in footer..text.len() {
        for bit in 0..8 {
            let mut altered = text.clone().into_bytes();
            altered[at] ^= 1 << bit;
            assert!(read(&altered).is_err(), "byte {at}, bit {bit}");
        }
    }
}

proptest! {
    #[test]
    fn any_altered_byte_is_found(at in any::<prop::sample::Index>(), flip in 1_u8.., compressed in any::<bool>()) {
        let bytes = if compressed { written(&three()) } else { plain(&written(&three())) };
        let mut altered = bytes.clone();
        altered[at.index(bytes.len())] ^= flip;
        // Bytes of a zstd frame that mean nothing leave the same content.
        prop_assert!(read(&altered).is_err() || (compressed && plain(&altered) == plain(&bytes)));
    }

    #[test]
    fn any_cut_is_found(at in any::<prop::sample::Index>(), compressed in any::<bool>()) {
        let bytes = if compressed { written(&three()) } else { plain(&written(&three())) };
        prop_assert!(read(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut with_magic = vec![0x28, 0xb5, 0x2f, 0xfd];
        with_magic.extend(&bytes);
        prop_assert!(read(&bytes).is_err());
        prop_assert!(read(&with_magic).is_err());
    }

    #[test]
    fn any_payload_survives(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..10)) {
        let events: Vec<_> = payloads.iter().zip(1..).map(|(payload, number)| event(number, payload)).collect();
        prop_assert_eq!(read(&written(&events)).unwrap(), events);
    }
}
