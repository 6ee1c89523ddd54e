//! Seeds by name: resolved again and again, because addresses move and members may not be up yet.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::core::seed::Seed;
use crate::driver::Input;
use crate::node::Snapshot;
use crate::shell::{Shell, outward_address};

/// How long one name may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two rounds while this node knows nobody.
const PAUSE_ALONE: Duration = Duration::from_secs(3);
/// Between two rounds among others.
const PAUSE: Duration = Duration::from_secs(60);

/// How the address that others are told is found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Advertise {
    /// It was given, or is the bound one.
    Fixed,
    /// It is that from which this machine reaches its seeds, with this port.
    Outward {
        /// The bound port.
        port: u16,
    },
}

/// Tells the driver what the seeds resolve to whenever that changes, and this node's address likewise.
pub(crate) async fn resolve(
    shell: Arc<Shell>,
    seeds: Vec<Seed>,
    bound: SocketAddr,
    advertise: Advertise,
    mut snapshot: watch::Receiver<Snapshot>,
) {
    let mut known: BTreeMap<Seed, Vec<SocketAddr>> = BTreeMap::new();
    let mut told = Vec::new();
    loop {
        let lookups = seeds.iter().map(|seed| look_up(seed, bound.is_ipv6()));
        let found = futures::future::join_all(lookups).await;
        for (seed, addresses) in seeds.iter().zip(found) {
            // A name that does not resolve now may be as it was.
            if let Some(addresses) = addresses {
                known.insert(seed.clone(), addresses);
            }
        }
        let mut addresses: Vec<SocketAddr> = known.values().flatten().copied().collect();
        addresses.sort_unstable();
        addresses.dedup();
        if let Advertise::Outward { port } = advertise
            && let Some(ip) = outward_address(addresses.first().copied(), bound.is_ipv6())
        {
            let own = Input::Address(SocketAddr::new(ip, port));
            if shell.inputs.send(own).await.is_err() {
                return;
            }
        }
        if addresses != told {
            told.clone_from(&addresses);
            if shell.inputs.send(Input::Seeds(addresses)).await.is_err() {
                return;
            }
        }
        pause(&mut snapshot).await;
    }
}

/// A minute among others, some seconds alone.
async fn pause(snapshot: &mut watch::Receiver<Snapshot>) {
    sleep(PAUSE_ALONE).await;
    let alone = snapshot.wait_for(|snapshot| snapshot.node_count() < 2);
    // Whichever comes first; without a sender the node has stopped, and this task with it.
    let _ = timeout(PAUSE - PAUSE_ALONE, alone).await;
}

/// `None` when it cannot be resolved now.
async fn look_up(seed: &Seed, is_ipv6: bool) -> Option<Vec<SocketAddr>> {
    let found = timeout(LOOKUP_TIMEOUT, lookup_host((seed.host.as_str(), seed.port))).await;
    match found {
        // An IPv4 socket reaches IPv4 only.
        Ok(Ok(addresses)) => Some(addresses.filter(|a| is_ipv6 || a.is_ipv4()).collect()),
        Ok(Err(error)) => {
            tracing::warn!(%seed, %error, "cannot resolve a seed; trying again");
            None
        }
        Err(_) => {
            tracing::warn!(%seed, "a seed's name server does not answer; trying again");
            None
        }
    }
}
