//! A variable that is set to nothing counts as not set, for every option of every program.
//!
//! Compose files, unit files and CI set variables that nobody gave a value to the empty text. Taken as a value, it
//! would be wrong usage for most options, and worse for some: an empty `NATS_USER` wins over the login in `NATS_URL`.

use std::env;
use std::ffi::OsStr;

use clap::Command;

/// The command line without the variables that are set to nothing.
pub fn ignored(command: Command) -> Command {
    without(command, &|variable| env::var_os(variable).is_some_and(|value| value.is_empty()))
}

fn without(command: Command, is_empty: &dyn Fn(&OsStr) -> bool) -> Command {
    command
        .mut_args(
            |argument| {
                if argument.get_env().is_some_and(is_empty) { argument.env(None::<&'static str>) } else { argument }
            },
        )
        .mut_subcommands(|inner| without(inner, is_empty))
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command};

    use super::without;

    #[test]
    fn variables_set_to_nothing_are_dropped_at_every_depth() {
        let option = |name: &'static str| Arg::new(name).long(name).env(name);
        let command = Command::new("outer").arg(option("GIVEN")).arg(option("EMPTY").global(true)).subcommand(
            Command::new("middle").subcommand(Command::new("inner").arg(option("EMPTY_TOO")).arg(option("ALSO_GIVEN"))),
        );
        let mut command = without(command, &|variable| variable.to_string_lossy().starts_with("EMPTY"));
        command.build();
        let variables = |command: &Command| -> Vec<String> {
            let named = command.get_arguments().filter_map(Arg::get_env);
            named.map(|name| name.to_string_lossy().into_owned()).collect()
        };
        assert_eq!(variables(&command), ["GIVEN"]);
        let inner = command.find_subcommand("middle").and_then(|middle| middle.find_subcommand("inner")).unwrap();
        assert_eq!(variables(inner), ["ALSO_GIVEN"]);
        assert!(inner.get_arguments().any(|argument| argument.get_id() == "EMPTY"), "options stay");
    }
}
