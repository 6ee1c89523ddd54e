//! A cluster larger than a handful, in one process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Instant;

use support::{Organization, config, eventually};
use warren_cluster::{Cluster, State};
use warren_telemetry::Metrics;

const NODES: usize = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_thirty_nodes_with_one_seed_when_they_start_then_all_know_and_have_proven_all() {
    let organization = Organization::new("org_scale");
    let start = |seeds: &[std::net::SocketAddr]| {
        let config = config(seeds).with_tag("role", "worker");
        Cluster::join(organization.member(&["worker"]), config, &Metrics::new()).unwrap()
    };
    let began = Instant::now();
    let seed = start(&[]);
    let mut nodes = vec![seed.clone()];
    nodes.extend((1..NODES).map(|_| start(&[seed.local_address()])));

    tokio::task::block_in_place(|| {
        eventually("every node counts every node", || {
            nodes.iter().all(|node| node.node_count() == NODES)
        });
        println!("{NODES} nodes met after {:?}", began.elapsed());
        eventually("every node counts every worker", || {
            nodes
                .iter()
                .all(|node| node.registry().worker_count == NODES)
        });
    });
    println!("and proved each other after {:?}", began.elapsed());

    nodes[NODES - 1].leave().await;
    let left = nodes[NODES - 1].peer_id();
    tokio::task::block_in_place(|| {
        eventually("all know who left", || {
            let knows = |node: &Cluster| {
                let seen = node.snapshot().node(&left).map(|node| node.state);
                seen == Some(State::Left)
            };
            nodes[..NODES - 1].iter().all(knows)
        });
    });
}
