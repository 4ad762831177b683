//! `mount.plyfs`: what mount(8), mount.fuse3 and container engines run to mount.
//!
//! It holds no behaviour of its own: it reads arguments, asks the library, and turns the answer
//! into the exit status that mount(8) expects.

mod request;

use std::env;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use plyfs::mount::{self, ContainerRequest, Prepared, Target, image, layers};
use plyfs::options::MountOptions;

use request::{Mount, Request};

/// Exit statuses of mount(8).
const USAGE: u8 = 1;
const SYSTEM: u8 = 2;
const FAILED: u8 = 32;

const HELP: &str = "\
usage: mount.plyfs IMAGE DIR [-o OPTIONS]
       mount.plyfs -o lowerdir=TOP:...:BOTTOM[,OPTIONS] DIR

  -o OPTIONS       mount options, separated by commas; root=DIR is the store (else
                   $PLYFS_ROOT), platform=OS/ARCH[/VARIANT] chooses among several
                   name=CONTAINER keeps what is changed, writable=fuse|kernel|auto says how
  -f, --foreground serve in this process (with IMAGE, -f only pretends, as for mount(8))
  -v               say more
  -s, -n, -t TYPE  taken for the sake of mount(8)
      --version    say which version this is
";

/// Says what the library warns of: to the caller, until the mount is there; then to the system's log.
struct Log;

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = record.args().to_string();
        if self.enabled(record.metadata()) && !mount::tell_system(record.level(), &text) {
            let level = record.level().as_str().to_lowercase();
            eprintln!("mount.plyfs: {level}: {text}");
        }
    }

    fn flush(&self) {}
}

fn main() -> ExitCode {
    // Fails only where there is a logger already.
    if log::set_logger(&Log).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
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
        return ExitCode::from(SYSTEM);
    }
    let options = match MountOptions::parse(&request.options) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("mount.plyfs: {error}");
            return ExitCode::from(USAGE);
        }
    };
    for warning in &options.warnings {
        log::warn!("{warning}");
    }
    if request.verbose {
        log::set_max_level(log::LevelFilter::Info);
    }
    if request.fake {
        return ExitCode::SUCCESS;
    }
    let what = request.spec.as_deref().unwrap_or(OsStr::new("the layers"));
    let done = match options.remount {
        true => mount::remount(&request.directory, &options)
            .map(drop)
            .map_err(|error| Failure::of(None, &error)),
        false => serve(request, options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (what, place) = (what.display(), request.directory.display());
            eprintln!(
                "mount.plyfs: cannot mount {what} on {place}: {}",
                failure.reason
            );
            if let Some(hint) = failure.hint {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(failure.status)
        }
    }
}

/// Why there is no mount.
struct Failure {
    reason: String,
    hint: Option<String>,
    status: u8,
}

impl Failure {
    fn usage(reason: impl Into<String>) -> Failure {
        Failure {
            reason: reason.into(),
            hint: None,
            status: USAGE,
        }
    }

    fn of(what: Option<&OsStr>, error: &mount::Error) -> Failure {
        let image = what.unwrap_or_default().display();
        let hint = error.missing().map(|missing| match missing {
            mount::Missing::Image => format!("plyfs pull {image}"),
            mount::Missing::Store => {
                "plyfs pull IMAGE makes a store; -o root=DIR names another".into()
            }
        });
        let status = match error {
            mount::Error::Start(_) => SYSTEM,
            _ => FAILED,
        };
        Failure {
            reason: error.chain(),
            hint,
            status,
        }
    }
}

fn serve(request: &Mount, options: MountOptions) -> Result<(), Failure> {
    let prepared = prepare(request, options)?;
    let is_write_protected = prepared.is_write_protected();
    let served = if request.foreground {
        prepared.mount_here()
    } else {
        prepared.mount_detached().map(|mounted| {
            if is_write_protected {
                let place = request.directory.display();
                eprintln!(
                    "mount.plyfs: {place}: WARNING: source write-protected, mounted read-only."
                );
            }
            if request.verbose {
                eprintln!("mount.plyfs: served by process {}", mounted.pid);
            }
        })
    };
    served.map_err(|error| Failure::of(request.spec.as_deref(), &error))
}

/// Directories, a snapshot or a manifest if the options name one, else the image that is named, or a container
/// of it.
fn prepare(request: &Mount, mut options: MountOptions) -> Result<Prepared, Failure> {
    let target = Target::from_path(&request.directory);
    let spec = request.spec.as_deref();
    let failed = |error| Failure::of(spec, &error);
    // mount(8) knows a line of fstab as mounted by the source that stands there. Beside directories it is only a
    // name to show.
    options.source = options.source.or_else(|| request.spec.clone());
    if !options.lowers.is_empty() {
        return layers::serving(target, options)
            .map(Prepared::from)
            .map_err(failed);
    }
    if let Some(number) = options.snapshot {
        let root = store_root(options.root.as_deref()).map_err(Failure::usage)?;
        return image::serving_snapshot(&root, number, target, options)
            .map(Prepared::from)
            .map_err(failed);
    }
    let named = spec.ok_or_else(|| Failure::usage("neither an image nor lowerdir= is given"))?;
    let utf8 = |text: &OsStr, what: &str| match text.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Failure::usage(format!("{what} is not UTF-8"))),
    };
    let name = utf8(named, "the name of the image")?;
    let platform = match &options.platform {
        Some(platform) => {
            let parsed = utf8(platform, "the platform")?.parse();
            Some(parsed.map_err(|error| Failure::usage(format!("platform=: {error}")))?)
        }
        None => None,
    };
    let root = store_root(options.root.as_deref()).map_err(Failure::usage)?;
    if let Some(manifest) = &options.manifest {
        let manifest = manifest.parse();
        let manifest = manifest.map_err(|error| Failure::usage(format!("manifest=: {error}")))?;
        return image::serving_manifest(&root, &name, manifest, target, options)
            .map(Prepared::from)
            .map_err(failed);
    }
    if let Some(container) = options.name.clone() {
        let request = ContainerRequest {
            name: &container,
            image: Some(&name),
            platform: platform.as_ref(),
            ephemeral: false,
            target,
            options,
            helper: Command::new("/proc/self/exe"),
        };
        return mount::prepare_container_from(&root, request).map_err(failed);
    }
    let request = image::ImageRequest {
        name: &name,
        platform: platform.as_ref(),
        target,
        options,
    };
    image::serving_from(&root, request)
        .map(Prepared::from)
        .map_err(failed)
}

/// Where the images are: as asked, or the place of the system or of the user.
fn store_root(asked: Option<&Path>) -> Result<PathBuf, String> {
    let given = |name| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(root) = asked
        .map(Path::to_owned)
        .or_else(|| given("PLYFS_ROOT").map(Into::into))
    {
        return Ok(root);
    }
    let user = std::fs::metadata("/proc/self")
        .map_err(|error| format!("/proc: {error}"))?
        .uid();
    if user == 0 {
        return Ok("/var/lib/plyfs".into());
    }
    let absolute = |name| {
        given(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("plyfs"))
        .ok_or_else(|| "neither PLYFS_ROOT, XDG_DATA_HOME nor HOME is set".into())
}
