//! Documents on their way: other holders, holders that die, bad links, and what a listener on the wire sees.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what it expects"
)]

mod lab_support;

use std::net::UdpSocket;
use std::time::Duration;

use lab_support::{Node, Organization, bootstrap, content, merge, until};
use serde_json::{Value, json};
use warren_lab::{Direction, Host, Impairment, Lab, Probability, Rate, topology};

const MEET_WITHIN: Duration = Duration::from_secs(20);

fn knows(peer: &Node, address: &str) -> Value {
    bootstrap(&[&peer.address(&format!("/ip4/{address}/tcp/4001"))])
}

#[test]
fn given_a_document_read_by_another_when_the_uploader_is_gone_then_a_third_reads_it_from_there() {
    let Some(lab) = Lab::or_skip("another-holder") else {
        return;
    };
    let net = topology::one_bridge(&lab, 4).unwrap();
    let organization = Organization::new();
    let seed = organization.start(&net.hosts[0], "seed", json!({}));
    let known = knows(&seed, "10.0.0.1");
    let uploader = organization.start(&net.hosts[1], "uploader", known.clone());
    let reader = organization.start(&net.hosts[2], "reader", known.clone());
    until(MEET_WITHIN, "the reader meets the uploader", || {
        reader.is_connected(&uploader)
    });
    let document = content(7, 5_000_000);
    let id = uploader.put(&document);
    assert!(reader.get(&id).unwrap() == document, "the bytes differ");

    uploader.stop();
    let late = organization.start(&net.hosts[3], "late", known);
    until(MEET_WITHIN, "the late one joins", || {
        late.is_connected(&seed)
    });
    assert!(late.get(&id).unwrap() == document, "the bytes differ");
}

#[test]
fn given_two_holders_behind_slow_links_when_one_is_killed_midway_then_the_transfer_completes_from_the_other()
 {
    let Some(lab) = Lab::or_skip("holder-dies") else {
        return;
    };
    let bridge = lab.bridge("bridge").unwrap();
    let organization = Organization::new();
    let slow = Impairment {
        rate: Some(Rate::mbps(160)),
        ..Impairment::default()
    };
    let shaped = |name: &str, address: &str, seed: u64| {
        let host = lab.host(name).unwrap();
        let link = host.attach_through_shim(&bridge, &[address], seed).unwrap();
        (host, link)
    };
    let plain = lab.host("reader").unwrap();
    plain.attach(&bridge, &["10.0.0.3/24"]).unwrap();
    let (first_host, first_link) = shaped("first", "10.0.0.1/24", 1);
    let (second_host, second_link) = shaped("second", "10.0.0.2/24", 2);

    let first = organization.start(&first_host, "first", json!({}));
    let known = knows(&first, "10.0.0.1");
    let second = organization.start(&second_host, "second", known.clone());
    let reader = organization.start(&plain, "reader", known);
    let document = content(8, 64 << 20);
    let id = first.put(&document);
    assert_eq!(second.put(&document), id);
    until(MEET_WITHIN, "the reader knows both", || {
        reader.is_connected(&first) && reader.is_connected(&second)
    });
    for link in [&first_link, &second_link] {
        link.shape_both(&slow);
    }

    let file = reader.folder.join("got");
    let mut get = reader
        .asking(&["get", &id, "-o", lab_support::text(&file)])
        .unwrap();
    let before = first_link.stats(Direction::Outbound).delivered;
    until(
        Duration::from_secs(10),
        "some megabytes have left the first holder",
        || first_link.stats(Direction::Outbound).delivered > before + 3_000,
    );
    assert!(get.is_running(), "the transfer ended too early to be cut");
    first.kill();

    get.wait_success(Duration::from_secs(40)).unwrap();
    assert!(
        std::fs::read(&file).unwrap() == document,
        "the bytes differ"
    );
}

