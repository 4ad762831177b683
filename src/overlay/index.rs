//! Base files with several names, once one of them was changed.
//!
//! Copying such a file up puts one inode into `work/plyfs.index`, under its node number in
//! hexadecimal, and links it to the name that is known. The other names still lie in the base only;
//! they lead to the node number, that leads to the entry, and so they show the same inode, after a
//! remount too. A name that is removed, or made, changes the count in `overlay.plyfs.nlink`; with the last
//! name the entry goes.
//!
//! An entry that was made to count only, before anything was copied, is an empty file with the
//! count; `overlay.plyfs.origin` tells the others from it.
//!
//! The kernel knows nothing of this index: mounting such an upper, it shows the old file at names
//! that lie in the base only.
//!
//! # Locking
//! One lock for the counts, held while they are written down.

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::node::ROOT;
use super::upper::{Temporary, Upper, failed, index_name};
use crate::union::Result;

#[derive(Clone, Copy, Debug)]
struct Group {
    nlink: u32,
    is_copied: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Index {
    groups: Mutex<HashMap<u64, Group>>,
}

impl Index {
    /// Reads the index of an upper.
    pub(super) fn read(upper: &Upper) -> Result<Index> {
        let doing = "reading the index";
        let mut names = Vec::new();
        let list = upper
            .index
            .entries(&mut |entry| names.push(entry.name.to_vec()));
        list.map_err(failed(doing))?;
        let mut groups = HashMap::new();
        for name in names {
            let number = std::str::from_utf8(&name).ok();
            let Some(number) = number.and_then(|name| u64::from_str_radix(name, 16).ok()) else {
                continue;
            };
            let at = upper.index.at(&name);
            let value = |mark: &[u8]| at.xattr(mark).map_err(failed(doing));
            let nlink = value(&upper.names.nlink)?;
            let nlink = nlink.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok());
            let origin = value(&upper.names.origin)?;
            let is_copied = match &origin {
                Some(origin) => match upper.parse_origin(origin) {
                    Some(origin) if origin.0 == number => true,
                    // Of another base.
                    _ => continue,
                },
                None => false,
            };
            if let Some(nlink) = nlink
                && number > ROOT
            {
                groups.insert(number, Group { nlink, is_copied });
            }
        }
        Ok(Index {
            groups: Mutex::new(groups),
        })
    }

    /// How many names the base's file of that number has, if that is not what the base says.
    pub(super) fn nlink(&self, number: u64) -> Option<u32> {
        self.groups.lock().get(&number).map(|group| group.nlink)
    }

    /// Whether that file has been copied up.
    pub(super) fn is_copied(&self, number: u64) -> bool {
        (self.groups.lock().get(&number)).is_some_and(|group| group.is_copied)
    }

    /// Whether any file has been copied up into it.
    pub(super) fn has_copies(&self) -> bool {
        self.groups.lock().values().any(|group| group.is_copied)
    }

    /// Puts a copied file into the index; `nlink` is its count if there is none yet.
    pub(super) fn publish(
        &self,
        upper: &Upper,
        number: u64,
        copy: Temporary<'_>,
        nlink: u32,
    ) -> Result<()> {
        let mut groups = self.groups.lock();
        let nlink = groups.get(&number).map_or(nlink, |group| group.nlink);
        write_nlink(upper, copy.at(), nlink)?;
        copy.replace(&upper.index, &index_name(number))?;
        groups.insert(
            number,
            Group {
                nlink,
                is_copied: true,
            },
        );
        Ok(())
    }

    /// Counts one name more or less; `nlink` is the count if there is none yet. Returns the count.
    pub(super) fn count(&self, upper: &Upper, number: u64, nlink: u32, more: bool) -> Result<u32> {
        let mut groups = self.groups.lock();
        let known = groups.get(&number).copied();
        let now = known.map_or(nlink, |group| group.nlink);
        let nlink = if more { now + 1 } else { now.saturating_sub(1) };
        let name = index_name(number);
        if nlink == 0 {
            if known.is_some() {
                upper
                    .index
                    .unlink(&name)
                    .map_err(failed("removing from the index"))?;
                groups.remove(&number);
            }
            return Ok(0);
        }
        match known {
            Some(_) => write_nlink(upper, upper.index.at(&name), nlink)?,
            None => {
                let stub = upper.temporary_file()?;
                write_nlink(upper, stub.at(), nlink)?;
                stub.publish(&upper.index, &name)?;
            }
        }
        let is_copied = known.is_some_and(|group| group.is_copied);
        groups.insert(number, Group { nlink, is_copied });
        Ok(nlink)
    }
}

fn write_nlink(upper: &Upper, at: crate::sys::writable::At<'_>, nlink: u32) -> Result<()> {
    at.set_xattr(&upper.names.nlink, nlink.to_string().as_bytes(), 0)
        .map_err(failed("counting links"))
}
