//! What the documents tell people to type and to look for: every `demonctl` command line is one that the program
//! takes, and every stream, bucket and subject is one that the product makes.

use std::fs;
use std::path::Path;
use std::process::Command;

use acceptance::workspace_binary::WorkspaceBinary;
use shared::event_type::EventType;
use shared::subjects::{LIVE_PREFIX, NODE_TABLE, RELEASE_BUCKET};
use streams::layout::{Layout, LayoutLimits};

/// Each document, and how many command lines it has at least: a test that finds none proves nothing.
const DOCUMENTS: [(&str, usize); 7] = [
    ("bootstrap.md", 3),
    ("log.md", 15),
    ("releases.md", 15),
    ("store.md", 6),
    ("publisher.md", 0),
    ("agent-http.md", 0),
    ("inspecting-with-nats.md", 0),
];
const SCOPES: [&str; 4] = ["release", "channel", "node", "stream"];
/// Second parts of file names and configuration keys that begin like a subject.
const NO_EVENTS: [&str; 4] = ["json", "sha256", "tar", "wit"];
const VERBS_WITH_A_STREAM: [&str; 5] = ["info", "get", "view", "subjects", "purge"];

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines people type: after `$ ` in `console` blocks, continued lines joined, without the prompt.
fn typed(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inside = false;
    let mut continued: Option<String> = None;
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            inside = !inside && language == "console";
            continue;
        }
        let part = match (&continued, line.strip_prefix("$ ")) {
            _ if !inside => continue,
            (Some(begun), _) => format!("{begun} {}", line.trim_start()),
            (None, Some(first)) => first.to_owned(),
            (None, None) => continue,
        };
        if let Some(more) = part.strip_suffix('\\') {
            continued = Some(more.trim_end().to_owned());
        } else {
            continued = None;
            lines.push(part);
        }
    }
    lines
}

/// A line's first simple command as words; quotes as a shell takes them, a comment or an operator ends it.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, '#') if word.is_none() => break,
            (None, '|' | '>' | '<' | ';' | '&') => break,
            (Some(_) | None, _) => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

