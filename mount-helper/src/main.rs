//! `mount.plyfs`: what mount(8), mount.fuse3 and container engines run to mount.
//!
//! It holds no behaviour of its own: it reads arguments, asks the library, and turns the answer
//! into the exit status that mount(8) expects.

mod request;

use std::env;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use plyfs::mount::{self, Serving, Target, image, layers};
use plyfs::options::MountOptions;

use request::{Mount, Request};

/// Exit statuses of mount(8).
const USAGE: u8 = 1;
const FAILED: u8 = 32;

const HELP: &str = "\
usage: mount.plyfs IMAGE DIR [-o OPTIONS]
       mount.plyfs -o lowerdir=TOP:...:BOTTOM[,OPTIONS] DIR

  -o OPTIONS       mount options, separated by commas
  -f, --foreground serve in this process (with IMAGE, -f only pretends, as for mount(8))
  -v               say more
  -s, -n, -t TYPE  taken for the sake of mount(8)
      --version    say which version this is
";

fn main() -> ExitCode {
    match request::parse(env::args_os().skip(1)) {
        Ok(Request::Version) => println!("mount.plyfs: version {}", env!("CARGO_PKG_VERSION")),
        Ok(Request::Help) => print!("{HELP}"),
        Ok(Request::Mount(request)) => return run(&request),
        Err(error) => {
            eprint!("mount.plyfs: {error}\n{HELP}");
            return ExitCode::from(USAGE);
        }
    }
    ExitCode::SUCCESS
}

fn run(request: &Mount) -> ExitCode {
    if let Err(error) = mount::close_inherited(&request.directory) {
        eprintln!("mount.plyfs: cannot close what was inherited: {error}");
        return ExitCode::from(FAILED);
    }
    let options = match MountOptions::parse(&request.options) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("mount.plyfs: {error}");
            return ExitCode::from(USAGE);
        }
    };
    for warning in &options.warnings {
        eprintln!("mount.plyfs: warning: {warning}");
    }
    if request.fake {
        return ExitCode::SUCCESS;
    }
    let what = request.spec.as_deref().unwrap_or(OsStr::new("the layers"));
    match serve(request, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            let (what, place) = (what.display(), request.directory.display());
            eprintln!("mount.plyfs: cannot mount {what} on {place}: {reason}");
            if reason.ends_with("it is not in the store") {
                eprintln!("hint: plyfs pull {what}");
            }
            ExitCode::from(FAILED)
        }
    }
}

fn serve(request: &Mount, options: MountOptions) -> Result<(), String> {
    let serving = serving(request, options)?;
    let served = if request.foreground {
        mount::serve_foreground(serving)
    } else {
        mount::serve_detached(serving).map(|mounted| {
            if request.verbose {
                eprintln!("mount.plyfs: served by process {}", mounted.pid);
            }
        })
    };
    served.map_err(|error| error.chain())
}

/// Directories or a snapshot if the options name some, else the image that is named.
fn serving(request: &Mount, mut options: MountOptions) -> Result<Serving, String> {
    let target = Target::from_path(&request.directory);
    if !options.lowers.is_empty() {
        // What mount(8) is given as the source beside directories is only a name to show.
        options.source = options.source.or_else(|| request.spec.clone());
        return layers::serving(target, options).map_err(|error| error.chain());
    }
    if let Some(number) = options.snapshot {
        let root = store_root(options.root.as_deref())?;
        let served = image::serving_snapshot(&root, number, target, options);
        return served.map_err(|error| error.chain());
    }
    let spec = request
        .spec
        .as_deref()
        .ok_or("neither an image nor lowerdir= is given")?;
    let name = spec.to_str().ok_or("the name of an image is UTF-8")?;
    let root = store_root(options.root.as_deref())?;
    let request = image::ImageRequest {
        name,
        platform: None,
        target,
        options,
    };
    image::serving_from(&root, request).map_err(|error| error.chain())
}

/// Where the images are: as asked, or the place of the system or of the user.
fn store_root(asked: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(root) = asked {
        return Ok(root.to_owned());
    }
    let user = std::fs::metadata("/proc/self")
        .map_err(|error| format!("/proc: {error}"))?
        .uid();
    if user == 0 {
        return Ok("/var/lib/plyfs".into());
    }
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("plyfs"))
        .ok_or_else(|| "neither HOME nor XDG_DATA_HOME is set".into())
}
