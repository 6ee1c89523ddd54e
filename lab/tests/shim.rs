//! The shim on real packets; what it decides is tested in virtual time beside the model.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what it expects"
)]

mod mirror;
mod probe;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use mirror::Mirror;
use probe::{ARRIVES_WITHIN, SILENT_FOR, passes, receive, socket};
use warren_lab::{Direction, Host, Impairment, Lab, Probability, Rate, ShapedLink, eventually};

const SEED: u64 = 42;

struct Shaped {
    one: Host,
    two: Host,
    link: ShapedLink,
}

/// Machine one behind a shim, machine two beside it.
fn shaped(lab: &Lab) -> Shaped {
    let bridge = lab.bridge("bridge").unwrap();
    let (one, two) = (lab.host("one").unwrap(), lab.host("two").unwrap());
    let link = one
        .attach_through_shim(&bridge, &["10.0.0.1/24"], SEED)
        .unwrap();
    two.attach(&bridge, &["10.0.0.2/24"]).unwrap();
    Shaped { one, two, link }
}

/// The quickest of several round trips: a late wake-up on a busy machine only adds.
fn round_trip(socket: &UdpSocket, mirror: &Mirror) -> Duration {
    let trip = |_| {
        let began = Instant::now();
        mirror.ask(socket);
        began.elapsed()
    };
    (0..21).map(trip).min().unwrap()
}

#[test]
fn given_forty_milliseconds_each_way_when_pinged_then_the_answer_takes_eighty() {
    let Some(lab) = Lab::or_skip("shim-ping") else {
        return;
    };
    let net = shaped(&lab);
    let there: IpAddr = "10.0.0.2".parse().unwrap();
    assert!(net.one.reaches(there));
    net.link
        .shape_both(&Impairment::delay(Duration::from_millis(40)));
    let trips: Vec<Duration> = (0..7)
        .map(|_| {
            net.one
                .ping(there, ARRIVES_WITHIN)
                .unwrap()
                .expect("an answer")
        })
        .collect();
    println!("round trips: {trips:?}");
    // A late wake-up on a busy machine only adds.
    let quickest = *trips.iter().min().unwrap();
    assert!(quickest >= Duration::from_millis(80), "{trips:?}");
    assert!(quickest < Duration::from_millis(90), "{trips:?}");
}

#[test]
fn given_directions_of_their_own_when_changed_while_running_then_round_trips_follow() {
    let Some(lab) = Lab::or_skip("shim-directions") else {
        return;
    };
    let net = shaped(&lab);
    let mirror = Mirror::start(&net.two, 3478);
    let socket = socket(&net.one, 4001);
    let bare = round_trip(&socket, &mirror);
    net.link.shape(
        Direction::Outbound,
        Impairment::delay(Duration::from_millis(10)),
    );
    let out = round_trip(&socket, &mirror);
    net.link.shape(
        Direction::Inbound,
        Impairment::delay(Duration::from_millis(5)),
    );
    let both = round_trip(&socket, &mirror);
    net.link.shape_both(&Impairment::default());
    let again = round_trip(&socket, &mirror);
    println!("bare {bare:?}, 10 ms out {out:?}, 5 ms back too {both:?}, again {again:?}");
    let slack = Duration::from_millis(5);
    assert!(bare < slack && again < slack);
    assert!(out >= Duration::from_millis(10) && out < Duration::from_millis(10) + slack);
    assert!(both >= Duration::from_millis(15) && both < Duration::from_millis(15) + slack);
}

#[test]
fn given_a_fifth_lost_when_many_packets_pass_then_counters_and_arrivals_agree() {
    let Some(lab) = Lab::or_skip("shim-loss") else {
        return;
    };
    let net = shaped(&lab);
    let (one, two) = (socket(&net.one, 4001), socket(&net.two, 4001));
    assert!(passes(
        &one,
        "10.0.0.2:4001".parse().unwrap(),
        &two,
        ARRIVES_WITHIN
    ));
    net.link.shape(
        Direction::Outbound,
        Impairment {
            loss: Probability::percent(20),
            ..Impairment::default()
        },
    );
    let mut arrived = 0_u64;
    for _ in 0..20 {
        for _ in 0..100 {
            one.send_to(b"x", "10.0.0.2:4001").unwrap();
        }
        while receive(&two, Duration::from_millis(50)).is_some() {
            arrived += 1;
        }
    }
    let stats = net.link.stats(Direction::Outbound);
    assert!((250..550).contains(&stats.lost), "{stats:?}");
    // Neighbour resolution passes the link too, and may be lost.
    assert!(
        arrived.abs_diff(2_000 - stats.lost) <= 10,
        "{arrived} arrived, {stats:?}"
    );
}

