//! Keeps a connection to every server of a pool.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use warren_balance::{Endpoint, stable_hash};

use super::{Liveness, Shared, Target};
use crate::client::{Client, Connection};

/// The first pause after a connection that could not be made or broke.
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// The longest.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// Connections coming and going that are taken in at once.
const NEWS: usize = 64;

/// A server with a live connection: what the balancer knows it by. A server that comes back is another one, about which
/// nothing is known.
#[derive(Clone, Debug)]
pub(super) struct Live(Arc<Line>);

#[derive(Debug)]
struct Line {
    address: SocketAddr,
    number: u64,
    connection: Connection,
}

impl Live {
    pub(super) fn address(&self) -> SocketAddr {
        self.0.address
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.0.connection
    }

    fn order(&self) -> (SocketAddr, u64) {
        (self.0.address, self.0.number)
    }
}

impl PartialEq for Live {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Live {}

impl PartialOrd for Live {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Live {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

/// What a server's task tells the keeper.
enum News {
    Up(SocketAddr, Connection),
    Down(SocketAddr),
}

/// A server the keeper looks after.
struct Kept {
    target: Target,
    task: AbortHandle,
    live: Option<Live>,
}

/// Keeps the pool's connections until it is aborted, whereupon its tasks end too.
pub(crate) async fn keep(
    shared: Arc<Shared>,
    client: Client,
    mut targets: watch::Receiver<Vec<Target>>,
) {
    let (tell, mut news) = mpsc::channel(NEWS);
    let mut tasks = JoinSet::new();
    let mut kept: BTreeMap<SocketAddr, Kept> = BTreeMap::new();
    let mut number = 0;
    let mut targets_may_change = true;
    retarget(&mut kept, &targets.borrow_and_update(), |target| {
        tasks.spawn(connect(client.clone(), target, tell.clone()))
    });
    loop {
        tokio::select! {
            changed = targets.changed(), if targets_may_change => {
                targets_may_change = changed.is_ok();
                retarget(&mut kept, &targets.borrow_and_update(), |target| {
                    tasks.spawn(connect(client.clone(), target, tell.clone()))
                });
            }
            Some(first) = news.recv() => {
                let rest = std::iter::from_fn(|| news.try_recv().ok());
                for item in std::iter::once(first).chain(rest) {
                    number += 1;
                    take(&mut kept, item, number);
                }
            }
            Some(_) = tasks.join_next() => continue,
        }
        shared.set_live(endpoints(&kept));
    }
}

/// Makes the kept servers exactly those alive of `wanted`; one that changed in anything but tags and place is another one.
fn retarget(
    kept: &mut BTreeMap<SocketAddr, Kept>,
    wanted: &[Target],
    mut start: impl FnMut(Target) -> AbortHandle,
) {
    kept.retain(|address, kept| {
        let mut same = wanted
            .iter()
            .filter(|target| target.address == *address && target.expected == kept.target.expected);
        let liveness = same.next().map(|target| target.liveness);
        let stays = liveness == Some(Liveness::Alive);
        if !stays {
            kept.task.abort();
        }
        if let (Some(Liveness::Lost), Some(live)) = (liveness, &kept.live) {
            live.connection().give_up();
        }
        stays
    });
    let alive = wanted
        .iter()
        .filter(|target| target.liveness == Liveness::Alive);
    for target in alive {
        match kept.get_mut(&target.address) {
            Some(kept) => kept.target.clone_from(target),
            None => {
                let task = start(target.clone());
                kept.insert(
                    target.address,
                    Kept {
                        target: target.clone(),
                        task,
                        live: None,
                    },
                );
            }
        }
    }
}

fn take(kept: &mut BTreeMap<SocketAddr, Kept>, news: News, number: u64) {
    match news {
        News::Up(address, connection) => {
            if let Some(kept) = kept.get_mut(&address) {
                kept.live = Some(Live(Arc::new(Line {
                    address,
                    number,
                    connection,
                })));
            }
        }
        News::Down(address) => {
            if let Some(kept) = kept.get_mut(&address) {
                kept.live = None;
            }
        }
    }
}

fn endpoints(kept: &BTreeMap<SocketAddr, Kept>) -> Vec<Endpoint<Live>> {
    kept.values()
        .filter_map(|kept| {
            let live = kept.live.clone()?;
            let hash = stable_hash(kept.target.address.to_string().as_bytes());
            let mut endpoint = Endpoint::new(live, hash).at(kept.target.place.clone());
            endpoint.tags = kept.target.tags.clone();
            Some(endpoint)
        })
        .collect()
}

/// Connects to one server, again and again, and tells when it is there and when it is not.
async fn connect(client: Client, target: Target, tell: mpsc::Sender<News>) {
    let mut pause = MIN_PAUSE;
    loop {
        match client
            .connect(target.address, target.expected.clone())
            .await
        {
            Ok(connection) => {
                pause = MIN_PAUSE;
                let up = News::Up(target.address, connection.clone());
                if tell.send(up).await.is_err() {
                    return;
                }
                connection.unusable().await;
                if tell.send(News::Down(target.address)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(address = %target.address, %error, "no connection for calls");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
