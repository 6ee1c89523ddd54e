//! Membership through firewalls, bad links and partitions, on hosts of their own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what it expects"
)]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use support::{Organization, TestNode, all_meet, eventually};
use warren_cluster::{ClusterConfig, State};
use warren_lab::{Block, Host, Impairment, Lab, Probability, topology};

const PORT: u16 = 7946;

/// A node as the defaults make it: on every address, port 7946, LAN timings.
fn start(host: &Host, organization: &Organization) -> TestNode {
    let config = ClusterConfig::default().with_seeds(["10.0.0.1"]);
    TestNode::start_in(host.runtime().unwrap(), organization.member(&[]), config)
}

fn everyone(nodes: &[TestNode]) -> Vec<&TestNode> {
    nodes.iter().collect()
}

fn failures(nodes: &[TestNode]) -> f64 {
    let failures = |node: &TestNode| node.metric("warren_cluster_failures_total", "");
    nodes.iter().map(failures).sum()
}

/// Looks again and again for as long as told; the first time that `condition` does not hold fails the test.
#[track_caller]
fn holds_for(time: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(condition(), "not any more: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn given_udp_that_is_dropped_when_it_happens_to_a_running_cluster_then_tcp_keeps_membership() {
    let Some(lab) = Lab::or_skip("cluster-udp-lost") else {
        return;
    };
    let net = topology::one_bridge(&lab, 3).unwrap();
    let organization = Organization::new("org_lab");
    let nodes: Vec<_> = net
        .hosts
        .iter()
        .map(|host| start(host, &organization))
        .collect();
    eventually("everyone knows everyone", || all_meet(&everyone(&nodes)));
    let seen = nodes[0].node(&nodes[2].id()).unwrap().address;
    assert_eq!(seen, SocketAddr::from(([10, 0, 0, 3], PORT)));
    assert_eq!(nodes[0].metric("warren_cluster_links", "tcp"), 0.0);

    for host in &net.hosts {
        host.block(&[Block::UdpPort(PORT)]).unwrap();
    }

    holds_for(Duration::from_secs(20), "nobody fails", || {
        failures(&nodes) == 0.0
    });
    eventually("nobody is suspect in the end", || {
        all_meet(&everyone(&nodes))
    });
    for node in &nodes {
        assert!(node.metric("warren_cluster_links", "tcp") > 0.0);
    }
    nodes[1].cluster.set_tag("zone", "b").unwrap();
    eventually("a tag came by TCP", || {
        let seen = nodes[2].node(&nodes[1].id());
        seen.is_some_and(|seen| seen.tags.contains_key("zone"))
    });
}

#[test]
fn given_udp_that_is_dropped_when_nodes_start_then_they_meet_by_tcp() {
    let Some(lab) = Lab::or_skip("cluster-tcp-only") else {
        return;
    };
    let net = topology::one_bridge(&lab, 3).unwrap();
    for host in &net.hosts {
        host.block(&[Block::UdpPort(PORT)]).unwrap();
    }
    let organization = Organization::new("org_lab");

    let nodes: Vec<_> = net
        .hosts
        .iter()
        .map(|host| start(host, &organization))
        .collect();

    eventually("everyone knows everyone", || all_meet(&everyone(&nodes)));
    holds_for(Duration::from_secs(10), "nobody fails", || {
        failures(&nodes) == 0.0
    });
}

#[test]
fn given_a_fifth_of_all_packets_lost_when_time_passes_then_nobody_is_removed() {
    let Some(lab) = Lab::or_skip("cluster-loss") else {
        return;
    };
    let bridge = lab.bridge("lan").unwrap();
    let hosts: Vec<Host> = (1..=4)
        .map(|number| lab.host(&format!("node-{number}")).unwrap())
        .collect();
    let loss = Impairment {
        loss: Probability::percent(20),
        ..Impairment::default()
    };
    let attach = |(host, number): (&Host, u64)| {
        let address = format!("10.0.0.{number}/24");
        let (link, seed) = (
            host.attach_through_shim(&bridge, &[&address], number),
            number,
        );
        (link.unwrap(), seed)
    };
    let links: Vec<_> = hosts.iter().zip(1_u64..).map(attach).collect();
    let organization = Organization::new("org_lab");
    let nodes: Vec<_> = hosts
        .iter()
        .map(|host| start(host, &organization))
        .collect();
    eventually("everyone knows everyone", || all_meet(&everyone(&nodes)));

    // What a node sends is lost with one in five; so of a ping and its answer, 36 % are.
    for (link, _) in &links {
        link.shape(warren_lab::Direction::Outbound, loss.clone());
    }

    holds_for(Duration::from_secs(40), "nobody fails", || {
        failures(&nodes) == 0.0
    });
    let suspicions = |node: &TestNode| node.metric("warren_cluster_suspicions_total", "");
    println!(
        "suspicions in 40 s at 20 % loss each way: {}",
        nodes.iter().map(suspicions).sum::<f64>()
    );
}

#[test]
fn given_a_partition_when_it_heals_then_both_sides_have_gone_on_and_merge() {
    let Some(lab) = Lab::or_skip("cluster-partition") else {
        return;
    };
    let net = topology::one_bridge(&lab, 4).unwrap();
    let organization = Organization::new("org_lab");
    let nodes: Vec<_> = net
        .hosts
        .iter()
        .map(|host| start(host, &organization))
        .collect();
    eventually("everyone knows everyone", || all_meet(&everyone(&nodes)));
    let cut_off = nodes[3].id();
    let before = nodes[0].node(&cut_off).unwrap().incarnation;

    net.links[3].cut().unwrap();
    eventually("both sides are alone", || {
        let majority = nodes[..3].iter().all(|node| {
            node.state(&cut_off) == Some(State::Failed) && node.cluster.node_count() == 3
        });
        majority && nodes[3].cluster.node_count() == 1
    });
    nodes[0].cluster.set_tag("side", "large").unwrap();
    nodes[3].cluster.set_tag("side", "small").unwrap();
    net.links[3].heal().unwrap();

    eventually(
        "both sides are one again, and know what the other said",
        || {
            let says = |node: &TestNode, of: &TestNode, side: &str| {
                let seen = node.node(&of.id());
                seen.is_some_and(|seen| seen.tags.get("side").map(String::as_str) == Some(side))
            };
            all_meet(&everyone(&nodes))
                && says(&nodes[1], &nodes[3], "small")
                && says(&nodes[3], &nodes[0], "large")
        },
    );
    assert!(nodes[0].node(&cut_off).unwrap().incarnation > before);
}
