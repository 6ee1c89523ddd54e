//! The end of a server, in order: stop accepting, wait for the calls in flight, leave the cluster, close.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use warren_cluster::READY_TAG;

use super::{Phase, STOPPED, Server};

/// How often calls in flight are counted during a drain.
const COUNT_INTERVAL: Duration = Duration::from_millis(10);
/// How long clients get to read their last answers and hang up.
const HANG_UP_TIMEOUT: Duration = Duration::from_secs(2);

/// How a drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// Calls that were cut because they took longer than the drain may.
    pub cut: usize,
    /// How long it took.
    pub took: Duration,
}

/// The signals could not be listened for.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for SIGINT and SIGTERM: {0}")]
pub struct SignalError(#[source] std::io::Error);

impl Server {
    /// Serves until SIGINT or SIGTERM, then drains.
    ///
    /// # Errors
    /// [`SignalError`]; nothing was served.
    pub async fn run_until_signal(&self) -> Result<DrainReport, SignalError> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(SignalError)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(SignalError)?;
        tokio::select! {
            () = self.run() => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(self.shutdown().await)
    }

    /// Takes no new connections, tells clients to go elsewhere, and refuses calls that come all the same.
    pub fn stop_accepting(&self) {
        self.0.phase.send_if_modified(|phase| {
            let serving = *phase == Phase::Serving;
            if serving {
                *phase = Phase::Draining;
            }
            serving
        });
        if let Some(cluster) = self.cluster() {
            // A node that has left needs no tags.
            let _ = cluster.set_tag(READY_TAG, "false");
        }
    }

    /// Waits until no call is in flight, at most `within`; gives how many are left. Cancellation safe.
    pub async fn wait_for_in_flight(&self, within: Duration) -> usize {
        let end = Instant::now() + within;
        while self.in_flight() > 0 && Instant::now() < end {
            tokio::time::sleep(COUNT_INTERVAL).await;
        }
        self.in_flight()
    }

    /// Closes everything at once: calls in flight are cut, and their callers do not know whether they ran.
    pub fn kill(&self) {
        self.0.phase.send_replace(Phase::Stopped);
        self.0.endpoint.close(STOPPED, b"stopped");
    }

    /// Drains: [`Server::stop_accepting`], [`Server::wait_for_in_flight`] for as long as the options say, then leaves the
    /// cluster, whatever became of the calls, and closes every connection. A dropped future leaves the server draining; call it again.
    pub async fn shutdown(&self) -> DrainReport {
        let begun = Instant::now();
        tracing::info!(calls = self.in_flight(), "shutdown received");
        self.stop_accepting();
        let cut = self.wait_for_in_flight(self.0.options.drain_timeout).await;
        if let Some(cluster) = self.cluster() {
            cluster.leave().await;
        }
        // Clients that were told to go away hang up by themselves once they have read their answers.
        self.0.connections.close();
        if tokio::time::timeout(HANG_UP_TIMEOUT, self.0.connections.wait())
            .await
            .is_err()
        {
            tracing::debug!("closing connections that clients left open");
        }
        self.kill();
        self.0.endpoint.wait_idle().await;
        let took = begun.elapsed();
        tracing::info!(cut, ?took, "shutdown complete");
        DrainReport { cut, took }
    }
}
