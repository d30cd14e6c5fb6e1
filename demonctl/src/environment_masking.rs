//! Which variables hold secrets, and how to show a variable without them. Pure.

/// What stands in place of a secret.
pub(crate) const MASK: &str = "***";
/// Shorter values are not looked for in text: they would blacken half of it.
const SHORTEST_SECRET: usize = 4;
/// Named like secrets, but paths.
const PATHS: [&str; 1] = ["NATS_TLS_KEY"];

/// Whether a variable of this name holds a secret as a whole.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    if PATHS.contains(&name.as_str()) || name.ends_with("_FILE") || name.ends_with("_PATH") {
        return false;
    }
    ["TOKEN", "PASSWORD", "PASSWD", "SECRET", "SEED"].iter().any(|word| name.contains(word)) || name.ends_with("KEY")
}

/// The value as it may be shown: secrets masked whole, addresses without login and query.
pub(crate) fn masked(name: &str, value: &str) -> String {
    if value.is_empty() {
        return String::new();
    }
    if is_secret(name) {
        return MASK.to_owned();
    }
    match login_end(name, value) {
        Some(at) => {
            // Of several addresses only the last is shown: where one login ends is not certain.
            let scheme = value.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
            format!("{scheme}{MASK}@{}", without_query(name, &value[at + 1..]))
        }
        None => without_query(name, value),
    }
}

/// What must not appear in text that is handed on: secrets whole, and the logins in addresses.
pub(crate) fn secrets_in(name: &str, value: &str) -> Vec<String> {
    let mut secrets = Vec::new();
    if is_secret(name) {
        secrets.extend(value.split(',').map(|part| part.trim().to_owned()));
        secrets.push(value.trim().to_owned());
    } else if login_end(name, value).is_some() {
        for address in value.split(',') {
            if let Some((login, _)) = address.rsplit_once('@') {
                let login = login.split_once("://").map_or(login, |(_, login)| login);
                secrets.push(login.split_once(':').map_or(login, |(_, password)| password).to_owned());
            }
        }
    }
    secrets.retain(|secret| secret.len() >= SHORTEST_SECRET);
    secrets.sort();
    secrets.dedup();
    secrets
}

/// Text without these secrets, also where they are written as JSON strings.
pub(crate) fn scrubbed(text: &str, secrets: &[String]) -> String {
    let mut secrets: Vec<String> = secrets
        .iter()
        .flat_map(|secret| {
            let quoted = serde_json::Value::from(secret.as_str()).to_string();
            [secret.clone(), quoted[1..quoted.len() - 1].to_owned()]
        })
        .collect();
    // The longest first, so that one that holds another goes as a whole.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), MASK))
}

fn login_end(name: &str, value: &str) -> Option<usize> {
    (value.contains("://") || is_address(name)).then(|| value.rfind('@')).flatten()
}

fn without_query(name: &str, value: &str) -> String {
    match value.split_once('?') {
        Some((address, _)) if value.contains("://") || is_address(name) => format!("{address}?{MASK}"),
        Some(_) | None => value.to_owned(),
    }
}

fn is_address(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    name.ends_with("_URL") || name.ends_with("_PROXY")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_and_paths_are_not() {
        for name in ["GH_TOKEN", "NATS_PASSWORD", "AGENT_API_KEY", "DEMON_PUBLISHER_TRIGGER_KEY", "github_token"] {
            assert_eq!(masked(name, "geheim"), MASK, "{name}");
        }
        for name in ["NATS_TLS_KEY", "NATS_NKEY_PATH", "DEMON_PUBLISHER_TRIGGER_KEY_FILE", "DEMON_CHANNEL"] {
            assert_eq!(masked(name, "/etc/x"), "/etc/x", "{name}");
        }
    }

    #[test]
    fn addresses_are_shown_without_logins() {
        assert_eq!(masked("NATS_URL", "nats://a:b@h:1"), "nats://***@h:1");
        assert_eq!(masked("NATS_URL", "nats://a:b/@c@h:1"), "nats://***@h:1");
        assert_eq!(masked("NATS_URL", "a:b@h"), "***@h");
        assert_eq!(masked("HTTPS_PROXY", "http://u:geheim@p:3128"), "http://***@p:3128");
        assert_eq!(masked("DEMON_X", "https://h/hook?token=1"), "https://h/hook?***");
        assert_eq!(masked("DEMON_ACTOR", "ada@home"), "ada@home");
    }

    #[test]
    fn secrets_vanish_from_text() {
        let secrets = [secrets_in("AGENT_API_KEY", "first-key,second\"key"), secrets_in("NATS_URL", "nats://a:pass@h")];
        let text = r#"first-key "second\"key" second"key pass a@h"#;
        assert_eq!(scrubbed(text, &secrets.concat()), r#"*** "***" *** *** a@h"#);
    }
}
