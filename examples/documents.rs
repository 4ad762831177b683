//! Writes the manual pages and the completions of shells, from the definition of the command line:
//! `cargo run --example documents -- DIR`. The program itself carries none of this.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap_complete::Shell;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).ok_or("documents DIR")?;
    let directory = PathBuf::from(directory);
    let pages = directory.join("man");
    fs::create_dir_all(&pages)?;
    let mut command = plyfs::cli::command();
    // With the names of images, which the store is asked for.
    plyfs::cli::bash_completion(&mut fs::File::create(directory.join("plyfs.bash"))?)?;
    for shell in [Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "plyfs", &directory)?;
    }
    command.build();
    page(&command, &pages)
}

/// The page of a command, and those of its subcommands: `plyfs-image-ls.1`.
fn page(command: &clap::Command, pages: &Path) -> Result<(), Box<dyn Error>> {
    let subcommands = command.get_subcommands();
    for subcommand in subcommands.filter(|it| !it.is_hide_set() && it.get_name() != "help") {
        page(subcommand, pages)?;
    }
    let name = command.get_display_name().unwrap_or(command.get_name());
    let path = pages.join(format!("{name}.1"));
    let page = clap_mangen::Man::new(command.clone());
    page.render(&mut fs::File::create(path)?)?;
    Ok(())
}
