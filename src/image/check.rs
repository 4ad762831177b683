//! Verifies everything in the store against its digests.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;

use crate::cause;
use crate::layer::Place;
use crate::layer::index::{Index, NodeKind};
use crate::oci::{ChainId, Descriptor, DiffId, Digest, Hasher};
use crate::pack::{Limits, Progress, uncompressed_digest};
use crate::store::{LeaseKind, LeaseRecord, Object, ObjectKind, Store};
use crate::union::chain::LayerContent;

use super::receive::source_of;
use super::{Error, Result, find, open};

/// What is wrong with an object that should be there, and is not.
pub const MISSING: &str = "it is missing";

/// Something that is wrong.
#[derive(Clone, Debug)]
pub struct Damage {
    /// Which object.
    pub object: Object,
    /// What is wrong with it.
    pub what: String,
    /// The images that need it.
    pub images: Vec<String>,
}

/// Checks all blobs, layers and chains, and that each image has all it needs. `checked` is called
/// for each object, with its kind and digest.
///
/// # Errors
/// What listing the store reports; what is damaged is returned.
pub fn check(store: &Store, checked: &dyn Fn(&Object)) -> Result<Vec<Damage>> {
    // Nothing is removed while it is looked for.
    let lease = match store.lease(&LeaseRecord {
        kind: LeaseKind::Check,
        pid: std::process::id(),
        image: String::new(),
        mount_point: None,
        digests: Vec::new(),
    }) {
        Ok(lease) => Some(lease),
        Err(error) if error.is_write_protected() => {
            log::debug!("checked without a lease: {error}");
            None
        }
        Err(error) => return Err(error.into()),
    };
    let mut damages = Vec::new();
    for object in store.objects()? {
        let result = match object.kind {
            ObjectKind::Blob => check_blob(store, &object.digest),
            ObjectKind::Layer => check_layer(store, &DiffId(object.digest)),
            // Chains are compared with what their image says.
            ObjectKind::Chain => Ok(()),
        };
        if let Err(error) = result {
            damages.push(Damage {
                object,
                what: cause::chain(&error),
                images: Vec::new(),
            });
        }
        checked(&object);
    }
    check_images(store, &mut damages)?;
    // Its file stays, so that whoever tidies up next removes what an `image rm` could not.
    drop(lease);
    Ok(damages)
}

fn check_images(store: &Store, damages: &mut Vec<Damage>) -> Result<()> {
    let mut needs: Vec<(String, HashSet<Object>)> = Vec::new();
    for record in store.images()? {
        let name = record
            .reference
            .as_ref()
            .map_or_else(|| record.descriptor.digest.to_string(), |r| r.familiar());
        let top = Object {
            kind: ObjectKind::Blob,
            digest: record.descriptor.digest,
        };
        let mut needed = HashSet::from([top]);
        let manifests = match store.manifests(&record.descriptor) {
            Ok(manifests) => manifests,
            Err(error) => {
                note(damages, top, cause::chain(&Error::from(error)), &name);
                needs.push((name, needed));
                continue;
            }
        };
        if manifests.is_empty() {
            note(
                damages,
                top,
                "no manifest that it names is stored".to_owned(),
                &name,
            );
        }
        for (descriptor, manifest) in manifests {
            needed.insert(Object {
                kind: ObjectKind::Blob,
                digest: descriptor.digest,
            });
            for blob in manifest.layers.iter().chain([&manifest.config]) {
                let object = Object {
                    kind: ObjectKind::Blob,
                    digest: blob.digest,
                };
                needed.insert(object);
                need(damages, object, store.has_blob(&blob.digest), &name);
            }
            let record = crate::store::Record {
                descriptor,
                ..record.clone()
            };
            let found = match find::load(store, record, None) {
                Ok(found) => found,
                Err(error) => {
                    let digest = manifest.config.digest;
                    let kind = ObjectKind::Blob;
                    note(
                        &mut *damages,
                        Object { kind, digest },
                        cause::chain(&error),
                        &name,
                    );
                    continue;
                }
            };
            let diff_ids = &found.config.rootfs.diff_ids;
            needed.extend(diff_ids.iter().map(|diff_id| Object {
                kind: ObjectKind::Layer,
                digest: diff_id.0,
            }));
            check_chain(store, damages, diff_ids, &name);
            check_sources(store, damages, &found, &name);
        }
        match store.attestations(&record.descriptor) {
            Ok(attestations) => {
                for (entry, manifest) in attestations {
                    for blob in manifest.layers.iter().chain([&manifest.config, &entry]) {
                        let (kind, digest) = (ObjectKind::Blob, blob.digest);
                        needed.insert(Object { kind, digest });
                        need(
                            damages,
                            Object { kind, digest },
                            store.has_blob(&digest),
                            &name,
                        );
                    }
                }
            }
            Err(error) => note(damages, top, cause::chain(&Error::from(error)), &name),
        }
        needs.push((name, needed));
    }
    // What was found with one image may be needed by those that were looked at before it.
    for damage in damages {
        for (name, needed) in &needs {
            if needed.contains(&damage.object) && !damage.images.contains(name) {
                damage.images.push(name.clone());
            }
        }
    }
    Ok(())
}

