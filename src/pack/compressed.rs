//! A directory tree as a compressed layer blob.

use std::io::{BufWriter, Write};
use std::path::Path;

use flate2::write::GzEncoder;

use super::{Error, Skipped, TarWriter, write_directory};

/// Writes the tree below `root` as a gzip-compressed layer; see [`write_directory`].
///
/// The bytes depend on the tree alone: the gzip header holds neither name nor time.
///
/// # Errors
/// As [`write_directory`].
pub fn write_compressed_directory(
    root: &Path,
    exclude: Option<&Path>,
    out: impl Write,
) -> Result<Vec<Skipped>, Error> {
    let encoder = GzEncoder::new(out, flate2::Compression::default());
    let mut writer = TarWriter::new(BufWriter::with_capacity(256 << 10, encoder));
    let skipped = write_directory(root, exclude, &mut writer)?;
    let buffered = writer.finish()?;
    let encoder = buffered
        .into_inner()
        .map_err(|error| Error::WriteArchive(error.into_error()))?;
    encoder
        .finish()
        .and_then(|mut out| out.flush())
        .map_err(Error::WriteArchive)?;
    Ok(skipped)
}
