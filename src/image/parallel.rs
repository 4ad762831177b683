//! Work that several threads share.

use std::sync::Mutex;

use super::{Error, Result};

/// Does `act` for each item, from the last one on, several at a time. After a failure no other
/// item is begun.
///
/// # Errors
/// The first failure: others may be its consequence.
pub(super) fn each<T: Send>(
    work: Vec<T>,
    workers: usize,
    act: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let workers = workers.clamp(1, work.len().max(1));
    let work = Mutex::new(work);
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let take = || lock(&work).pop();
    let has_failed = || lock(&failed).is_some();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(item) = take()
                    && !has_failed()
                {
                    if let Err(error) = act(item) {
                        lock(&failed).get_or_insert(error);
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
