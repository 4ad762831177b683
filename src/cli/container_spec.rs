//! What a person asks of a container, and the image, become the configuration for a runtime.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path};

use clap::Args;

use super::failure::Failure;
use super::{Result, complete};
use crate::oci::{
    Capabilities, ContainerUser, ImageConfig, Mount, ParseError, Platform, Process, Rights,
    RuntimeSpec, RuntimeUser,
};
use crate::sys::at::RootFd;

/// The largest table of users that is read, in bytes.
const LARGEST_TABLE: u64 = 8 << 20;

/// Where programs are looked for when the image does not say.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Files of the machine without which the network that it shares is of little use.
const NETWORK_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// What is asked of a container, beside its image and command.
#[derive(Args)]
pub struct ContainerArguments {
    /// Set a variable of the environment; without =VALUE it keeps the one it has here
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Show a file or directory of the machine in the container
    #[arg(short = 'v', long = "volume", value_name = "SOURCE:DIR[:ro]")]
    volumes: Vec<OsString>,
    /// The current directory, instead of the image's
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<OsString>,
    /// User and group, instead of the image's; names are the container's
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// The program, instead of the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<OsString>,
    /// Let nothing be written to the root file system
    #[arg(long)]
    pub read_only: bool,
    /// The container that keeps what is changed, made of the image unless it is there
    #[arg(long, value_name = "CONTAINER", add = complete::containers())]
    pub name: Option<String>,
    /// The platform, of an image that is stored for several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<Platform>,
    /// Tell more of what happens (twice: everything)
    // In place of the one that every verb has, whose short form means something else to users of Docker.
    #[arg(long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// What a container is made for.
pub struct Circumstances<'a> {
    /// Its root file system, mounted.
    pub rootfs: &'a Path,
    /// With what rights it will be started.
    pub rights: Rights,
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// Whether missing mount points can be made in the root file system.
    pub writable: bool,
}

impl ContainerArguments {
    /// Refuses what can be seen to be wrong before an image is pulled or mounted.
    pub fn check(&self) -> Result<()> {
        let mut volumes = self.volumes.iter();
        volumes.try_for_each(|volume| mount_of(utf8(volume)?).map(drop))?;
        self.variables().map(drop)
    }

    /// What `--env` sets: names with values, or names alone.
    fn variables(&self) -> Result<Vec<&str>> {
        let variable = |asked| match utf8(asked)? {
            asked if asked.is_empty() || asked.starts_with('=') => {
                Err(Failure::usage(format!("--env {asked:?} names no variable")))
            }
            asked => Ok(asked),
        };
        self.env.iter().map(|asked| variable(asked)).collect()
    }

    /// The configuration of a container of this image that runs `command`.
    pub fn spec(
        &self,
        image: &ImageConfig,
        command: &[OsString],
        around: &Circumstances<'_>,
    ) -> Result<RuntimeSpec> {
        let root = RootFd::open(around.rootfs)
            .map_err(|error| Failure::new("cannot look into the container", error))?;
        let asked = self.user.as_deref().unwrap_or(&image.config.user);
        let user = resolve_user(&root, asked)?;
        let process = Process {
            terminal: around.terminal,
            args: self.command(image, command)?,
            env: self.environment(image, user.home.as_deref(), around.terminal)?,
            cwd: self.directory(image)?,
            capabilities: Capabilities::default(),
            no_new_privileges: false,
            user: RuntimeUser {
                uid: user.uid,
                gid: user.gid,
                additional_gids: user.additional_gids,
            },
        };
        let mut spec = RuntimeSpec::new(process, self.read_only || !around.writable, around.rights);
        keep_to_mapping(&mut spec.process.user, around.rights)?;
        spec.process.capabilities = Capabilities::of(&spec.process.user);
        if !around.writable {
            require_mount_points(&root, &spec.mounts)?;
        }
        for file in NETWORK_FILES {
            let mountable = around.writable || root.open_file_in_root(file.as_bytes()).is_ok();
            if Path::new(file).exists() && mountable {
                spec.mounts.push(Mount::new(file, "bind", file, "rbind,ro"));
            }
        }
        for volume in &self.volumes {
            spec.mounts.push(mount_of(utf8(volume)?)?);
        }
        spec.annotations = annotations(image);
        Ok(spec)
    }

