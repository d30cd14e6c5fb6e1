//! Asking the application whether it is well with the release that was switched to.

use std::time::Duration;

use axum::http::Method;
use shared::daemon::ErrorChain;
use thiserror::Error;

use crate::activation_facts::ActivationFacts;
use crate::bounded_command::{BoundedCommand, CommandTextError};
use crate::local_request::{LocalUrl, LocalUrlError};
use crate::trial::Finding;

/// How to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HealthCheck {
    /// It is well where this ends with exit code 0.
    Command(BoundedCommand),
    /// It is well where this answers 200 to 299.
    Url(LocalUrl),
}

/// Text that names no check.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum HealthCheckError {
    /// It is no command.
    #[error("it is no command")]
    Command(#[source] CommandTextError),
    /// It is no address.
    #[error("it is no usable address")]
    Url(#[source] LocalUrlError),
}

impl HealthCheck {
    /// An address where it begins like one, else a command.
    pub(crate) fn parse(text: &str) -> Result<Self, HealthCheckError> {
        if is_address(text) {
            LocalUrl::parse(text).map(Self::Url).map_err(HealthCheckError::Url)
        } else {
            BoundedCommand::parse(text).map(Self::Command).map_err(HealthCheckError::Command)
        }
    }

    /// Asks once, at most this long. An answer that is about another release or switch fails.
    pub(crate) async fn ask(&self, facts: &ActivationFacts, limit: Duration) -> Finding {
        let contradiction = match self {
            Self::Command(command) => match command.run(&facts.variables(), limit).await {
                Ok(output) => facts.contradiction(|_| None, &output),
                Err(failure) => return Finding::Failed(ErrorChain(&failure).to_string()),
            },
            Self::Url(url) => match url.request(Method::GET, &facts.headers(), Vec::new(), limit).await {
                Ok(answer) => facts.contradiction(|name| answer.headers.get(name)?.to_str().ok(), &answer.body),
                Err(failure) => return Finding::Failed(ErrorChain(&failure).to_string()),
            },
        };
        contradiction.map_or(Finding::Passed, Finding::Failed)
    }
}

/// Whether a text is meant as an address: a program's name holds no `://`.
pub(crate) fn is_address(text: &str) -> bool {
    text.split_whitespace().next().is_some_and(|word| word.contains("://"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation_facts::tests::facts;

    const LIMIT: Duration = Duration::from_secs(20);

    async fn ask(script: &str) -> Finding {
        let words = serde_json::to_string(&["sh", "-c", script]).unwrap();
        HealthCheck::parse(&words).unwrap().ask(&facts(), LIMIT).await
    }

    #[test]
    fn addresses_and_commands_are_told_apart() {
        assert!(matches!(HealthCheck::parse("http://127.0.0.1:9000/ready"), Ok(HealthCheck::Url(_))));
        assert!(matches!(HealthCheck::parse("/opt/check --url http://x"), Ok(HealthCheck::Command(_))));
        assert!(matches!(HealthCheck::parse("https://x"), Err(HealthCheckError::Url(LocalUrlError::NotPlain))));
        assert!(matches!(HealthCheck::parse("ftp://x"), Err(HealthCheckError::Url(LocalUrlError::Malformed))));
        assert!(matches!(HealthCheck::parse(""), Err(HealthCheckError::Command(CommandTextError::Empty))));
    }

    #[tokio::test]
    async fn a_command_passes_with_exit_code_0_and_words_about_this_switch() {
        assert_eq!(ask("test \"$DEMON_ACTIVATION_EPOCH\" = 7").await, Finding::Passed);
        assert_eq!(ask("echo '{\"activation_epoch\": 7}'").await, Finding::Passed);
        assert!(
            matches!(ask("echo '{\"activation_epoch\": 6}'").await, Finding::Failed(why) if why.contains("6, not 7"))
        );
        assert!(matches!(ask("exit 1").await, Finding::Failed(_)));
    }
}