fn check_chain(store: &Store, damages: &mut Vec<Damage>, diff_ids: &[DiffId], image: &str) {
    let before = damages.len();
    for diff_id in diff_ids {
        let object = Object {
            kind: ObjectKind::Layer,
            digest: diff_id.0,
        };
        need(damages, object, store.has_layer(diff_id), image);
    }
    let Some(chain) = ChainId::of(diff_ids) else {
        return;
    };
    let broken = |digest: &Digest| damages.iter().any(|damage| damage.object.digest == *digest);
    if damages.len() > before || diff_ids.iter().any(|diff_id| broken(&diff_id.0)) {
        return;
    }
    let object = Object {
        kind: ObjectKind::Chain,
        digest: chain.0,
    };
    let path = store.chain_path(&chain).join("index");
    let expected = open::chain_bytes(store, diff_ids);
    let what = match (std::fs::read(&path), expected) {
        (Ok(found), Ok(expected)) if found == expected => return,
        (Ok(_), Ok(_)) => "it is not what its layers give".to_owned(),
        (Err(error), _) => cause::chain(&error),
        (_, Err(error)) => cause::chain(&error),
    };
    note(damages, object, what, image);
}

/// Checks that each layer is what the blob holds that the manifest has for it. A layer that does not
/// know that blob is compared with it, and knows it afterwards.
fn check_sources(store: &Store, damages: &mut Vec<Damage>, found: &find::Found, image: &str) {
    let diff_ids = &found.config.rootfs.diff_ids;
    for (blob, diff_id) in found.manifest.layers.iter().zip(diff_ids) {
        let layer = Object {
            kind: ObjectKind::Layer,
            digest: diff_id.0,
        };
        let object = Object {
            kind: ObjectKind::Blob,
            digest: blob.digest,
        };
        let known = |damage: &Damage| damage.object == layer || damage.object == object;
        if damages.iter().any(known) || !store.has_layer(diff_id) {
            continue;
        }
        let source = source_of(blob);
        match store.has_layer_of(diff_id, &source) {
            Ok(true) => {}
            Ok(false) => match compare(store, blob, diff_id) {
                Ok(()) => {
                    if let Err(error) = store.add_layer_source(diff_id, &source) {
                        log::debug!("{}", cause::chain(&error));
                    }
                }
                Err(error) => note(damages, object, cause::chain(&error), image),
            },
            Err(error) => note(damages, layer, cause::chain(&error), image),
        }
    }
}

/// Checks that a stored blob, whose digest was checked, holds this layer.
fn compare(store: &Store, blob: &Descriptor, diff_id: &DiffId) -> Result<()> {
    let failed = |error| Error::io(error, "reading the blob");
    let file = File::open(store.blob_path(&blob.digest)).map_err(failed)?;
    let (expected, found) = (blob.size, file.metadata().map_err(failed)?.len());
    if expected != found {
        return Err(Error::SizeMismatch { expected, found });
    }
    let found = uncompressed_digest(file, &Limits::default(), &Progress::default())?;
    let (expected, found) = (diff_id.0, Digest::from_sha256(found));
    if expected != found {
        return Err(Error::DiffIdMismatch { expected, found });
    }
    Ok(())
}

