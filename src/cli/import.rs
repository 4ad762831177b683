//! `plyfs import`

use std::ffi::OsString;
use std::fs::File;
use std::io::IsTerminal;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use clap::{Args, ValueHint};

use super::failure::Failure;
use super::{Global, Result, commit, environment, output, progress};
use crate::image::{self, ImportRequest, ImportSource};
use crate::oci::{Config, Platform, Reference};
use crate::pack::{Limits, Skipped};

/// Make an image of one layer from a root file system
///
/// The source is a tar archive (plain, gzip or zstd), a directory, or - for standard input.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs import rootfs.tar.gz base:1
  debootstrap stable tree && plyfs import -c 'CMD [\"bash\"]' tree debian:mine
  ssh host tar -C / -c --one-file-system . | plyfs import - host:today")]
pub struct Import {
    /// An archive, a directory, or -
    #[arg(value_name = "FILE|DIR|-", value_hint = ValueHint::AnyPath)]
    source: OsString,
    /// The name of the image
    #[arg(value_name = "REFERENCE")]
    name: Option<Reference>,
    /// A remark for its history
    #[arg(short, long)]
    message: Option<String>,
    /// Say how it is run: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER,
    /// VOLUME or WORKDIR, as in a Dockerfile
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<String>,
    /// What it runs on, if not this machine's platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
}

impl Import {
    pub fn run(self, global: &Global) -> Result<()> {
        let shown = self.source.to_string_lossy().into_owned();
        let cannot = format!("cannot import {shown}");
        if let Some(name) = self.name.as_ref().filter(|name| name.digest().is_some()) {
            return Err(Failure::usage(format!(
                "{cannot}: {} has a digest, which only the result could have",
                name.familiar()
            ))
            .or_hint("plyfs import SOURCE NAME:TAG"));
        }
        let config = commit::changed(Config::default(), &self.changes, &cannot)?;
        let (source, size) = self.open(&cannot)?;
        let store = environment::create_tidy_store(global)?;
        let bar = progress::Bar::new("Importing", size);
        let told = |done| bar.set(done);
        let created = output::rfc3339(output::creation_time()?);
        let request = ImportRequest {
            source,
            described: &shown,
            name: self.name.as_ref(),
            platform: self.platform.clone().unwrap_or_else(Platform::host),
            config,
            created: &created,
            message: self.message.as_deref(),
            limits: &Limits::default(),
            told: &told,
        };
        let imported = image::import(&store, request);
        bar.finish();
        let imported = imported.map_err(|error| {
            let saved = match &error {
                image::Error::SavedImage(kind) => Some(*kind),
                _ => None,
            };
            let failure = Failure::new(&cannot, error);
            match saved {
                Some(kind) if self.source == "-" => {
                    failure.or_hint(format!("keep it in a FILE, and plyfs pull {kind}:FILE"))
                }
                Some("oci-archive") if Path::new(&self.source).is_dir() => {
                    failure.or_hint(format!("plyfs pull oci:{shown}"))
                }
                Some(kind) => failure.or_hint(format!("plyfs pull {kind}:{shown}")),
                None => failure,
            }
        })?;
        for skipped in &imported.skipped {
            match skipped {
                Skipped::Socket(path) => log::warn!("left out {path}: it is a socket"),
                Skipped::Excluded(path) => log::warn!("left out {path}: it is the store"),
            }
        }
        output::line(&imported.id.to_string())?;
        if let Some(name) = &self.name
            && std::io::stderr().is_terminal()
        {
            eprintln!("Stored as {}", name.familiar());
        }
        Ok(())
    }

    /// Opens the source; with its size in bytes where that is known.
    fn open(&self, cannot: &str) -> Result<(ImportSource<'_>, Option<u64>)> {
        if self.source == "-" {
            if std::io::stdin().is_terminal() {
                return Err(Failure::usage(format!(
                    "{cannot}: standard input is a terminal, not an archive"
                )));
            }
            return Ok((ImportSource::Archive(Box::new(std::io::stdin())), None));
        }
        let path = Path::new(&self.source);
        let shown = path.to_string_lossy();
        if ["http://", "https://"]
            .iter()
            .any(|scheme| shown.starts_with(scheme))
        {
            let why = "it is an address, and nothing is downloaded here";
            return Err(Failure::usage(format!("{cannot}: {why}"))
                .or_hint(format!("curl -fL {shown} | plyfs import - NAME")));
        }
        let failed = |error| Failure::new(cannot, error);
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if kind.is_dir() {
            return Ok((ImportSource::Directory(path), None));
        }
        if kind.is_char_device() || kind.is_block_device() {
            return Err(
                Failure::plain(format!("{cannot}: it is a device")).or_hint(format!(
                    "plyfs import - < {} reads it all the same",
                    path.display()
                )),
            );
        }
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let size = metadata.is_file().then_some(metadata.len());
        Ok((ImportSource::Archive(Box::new(file)), size))
    }
}
