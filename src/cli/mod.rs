//! The command line: speaks to people, reads the environment, owns exit codes.
//!
//! Each verb is a file with its arguments and a `run`. Errors come up here and are printed here
//! only: one line with what was tried first and the cause last, then at most one hint.

mod access;
mod bundle;
mod cat;
mod check;
mod check_fetch;
mod commit;
mod complete;
mod container;
mod container_image;
mod container_spec;
mod environment;
mod export;
mod export_store;
mod failure;
mod filter;
mod glob;
mod image_history;
mod image_inspect;
mod image_ls;
mod image_prune;
mod image_rm;
mod image_tag;
mod image_tree;
mod import;
mod interrupt;
mod listing;
mod load;
mod login;
mod logout;
mod ls;
mod moment;
mod mount;
mod mount_points;
mod mounts;
mod out_file;
mod output;
mod password;
mod path;
mod platforms;
mod progress;
mod pull;
mod pull_plan;
mod push;
mod rootless;
mod run;
mod runtime;
mod save;
mod search;
#[cfg(feature = "snapshotter")]
mod snapshotter;
mod tags;
mod take_over;
mod template;
mod umount;
mod upgrade;
mod usage;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use failure::Failure;

type Result<T> = std::result::Result<T, Failure>;

const EXIT_CODES: &str = "\
images, rmi, tag, history and inspect are short for the verbs of plyfs image.
Exit status: 0 on success, 1 when something failed, 2 for wrong arguments.
The store is --root, else $PLYFS_ROOT, else /var/lib/plyfs for root and
$XDG_DATA_HOME/plyfs (~/.local/share/plyfs) for others.";

/// Container images as file systems: pull them, mount them, look into them.
#[derive(Parser)]
#[command(name = "plyfs", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Args)]
struct Global {
    /// The store to use
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Tell more of what happens (twice: everything)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Verb {
    Pull(pull::Pull),
    Push(push::Push),
    Login(login::Login),
    Logout(logout::Logout),
    Search(search::Search),
    Tags(tags::Tags),
    Import(import::Import),
    Save(save::Save),
    Load(load::Load),
    Commit(commit::Commit),
    Export(export::Export),
    ExportStore(export_store::ExportStore),
    Mount(mount::Mount),
    Umount(umount::Umount),
    Mounts(mounts::Mounts),
    Upgrade(upgrade::Upgrade),
    #[command(hide = true, name = crate::mount::upgrade::VERB)]
    TakeOver(take_over::TakeOver),
    Run(run::Run),
    Bundle(bundle::Bundle),
    Ls(ls::Ls),
    Cat(cat::Cat),
    Check(check::Check),
    #[cfg(feature = "snapshotter")]
    Snapshotter(snapshotter::SnapshotterVerb),
    /// Manage containers: named layers of changes over images
    #[command(subcommand)]
    Container(container::Container),
    /// Manage the images of the store
    #[command(
        subcommand,
        after_help = "pull, push, import, save and load are verbs of it too: plyfs image pull."
    )]
    Image(ImageVerb),
    #[command(hide = true)]
    Images(image_ls::ImageLs),
    #[command(hide = true)]
    Rmi(image_rm::ImageRm),
    #[command(hide = true)]
    Tag(image_tag::ImageTag),
    #[command(hide = true)]
    History(image_history::ImageHistory),
    #[command(hide = true)]
    Inspect(image_inspect::ImageInspect),
}

#[derive(Subcommand)]
enum ImageVerb {
    #[command(alias = "list")]
    Ls(image_ls::ImageLs),
    Inspect(image_inspect::ImageInspect),
    History(image_history::ImageHistory),
    Tag(image_tag::ImageTag),
    #[command(alias = "remove")]
    Rm(image_rm::ImageRm),
    Prune(image_prune::ImagePrune),
    #[command(hide = true)]
    Pull(pull::Pull),
    #[command(hide = true)]
    Push(push::Push),
    #[command(hide = true)]
    Import(import::Import),
    #[command(hide = true)]
    Save(save::Save),
    #[command(hide = true)]
    Load(load::Load),
}

pub use complete::for_bash as bash_completion;

/// All verbs and what they take, for those who write manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command that the arguments of this process name.
#[must_use]
pub fn run() -> ExitCode {
    complete::answer();
    let cli = match usage::parse(arguments()) {
        Ok(cli) => cli,
        Err(failure) => return failure.report(),
    };
    output::start_log(cli.global.verbose);
    match dispatch(cli) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// The arguments, with the verb that the name of the program may stand for.
fn arguments() -> Vec<OsString> {
    let arguments = std::env::args_os().collect();
    #[cfg(feature = "snapshotter")]
    let arguments = snapshotter::with_verb(arguments);
    arguments
}

fn dispatch(cli: Cli) -> Result<ExitCode> {
    let global = &cli.global;
    match cli.verb {
        Verb::Pull(verb) | Verb::Image(ImageVerb::Pull(verb)) => verb.run(global)?,
        Verb::Push(verb) | Verb::Image(ImageVerb::Push(verb)) => verb.run(global)?,
        Verb::Import(verb) | Verb::Image(ImageVerb::Import(verb)) => verb.run(global)?,
        Verb::Save(verb) | Verb::Image(ImageVerb::Save(verb)) => verb.run(global)?,
        Verb::Load(verb) | Verb::Image(ImageVerb::Load(verb)) => verb.run(global)?,
        Verb::Commit(verb) => verb.run(global)?,
        Verb::Export(verb) => verb.run(global)?,
        Verb::ExportStore(verb) => verb.run(global)?,
        Verb::Login(verb) => verb.run()?,
        Verb::Logout(verb) => verb.run()?,
        Verb::Search(verb) => verb.run()?,
        Verb::Tags(verb) => verb.run()?,
        Verb::Mount(verb) => verb.run(global)?,
        Verb::Umount(verb) => verb.run()?,
        Verb::Mounts(verb) => verb.run()?,
        Verb::Upgrade(verb) => verb.run()?,
        Verb::TakeOver(verb) => verb.run()?,
        Verb::Run(verb) => return verb.run(global),
        Verb::Bundle(verb) => verb.run(global)?,
        Verb::Ls(verb) => verb.run(global)?,
        Verb::Cat(verb) => verb.run(global)?,
        #[cfg(feature = "snapshotter")]
        Verb::Snapshotter(verb) => verb.run(global)?,
        Verb::Container(verb) => verb.run(global)?,
        Verb::Check(verb) => return verb.run(global),
        Verb::Image(ImageVerb::Ls(verb)) | Verb::Images(verb) => verb.run(global)?,
        Verb::Image(ImageVerb::Inspect(verb)) | Verb::Inspect(verb) => verb.run(global)?,
        Verb::Image(ImageVerb::History(verb)) | Verb::History(verb) => verb.run(global)?,
        Verb::Image(ImageVerb::Tag(verb)) | Verb::Tag(verb) => verb.run(global)?,
        Verb::Image(ImageVerb::Prune(verb)) => verb.run(global)?,
        Verb::Image(ImageVerb::Rm(verb)) | Verb::Rmi(verb) => verb.run(global)?,
    }
    std::io::stdout().flush().map_err(output::failed)?;
    Ok(ExitCode::SUCCESS)
}