/// Notes that an image needs an object, if that is missing or damaged.
fn need(damages: &mut Vec<Damage>, object: Object, there: bool, image: &str) {
    if let Some(known) = damages.iter_mut().find(|damage| damage.object == object) {
        if !known.images.iter().any(|known| known == image) {
            known.images.push(image.to_owned());
        }
    } else if !there {
        note(damages, object, MISSING.to_owned(), image);
    }
}

fn note(damages: &mut Vec<Damage>, object: Object, what: String, image: &str) {
    if let Some(known) = damages.iter_mut().find(|damage| damage.object == object) {
        if !known.images.iter().any(|known| known == image) {
            known.images.push(image.to_owned());
        }
        return;
    }
    damages.push(Damage {
        object,
        what,
        images: vec![image.to_owned()],
    });
}

/// Checks that a stored blob has its digest.
pub(super) fn check_blob(store: &Store, digest: &Digest) -> Result<()> {
    let failed = |error| Error::io(error, "reading the blob");
    let mut file = File::open(store.blob_path(digest)).map_err(failed)?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    let found = hasher.finish();
    if found != *digest {
        return Err(Error::DigestMismatch {
            expected: *digest,
            found,
        });
    }
    Ok(())
}

/// Checks what shows of a layer without reading its contents: that all of it is there, and its index
/// sound.
pub(super) fn glance(store: &Store, diff_id: &DiffId) -> Result<Index> {
    let record = store.layer_record(diff_id)?;
    if record.diff_id != *diff_id {
        return Err(damaged("its layer.json is that of another layer"));
    }
    let length = |name: &str| {
        let found = std::fs::metadata(store.layer_path(diff_id).join(name));
        let found = found.map_err(|error| Error::io(error, format!("reading its {name}")));
        found.map(|found| found.len())
    };
    if length("pack")? != record.pack_bytes {
        return Err(damaged("its pack has another length than layer.json says"));
    }
    let index = open::layer_index(store, diff_id)?;
    for node in (0..index.node_count()).filter_map(|row| index.node(row)) {
        if let NodeKind::Regular(Place::File(number)) = node.kind()
            && length(&format!("files/{number}"))? != node.size()
        {
            return Err(damaged("a content has another length"));
        }
    }
    Ok(index)
}

/// Checks the index of a layer, and each content against the digest that the index has of it.
fn check_layer(store: &Store, diff_id: &DiffId) -> Result<()> {
    let index = glance(store, diff_id)?;
    let content = LayerContent::open(&store.layer_path(diff_id))
        .map_err(|error| Error::io(error, "opening the layer"))?;
    let mut buffer = vec![0; 256 << 10];
    let mut digests = 0;
    for (row, expected) in index.content_digests() {
        check_content(&index, &content, row, &expected, &mut buffer)?;
        digests += 1;
    }
    let regular = |row: &u32| {
        index
            .node(*row)
            .is_some_and(|node| matches!(node.kind(), NodeKind::Regular(_)))
    };
    if digests != (0..index.node_count()).filter(regular).count() {
        return Err(damaged("a file of it has no digest"));
    }
    Ok(())
}

fn check_content(
    index: &Index,
    content: &LayerContent,
    row: u32,
    expected: &[u8; 32],
    buffer: &mut [u8],
) -> Result<()> {
    let Some((NodeKind::Regular(place), size)) = index.node(row).map(|n| (n.kind(), n.size()))
    else {
        return Err(damaged("a digest belongs to no file"));
    };
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::io(
            std::io::Error::other(error),
            format!("reading content {row}"),
        )
    };
    let opened = content
        .content(place, size)
        .map_err(|error| failed(error.into()))?;
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < size {
        let count = opened
            .read_at(buffer, at)
            .map_err(|error| failed(error.into()))?;
        hasher.update(&buffer[..count]);
        at += count as u64;
    }
    if hasher.finalize().as_bytes() != expected {
        return Err(damaged("a content does not have its digest"));
    }
    Ok(())
}

fn damaged(what: &'static str) -> Error {
    Error::io(std::io::Error::other(what), "damaged")
}
