//! A stock libp2p node, as anyone may build it, against ours: turned away by a members-only mesh,
//! served in an open one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use futures::StreamExt as _;
use libp2p::kad::store::MemoryStore;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{
    PeerId, StreamProtocol, Swarm, SwarmBuilder, gossipsub, identify, kad, noise, ping, tcp, yamux,
};
use support::{DEADLINE, Organization, eventually};
use warren_mesh::{AdmissionPolicy, MessageType};

#[derive(NetworkBehaviour)]
struct Stock {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    kad: kad::Behaviour<MemoryStore>,
    gossip: gossipsub::Behaviour,
}

fn stock(mesh: &str) -> Swarm<Stock> {
    let kad_protocol = StreamProtocol::try_from_owned(format!("/warren/{mesh}/kad/1.0.0")).unwrap();
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|key| {
            let id = key.public().to_peer_id();
            let signed = gossipsub::MessageAuthenticity::Signed(key.clone());
            Stock {
                identify: identify::Behaviour::new(identify::Config::new(
                    "stock/1".into(),
                    key.public(),
                )),
                ping: ping::Behaviour::default(),
                kad: kad::Behaviour::with_config(
                    id,
                    MemoryStore::new(id),
                    kad::Config::new(kad_protocol),
                ),
                gossip: gossipsub::Behaviour::new(signed, gossipsub::Config::default()).unwrap(),
            }
        })
        .unwrap()
        .build()
}

/// Runs the swarm until `pick` makes something of an event.
async fn until<T>(
    swarm: &mut Swarm<Stock>,
    what: &str,
    mut pick: impl FnMut(&mut Swarm<Stock>, SwarmEvent<StockEvent>) -> Option<T>,
) -> T {
    let run = async {
        loop {
            let event = swarm.select_next_some().await;
            if let Some(picked) = pick(swarm, event) {
                return picked;
            }
        }
    };
    tokio::time::timeout(DEADLINE, run)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"))
}

#[tokio::test]
async fn given_a_members_only_mesh_when_a_stock_node_dials_then_it_is_turned_away_unidentified() {
    let mut node = Organization::new("org_acme").node().await;
    let mut swarm = stock("org_acme");
    swarm.dial(node.address("/tcp/").await).unwrap();
    let identified = until(
        &mut swarm,
        "the stock node is disconnected",
        |_, event| match event {
            SwarmEvent::Behaviour(StockEvent::Identify(identify::Event::Received { .. })) => {
                Some(true)
            }
            SwarmEvent::ConnectionClosed { .. } | SwarmEvent::OutgoingConnectionError { .. } => {
                Some(false)
            }
            _ => None,
        },
    )
    .await;
    assert!(!identified);
    assert_eq!(node.refusal().await, "stranger");
    assert_eq!(node.refused("stranger"), 1);
    assert!(node.mesh.peers().await.is_empty());
}

#[tokio::test]
async fn given_a_members_only_mesh_when_it_dials_a_stock_node_then_the_error_says_what_it_is() {
    let node = Organization::new("org_acme").node().await;
    let mut swarm = stock("org_acme");
    swarm
        .listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap())
        .unwrap();
    let address = until(
        &mut swarm,
        "the stock node listens",
        |_, event| match event {
            SwarmEvent::NewListenAddr { address, .. } => Some(address),
            _ => None,
        },
    )
    .await;
    let connecting = node.mesh.connect(address);
    let running = async {
        loop {
            swarm.select_next_some().await;
        }
    };
    let error = tokio::select! {
        outcome = connecting => outcome.unwrap_err(),
        () = running => unreachable!("the loop has no end"),
    };
    assert!(
        error.to_string().contains("no node of this organisation"),
        "{error}"
    );
}

#[tokio::test]
async fn given_an_open_mesh_when_a_stock_node_dials_then_it_identifies_pings_and_finds_a_peer() {
    let acme = Organization::new("org_acme");
    let open = |config: &mut warren_mesh::MeshConfig| config.admission = AdmissionPolicy::Open;
    let (a, b) = (acme.node_with(open).await, acme.node_with(open).await);
    a.connect(&b).await;
    eventually("b is in the routing table of a", async || {
        let buckets = a.mesh.routing_table().await;
        buckets
            .iter()
            .flat_map(|bucket| &bucket.peers)
            .any(|entry| entry.peer_id == b.id())
    })
    .await;
    let mut swarm = stock("org_acme");
    swarm.dial(a.address("/tcp/").await).unwrap();
    let agent = until(&mut swarm, "identify", |_, event| match event {
        SwarmEvent::Behaviour(StockEvent::Identify(identify::Event::Received { info, .. })) => {
            Some((info.agent_version, info.protocols))
        }
        SwarmEvent::ConnectionClosed { cause, .. } => panic!("disconnected: {cause:?}"),
        _ => None,
    })
    .await;
    assert!(agent.0.starts_with("warren/"), "{agent:?}");
    let names: Vec<&str> = agent.1.iter().map(AsRef::as_ref).collect();
    for hidden in [
        "/meshsub/1.1.0",
        "/warren/sync/1.0.0",
        "/libp2p/circuit/relay/0.2.0/hop",
        "/libp2p/circuit/relay/0.2.0/stop",
    ] {
        assert!(!names.contains(&hidden), "a stranger was offered {hidden}");
    }
    until(&mut swarm, "ping", |_, event| match event {
        SwarmEvent::Behaviour(StockEvent::Ping(ping::Event { result: Ok(_), .. })) => Some(()),
        _ => None,
    })
    .await;
    let wanted: PeerId = b.id();
    swarm
        .behaviour_mut()
        .kad
        .add_address(&a.id(), a.address("/tcp/").await);
    swarm.behaviour_mut().kad.get_closest_peers(wanted);
    let found = until(&mut swarm, "lookup", |_, event| match event {
        SwarmEvent::Behaviour(StockEvent::Kad(kad::Event::OutboundQueryProgressed {
            result: kad::QueryResult::GetClosestPeers(result),
            ..
        })) => Some(result.unwrap().peers),
        _ => None,
    })
    .await;
    assert!(found.iter().any(|peer| peer.peer_id == wanted), "{found:?}");
    let stranger = *swarm.local_peer_id();
    let peers = a.mesh.peers().await;
    let seen = peers.iter().find(|peer| peer.peer_id == stranger).unwrap();
    assert!(seen.member.is_none());
    assert!(
        a.mesh
            .bandwidth()
            .contains_key(&(None, MessageType::Identify))
    );
}
