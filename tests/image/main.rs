//! Pulling into a store, from a source that misbehaves on demand.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Mutex;

use plyfs::image::{self, PullRequest, Pulled};
use plyfs::oci::{Descriptor, DiffId, Digest, ImageConfig, Manifest, MediaType, Platform};
use plyfs::pack::{Limits, TarEntry, TarKind, TarWriter};
use plyfs::registry::{BlobReader, Error, Fetched, ManifestName, Source};
use plyfs::store::Store;

/// Serves blobs from memory and keeps count.
#[derive(Default)]
struct Memory {
    manifest: Vec<u8>,
    blobs: HashMap<Digest, Vec<u8>>,
    /// Offsets at which each blob was asked for.
    asked: Mutex<Vec<(Digest, u64)>>,
    /// Blobs break off after this many bytes, once.
    breaks_after: Mutex<Option<usize>>,
    /// Answers every request for a layer as a server that refuses ranges.
    refuses_ranges: bool,
}

impl Source for Memory {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn manifest(&self, _which: &ManifestName) -> Result<Fetched, Error> {
        let digest = Digest::of(&self.manifest);
        let media_type = MediaType::OciManifest;
        Ok(Fetched {
            bytes: self.manifest.clone(),
            media_type,
            digest,
        })
    }

    fn blob(&self, descriptor: &Descriptor, offset: u64) -> Result<BlobReader, Error> {
        if descriptor.media_type.is_layer() {
            self.asked.lock().unwrap().push((descriptor.digest, offset));
            if self.refuses_ranges {
                let url = "memory".to_owned();
                return Err(Error::RangeNotSatisfiable { url, offset });
            }
        }
        let bytes = self.blobs[&descriptor.digest][offset as usize..].to_vec();
        let is_layer = descriptor.media_type.is_layer();
        let breaks = if is_layer {
            self.breaks_after.lock().unwrap().take()
        } else {
            None
        };
        let reader: Box<dyn Read + Send> = match breaks {
            Some(length) => Box::new(io::Cursor::new(bytes[..length].to_vec()).chain(Broken)),
            None => Box::new(io::Cursor::new(bytes)),
        };
        Ok(BlobReader {
            start: offset,
            reader,
        })
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::new(
            io::ErrorKind::ConnectionReset,
            "the connection broke",
        ))
    }
}

/// A layer with one file.
fn layer(name: &str, content: &[u8]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    let entry = TarEntry {
        path: name.as_bytes(),
        metadata: Default::default(),
        kind: TarKind::Regular(content.len() as u64),
        xattrs: &[],
    };
    writer.append(&entry, &mut &content[..]).unwrap();
    writer.finish().unwrap()
}

/// An image of these layers, each with the diffID that it is said to have.
fn image(layers: &[(&[u8], Digest)]) -> Memory {
    let mut source = Memory::default();
    let diff_ids = layers.iter().map(|(_, diff_id)| DiffId(*diff_id)).collect();
    let config = ImageConfig::new(Platform::host(), diff_ids)
        .to_bytes()
        .unwrap();
    let describe = |(bytes, _): &(&[u8], Digest)| Descriptor::of(MediaType::OciLayer, bytes);
    let descriptors: Vec<Descriptor> = layers.iter().map(describe).collect();
    let manifest = Manifest::new(Descriptor::of(MediaType::OciConfig, &config), descriptors);
    source.manifest = serde_json::to_vec(&manifest).unwrap();
    for bytes in layers.iter().map(|(bytes, _)| *bytes).chain([&config[..]]) {
        source.blobs.insert(Digest::of(bytes), bytes.to_vec());
    }
    source
}

fn pull(store: &Store, source: &Memory) -> image::Result<Pulled> {
    let request = PullRequest {
        source,
        name: &ManifestName::Default,
        store_as: Some(&"test:1".parse().unwrap()),
        platform: None,
        limits: &Limits::default(),
        parallel: 2,
    };
    image::pull(store, &request, &|_| {}, |_| {})
}

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::create(directory.path()).unwrap();
    (directory, store)
}