    /// The entrypoint with its arguments: those of the image go with its entrypoint only.
    fn command(&self, image: &ImageConfig, command: &[OsString]) -> Result<Vec<String>> {
        let given = command
            .iter()
            .map(|argument| utf8(argument).map(str::to_owned));
        let given = given.collect::<Result<Vec<String>>>()?;
        let (mut args, default) = match &self.entrypoint {
            None => (image.config.entrypoint.clone(), image.config.cmd.as_slice()),
            Some(none) if none.is_empty() => (Vec::new(), &[][..]),
            Some(program) => (vec![utf8(program)?.to_owned()], &[][..]),
        };
        args.extend(if given.is_empty() {
            default.to_vec()
        } else {
            given
        });
        if args.is_empty() {
            return Err(Failure::usage("the image names no command")
                .or_hint("name one behind the image, or with --entrypoint"));
        }
        Ok(args)
    }

    fn environment(
        &self,
        image: &ImageConfig,
        home: Option<&[u8]>,
        terminal: bool,
    ) -> Result<Vec<String>> {
        let mut env = Vec::new();
        set(&mut env, PATH.to_owned());
        if terminal {
            set(&mut env, "TERM=xterm".to_owned());
        }
        let home = home.and_then(|home| str::from_utf8(home).ok());
        let home = home.filter(|home| !home.is_empty()).unwrap_or("/");
        set(&mut env, format!("HOME={home}"));
        for variable in &image.config.env {
            set(&mut env, variable.clone());
        }
        for asked in self.variables()? {
            if asked.contains('=') {
                set(&mut env, asked.to_owned());
            } else if let Some(value) = std::env::var_os(asked) {
                set(&mut env, format!("{asked}={}", utf8(&value)?));
            }
        }
        Ok(env)
    }

    fn directory(&self, image: &ImageConfig) -> Result<String> {
        let directory = match &self.workdir {
            Some(asked) => utf8(asked)?,
            None => &image.config.working_dir,
        };
        match directory {
            "" => Ok("/".to_owned()),
            absolute if absolute.starts_with('/') => Ok(absolute.to_owned()),
            relative if self.workdir.is_none() => Ok(format!("/{relative}")),
            relative => Err(Failure::usage(format!(
                "--workdir {relative:?} does not begin with a slash"
            ))),
        }
    }
}

/// Sets a variable, in the place of an earlier one of that name.
fn set(env: &mut Vec<String>, variable: String) {
    fn name(variable: &str) -> &str {
        variable.split_once('=').map_or(variable, |(name, _)| name)
    }
    match env.iter_mut().find(|there| name(there) == name(&variable)) {
        Some(there) => *there = variable,
        None => env.push(variable),
    }
}

/// Looks the user up in the container's own tables, which may have changed since the image was made.
fn resolve_user(root: &RootFd, user: &str) -> Result<ContainerUser> {
    let failed = |error| Failure::new("cannot read the container's users", error);
    let passwd = table(root, "etc/passwd").map_err(failed)?;
    let group = table(root, "etc/group").map_err(failed)?;
    ContainerUser::resolve(user, &passwd, &group)
        .map_err(|error: ParseError| Failure::new("cannot tell who is to run the command", error))
}

/// A small file of the container; empty if it is not there, or is no file.
fn table(root: &RootFd, path: &str) -> io::Result<Vec<u8>> {
    let file = match root.open_file_in_root(path.as_bytes()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    if file.metadata()?.is_file() {
        Read::take(&file, LARGEST_TABLE).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Refuses a read-only root file system in which nothing can be mounted where every container needs it.
fn require_mount_points(root: &RootFd, mounts: &[Mount]) -> Result<()> {
    for mount in mounts {
        let path = mount.destination.trim_start_matches('/');
        // What lies deeper is mounted on a file system that is there by then.
        if !path.contains('/') && root.directory(path.as_bytes()).is_err() {
            return Err(Failure::plain(format!(
                "the image has no directory /{path}, which every container needs"
            ))
            .or_hint("with --name CONTAINER the runtime can make it"));
        }
    }
    Ok(())
}

/// Refuses a user whom the user namespace of the container does not have, before the runtime does with
/// fewer words; leaves out groups that it does not have.
fn keep_to_mapping(user: &mut RuntimeUser, rights: Rights) -> Result<()> {
    let has = |map: &str, id: u32| match rights {
        Rights::Root => true,
        Rights::Plain { .. } => id == 0,
        Rights::Namespace => is_mapped(Path::new(map), id),
    };
    if has("/proc/self/uid_map", user.uid) && has("/proc/self/gid_map", user.gid) {
        user.additional_gids
            .retain(|&gid| has("/proc/self/gid_map", gid));
        return Ok(());
    }
    let (uid, gid) = (user.uid, user.gid);
    let what = "cannot run the command as user";
    let failure = Failure::plain(format!(
        "{what} {uid}, group {gid}: only what is mapped to you can be used"
    ));
    Err(failure.or_hint(match rights {
        Rights::Plain { .. } => "-u 0, or plyfs run, which uses the ranges of /etc/subuid",
        _ => "-u 0, or a range of your own in /etc/subuid and /etc/subgid, and newuidmap",
    }))
}

fn is_mapped(map: &Path, id: u32) -> bool {
    // What cannot be read is left to the runtime to judge.
    let Ok(map) = std::fs::read_to_string(map) else {
        return true;
    };
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.nth(1)) {
            (Some(Ok(first)), Some(Ok(count))) => {
                (first..first.saturating_add(count)).contains(&u64::from(id))
            }
            _ => false,
        }
    })
}

