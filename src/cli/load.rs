//! `plyfs load`

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use clap::{Args, ValueHint};
use serde_json::json;

use super::failure::Failure;
use super::platforms::{Asked, Wanted};
use super::pull::PARALLEL;
use super::{Global, Result, environment, output, progress};
use crate::image::{self, LoadRequest, Loaded, Platforms};
use crate::oci::Compression;
use crate::pack::{Limits, Uncompressed};
use crate::registry::{self, SavedImage, SavedImages};
use crate::store::{self, Staging, Store};

/// Load images from an archive
///
/// The archive is what plyfs save, docker save, podman save or skopeo wrote: an OCI layout, a Docker
/// archive, or both in one; plain, or compressed with gzip or zstd. All its images are loaded with all
/// their names, and for all platforms that it has.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs load -i alpine.tar
  ssh host docker save debian | plyfs load
  plyfs load -q --platform linux/arm64 < images.tar.zst")]
pub struct Load {
    /// The archive; - or nothing for standard input
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    input: Option<OsString>,
    /// Print nothing but what was loaded
    #[arg(short, long)]
    quiet: bool,
    /// Print nothing but JSON: an object for each image
    #[arg(long)]
    json: bool,
    /// Load only these platforms of images for several
    #[arg(
        long = "platform",
        value_name = "OS/ARCH[/VARIANT]|all",
        value_delimiter = ','
    )]
    platforms: Vec<Wanted>,
}

/// An archive that can be read anywhere in it.
struct Archive {
    file: File,
    shown: OsString,
    /// Holds what came through a pipe or was compressed.
    _copy: Option<Staging>,
}

impl Load {
    pub fn run(self, global: &Global) -> Result<()> {
        let shown = match self.input.as_deref().filter(|input| *input != "-") {
            Some(path) => path.to_owned(),
            None => "standard input".into(),
        };
        let cannot = format!("cannot load {}", shown.to_string_lossy());
        let input = self.open(&cannot)?;
        let store = environment::create_tidy_store(global)?;
        let failed = |error: anyhow::Error| {
            // Nothing of it is kept.
            environment::tidy(&store);
            Failure::new(&cannot, error)
        };
        let archive = archive(&store, input, shown).map_err(failed)?;
        let saved = SavedImages::open(archive.file, Path::new(&archive.shown));
        let saved = saved.map_err(|error| match error {
            // It names the archive once more.
            registry::Error::Archive { why, .. } => failed(anyhow::Error::msg(why)),
            error => failed(error.into()),
        })?;
        if saved.images.is_empty() {
            return Err(Failure::plain(format!(
                "{cannot}: there are no images in it"
            )));
        }
        for image in &saved.images {
            match self.load(&store, &saved, image) {
                Ok(loaded) => self.report(image, &loaded)?,
                // Signatures and such lie beside images.
                Err(error @ image::Error::NotAnImage(_)) if saved.images.len() > 1 => {
                    log::warn!("left out {}: {error}", image.digest);
                }
                Err(image::Error::Source(registry::Error::Archive { why, .. })) => {
                    return Err(failed(anyhow::Error::msg(why)));
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
        Ok(())
    }

    fn open(&self, cannot: &str) -> Result<File> {
        if let Some(path) = self.input.as_deref().filter(|input| *input != "-") {
            let path = Path::new(path);
            let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
            let kind = kind.map_err(|error| Failure::new(cannot, error))?;
            if kind.is_dir() {
                return Err(Failure::plain(format!("{cannot}: it is a directory"))
                    .or_hint(format!("plyfs pull oci:{}", path.display())));
            }
            if kind.is_char_device() || kind.is_block_device() {
                return Err(Failure::plain(format!("{cannot}: it is a device")));
            }
            return File::open(path).map_err(|error| Failure::new(cannot, error));
        }
        if io::stdin().is_terminal() {
            return Err(
                Failure::usage(format!("{cannot}: it is a terminal, not an archive"))
                    .or_hint("plyfs load -i FILE"),
            );
        }
        let file = nix::unistd::dup(io::stdin());
        let file = file.map_err(|errno| Failure::new(cannot, io::Error::from(errno)))?;
        Ok(file.into())
    }

    fn load(
        &self,
        store: &Store,
        saved: &SavedImages,
        image: &SavedImage,
    ) -> image::Result<Loaded> {
        let watched = io::stdout().is_terminal() && io::stderr().is_terminal();
        let display = progress::Display::new(self.quiet || self.json || !watched);
        let asked = Asked::of(&self.platforms);
        let platforms = match asked.as_ref() {
            Platforms::One(None) => Platforms::Available,
            asked => asked,
        };
        let request = LoadRequest {
            source: saved.source.as_ref(),
            image,
            platforms,
            limits: &Limits::default(),
            parallel: PARALLEL,
        };
        let loaded = image::load(
            store,
            request,
            &|event| display.event(&event),
            &mut |_, manifest| display.start(&manifest.layers),
        );
        display.finish();
        loaded
    }

    /// Tells what was loaded, as Docker does.
    fn report(&self, image: &SavedImage, loaded: &Loaded) -> Result<()> {
        for name in &image.misnamed {
            log::warn!("left out the name {name:?}: no image can be called so");
        }
        if self.json {
            return output::json_line(&json!({"Id": loaded.id, "Names": image.names}));
        }
        for (name, digest) in loaded.taken.iter().filter(|_| !self.quiet) {
            let name = name.familiar();
            output::line(&format!(
                "The image {name} already exists, renaming the old one with digest {digest} to empty string"
            ))?;
        }
        for name in &image.names {
            output::line(&format!("Loaded image: {}", name.familiar()))?;
        }
        if image.names.is_empty() {
            output::line(&format!("Loaded image ID: {}", loaded.id))?;
        }
        Ok(())
    }
}

/// The archive itself where it is a plain file, else a copy in the store that goes away with the
/// value.
fn archive(store: &Store, mut input: File, shown: OsString) -> anyhow::Result<Archive> {
    let metadata = input.metadata()?;
    let mut start = [0; 8];
    if metadata.is_file() && is_plain(&input, &mut start)? {
        return Ok(Archive {
            file: input,
            shown,
            _copy: None,
        });
    }
    let bar = progress::Bar::new("Reading", metadata.is_file().then_some(metadata.len()));
    let staging = store.staging()?;
    let path = staging.path().join("archive");
    let failed = |error| store::Error::io(error, "writing", &path);
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    let mut copy = options.open(&path).map_err(failed)?;
    let counted = Counted {
        input: &mut input,
        count: 0,
        bar: &bar,
    };
    let mut content = Uncompressed::new(counted, &Limits::default())?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = content.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        copy.write_all(&buffer[..count]).map_err(failed)?;
    }
    bar.finish();
    Ok(Archive {
        file: copy,
        shown,
        _copy: Some(staging),
    })
}

/// Whether a file is not compressed; such as cannot be read at all are told by who reads them.
fn is_plain(file: &File, start: &mut [u8]) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let count = file.read_at(start, 0)?;
    let start = start.get(..count).unwrap_or_default();
    Ok(Compression::sniff(start) == Compression::None)
}

/// Shows how much was read.
struct Counted<'a> {
    input: &'a mut File,
    count: u64,
    bar: &'a progress::Bar,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.count += count as u64;
        self.bar.set(self.count);
        Ok(count)
    }
}
