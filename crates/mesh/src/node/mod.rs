//! The task that owns the swarm.
//!
//! It waits for one of five things (an event of the swarm, a command of a handle, an answer the
//! daemon owes a peer, a change of trust, the tick) and hands it to the module that knows about it.
//! Each of those asks a pure module of `core` what to do and does it.

mod addresses;
mod commands;
mod connections;
mod dht;
mod gossip;
mod listen;
mod reach;
mod roaming;
mod sync;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::request_response::{OutboundRequestId, ResponseChannel};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, kad, swarm};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use warren_identity::{Trust, UnixTime};
use warren_telemetry::{Metrics, NetworkMetrics};

use crate::behaviour::streams::Acceptors;
use crate::behaviour::{Behaviour, Event};
use crate::config::MeshConfig;
use crate::core::admission::ListNumbers;
use crate::core::conduct::Conduct;
use crate::core::leads::Leads;
use crate::core::members::{self, MemberTable};
use crate::core::nat::NatView;
use crate::core::neighbours::Neighbours;
use crate::core::punching::PunchPlan;
use crate::core::rate_limit::{RequestLimiter, SignerLimiter};
use crate::core::redial::RedialPlan;
use crate::error::{ConnectError, RequestError, StartError};
use crate::gate::Gate;
use crate::handle::{HaveQuery, SHUTDOWN_TIMEOUT};
use crate::info::{MeshEvent, NatStatus};
use crate::metrics::MeshMetrics;
use crate::node::addresses::Announced;
pub(crate) use crate::node::commands::Command;
use crate::node::connections::Target;
use crate::node::dht::Lookup;
use crate::node::listen::Listeners;
use crate::node::reach::Relays;
use crate::node::roaming::LocalEnds;
use crate::sync::{SyncResponse, WireResponse};
use crate::traffic::TrafficTable;
use crate::transport;

/// How often timers are looked at: what has a deadline is at most this late.
const TICK: Duration = Duration::from_millis(500);

/// A stranger's connection that nobody uses is closed after this long; members' are kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Addresses of one peer dialled at once.
const DIAL_CONCURRENCY: std::num::NonZeroU8 = std::num::NonZeroU8::new(8).unwrap();

/// An answer owed to a peer, and what to say.
type OwedAnswer = BoxFuture<'static, (ResponseChannel<WireResponse>, WireResponse)>;

/// Whom the answer to a request of ours is for.
enum Asked {
    Caller(PeerId, oneshot::Sender<Result<SyncResponse, RequestError>>),
    /// Asked on our own account; the answer is handled here.
    Ourselves,
}

/// A dial somebody waits for.
struct PendingConnect {
    address: Multiaddr,
    reply: oneshot::Sender<Result<PeerId, ConnectError>>,
}

pub(crate) struct Node {
    swarm: Swarm<Behaviour>,
    config: MeshConfig,
    gate: Arc<Gate>,
    metrics: MeshMetrics,
    table: MemberTable,
    leads: Leads,
    neighbours: Neighbours,
    redial: RedialPlan<Target>,
    limiter: RequestLimiter,
    signers: SignerLimiter,
    conduct: Conduct,
    nat: NatView,
    nat_status: NatStatus,
    relays: Relays,
    punching: PunchPlan,
    local_ends: LocalEnds,
    listeners: Listeners,
    announced: Announced,
    /// Revocation lists as they were when we last told others.
    told_lists: ListNumbers,
    /// Revocation lists that gossip brought: whoever brought them passes them on.
    heard_lists: VecDeque<blake3::Hash>,
    /// Our certificates as they were then.
    told_chain: Vec<Vec<u8>>,
    lists_compared_at: Instant,
    routes_refilled_at: Instant,
    pending_connects: BTreeMap<ConnectionId, PendingConnect>,
    dialled_targets: BTreeMap<ConnectionId, Target>,
    /// Dials over QUIC alone; each has its second dial below.
    first_dials: BTreeSet<ConnectionId>,
    second_dials: Vec<(Target, Instant)>,
    lookups: HashMap<kad::QueryId, Lookup>,
    asked: BTreeMap<OutboundRequestId, Asked>,
    owed: FuturesUnordered<OwedAnswer>,
    inbox: mpsc::Receiver<Command>,
    events: broadcast::Sender<MeshEvent>,
    queries: mpsc::Sender<HaveQuery>,
    trust_changed: watch::Receiver<u64>,
    shutdown: Option<oneshot::Sender<()>>,
}