/// Reads `SOURCE:DIR[:OPTIONS]`.
fn mount_of(volume: &str) -> Result<Mount> {
    let wrong = |why: &str| Failure::usage(format!("cannot use the volume {volume:?}: {why}"));
    let mut parts = volume.split(':');
    let (Some(source), Some(to), options, None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong("it is not SOURCE:DIR[:ro]"));
    };
    if !to.starts_with('/') || to.len() == 1 {
        return Err(wrong(
            "its place in the container does not begin with a slash",
        ));
    }
    if Path::new(to)
        .components()
        .any(|part| part == Component::ParentDir)
    {
        return Err(wrong("its place in the container has `..` in it"));
    }
    if !source.contains('/') && source != "." {
        return Err(wrong("volumes with names are not kept").or_hint(format!("./{source}:{to}")));
    }
    let there = Path::new(source)
        .canonicalize()
        .map_err(|error| Failure::new(format!("cannot use the volume {volume:?}"), error))?;
    let source = utf8(there.as_os_str())?;
    let mut access = "rw";
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        match option {
            "ro" | "rw" => access = option,
            _ => return Err(wrong("its options are ro and rw")),
        }
    }
    Ok(Mount::new(to, "bind", source, &format!("rbind,{access}")))
}

/// The image's labels, and what the image specification would have runtimes know of it.
fn annotations(image: &ImageConfig) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::new();
    let ports: Vec<&str> = image
        .config
        .exposed_ports
        .iter()
        .map(String::as_str)
        .collect();
    for (name, value) in [
        ("os", image.platform.os.as_str()),
        ("architecture", image.platform.architecture.as_str()),
        ("author", image.author.as_deref().unwrap_or_default()),
        ("created", image.created.as_deref().unwrap_or_default()),
        (
            "stopSignal",
            image.config.stop_signal.as_deref().unwrap_or_default(),
        ),
        ("exposedPorts", &ports.join(",")),
    ] {
        if !value.is_empty() {
            annotations.insert(format!("org.opencontainers.image.{name}"), value.to_owned());
        }
    }
    let labels = image.config.labels.iter();
    annotations.extend(labels.map(|(name, value)| (name.clone(), value.clone())));
    annotations
}

/// What is written to JSON must be text.
fn utf8(text: &OsStr) -> Result<&str> {
    text.to_str().ok_or_else(|| {
        Failure::usage(format!(
            "{} is not UTF-8, which the configuration of a container is",
            text.to_string_lossy()
        ))
    })
}

/// Writes the configuration into a bundle.
pub fn write(spec: &RuntimeSpec, bundle: &Path) -> Result<()> {
    let failed = |error| Failure::new("cannot write the configuration of the container", error);
    let bytes = spec
        .to_bytes()
        .map_err(|error| failed(anyhow::Error::from(error)))?;
    let path = bundle.join("config.json");
    let written = File::create(&path).and_then(|mut file| io::Write::write_all(&mut file, &bytes));
    written.map_err(|error| failed(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_variables_take_the_place_of_earlier_ones() {
        let mut env = Vec::new();
        for variable in ["A=1", "AB=2", "A=3", "C"] {
            set(&mut env, variable.to_owned());
        }
        assert_eq!(env, ["A=3", "AB=2", "C"]);
    }

    #[test]
    fn volumes() {
        let mount = mount_of("/:/host:ro").unwrap();
        assert_eq!(
            (mount.source.as_str(), mount.destination.as_str()),
            ("/", "/host")
        );
        assert_eq!(mount.options, ["rbind", "ro"]);
        for wrong in [
            "/",
            "/:",
            "/:host",
            "/:/",
            "/:/a/../b",
            "data:/srv",
            "/:/a:rw,Z",
            "/:/a:ro:x",
            "/no/such/directory:/a",
        ] {
            assert!(mount_of(wrong).is_err(), "{wrong}");
        }
    }
}
