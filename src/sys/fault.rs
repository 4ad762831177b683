//! Faults on purpose: the k-th call that concerns an upper directory fails, and with a crash all that follow.
//!
//! Without the feature `fault-injection` nothing of this is compiled into the callers.

/// Stands before every system call that changes an upper directory, or reads attributes in it.
///
/// # Errors
/// The fault that a test has planned for this call.
#[cfg(not(feature = "fault-injection"))]
#[inline]
pub(super) fn point(_call: &'static str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(feature = "fault-injection")]
pub(super) use planned::point;
#[cfg(feature = "fault-injection")]
pub use planned::{calls, plan};

#[cfg(feature = "fault-injection")]
mod planned {
    use std::cell::Cell;
    use std::io;

    #[derive(Clone, Copy, Default)]
    struct Plan {
        seen: u64,
        fail_at: Option<u64>,
        errno: i32,
        crash: bool,
    }

    thread_local! {
        static PLAN: Cell<Plan> = const { Cell::new(Plan { seen: 0, fail_at: None, errno: 0, crash: false }) };
    }

    /// Plans that the call number `fail_at` of this thread, counted from 1, fails with `errno`, and
    /// all later ones too if it is a crash. `None` plans nothing. Counting begins anew.
    pub fn plan(fail_at: Option<u64>, errno: i32, crash: bool) {
        PLAN.set(Plan {
            seen: 0,
            fail_at,
            errno,
            crash,
        });
    }

    /// How many calls this thread has made since the last plan.
    #[must_use]
    pub fn calls() -> u64 {
        PLAN.get().seen
    }

    /// Stands before every system call that changes an upper directory, or reads attributes in it.
    ///
    /// # Errors
    /// The fault that a test has planned for this call.
    pub fn point(call: &'static str) -> io::Result<()> {
        let mut plan = PLAN.get();
        plan.seen += 1;
        PLAN.set(plan);
        let fails = match plan.fail_at {
            Some(at) => plan.seen == at || (plan.crash && plan.seen > at),
            None => false,
        };
        if fails {
            log::debug!("planned fault in {call}");
            return Err(io::Error::from_raw_os_error(plan.errno));
        }
        Ok(())
    }
}
