//! Completion in shells: `source <(COMPLETE=bash plyfs)` teaches it verbs, flags and names of images.

mod bash;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{Elvish, EnvCompleter, Fish, Powershell, Shells, Zsh};

use super::{Cli, Global, environment};
use crate::store::Store;

/// Answers a shell that asks for completions, and ends the process then; otherwise does nothing.
pub fn answer() {
    let shells = Shells(&[&bash::WholeWords, &Elvish, &Fish, &Powershell, &Zsh]);
    let completing = CompleteEnv::with_factory(Cli::command).shells(shells);
    completing.complete();
}

/// Writes what teaches bash to complete, as `COMPLETE=bash plyfs` prints it.
///
/// # Errors
/// Those of `out`.
pub fn for_bash(out: &mut dyn Write) -> io::Result<()> {
    bash::WholeWords.write_registration("COMPLETE", "plyfs", "plyfs", "plyfs", out)
}

/// Completes names of images of the store.
pub fn images() -> ArgValueCompleter {
    completer(&[image_names])
}

/// Completes names of containers.
pub fn containers() -> ArgValueCompleter {
    completer(&[container_names])
}

/// Completes names of containers and images.
pub fn containers_and_images() -> ArgValueCompleter {
    completer(&[container_names, image_names])
}

type Names = fn(&Store) -> Option<Vec<String>>;

fn completer(kinds: &'static [Names]) -> ArgValueCompleter {
    ArgValueCompleter::new(move |current: &OsStr| {
        // Where nothing can be read there is nothing to offer, and nobody to tell why.
        let begin = current.to_str().unwrap_or_default();
        let store = store();
        let store = store.as_ref();
        let names = kinds.iter().filter_map(|names| names(store?)).flatten();
        let like = names.filter(|name| name.starts_with(begin));
        like.map(CompletionCandidate::new).collect::<Vec<_>>()
    })
}

fn store() -> Option<Store> {
    let global = Global {
        root: root_argument(std::env::args_os()),
        verbose: 0,
    };
    environment::existing_store(&global).ok()?
}

fn image_names(store: &Store) -> Option<Vec<String>> {
    let images = store.images().ok()?.into_iter();
    let names = images.filter_map(|image| image.reference);
    Some(names.map(|name| name.familiar()).collect())
}

fn container_names(store: &Store) -> Option<Vec<String>> {
    let containers = store.recorded_containers().ok()?.into_iter();
    Some(containers.map(|(name, _)| name).collect())
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