/// Why the program does not take these arguments, if so. It stops before it would do anything.
fn refusal(arguments: &[String]) -> Option<String> {
    let output = Command::new(WorkspaceBinary::Demonctl.path())
        .args(arguments)
        .arg("--print-config")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("DEMON_ACTOR", "ada")
        .output()
        .expect("demonctl starts");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

#[test]
fn every_documented_command_line_is_one_that_demonctl_takes() {
    let mut wrong = Vec::new();
    for (name, at_least) in DOCUMENTS {
        let text = document(name);
        let lines: Vec<Vec<String>> = typed(&text)
            .iter()
            .map(|line| words(line))
            .filter(|words| words.first().is_some_and(|program| program == "demonctl"))
            .collect();
        assert!(lines.len() >= at_least, "docs/{name} has {} command lines, fewer than {at_least}", lines.len());
        for line in lines {
            if let Some(why) = refusal(&line[1..]) {
                wrong.push(format!("docs/{name}: `{}`: {why}", line.join(" ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_command_named_in_the_text_exists() {
    let mut wrong = Vec::new();
    let mut found = 0;
    for (name, _) in DOCUMENTS {
        let text = document(name);
        for named in text.split('`').filter(|span| span.starts_with("demonctl ") && !span.contains('\n')) {
            found += 1;
            // Named without what it needs, so only subcommands and options are looked at.
            let mut arguments = words(named).split_off(1);
            arguments.push("--help".to_owned());
            if let Some(why) = refusal(&arguments) {
                wrong.push(format!("docs/{name}: `{named}`: {why}"));
            }
        }
    }
    assert!(found > 2, "only {found} commands named");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn command_lines_that_demonctl_does_not_take_are_noticed() {
    for line in [
        "demonctl events lst",
        "demonctl events list --nodes edge-1",
        "demonctl blame edge-1",
        "demonctl state --at soonish",
    ] {
        assert!(refusal(&words(line)[1..]).is_some(), "`{line}` was taken");
    }
    let text = "```console\n$ demonctl a \\\n    --b 'c d'   # why\noutput\n```\n$ not typed\n```\n$ nor this\n```\n";
    assert_eq!(typed(text).iter().map(|line| words(line)).collect::<Vec<_>>(), [["demonctl", "a", "--b", "c d"]]);
}

/// Whether a subject, with wildcards or placeholders, can be an event's: `bundle.<event>.<bundle>.<scope>.<id>`.
fn is_event_subject(subject: &str) -> bool {
    let free = |token: &str| token == "*" || token.starts_with('<') || token == "…";
    let tokens: Vec<&str> = subject.strip_prefix(LIVE_PREFIX).unwrap_or(subject).split('.').collect();
    let open = matches!(tokens.last(), Some(&(">" | "…")));
    (tokens.len() == 5 || (open && tokens.len() < 5) || tokens.len() == 2)
        && tokens.iter().enumerate().all(|(position, token)| match position {
            0 => *token == "bundle",
            1 => free(token) || *token == ">" || EventType::KNOWN.iter().any(|known| known.token() == *token),
            3 => free(token) || *token == ">" || SCOPES.contains(token),
            _ => !token.is_empty(),
        })
}

/// Whatever in a text looks like the subject of an event.
fn subjects(text: &str) -> Vec<&str> {
    text.split(|character: char| character.is_whitespace() || "`'\"(),;:|/=│".contains(character))
        .map(|word| word.trim_end_matches(['.', '…']))
        .filter(|word| word.starts_with("bundle.") || word.starts_with("live.bundle."))
        .filter(|word| !word.split('.').nth(1).is_some_and(|second| NO_EVENTS.contains(&second)))
        .collect()
}

#[test]
fn every_documented_stream_bucket_and_subject_is_one_of_ours() {
    let layout = Layout::declared(LayoutLimits::default());
    let streams: Vec<&str> = layout.stream_names().collect();
    let mut wrong = Vec::new();
    let mut found = 0;
    for (name, _) in DOCUMENTS {
        let text = document(name);
        for subject in subjects(&text) {
            found += 1;
            if !is_event_subject(subject) {
                wrong.push(format!("docs/{name}: no event has the subject `{subject}`"));
            }
        }
        for line in typed(&text) {
            let words = words(&line);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let wanted: &[&str] = match words.as_slice() {
                ["nats", "object", _, bucket, ..] if !bucket.starts_with('-') => &[RELEASE_BUCKET, bucket],
                ["nats", "kv", _, bucket, ..] if !bucket.starts_with('-') => &[NODE_TABLE, bucket],
                ["nats", "stream", verb, stream, ..] if VERBS_WITH_A_STREAM.contains(verb) => &["", stream],
                _ => &[],
            };
            if let [expected, actual] = wanted {
                found += 1;
                if expected != actual && !(expected.is_empty() && streams.contains(actual)) {
                    wrong.push(format!("docs/{name}: `{line}` names `{actual}`"));
                }
            }
            for pair in words.windows(2) {
                let known = match pair[0] {
                    "--stream" => streams.contains(&pair[1]),
                    "--bucket" if words[0] == "nats" => pair[1] == NODE_TABLE,
                    _ => true,
                };
                if !known {
                    wrong.push(format!("docs/{name}: `{line}` names `{}`", pair[1]));
                }
            }
        }
    }
    assert!(found > 30, "only {found} names found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn subjects_that_no_event_has_are_noticed() {
    for subject in ["bundle.>", "live.bundle.>", "bundle.*.*.node.edge-1", "bundle.loaded", "live.bundle.promoted.>"] {
        assert!(is_event_subject(subject), "{subject}");
    }
    for subject in ["bundle.switched.>", "bundle.loaded.contracts.edge-1", "bundle.*.*.host.edge-1", "bundle.a.b.c.d.e"]
    {
        assert!(!is_event_subject(subject), "{subject}");
    }
}
