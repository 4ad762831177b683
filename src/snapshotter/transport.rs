//! The snapshotter as containerd's gRPC service on a unix socket.
//!
//! The only place that knows of gRPC and of an async runtime. Every call is handed to a thread that
//! may block; nothing is decided here.

mod convert;
mod generated;

use std::io;
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::{Error, Result as SnapshotResult, Snapshotter};
use generated::snapshots_server::{Snapshots, SnapshotsServer};
use generated::*;

/// How long calls that are being answered may take once we are told to end.
const GRACE: Duration = Duration::from_secs(10);

/// How many snapshots one message of a listing holds.
const BLOCK: usize = 100;

/// Answers calls that come in on `listener`, until SIGTERM or SIGINT. Then calls that are being
/// answered are finished, those that take too long are broken off.
///
/// # Errors
/// What starting the runtime, or listening, reports.
pub fn serve(snapshotter: Snapshotter, listener: UnixListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("plyfs-grpc")
        .enable_all()
        .build()?;
    let served = runtime.block_on(answer(Service(Arc::new(snapshotter)), listener));
    // A pull that is under way goes on where it stopped, next time.
    runtime.shutdown_background();
    served
}

async fn answer(service: Service, listener: UnixListener) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // There is nothing to read again, and a hangup is no reason to end.
    let _hangup = signal(SignalKind::hangup())?;
    let incoming = UnixListenerStream::new(tokio::net::UnixListener::from_std(listener)?);
    let (told, end) = tokio::sync::oneshot::channel::<()>();
    let serving = Server::builder()
        .add_service(SnapshotsServer::new(service))
        .serve_with_incoming_shutdown(incoming, async {
            if end.await.is_err() {
                log::debug!("nobody is left to tell the server to end");
            }
        });
    let mut serving = Box::pin(serving);
    tokio::select! {
        served = &mut serving => return served.map_err(io::Error::other),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    log::info!("ending");
    if told.send(()).is_err() {
        return Ok(());
    }
    match tokio::time::timeout(GRACE, serving).await {
        Ok(served) => served.map_err(io::Error::other),
        Err(_) => Ok(()),
    }
}

struct Service(Arc<Snapshotter>);

impl Service {
    /// Runs a call on a thread that may block.
    async fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        act: impl FnOnce(&Snapshotter) -> SnapshotResult<T> + Send + 'static,
    ) -> Result<T, Status> {
        let snapshotter = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || act(&snapshotter)).await;
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let status = convert::status(&error);
                if convert::is_expected(&error) {
                    log::debug!("{name}: {}", status.message());
                } else {
                    log::error!("{name}: {}", status.message());
                }
                Err(status)
            }
            Err(panic) => {
                log::error!("{name}: {panic}");
                Err(Status::internal("a bug in plyfs ended the call"))
            }
        }
    }
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Reply<PrepareSnapshotResponse> {
        let it = request.into_inner();
        let labels = convert::labels(it.labels);
        let mounts = self
            .call("prepare", move |to| to.prepare(&it.key, &it.parent, labels))
            .await?;
        let mounts = convert::mounts(mounts);
        Ok(Response::new(PrepareSnapshotResponse { mounts }))
    }

    async fn view(&self, request: Request<ViewSnapshotRequest>) -> Reply<ViewSnapshotResponse> {
        let it = request.into_inner();
        let labels = convert::labels(it.labels);
        let mounts = self
            .call("view", move |to| to.view(&it.key, &it.parent, labels))
            .await?;
        let mounts = convert::mounts(mounts);
        Ok(Response::new(ViewSnapshotResponse { mounts }))
    }

    async fn mounts(&self, request: Request<MountsRequest>) -> Reply<MountsResponse> {
        let it = request.into_inner();
        let mounts = self.call("mounts", move |to| to.mounts(&it.key)).await?;
        let mounts = convert::mounts(mounts);
        Ok(Response::new(MountsResponse { mounts }))
    }

    async fn commit(&self, request: Request<CommitSnapshotRequest>) -> Reply<()> {
        let it = request.into_inner();
        let labels = convert::labels(it.labels);
        self.call("commit", move |to| {
            to.commit(&it.name, &it.key, &it.parent, labels)
        })
        .await
        .map(Response::new)
    }

    async fn remove(&self, request: Request<RemoveSnapshotRequest>) -> Reply<()> {
        let it = request.into_inner();
        self.call("remove", move |to| to.remove(&it.key))
            .await
            .map(Response::new)
    }

    async fn stat(&self, request: Request<StatSnapshotRequest>) -> Reply<StatSnapshotResponse> {
        let it = request.into_inner();
        let info = self.call("stat", move |to| to.stat(&it.key)).await?;
        let info = Some(convert::info(info));
        Ok(Response::new(StatSnapshotResponse { info }))
    }

    async fn update(
        &self,
        request: Request<UpdateSnapshotRequest>,
    ) -> Reply<UpdateSnapshotResponse> {
        let it = request.into_inner();
        let paths = it.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let info = self
            .call("update", move |to| {
                let missing = || Error::InvalidArgument("nothing to update".to_owned());
                let info = it.info.ok_or_else(missing)?;
                to.update(&info.name, convert::labels(info.labels), &paths)
            })
            .await?;
        let info = Some(convert::info(info));
        Ok(Response::new(UpdateSnapshotResponse { info }))
    }

    type ListStream =
        Pin<Box<dyn Stream<Item = Result<ListSnapshotsResponse, Status>> + Send + 'static>>;

    async fn list(&self, request: Request<ListSnapshotsRequest>) -> Reply<Self::ListStream> {
        let it = request.into_inner();
        let found = self.call("list", move |to| to.list(&it.filters)).await?;
        let infos: Vec<Info> = found.into_iter().map(convert::info).collect();
        let blocks: Vec<_> = infos
            .chunks(BLOCK)
            .map(|block| {
                let info = block.to_vec();
                Ok(ListSnapshotsResponse { info })
            })
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(blocks))))
    }

    async fn usage(&self, request: Request<UsageRequest>) -> Reply<UsageResponse> {
        let it = request.into_inner();
        let usage = self.call("usage", move |to| to.usage(&it.key)).await?;
        Ok(Response::new(UsageResponse {
            size: i64::try_from(usage.bytes).unwrap_or(i64::MAX),
            inodes: i64::try_from(usage.inodes).unwrap_or(i64::MAX),
        }))
    }

    async fn cleanup(&self, _request: Request<CleanupRequest>) -> Reply<()> {
        self.call("cleanup", Snapshotter::cleanup)
            .await
            .map(Response::new)
    }
}
