//! NATs do what their names say, seen from outside by small UDP probes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what it expects"
)]

mod mirror;
mod probe;

use std::net::{SocketAddr, TcpListener, TcpStream};

use mirror::Mirror;
use probe::{ARRIVES_WITHIN, SILENT_FOR, passes, receive, socket};
use warren_lab::{Filtering, Hairpin, Host, Lab, Nat, topology};

/// One site behind `nat`, and two machines outside.
struct Outside {
    inside: [Host; 2],
    first: Host,
    second: Host,
}

fn behind(lab: &Lab, nat: Nat) -> Outside {
    let internet = lab.bridge("internet").unwrap();
    let router = lab.router("router", Some(nat)).unwrap();
    router.attach_outside(&internet, &["192.0.2.1/24"]).unwrap();
    let lan = lab.bridge("lan").unwrap();
    router.attach_inside(&lan, &["10.1.0.1/24"]).unwrap();
    let inside = [("one", "10.1.0.2/24"), ("two", "10.1.0.3/24")].map(|(name, address)| {
        let host = lab.host(name).unwrap();
        host.attach(&lan, &[address]).unwrap();
        host.default_route("10.1.0.1").unwrap();
        host
    });
    let outside = |name: &str, address: &str| {
        let host = lab.host(name).unwrap();
        host.attach(&internet, &[address]).unwrap();
        host
    };
    Outside {
        inside,
        first: outside("first", "192.0.2.10/24"),
        second: outside("second", "192.0.2.11/24"),
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn given_a_cone_nat_when_two_destinations_are_asked_then_both_see_the_same_mapping() {
    let Some(lab) = Lab::or_skip("cone-mapping") else {
        return;
    };
    let net = behind(&lab, Nat::CONE);
    let (first, second) = (
        Mirror::start(&net.first, 3478),
        Mirror::start(&net.second, 3479),
    );
    let inside = socket(&net.inside[0], 4001);
    assert_eq!(first.ask(&inside), address("192.0.2.1:4001"));
    assert_eq!(second.ask(&inside), address("192.0.2.1:4001"));
}

#[test]
fn given_a_cone_nat_when_two_machines_use_one_port_then_each_keeps_one_mapping_of_its_own() {
    let Some(lab) = Lab::or_skip("cone-same-port") else {
        return;
    };
    let net = behind(&lab, Nat::CONE);
    let (first, second) = (
        Mirror::start(&net.first, 3478),
        Mirror::start(&net.second, 3479),
    );
    let (one, two) = (socket(&net.inside[0], 4001), socket(&net.inside[1], 4001));
    let of_one = first.ask(&one);
    let of_two = second.ask(&two);
    assert_ne!(of_one, of_two);
    assert_eq!(first.ask(&two), of_two);
    assert_eq!(second.ask(&one), of_one);
}

#[test]
fn given_a_port_restricted_cone_when_others_send_to_the_mapping_then_only_the_answer_gets_in() {
    let Some(lab) = Lab::or_skip("cone-filter") else {
        return;
    };
    let net = behind(&lab, Nat::CONE);
    let inside = socket(&net.inside[0], 4001);
    let mapping = Mirror::start(&net.first, 3478).ask(&inside);
    let (same_port, other_port) = (socket(&net.first, 3478), socket(&net.first, 9));
    let stranger = socket(&net.second, 3478);
    assert!(!passes(&stranger, mapping, &inside, SILENT_FOR));
    assert!(!passes(&other_port, mapping, &inside, SILENT_FOR));
    assert!(passes(&same_port, mapping, &inside, ARRIVES_WITHIN));
}

#[test]
fn given_a_restricted_cone_when_a_known_address_sends_from_another_port_then_it_gets_in() {
    let Some(lab) = Lab::or_skip("restricted-filter") else {
        return;
    };
    let nat = Nat::Cone {
        filtering: Filtering::AddressDependent,
        hairpin: Hairpin::Off,
    };
    let net = behind(&lab, nat);
    let inside = socket(&net.inside[0], 4001);
    let mapping = Mirror::start(&net.first, 3478).ask(&inside);
    let other_port = socket(&net.first, 9);
    let stranger = socket(&net.second, 3478);
    assert!(!passes(&stranger, mapping, &inside, SILENT_FOR));
    assert!(passes(&other_port, mapping, &inside, ARRIVES_WITHIN));
}

#[test]
fn given_a_full_cone_when_a_stranger_sends_to_the_mapping_then_it_gets_in_and_is_answered() {
    let Some(lab) = Lab::or_skip("full-cone") else {
        return;
    };
    let net = behind(&lab, Nat::FULL_CONE);
    let inside = socket(&net.inside[0], 4001);
    let mapping = Mirror::start(&net.first, 3478).ask(&inside);
    let stranger = socket(&net.second, 9);
    assert!(passes(&stranger, mapping, &inside, ARRIVES_WITHIN));
    inside.send_to(b"answer", "192.0.2.11:9").unwrap();
    let (text, sender) = receive(&stranger, ARRIVES_WITHIN).unwrap();
    assert_eq!((text.as_str(), sender), ("answer", mapping));
}

#[test]
fn given_hairpin_when_a_neighbour_sends_to_the_mapping_then_it_arrives_from_the_outside_address() {
    let Some(lab) = Lab::or_skip("hairpin") else {
        return;
    };
    let net = behind(&lab, Nat::FULL_CONE);
    let (one, two) = (socket(&net.inside[0], 4001), socket(&net.inside[1], 4002));
    let mapping = Mirror::start(&net.first, 3478).ask(&one);
    two.send_to(b"hello", mapping).unwrap();
    let (text, sender) = receive(&one, ARRIVES_WITHIN).unwrap();
    assert_eq!(
        (text.as_str(), sender),
        ("hello", address("192.0.2.1:4002"))
    );
}

#[test]
fn given_no_hairpin_when_a_neighbour_sends_to_the_mapping_then_nothing_arrives() {
    let Some(lab) = Lab::or_skip("no-hairpin") else {
        return;
    };
    let net = behind(&lab, Nat::CONE);
    let (one, two) = (socket(&net.inside[0], 4001), socket(&net.inside[1], 4002));
    let mapping = Mirror::start(&net.first, 3478).ask(&one);
    assert!(!passes(&two, mapping, &one, SILENT_FOR));
}

#[test]
fn given_a_symmetric_nat_when_two_destinations_are_asked_then_each_sees_another_mapping() {
    let Some(lab) = Lab::or_skip("symmetric-mapping") else {
        return;
    };
    let net = behind(&lab, Nat::Symmetric);
    let (first, second) = (
        Mirror::start(&net.first, 3478),
        Mirror::start(&net.second, 3478),
    );
    let third = Mirror::start(&net.second, 3479);
    let inside = socket(&net.inside[0], 4001);
    let mappings = [first.ask(&inside), second.ask(&inside), third.ask(&inside)];
    assert_ne!(mappings[0], mappings[1]);
    assert_ne!(
        mappings[1], mappings[2],
        "another port of the same machine is another destination"
    );
    assert_eq!(
        first.ask(&inside),
        mappings[0],
        "a mapping lasts while it is used"
    );
}

#[test]
fn given_two_cone_nats_when_both_sides_punch_then_they_talk_directly() {
    let Some(lab) = Lab::or_skip("punch-cones") else {
        return;
    };
    let sites = topology::two_cone_nats_with_server(&lab).unwrap();
    let mirror = Mirror::start(&sites.server, 3478);
    let (left, right) = (
        socket(&sites.left.host, 4001),
        socket(&sites.right.host, 4001),
    );
    let (left_mapping, right_mapping) = (mirror.ask(&left), mirror.ask(&right));
    // The first one is dropped by the other's NAT, and opens the way for the answer.
    assert!(!passes(&left, right_mapping, &right, SILENT_FOR));
    assert!(passes(&right, left_mapping, &left, ARRIVES_WITHIN));
    assert!(passes(&left, right_mapping, &right, ARRIVES_WITHIN));
}

#[test]
fn given_two_symmetric_nats_when_both_sides_punch_then_nothing_gets_through() {
    let Some(lab) = Lab::or_skip("punch-symmetric") else {
        return;
    };
    let sites = topology::two_symmetric_nats_with_relay(&lab).unwrap();
    let mirror = Mirror::start(&sites.server, 3478);
    let (left, right) = (
        socket(&sites.left.host, 4001),
        socket(&sites.right.host, 4001),
    );
    let (left_mapping, right_mapping) = (mirror.ask(&left), mirror.ask(&right));
    for _ in 0..2 {
        left.send_to(b"punch", right_mapping).unwrap();
        right.send_to(b"punch", left_mapping).unwrap();
    }
    assert_eq!(receive(&left, SILENT_FOR), None);
    assert_eq!(receive(&right, SILENT_FOR), None);
}

#[test]
fn given_a_cone_nat_when_tcp_goes_out_then_it_works_and_unasked_tcp_does_not_come_in() {
    let Some(lab) = Lab::or_skip("cone-tcp") else {
        return;
    };
    let net = behind(&lab, Nat::CONE);
    let server = net
        .first
        .enter(|| TcpListener::bind("192.0.2.10:80"))
        .unwrap()
        .unwrap();
    let client = net.inside[0]
        .enter(|| TcpStream::connect("192.0.2.10:80"))
        .unwrap();
    let (_accepted, mapping) = server.accept().unwrap();
    assert!(client.is_ok());
    let stranger = net
        .second
        .enter(|| TcpStream::connect_timeout(&mapping, SILENT_FOR))
        .unwrap();
    assert!(stranger.is_err());
}