fn message(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[test]
fn regression_a_blob_is_not_the_layer_it_claims_even_if_that_is_stored() {
    let (_directory, store) = store();
    let (good, other) = (layer("good", b"1"), layer("other", b"2"));
    pull(&store, &image(&[(&good, Digest::of(&good))])).unwrap();
    let error = pull(&store, &image(&[(&other, Digest::of(&good))])).unwrap_err();
    assert!(message(&error).contains("diffID"), "{}", message(&error));
    assert!(!store.has_blob(&Digest::of(&other)));
}

#[test]
fn regression_one_blob_cannot_be_two_layers() {
    let (_directory, store) = store();
    let (good, other) = (layer("good", b"1"), layer("other", b"2"));
    pull(&store, &image(&[(&good, Digest::of(&good))])).unwrap();
    let twice = image(&[(&other, Digest::of(&good)), (&other, Digest::of(&other))]);
    let error = pull(&store, &twice).unwrap_err();
    assert!(message(&error).contains("diffID"), "{}", message(&error));
}

/// The blob is whole, so reading it again cannot help.
#[test]
fn regression_a_stored_blob_with_another_diffid_ends_the_pull() {
    let (_directory, store) = store();
    let other = layer("other", b"2");
    let good = Digest::of(&layer("good", b"1"));
    pull(&store, &image(&[(&other, Digest::of(&other))])).unwrap();
    let error = pull(&store, &image(&[(&other, good)])).unwrap_err();
    assert!(message(&error).contains("diffID"), "{}", message(&error));
    assert!(image::check(&store, &|_| {}).unwrap().is_empty());
}

#[test]
fn regression_a_range_refused_at_the_start_ends_the_pull() {
    let (_directory, store) = store();
    let good = layer("good", b"1");
    let mut source = image(&[(&good, Digest::of(&good))]);
    source.refuses_ranges = true;
    assert!(pull(&store, &source).is_err());
    assert_eq!(source.asked.lock().unwrap().len(), 1);
}

#[test]
fn regression_a_damaged_blob_is_fetched_again() {
    let (_directory, store) = store();
    let good = layer("good", b"1");
    let source = image(&[(&good, Digest::of(&good))]);
    pull(&store, &source).unwrap();
    std::fs::write(store.blob_path(&Digest::of(&good)), b"bit rot").unwrap();
    std::fs::remove_dir_all(store.layer_path(&DiffId(Digest::of(&good)))).unwrap();
    pull(&store, &source).unwrap();
    assert!(image::check(&store, &|_| {}).unwrap().is_empty());
}

#[test]
fn an_interrupted_layer_goes_on_where_it_stopped() {
    let (_directory, store) = store();
    let good = layer("good", &[7; 100_000]);
    let source = image(&[(&good, Digest::of(&good))]);
    *source.breaks_after.lock().unwrap() = Some(60_000);
    let error = pull(&store, &source).unwrap_err();
    assert!(
        message(&error).contains("the connection broke"),
        "{}",
        message(&error)
    );
    pull(&store, &source).unwrap();
    let asked: Vec<u64> = source
        .asked
        .lock()
        .unwrap()
        .iter()
        .map(|(_, at)| *at)
        .collect();
    assert_eq!(asked, [0, 60_000]);
    assert!(image::check(&store, &|_| {}).unwrap().is_empty());
}

/// What is only read again from the disk is not shown as if it came anew.
#[test]
fn regression_a_resumed_layer_is_shown_from_where_it_goes_on() {
    let (_directory, store) = store();
    let good = layer("good", &vec![7; 3 << 20]);
    let source = image(&[(&good, Digest::of(&good))]);
    *source.breaks_after.lock().unwrap() = Some(2 << 20);
    pull(&store, &source).unwrap_err();
    let states = Mutex::new(Vec::new());
    let request = PullRequest {
        source: &source,
        name: &ManifestName::Default,
        store_as: None,
        platform: None,
        limits: &Limits::default(),
        parallel: 1,
    };
    let observer = |event: image::Event<'_>| states.lock().unwrap().push(event.state);
    image::pull(&store, &request, &observer, |_| {}).unwrap();
    let states = states.into_inner().unwrap();
    assert_eq!(states[0], image::LayerState::Resuming { from: 2 << 20 });
    let shown = states.iter().filter_map(|state| match state {
        image::LayerState::Receiving { done } => Some(*done),
        _ => None,
    });
    let shown: Vec<u64> = shown.collect();
    assert!(
        !shown.is_empty() && shown.iter().all(|done| *done > 2 << 20),
        "{shown:?}"
    );
}

#[test]
fn two_pulls_at_once_do_the_work_once() {
    let (directory, store) = store();
    let layers: Vec<Vec<u8>> = (0..6).map(|n| layer("f", &vec![n; 200_000])).collect();
    let pairs: Vec<(&[u8], Digest)> = layers.iter().map(|l| (&l[..], Digest::of(l))).collect();
    let source = image(&pairs);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| pull(&Store::open(directory.path()).unwrap(), &source).unwrap());
        }
    });
    assert_eq!(source.asked.lock().unwrap().len(), layers.len());
    assert!(image::check(&store, &|_| {}).unwrap().is_empty());
}

/// Each ends what the others wait for, and removes its directory.
#[test]
fn regression_an_ingest_that_goes_away_is_made_again() {
    let (_directory, store) = store();
    let digest = Digest::of(b"a blob");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let ingest = store.ingest(&digest, || ()).unwrap();
                    ingest.finish(&store).unwrap();
                }
            });
        }
    });
}
