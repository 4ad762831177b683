//! Between the values of the snapshotter and the messages of containerd.

use std::collections::HashMap;
use std::time::SystemTime;

use tonic::{Code, Status};

use super::generated;
use crate::snapshotter::{Error, Info, Kind, Labels, Mount};

pub(super) fn labels(labels: HashMap<String, String>) -> Labels {
    labels.into_iter().collect()
}

pub(super) fn mounts(mounts: Vec<Mount>) -> Vec<generated::Mount> {
    let convert = |mount: Mount| generated::Mount {
        r#type: mount.kind,
        source: mount.source,
        target: String::new(),
        options: mount.options,
    };
    mounts.into_iter().map(convert).collect()
}

pub(super) fn info(info: Info) -> generated::Info {
    let kind = match info.kind {
        Kind::View => generated::Kind::View,
        Kind::Active => generated::Kind::Active,
        Kind::Committed => generated::Kind::Committed,
    };
    generated::Info {
        name: info.name,
        parent: info.parent,
        kind: kind.into(),
        created_at: Some(timestamp(info.created)),
        updated_at: Some(timestamp(info.updated)),
        labels: info.labels.into_iter().collect(),
    }
}

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default();
    prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// The status that tells containerd what to do next.
pub(super) fn status(error: &Error) -> Status {
    let code = match error {
        Error::NotFound(_) => Code::NotFound,
        Error::AlreadyExists(_) => Code::AlreadyExists,
        Error::InvalidArgument(_) => Code::InvalidArgument,
        Error::FailedPrecondition(_) => Code::FailedPrecondition,
        _ => Code::Internal,
    };
    Status::new(code, error.chain())
}

/// Whether an error is a lawful answer, and nothing that we did wrong.
pub(super) fn is_expected(error: &Error) -> bool {
    status(error).code() != Code::Internal
}
