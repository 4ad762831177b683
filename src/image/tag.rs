//! Gives an image further names.

use crate::oci::Reference;
use crate::store::{Record, Store};

use super::{Error, Result, find_record};

/// Gives the image that `source` means all of these names, or none if something fails. An image
/// that loses its last name so stays, dangling.
///
/// # Errors
/// [`Error::TagWithDigest`], or as [`super::find`].
pub fn tag(store: &Store, source: &str, names: &[Reference]) -> Result<Record> {
    for name in names {
        if name.digest().is_some() {
            let name = name.familiar();
            return Err(Error::TagWithDigest { name });
        }
    }
    // Under the lock, so that the image is not removed meanwhile.
    let lock = store.lock()?;
    let record = find_record(store, source)?;
    let named = |name: &Reference| Record::named(name.clone(), record.descriptor.clone());
    store.publish_all(&lock, names.iter().map(named).collect())?;
    Ok(record)
}
