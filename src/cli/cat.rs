//! `plyfs cat`

use std::ffi::OsString;
use std::io::Write;

use clap::Args;

use super::failure::{Failure, each};
use super::path::ImagePath;
use super::{Global, Result, complete, output};
use crate::layer::FileKind;
use crate::oci::Platform;

/// Print files of an image, without mounting it
#[derive(Args)]
#[command(after_help = "\
Example:
  plyfs cat alpine:/etc/os-release")]
pub struct Cat {
    /// The files
    #[arg(required = true, value_name = "IMAGE:/PATH", add = complete::images())]
    files: Vec<OsString>,
    /// The platform, of an image that is stored for several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
}

impl Cat {
    pub fn run(self, global: &Global) -> Result<()> {
        let mut buffer = vec![0; 256 << 10];
        let mut out = std::io::stdout().lock();
        each(&self.files, |file| {
            let path = ImagePath::parse(file)?;
            let cannot = format!("cannot print {}", path.display());
            let (union, attributes) = path.open(global, self.platform.as_ref(), "cat", true)?;
            match attributes.kind {
                FileKind::Regular => {}
                FileKind::Directory => {
                    return Err(Failure::plain(format!("{cannot}: it is a directory"))
                        .or_hint(format!("plyfs ls {}", path.display())));
                }
                _ => {
                    return Err(Failure::plain(format!(
                        "{cannot}: it is not a regular file"
                    )));
                }
            }
            let failed =
                |error| Failure::new(&cannot, error).or_hint("plyfs check tells what is damaged");
            let content = union.open(attributes.node).map_err(failed)?;
            let mut at = 0;
            while at < content.size {
                let count = content.read_at(&mut buffer, at).map_err(failed)?;
                out.write_all(&buffer[..count]).map_err(output::failed)?;
                at += count as u64;
            }
            Ok(())
        })
    }
}
