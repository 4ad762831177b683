//! Wrong arguments as everything else that fails is told: one line, and a hint.

use std::ffi::OsString;

use clap::error::{Error, ErrorKind};
use clap::{Command, CommandFactory, FromArgMatches};

use super::Cli;
use super::failure::Failure;

/// What the arguments of this process say; help and version are printed, and end it.
pub fn parse(arguments: Vec<OsString>) -> Result<Cli, Failure> {
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(&arguments);
    let parsed = matches.and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => failure(&error, &verb(&command, &arguments)),
    })
}

fn failure(error: &Error, verb: &str) -> Failure {
    let text = error.to_string();
    let mut parts = text.split("\n\n").map(|part| {
        let words: Vec<&str> = part.split_whitespace().collect();
        words.join(" ")
    });
    let why = parts.next().unwrap_or_default();
    let why = why.strip_prefix("error: ").unwrap_or(&why);
    // How an unknown flag could be an argument is nobody's question.
    let tip = parts.find_map(|part| {
        let tips = part.strip_prefix("tip: ")?.split(" tip: ");
        let tips: Vec<&str> = tips.filter(|tip| !tip.starts_with("to pass")).collect();
        (!tips.is_empty()).then(|| tips.join("; "))
    });
    Failure::usage(why).or_hint(tip.unwrap_or_else(|| format!("{verb} --help")))
}

/// The verb that was named, as far as there is one.
fn verb(command: &Command, arguments: &[OsString]) -> String {
    let (mut verb, mut command) = ("plyfs".to_owned(), command);
    let mut words = arguments.iter().skip(1);
    while let Some(word) = words.next() {
        if word == "--root" {
            words.next();
        } else if let Some(found) = command.find_subcommand(word) {
            verb = format!("{verb} {}", found.get_name());
            command = found;
        } else if !word.as_encoded_bytes().starts_with(b"-") {
            break;
        }
    }
    verb
}
