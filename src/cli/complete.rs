//! Completion in shells: `source <(COMPLETE=bash plyfs)` teaches it verbs, flags and names of images.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use super::{Cli, Global, environment};

/// Answers a shell that asks for completions, and ends the process then; otherwise does nothing.
pub fn answer() {
    CompleteEnv::with_factory(Cli::command).complete();
}

/// Completes names of images of the store.
pub fn images() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        // Where nothing can be read there is nothing to offer, and nobody to tell why.
        let begin = current.to_str().unwrap_or_default();
        let names = names().unwrap_or_default().into_iter();
        let like = names.filter(|name| name.starts_with(begin));
        like.map(CompletionCandidate::new).collect::<Vec<_>>()
    })
}

fn names() -> Option<Vec<String>> {
    let global = Global {
        root: root_argument(std::env::args_os()),
        verbose: 0,
    };
    let store = environment::existing_store(&global).ok()??;
    let images = store.images().ok()?.into_iter();
    let names = images.filter_map(|image| image.reference);
    Some(names.map(|name| name.familiar()).collect())
}

/// The value of `--root` in the line that is being written.
fn root_argument(mut words: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    while let Some(word) = words.next() {
        if word == "--root" {
            return words.next().map(PathBuf::from);
        }
        if let Some(root) = word.to_str().and_then(|word| word.strip_prefix("--root=")) {
            return Some(PathBuf::from(root));
        }
    }
    None
}
