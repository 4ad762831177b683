//! `plyfs commit`

use clap::Args;

use super::failure::Failure;
use super::out_file::Compress;
use super::{Global, Result, complete, environment, output, progress};
use crate::export;
use crate::image::{self, CommitRequest, WriteError};
use crate::mount::{self, ContainerView};
use crate::oci::{Changes, Config, Reference};
use crate::pack::{Escaped, Limits, TarWriter};
use crate::store::Store;

/// Make an image of what was changed in a container
///
/// The changes become a layer on top of the container's image; plyfs container diff shows them before.
/// The new image shows what the container shows. Sockets are left out.
///
/// A container may be mounted meanwhile. What its programs have written by then is brought into it
/// first (--pause, which is the default); the programs themselves are not stopped, so what they write
/// while the layer is made is in it or not. Stop them, or runc pause the container, for an image of one
/// moment.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs commit web app:2
  plyfs commit -a 'Ann <ann@example.org>' -m 'with tools' -c 'CMD [\"top\"]' -c 'ENV A=1' web app:2
  SOURCE_DATE_EPOCH=0 plyfs commit web          # the same container gives the same image")]
pub struct Commit {
    /// Its name
    #[arg(value_name = "CONTAINER", add = complete::containers())]
    container: String,
    /// The name of the image
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<Reference>,
    /// Who makes it
    #[arg(short, long)]
    author: Option<String>,
    /// A remark for its history
    #[arg(short, long)]
    message: Option<String>,
    /// Change how it is run: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL,
    /// USER, VOLUME or WORKDIR, as in a Dockerfile
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<String>,
    /// Bring what was written in a mounted container into it first
    #[arg(
        short,
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    pause: bool,
    /// As docker calls --pause=false by now
    #[arg(long, hide = true, conflicts_with = "pause")]
    no_pause: bool,
    /// How the layer is compressed
    #[arg(long, value_name = "HOW", default_value = "gzip")]
    compression: Compress,
}

impl Commit {
    pub fn run(self, global: &Global) -> Result<()> {
        let container = &self.container;
        let cannot = format!("cannot commit container {container}");
        if let Some(name) = self.name.as_ref().filter(|name| name.digest().is_some()) {
            return Err(Failure::usage(format!(
                "{cannot}: {} has a digest, which only the result could have",
                name.familiar()
            )));
        }
        let store = environment::open_store(global)?;
        environment::tidy(&store);
        let view = view(&store, container, self.pause && !self.no_pause, &cannot)?;
        let created = output::rfc3339(output::creation_time()?);
        let bar = progress::Bar::new("Archiving", None);
        let request = CommitRequest {
            base: &view.image,
            name: self.name.as_ref(),
            config: changed(view.image.config.config.clone(), &self.changes, &cannot)?,
            created: &created,
            created_by: &format!("plyfs commit {container}"),
            author: self.author.as_deref(),
            message: self.message.as_deref(),
            compression: self.compression.into(),
            limits: &Limits::default(),
            told: &|done| bar.set(done),
        };
        let committed = image::commit(&store, request, |out| {
            view.whole(|| {
                let mut tar = TarWriter::new(out);
                let but = &view.mount_points;
                let left_out = export::write_changes(&view.overlay, &view.upper, but, &mut tar)?;
                tar.finish()?;
                Ok::<_, WriteError>(left_out)
            })
        });
        bar.finish();
        let committed = committed.map_err(|error| {
            // Nothing of it is kept.
            environment::tidy(&store);
            Failure::new(&cannot, error)
        })?;
        warn_of(&committed.archived);
        output::line(&committed.id.to_string())
    }
}

/// A configuration after the instructions of `--change`.
pub fn changed(config: Config, instructions: &[String], cannot: &str) -> Result<Config> {
    let mut changes = Changes::to(config);
    for instruction in instructions {
        let changed = changes.apply(instruction);
        changed.map_err(|error| Failure::usage(format!("{cannot}: {error}")))?;
    }
    Ok(changes.config())
}

/// Opens a container, with what was written in it.
pub fn view(store: &Store, name: &str, flush: bool, cannot: &str) -> Result<ContainerView> {
    let failed = |error| Failure::new(cannot, error);
    let found = mount::container_view(store, name).map_err(failed)?;
    let Some(view) = found else {
        return Err(
            Failure::plain(format!("{cannot}: there is none of that name"))
                .or_hint("plyfs container ls lists what is there"),
        );
    };
    if view.in_use && flush && !mount::flush_container(store, name).map_err(failed)? {
        log::warn!(
            "the mount of container {name} cannot be seen from here: what was written last may be missing"
        );
    }
    Ok(view)
}

/// Tells of sockets that were left out.
pub fn warn_of(left_out: &[Escaped]) {
    for path in left_out {
        log::warn!("left out {path}: it is a socket");
    }
}
