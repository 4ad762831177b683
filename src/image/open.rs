//! Opens an image of the store as a union.

use std::fs::File;
use std::io;

use crate::layer::index::{Index, IndexError};
use crate::layer::tree::Tree;
use crate::oci::{ChainId, DiffId, Digest};
use crate::store::{self, Store};
use crate::union::Union;
use crate::union::chain::{Chain, LayerContent, Marks};
use crate::union::flatten::{FlattenError, flatten};
use crate::union::spread::spread;

use super::{Error, Found, Result};

/// Opens the union of an image's layers, making its chain index first if that is missing.
///
/// # Errors
/// [`Error`].
pub fn open(store: &Store, image: &Found) -> Result<Union> {
    chain(store, image).map(Union::Chain)
}

/// Like [`open`], where more than a union is needed.
///
/// # Errors
/// [`Error`].
pub fn chain(store: &Store, image: &Found) -> Result<Chain> {
    let diff_ids = &image.config.rootfs.diff_ids;
    let index = match read_chain(store, diff_ids) {
        Ok(index) => index,
        // A chain index is derived: it can be made again.
        Err(error) if is_lost(&error) => {
            log::info!("making the chain index anew: {error}");
            match rebuild_chain(store, diff_ids) {
                Err(Error::Store(error)) if error.is_write_protected() => {
                    chain_index(store, diff_ids)?
                }
                rebuilt => rebuilt?,
            }
        }
        Err(error) => return Err(error),
    };
    with_contents(store, diff_ids, index)
}

/// The layers of an image one beside another, in directories `0` (the lowest), `1` and so on, as union file systems
/// have layers: names that are gone are character devices 0:0.
///
/// # Errors
/// [`Error`].
pub fn layers(store: &Store, image: &Found) -> Result<Chain> {
    let diff_ids = &image.config.rootfs.diff_ids;
    let index = index_of(index_bytes(store, diff_ids, |layers| spread(layers))?)?;
    let mut chain = with_contents(store, diff_ids, index)?;
    chain.show_marks(Marks::Whiteouts);
    Ok(chain)
}

fn with_contents(store: &Store, diff_ids: &[DiffId], index: Index) -> Result<Chain> {
    let mut layers = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let path = store.layer_path(diff_id);
        let content = LayerContent::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Store(store::Error::Missing {
                what: "layer",
                digest: diff_id.0,
            }),
            _ => Error::io(error, format!("opening layer {diff_id}")),
        })?;
        layers.push(content);
    }
    Chain::new(index, layers).map_err(|error| Error::io(io::Error::other(error), "opening"))
}

/// Makes the chain index of these layers, lowest first, unless it is there.
pub(super) fn ensure_chain(store: &Store, diff_ids: &[DiffId]) -> Result<()> {
    match ChainId::of(diff_ids) {
        Some(chain) if store.has_chain(&chain) => Ok(()),
        _ => write_chain(store, diff_ids).map(drop),
    }
}

fn read_chain(store: &Store, diff_ids: &[DiffId]) -> Result<Index> {
    // An image without layers has no chain in the store: its tree is empty.
    let Some(chain) = ChainId::of(diff_ids) else {
        return chain_index(store, diff_ids);
    };
    let path = store.chain_path(&chain).join("index");
    let file = File::open(&path).map_err(|error| Error::io(error, "opening the chain index"))?;
    let index = open_index("chain", chain.0, &file)?;
    let expected = diff_ids.iter().map(|diff_id| diff_id.0);
    if !index
        .layers()
        .iter()
        .map(|layer| Digest::from_sha256(*layer))
        .eq(expected)
    {
        let source = IndexError::Damaged("its layers");
        return Err(Error::Index {
            what: "chain",
            digest: chain.0,
            source,
        });
    }
    Ok(index)
}

/// Whether an index is missing, damaged, or of another version.
fn is_lost(error: &Error) -> bool {
    match error {
        Error::Index { source, .. } => !matches!(source, IndexError::Io(_)),
        Error::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

fn rebuild_chain(store: &Store, diff_ids: &[DiffId]) -> Result<Index> {
    if let Some(chain) = ChainId::of(diff_ids)
        && store.has_chain(&chain)
    {
        let _lock = store.lock()?;
        let kind = store::ObjectKind::Chain;
        store.discard(&store::Object {
            kind,
            digest: chain.0,
        })?;
    }
    write_chain(store, diff_ids)?;
    read_chain(store, diff_ids)
}

fn write_chain(store: &Store, diff_ids: &[DiffId]) -> Result<()> {
    let Some(chain) = ChainId::of(diff_ids) else {
        return Ok(());
    };
    let bytes = chain_bytes(store, diff_ids)?;
    Ok(store.write_chain(&chain, |out| out.write_all(&bytes))?)
}

fn chain_index(store: &Store, diff_ids: &[DiffId]) -> Result<Index> {
    index_of(chain_bytes(store, diff_ids)?)
}

fn index_of(bytes: Vec<u8>) -> Result<Index> {
    let digest = Digest::of(&bytes);
    Index::from_bytes(bytes).map_err(|source| Error::Index {
        what: "chain",
        digest,
        source,
    })
}

/// The bytes of the chain index of these layers.
pub(super) fn chain_bytes(store: &Store, diff_ids: &[DiffId]) -> Result<Vec<u8>> {
    index_bytes(store, diff_ids, |layers| flatten(layers))
}

/// The bytes of the index of what `join` makes of these layers.
fn index_bytes(
    store: &Store,
    diff_ids: &[DiffId],
    join: impl FnOnce(&[Index]) -> std::result::Result<Tree, FlattenError>,
) -> Result<Vec<u8>> {
    let mut indexes = Vec::with_capacity(diff_ids.len());
    let mut ids = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        indexes.push(layer_index(store, diff_id)?);
        let id: [u8; 32] = diff_id.0.as_bytes().try_into().map_err(|_| {
            Error::NotAnImage(format!("one whose diffIDs are {}", diff_id.0.algorithm()))
        })?;
        ids.push(id);
    }
    let tree = join(&indexes)?;
    drop(indexes);
    let mut bytes = Vec::new();
    tree.write_chain(&ids, &mut bytes)?;
    Ok(bytes)
}

/// The index of a packed layer.
pub(super) fn layer_index(store: &Store, diff_id: &DiffId) -> Result<Index> {
    let path = store.layer_path(diff_id).join("index");
    let file = File::open(&path)
        .map_err(|error| Error::io(error, format!("opening the index of layer {diff_id}")))?;
    open_index("layer", diff_id.0, &file)
}

fn open_index(what: &'static str, digest: Digest, file: &File) -> Result<Index> {
    Index::open(file).map_err(|source| Error::Index {
        what,
        digest,
        source,
    })
}
