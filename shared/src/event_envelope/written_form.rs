//! Finds the fields of an envelope in the one form in which [`EventEnvelope::to_bytes`](super::EventEnvelope::to_bytes)
//! writes them: compact, in this order, without escapes. A replay reads millions of them, and a walk past known keys costs a
//! fraction of what a reader of any JSON does. Whatever is written otherwise is left to that one.

use super::Head;

/// Keys that may be absent.
const SUBJECT: &str = ",\"subject\":\"";
const PREVHASH: &str = ",\"prevhash\":\"";

/// The fields, where the text is written in that form as far as its data, which is not looked at here.
pub(super) fn read(text: &str) -> Option<Head<'_>> {
    let mut walk = Walk { rest: text };
    let head = Head {
        specversion: walk.value("{\"specversion\":\"")?,
        id: walk.value(",\"id\":\"")?,
        source: walk.value(",\"source\":\"")?,
        event_type: walk.value(",\"type\":\"")?,
        subject: if walk.is_at(SUBJECT) { Some(walk.value(SUBJECT)?) } else { None },
        time: walk.value(",\"time\":\"")?,
        _datacontenttype: walk.value(",\"datacontenttype\":\"")?,
        dataschema: walk.value(",\"dataschema\":\"")?,
        incarnation: walk.value(",\"incarnation\":\"")?,
        sequence: walk.value(",\"sequence\":\"")?,
        prevhash: if walk.is_at(PREVHASH) { Some(walk.value(PREVHASH)?) } else { None },
        data: walk.rest.strip_prefix(",\"data\":")?.strip_suffix('}')?,
    };
    is_one_object(head.data).then_some(head)
}

struct Walk<'a> {
    rest: &'a str,
}

impl<'a> Walk<'a> {
    /// The text behind a key, up to its quotation mark.
    fn value(&mut self, key: &str) -> Option<&'a str> {
        let behind = self.rest.strip_prefix(key)?;
        let end = behind.bytes().position(|byte| byte == b'"' || byte == b'\\' || byte < b' ')?;
        let (value, rest) = (behind.get(..end)?, behind.get(end..)?);
        self.rest = rest.strip_prefix('"')?;
        Some(value)
    }

    /// Whether this key is next.
    fn is_at(&self, key: &str) -> bool {
        self.rest.starts_with(key)
    }
}

/// Whether a text that may be JSON can be one object: nothing but its own last brace ends it. What is inside is for its own
/// reader to judge, who takes one value and nothing behind it.
fn is_one_object(data: &str) -> bool {
    data.starts_with('{') && data.ends_with('}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{EventEnvelope, Wire};
    use super::*;

    /// An envelope in the form that is written.
    const WRITTEN: &str = concat!(
        r#"{"specversion":"1.0","id":"0193b1c2-7e1f-7a55-8c11-0242ac120002","source":"/operators/ada","#,
        r#""type":"bundle.promoted","subject":"v1","time":"2025-09-21T06:00:00.000Z","#,
        r#""datacontenttype":"application/json","dataschema":"urn:demon:contracts:events.bundle.promoted.v1.json","#,
        r#""incarnation":"0193b1c27e1f4a558c110242ac120002","sequence":"0000000001","#,
        r#""prevhash":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","#,
        r#""data":{"actor":"ada","bundle":"contracts","cause":"promote","channel":"latest","hold":"none","tag":"v1","#,
        r#""tree_digest":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}}"#
    );

    /// What the reader of any JSON makes of it.
    fn by_any_reader(text: &str) -> Option<EventEnvelope> {
        EventEnvelope::from_head(&serde_json::from_str::<Wire<'_>>(text).ok()?.head()).ok()
    }

    #[test]
    fn what_we_write_is_found() {
        let envelope = EventEnvelope::parse(WRITTEN.as_bytes()).unwrap();
        assert_eq!(envelope.to_bytes().unwrap(), WRITTEN.as_bytes());
        let wire: Wire<'_> = serde_json::from_str(WRITTEN).unwrap();
        assert_eq!(read(WRITTEN), Some(wire.head()));
    }

    #[test]
    fn another_form_is_left_to_the_reader_of_any_json() {
        for (ours, other) in [
            (":\"v1\",\"time", ":\"v\\u0031\",\"time"),
            ("{\"spec", "{ \"spec"),
            ("0015ad\"}}", "0015ad\"} }"),
            (",\"data\":{", ",\"traceparent\":\"00-x\",\"data\":{"),
        ] {
            let text = WRITTEN.replacen(ours, other, 1);
            assert_ne!(text, WRITTEN);
            assert_eq!(read(&text), None, "{text}");
            assert_eq!(EventEnvelope::parse(text.as_bytes()).ok(), by_any_reader(&text), "{text}");
            assert!(by_any_reader(&text).is_some(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn both_readers_agree_on_altered_texts(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), "[{}\"\\\\:,a-c0-9 \n]{0,3}", 0_usize..4), 1..4),
        ) {
            let mut text = WRITTEN.to_owned();
            for (place, new, cut) in changes {
                let from = place.index(text.len());
                let to = (from + cut).min(text.len());
                text.replace_range(from..to, &new);
            }
            prop_assert_eq!(EventEnvelope::parse(text.as_bytes()).ok(), by_any_reader(&text));
        }
    }
}
