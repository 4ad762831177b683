//! The `plyfs` command.

fn main() -> std::process::ExitCode {
    plyfs::cli::run()
}