#[test]
fn given_a_capture_of_the_link_when_a_document_passes_then_no_content_hello_or_token_is_seen_in_clear()
 {
    let Some(lab) = Lab::or_skip("capture") else {
        return;
    };
    let net = topology::one_bridge(&lab, 2).unwrap();
    let organization = Organization::new();
    let capture = net.links[0].capture().unwrap();
    let seed = organization.start(&net.hosts[0], "marked-node-name-one", json!({}));
    let other = organization.start(
        &net.hosts[1],
        "marked-node-name-two",
        knows(&seed, "10.0.0.1"),
    );
    until(MEET_WITHIN, "the two meet", || other.is_connected(&seed));
    let marker = "a sentence that nobody on the way may read. ";
    // Long enough for several blocks, and a text that compression would shorten.
    let mut document = marker.as_bytes().to_vec();
    document.extend(content(9, 2_000_000));
    document.extend(marker.as_bytes());
    let id = seed.put(&document);
    assert!(other.get(&id).unwrap() == document, "the bytes differ");
    let token = std::fs::read_to_string(seed.folder.join("data/admin.token")).unwrap();

    // What does go over this wire in clear is found.
    let clear = b"everybody may read this";
    let sent = net.hosts[0].enter(|| {
        let socket = UdpSocket::bind("10.0.0.1:0")?;
        socket.send_to(clear, "10.0.0.2:9")
    });
    sent.unwrap().unwrap();

    let seen = capture.stop().unwrap();
    assert!(seen.frames().unwrap() > 50, "the capture saw the transfer");
    assert!(seen.contains(clear).unwrap());
    for secret in [
        marker.trim(),
        "marked-node-name",
        "org_lab",
        "/warren/admission",
        token.trim(),
    ] {
        assert!(
            !seen.contains(secret.as_bytes()).unwrap(),
            "`{}` went over the wire in clear",
            &secret[..8]
        );
    }
}

fn far_host(lab: &Lab, bridge: &warren_lab::Bridge) -> (Host, warren_lab::ShapedLink) {
    let host = lab.host("far").unwrap();
    let link = host
        .attach_through_shim(bridge, &["10.0.0.2/24"], 11)
        .unwrap();
    (host, link)
}

#[test]
fn given_a_long_lossy_link_when_a_document_is_read_then_it_is_equal_and_the_round_trip_is_told() {
    let Some(lab) = Lab::or_skip("long-lossy-link") else {
        return;
    };
    let bridge = lab.bridge("bridge").unwrap();
    let near_host = lab.host("near").unwrap();
    near_host.attach(&bridge, &["10.0.0.1/24"]).unwrap();
    let (far_host, link) = far_host(&lab, &bridge);
    link.shape_both(&Impairment {
        delay: Duration::from_millis(40),
        jitter: Duration::from_millis(3),
        loss: Probability::percent(1),
        ..Impairment::default()
    });
    let organization = Organization::new();
    let near = organization.start(&near_host, "near", json!({}));
    let far = organization.start(&far_host, "far", knows(&near, "10.0.0.1"));

    until(MEET_WITHIN, "the two meet", || far.is_connected(&near));
    let latency_ms = lab_support::found(MEET_WITHIN, "a round trip was measured", || {
        far.peer(&near)?["latency_ms"].as_u64()
    });
    // A lost packet adds a retransmission; the way itself is 80 ms, jitter aside.
    assert!(
        (74..=400).contains(&latency_ms),
        "{latency_ms} ms for a way of 80 ms"
    );
    let document = content(10, 8 << 20);
    let id = near.put(&document);
    assert!(far.get(&id).unwrap() == document, "the bytes differ");
}

#[test]
fn given_a_bulk_port_that_is_blocked_when_a_document_is_read_then_it_comes_by_a_mesh_stream() {
    let Some(lab) = Lab::or_skip("bulk-blocked") else {
        return;
    };
    let net = topology::one_bridge(&lab, 2).unwrap();
    net.hosts[0]
        .block(&[warren_lab::Block::TcpPort(4002)])
        .unwrap();
    let organization = Organization::new();
    let holder = organization.start(&net.hosts[0], "holder", json!({}));
    let mut known = knows(&holder, "10.0.0.1");
    merge(&mut known, json!({ "storage": { "max_size": "1GB" } }));
    let reader = organization.start(&net.hosts[1], "reader", known);
    until(MEET_WITHIN, "the two meet", || reader.is_connected(&holder));
    let document = content(11, 4_000_000);
    let id = holder.put(&document);

    assert!(reader.get(&id).unwrap() == document, "the bytes differ");
    assert!(reader.log().contains("blocks take a mesh stream"));
}