#[test]
fn given_everything_twice_when_one_packet_is_sent_then_two_arrive() {
    let Some(lab) = Lab::or_skip("shim-duplicates") else {
        return;
    };
    let net = shaped(&lab);
    let (one, two) = (socket(&net.one, 4001), socket(&net.two, 4001));
    net.link.shape(
        Direction::Outbound,
        Impairment {
            duplicate: Probability::ALWAYS,
            ..Impairment::default()
        },
    );
    one.send_to(b"once", "10.0.0.2:4001").unwrap();
    assert_eq!(receive(&two, ARRIVES_WITHIN).unwrap().0, "once");
    assert_eq!(receive(&two, ARRIVES_WITHIN).unwrap().0, "once");
    assert_eq!(receive(&two, SILENT_FOR), None);
}

#[test]
fn given_a_shaped_link_when_cut_and_healed_then_it_behaves_as_any_link() {
    let Some(lab) = Lab::or_skip("shim-cut") else {
        return;
    };
    let net = shaped(&lab);
    let there: IpAddr = "10.0.0.2".parse().unwrap();
    assert!(net.one.reaches(there));
    net.link.cut().unwrap();
    assert_eq!(net.one.ping(there, SILENT_FOR).unwrap(), None);
    net.link.heal().unwrap();
    assert!(net.one.reaches(there));
}

/// Sends `bytes` over TCP from one to two and returns megabits per second; every byte is checked.
fn tcp_mbps(net: &Shaped, bytes: usize) -> f64 {
    let listener = net
        .two
        .enter(|| TcpListener::bind("10.0.0.2:7000"))
        .unwrap()
        .unwrap();
    let mut sender = net
        .one
        .enter(|| TcpStream::connect("10.0.0.2:7000"))
        .unwrap()
        .unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    let began = Instant::now();
    let sending = std::thread::spawn(move || {
        let block: Vec<u8> = (0..251_u8).cycle().take(251 * 261).collect();
        let mut left = bytes;
        while left > 0 {
            let now = left.min(block.len());
            sender.write_all(&block[..now]).unwrap();
            left -= now;
        }
    });
    let mut buffer = vec![0; 256 * 1024];
    let mut received = 0;
    loop {
        let count = receiver.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        let intact = buffer[..count]
            .iter()
            .enumerate()
            .all(|(at, byte)| usize::from(*byte) == (received + at) % 251);
        assert!(intact, "bytes differ after {received}");
        received += count;
    }
    sending.join().unwrap();
    assert_eq!(received, bytes);
    bytes as f64 * 8.0 / 1e6 / began.elapsed().as_secs_f64()
}

#[test]
fn given_no_impairment_when_tcp_passes_then_bytes_are_intact_and_frames_fit_the_mtu() {
    let Some(lab) = Lab::or_skip("shim-tcp") else {
        return;
    };
    let net = shaped(&lab);
    let bytes = 64 * 1024 * 1024;
    let mbps = tcp_mbps(&net, bytes);
    println!("{mbps:.0} Mbit/s through the shim");
    // 1,448 bytes of payload fit a frame of MTU 1500: fewer frames would mean that larger ones passed. The counters follow
    // a batch behind.
    eventually(ARRIVES_WITHIN, || {
        net.link.stats(Direction::Outbound).received >= (bytes / 1_448) as u64
    });
}

#[test]
fn given_twenty_megabits_when_tcp_passes_then_it_gets_about_that() {
    let Some(lab) = Lab::or_skip("shim-rate") else {
        return;
    };
    let net = shaped(&lab);
    net.link.shape_both(&Impairment {
        rate: Some(Rate::mbps(20)),
        ..Impairment::default()
    });
    let mbps = tcp_mbps(&net, 5_000_000);
    println!("{mbps:.1} Mbit/s of 20");
    assert!((14.0..20.5).contains(&mbps), "{mbps}");
}

#[test]
fn given_loss_reordering_and_duplicates_when_tcp_passes_then_every_byte_arrives_in_order() {
    let Some(lab) = Lab::or_skip("shim-storm") else {
        return;
    };
    let net = shaped(&lab);
    net.link.shape_both(&Impairment {
        delay: Duration::from_millis(2),
        jitter: Duration::from_millis(1),
        loss: Probability::percent(1),
        reorder: Probability::percent(2),
        duplicate: Probability::percent(1),
        ..Impairment::default()
    });
    tcp_mbps(&net, 2_000_000);
    let stats = net.link.stats(Direction::Outbound);
    assert!(
        stats.lost > 0 && stats.reordered > 0 && stats.duplicated > 0,
        "{stats:?}"
    );
}
