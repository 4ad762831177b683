//! `plyfs export`

use std::ffi::OsString;
use std::io::BufWriter;

use clap::{Args, ValueHint};

use super::failure::Failure;
use super::out_file::{Compress, OutFile, compression_of};
use super::{Global, Result, commit, complete, environment, progress};
use crate::export;
use crate::image;
use crate::mount::ContainerView;
use crate::oci::Platform;
use crate::overlay::Overlay;
use crate::pack::{Escaped, TarWriter};
use crate::store::Store;

/// Write the files of a container or an image into an archive
///
/// The archive is a tar of the root file system as a mount shows it, all layers together, with owners,
/// times, attributes, links and devices. plyfs import makes an image of it again. Sockets are left out.
#[derive(Args)]
#[command(after_help = "\
Examples:
  plyfs export -o web.tar web
  plyfs export alpine:3.20 | tar -C tree -x")]
pub struct Export {
    /// The name of a container, or else a name, digest or ID of an image
    #[arg(value_name = "CONTAINER|IMAGE", add = complete::containers_and_images())]
    name: String,
    /// The file to write; - for standard output. It appears when it is complete
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<OsString>,
    /// The platform, of an image that is stored for several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Compress the archive; without it the name of the file decides (.tar.gz, .tar.zst)
    #[arg(long, value_name = "HOW")]
    compress: Option<Compress>,
}

/// What is exported, and keeps it.
#[allow(clippy::large_enum_variant)] // there is one
enum Tree {
    Container(ContainerView),
    Image(Overlay),
}

impl Export {
    pub fn run(self, global: &Global) -> Result<()> {
        let cannot = format!("cannot export {}", self.name);
        let store = environment::open_store(global)?;
        let tree = self.tree(&store, &cannot)?;
        let overlay = match &tree {
            Tree::Container(view) => &view.overlay,
            Tree::Image(overlay) => overlay,
        };
        let name = self.output.as_deref();
        let mut out = OutFile::create(name, &cannot)?;
        let compression = match self.compress {
            Some(compress) => compress.into(),
            None => compression_of(name),
        };
        let mut left_out: Vec<Escaped> = Vec::new();
        let bar = progress::Bar::new("Exporting", None);
        let written = out.fill(compression, |out| {
            let out = progress::Counted::new(out, &bar);
            let out = BufWriter::with_capacity(256 << 10, out);
            let write = || {
                let mut tar = TarWriter::new(out).keeping_holes();
                left_out = export::write_tree(overlay, &mut tar)?;
                tar.finish()?;
                Ok::<(), anyhow::Error>(())
            };
            match &tree {
                Tree::Container(view) => view.whole(write),
                Tree::Image(_) => write(),
            }
        });
        bar.finish();
        written.map_err(|error: anyhow::Error| out.failure(&cannot, error))?;
        commit::warn_of(&left_out);
        Ok(())
    }

    fn tree(&self, store: &Store, cannot: &str) -> Result<Tree> {
        let container = store.container_record(&self.name);
        let container = container.map_err(|error| Failure::new(cannot, error))?;
        if container.is_some() {
            return commit::view(store, &self.name, true, cannot).map(Tree::Container);
        }
        let opened = image::find(store, &self.name, self.platform.as_ref())
            .and_then(|image| image::open(store, &image));
        let union = opened.map_err(|error| match error {
            image::Error::NotStored => Failure::plain(format!(
                "{cannot}: there is neither a container nor an image of that name"
            ))
            .or_hint("plyfs container ls and plyfs image ls list what is there"),
            error => Failure::of_image("export", &self.name, error),
        })?;
        Ok(Tree::Image(Overlay::read_only(union)))
    }
}
