//! From the members of a cluster, and the directors of others, to a director's targets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use warren_balance::TagFilter;
use warren_cluster::{Cluster, Snapshot};
use warren_identity::tls::ExpectedPeer;
use warren_identity::{Capability, PeerId};
use warren_rpc::{Target, follow, targets_of};

use crate::director::{DIRECTOR, REGION, ROLE, WORKER};

/// How often names of remote directors are looked up again.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(60);
/// And while one of them has no address.
const LOOK_UP_RETRY: Duration = Duration::from_secs(5);

/// Directors of a cluster in another region, which gossip does not reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteDirectors {
    /// Their region.
    pub region: String,
    /// Where they take calls, `host:port`.
    pub addresses: Vec<String>,
}

/// Keeps `targets` what a director in `region` passes calls to: the workers of the cluster, its directors in other
/// regions, and `remote` ones. Ends when nobody listens to `targets`, or with the cluster.
pub async fn keep_targets(
    cluster: &Cluster,
    region: Option<String>,
    remote: Vec<RemoteDirectors>,
    targets: watch::Sender<Vec<Target>>,
) {
    let (sender, found) = watch::channel(Vec::new());
    let own = cluster.peer_id();
    let mut changes = found.clone();
    let choose = |snapshot: &Snapshot| {
        let mut chosen = members(snapshot, own, region.as_deref());
        chosen.extend(found.borrow().iter().cloned());
        chosen
    };
    // What is found by name changes seldom; following begins anew then.
    let following = async {
        loop {
            tokio::select! {
                () = follow(cluster, targets.clone(), choose) => return,
                changed = changes.changed() => if changed.is_err() {
                    // Nobody looks up any more: what was found stays.
                    return follow(cluster, targets.clone(), choose).await;
                }
            }
        }
    };
    tokio::select! {
        () = following => {}
        () = look_up(remote, sender) => {}
    }
}

fn members(snapshot: &Snapshot, own: PeerId, region: Option<&str>) -> Vec<Target> {
    let is_other = |target: &Target| match &target.expected {
        ExpectedPeer::Peer(peer) | ExpectedPeer::PeerWith(peer, _) => *peer != own,
        ExpectedPeer::Capability(_) | ExpectedPeer::AnyMember => true,
    };
    let workers = targets_of(snapshot, &TagFilter::tag(ROLE, WORKER));
    let mut targets: Vec<Target> = workers.into_iter().filter(is_other).collect();
    let directors = targets_of(snapshot, &TagFilter::tag(ROLE, DIRECTOR));
    let is_elsewhere = |target: &Target| {
        let theirs = target.tags.get(REGION).map(String::as_str);
        theirs.is_some() && region.is_some() && theirs != region
    };
    // A node that is both is a worker: one address is one target.
    let mut known: Vec<SocketAddr> = targets.iter().map(|target| target.address).collect();
    for director in directors.into_iter().filter(is_other).filter(is_elsewhere) {
        if !known.contains(&director.address) {
            known.push(director.address);
            targets.push(director);
        }
    }
    targets
}

/// Looks the remote directors up, again and again.
async fn look_up(remote: Vec<RemoteDirectors>, found: watch::Sender<Vec<Target>>) {
    if remote.is_empty() {
        // Nothing will ever be found; ending would end the director's targets.
        return std::future::pending().await;
    }
    loop {
        let mut targets: BTreeMap<SocketAddr, Target> = BTreeMap::new();
        let mut pause = LOOK_UP_INTERVAL;
        for directors in &remote {
            for name in &directors.addresses {
                match tokio::net::lookup_host(name).await {
                    Ok(addresses) => {
                        let region = &directors.region;
                        targets.extend(addresses.map(|address| (address, target(address, region))));
                    }
                    Err(error) => {
                        pause = LOOK_UP_RETRY;
                        tracing::warn!(%name, region = %directors.region, %error, "a director of another region has no address");
                    }
                }
            }
        }
        let targets: Vec<Target> = targets.into_values().collect();
        found.send_if_modified(|found| {
            let is_news = *found != targets;
            if is_news {
                *found = targets;
            }
            is_news
        });
        tokio::time::sleep(pause).await;
    }
}

fn target(address: SocketAddr, region: &str) -> Target {
    let mut target = Target::new(address, ExpectedPeer::Capability(Capability::Director));
    target.tags.insert(ROLE.to_owned(), DIRECTOR.to_owned());
    target.tags.insert(REGION.to_owned(), region.to_owned());
    target.place.region = Some(region.to_owned());
    target
}
