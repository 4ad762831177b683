//! Which mounts make a snapshot visible.

use super::metadata::{Parent, Snapshot};
use super::served;
use super::{Error, Kind, Labels, Mount, Result, Snapshotter};
use crate::idmap::IdRanges;

/// The kind of mount that makes containerd run our helper: `mount.fuse3 ... -t mount.plyfs`, which
/// runs `mount.plyfs SOURCE TARGET -o OPTIONS` from its `PATH`.
const OURS: &str = "fuse3.mount.plyfs";

/// Labels that say as whose the ids on disk are to be seen: `DISK:SHOWN:LENGTH`, separated by commas.
const MAPPINGS: [(&str, &str); 2] = [
    ("containerd.io/snapshot/uidmapping", "uidmapping"),
    ("containerd.io/snapshot/gidmapping", "gidmapping"),
];

/// What a snapshot is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// containerd unpacks a layer into it.
    Unpacking,
    /// Anything else.
    Using,
}

impl Purpose {
    /// What a key is for: containerd's unpacker begins its keys with `extract-`, after the
    /// namespace and a number (`default/7/extract-...`).
    pub(super) fn of(key: &str) -> Purpose {
        let own = key.splitn(3, '/').last().unwrap_or(key);
        if own.starts_with("extract-") {
            Purpose::Unpacking
        } else {
            Purpose::Using
        }
    }
}

impl Snapshotter {
    /// The mounts that make `snapshot` visible.
    ///
    /// # Errors
    /// What mounting an image for the layers above it reports.
    pub(super) fn mounts_of(&self, snapshot: &Snapshot, purpose: Purpose) -> Result<Vec<Mount>> {
        let own = self.store.snapshot(snapshot.number);
        let mapping = mapping(&snapshot.labels)?;
        let by_kernel = purpose == Purpose::Unpacking || (self.kernel_writes && mapping.is_empty());
        let upper = || option("upperdir", &own.upper());
        let work = || option("workdir", &own.work());
        let mount = match (snapshot.kind, &*snapshot.parents) {
            (Kind::Active, []) => bind(&own.upper(), "rw"),
            (_, []) => bind(&own.upper(), "ro"),
            (Kind::View, [parent]) if !parent.is_image && mapping.is_empty() => {
                bind(&self.store.snapshot(parent.number).upper(), "ro")
            }
            (Kind::Active, parents) if by_kernel => {
                let lowers = format!("lowerdir={}", self.lowers(parents)?.join(":"));
                overlay(vec!["index=off".to_owned(), work(), upper(), lowers])
            }
            (kind, [parent, ..]) if parent.is_image => {
                let mut options = vec![
                    format!("root={}", self.root),
                    format!("snapshot={}", parent.number),
                ];
                options.extend(mapping);
                match kind {
                    Kind::Active => options.extend([upper(), work()]),
                    _ => options.push("ro".to_owned()),
                }
                ours(self.image_name(parent.number)?, options)
            }
            (kind, parents) => {
                let mut options = vec![format!("lowerdir={}", self.lowers(parents)?.join(":"))];
                options.extend(mapping);
                match kind {
                    Kind::Active => options.extend([upper(), work()]),
                    _ => options.push("ro".to_owned()),
                }
                ours("plyfs".to_owned(), options)
            }
        };
        Ok(vec![mount])
    }

    /// The directories of the layers below, topmost first. An image ends them: all that lies below
    /// it is in it.
    fn lowers(&self, parents: &[Parent]) -> Result<Vec<String>> {
        let mut lowers = Vec::with_capacity(parents.len());
        for parent in parents {
            if parent.is_image {
                let directory = served::ensure(&self.store, parent.number)?;
                lowers.push(directory.display().to_string());
                break;
            }
            let directory = self.store.snapshot(parent.number).upper();
            lowers.push(directory.display().to_string());
        }
        Ok(lowers)
    }

    fn image_name(&self, number: u64) -> Result<String> {
        let image = self.store.snapshot_image(number)?;
        Ok(image.map_or_else(|| "plyfs".to_owned(), |image| image.image))
    }
}

/// The options that show ids as a user namespace needs them; none where the labels name none.
fn mapping(labels: &Labels) -> Result<Vec<String>> {
    let mut options = Vec::new();
    for (label, option) in MAPPINGS {
        let Some(ranges) = labels.get(label).filter(|ranges| !ranges.is_empty()) else {
            continue;
        };
        let ranges = ranges.replace(',', ":");
        if ranges.parse::<IdRanges>().is_err() {
            let reason = format!("label {label} is no list of ID:ID:LENGTH: {ranges}");
            return Err(Error::InvalidArgument(reason));
        }
        options.push(format!("{option}={ranges}"));
    }
    Ok(options)
}

fn option(name: &str, path: &std::path::Path) -> String {
    format!("{name}={}", path.display())
}

fn bind(directory: &std::path::Path, access: &str) -> Mount {
    Mount {
        kind: "bind".to_owned(),
        source: directory.display().to_string(),
        options: vec![access.to_owned(), "rbind".to_owned()],
    }
}

fn overlay(options: Vec<String>) -> Mount {
    Mount {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options,
    }
}

fn ours(source: String, options: Vec<String>) -> Mount {
    Mount {
        kind: OURS.to_owned(),
        source,
        options,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unpacker_is_known_by_its_keys() {
        for (key, unpacking) in [
            ("default/7/extract-123-abc sha256:00", true),
            ("extract-123-abc sha256:00", true),
            ("default/7/web", false),
            ("default/7/to-extract-later", false),
            ("default/7/a/extract-b", false),
        ] {
            assert_eq!(Purpose::of(key) == Purpose::Unpacking, unpacking, "{key}");
        }
    }
}