impl Node {
    /// Builds the swarm and listens on every configured address.
    pub(crate) async fn start(
        config: MeshConfig,
        trust: Trust,
        metrics: &Metrics,
        network: NetworkMetrics,
        inbox: mpsc::Receiver<Command>,
        events: broadcast::Sender<MeshEvent>,
        queries: mpsc::Sender<HaveQuery>,
    ) -> Result<Box<Self>, StartError> {
        own_membership(&trust)?;
        let (changed, trust_changed) = watch::channel(trust.generation());
        trust.on_change(move |generation| {
            changed.send_replace(generation);
        });
        let announced = Announced::default();
        let record = addresses::sign(&trust, &config.node, Vec::new(), unix_ms())?;
        let metrics = MeshMetrics::register(metrics);
        let gate = Arc::new(Gate::new(
            trust,
            record,
            config.admission,
            config.admission_timeout,
            metrics.clone(),
            network,
        ));
        let keypair = gate.trust.key().libp2p_keypair();
        let (transport, relay_client) = transport::build(&keypair, gate.clone())?;
        let behaviour = Behaviour::new(&config, &keypair, &gate, relay_client)?;
        let swarm_config = swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(IDLE_TIMEOUT)
            .with_dial_concurrency_factor(DIAL_CONCURRENCY);
        let swarm = Swarm::new(
            transport,
            behaviour,
            keypair.public().to_peer_id(),
            swarm_config,
        );
        let mut node = Box::new(Self {
            swarm,
            metrics,
            table: MemberTable::default(),
            leads: Leads::default(),
            redial: RedialPlan::new(config.redial),
            limiter: RequestLimiter::new(config.limits.requests),
            signers: SignerLimiter::new(config.limits.gossip),
            neighbours: Neighbours::default(),
            conduct: Conduct::default(),
            nat: NatView::default(),
            nat_status: NatStatus::default(),
            relays: Relays::default(),
            punching: PunchPlan::new(config.hole_punch_again),
            local_ends: LocalEnds::default(),
            listeners: Listeners::default(),
            announced,
            told_lists: gate.list_numbers(),
            heard_lists: VecDeque::new(),
            told_chain: gate.chain(),
            lists_compared_at: Instant::now(),
            routes_refilled_at: Instant::now(),
            gate,
            config,
            pending_connects: BTreeMap::new(),
            dialled_targets: BTreeMap::new(),
            first_dials: BTreeSet::new(),
            second_dials: Vec::new(),
            lookups: HashMap::new(),
            asked: BTreeMap::new(),
            owed: FuturesUnordered::new(),
            inbox,
            events,
            queries,
            trust_changed,
            shutdown: None,
        });
        node.subscribe_topics()?;
        node.listen_everywhere().await?;
        node.plan_bootstrap(Instant::now());
        Ok(node)
    }

    pub(crate) fn acceptors(&self) -> Arc<Acceptors> {
        self.swarm.behaviour().streams.inner().acceptors()
    }

    pub(crate) fn traffic(&self) -> Arc<TrafficTable> {
        self.gate.traffic()
    }

    /// Runs until a handle asks to stop or the last handle is gone.
    pub(crate) async fn run(mut self: Box<Self>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.shutdown.is_none() {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                command = self.inbox.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                Some((channel, answer)) = self.owed.next() => self.answer(channel, answer),
                Ok(()) = self.trust_changed.changed() => self.on_trust_changed(),
                _ = tick.tick() => self.on_tick(Instant::now()),
            }
        }
        self.close().await;
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<Event>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => self.on_established(peer_id, connection_id, &endpoint),
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                ..
            } => self.on_closed(peer_id, connection_id),
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                peer_id,
                error,
            } => self.on_dial_failed(connection_id, peer_id, &error),
            SwarmEvent::IncomingConnectionError {
                send_back_addr,
                error,
                peer_id,
                ..
            } => self.on_accept_failed(peer_id, send_back_addr, &error),
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } => {
                self.on_listening(listener_id, address);
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_not_listening(&[address]),
            SwarmEvent::ListenerClosed {
                listener_id,
                addresses,
                reason,
            } => self.on_listener_closed(listener_id, &addresses, reason),
            SwarmEvent::ListenerError { error, .. } => {
                tracing::debug!(%error, "a listener failed to accept a connection");
            }
            SwarmEvent::ExternalAddrConfirmed { address } => self.on_external(address),
            SwarmEvent::ExternalAddrExpired { .. } => self.addresses_changed(),
            _ => {}
        }
    }

    fn on_behaviour_event(&mut self, event: Event) {
        match event {
            Event::Identify(event) => self.on_identify(event),
            Event::Ping(event) => self.on_ping(event),
            Event::Kad(event) => self.on_kad(event),
            Event::Mdns(event) => self.on_mdns(event),
            Event::Gossip(event) => self.on_gossip(event),
            Event::RelayServer(event) => self.on_relay_server(&event),
            Event::RelayClient(event) => self.on_relay_client(&event),
            Event::HolePunch(event) => self.on_hole_punch(event),
            Event::AutoNat(event) => self.on_autonat(event),
            Event::AutoNatServed => {}
            Event::Upnp(event) => self.on_upnp(event),
            Event::Sync(event) => self.on_sync(event),
        }
    }

    fn on_tick(&mut self, now: Instant) {
        self.recheck_members();
        self.dial_due(now);
        self.announce_due(now);
        self.listen_again(now);
        self.reserve_relays(now);
        self.punch_again(now);
        self.end_lookups(now);
        self.refill_routes(now);
        self.compare_lists(now);
        self.count_gossip_meshes();
        for peer in self.conduct.handle_timeout(now) {
            self.gate.lift_ban(&peer);
        }
    }

    fn emit(&self, event: MeshEvent) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    /// Closes every connection in order, then lets go of the swarm and all its tasks.
    async fn close(mut self: Box<Self>) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, closed)
            .await
            .is_err()
        {
            tracing::debug!("some connections did not close in time");
        }
        let Self {
            swarm, shutdown, ..
        } = *self;
        drop(swarm);
        if let Some(done) = shutdown {
            let _ = done.send(());
        }
    }
}

fn own_membership(trust: &Trust) -> Result<(), StartError> {
    let member = trust
        .own_member()
        .ok_or_else(|| StartError::OwnCertificate {
            reason: "there is none".into(),
        })?;
    trust
        .recheck(&member, UnixTime::now())
        .map_err(|refusal| StartError::OwnCertificate {
            reason: refusal.to_string(),
        })
}

/// Milliseconds since 1970, for record sequences: they rise across restarts without a file.
fn unix_ms() -> u64 {
    members::unix_ms(SystemTime::now())
}

/// A number in `[0, 1)` for jitter, where an attacker gains nothing by guessing it.
fn jitter() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // The standard library seeds each `RandomState` anew.
    let bits = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
