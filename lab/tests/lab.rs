//! A lab is whole, separate from others, and gone when it ends, however it ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says what it expects"
)]

mod probe;

use std::net::{
    IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use probe::{ARRIVES_WITHIN, SILENT_FOR, passes, receive, socket};
use warren_lab::{
    Block, Direction, Host, Lab, Probability, ProcessError, Signal, eventually, topology,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// Names of this process' namespaces with this label, as `ip netns` lists them.
fn namespaces_of(lab: &str) -> Vec<String> {
    let listed = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let own = format!("warren-lab.{}.", std::process::id());
    String::from_utf8(listed.stdout)
        .unwrap()
        .lines()
        .filter(|line| line.starts_with(&own) && line.contains(&format!(".{lab}.")))
        .map(str::to_owned)
        .collect()
}

fn links_of_the_machine() -> Vec<String> {
    std::fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn given_a_lab_when_a_test_panics_in_it_then_no_namespace_link_process_or_file_stays() {
    if Lab::or_skip("panic-check").is_none() {
        return;
    }
    let links_before = links_of_the_machine();
    let mut seen = None;
    let result = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::new("panics").unwrap();
        let net = topology::one_bridge(&lab, 2).unwrap();
        let shaped = lab.host("shaped").unwrap();
        shaped
            .attach_through_shim(&net.bridge, &["10.0.9.1/16"], 1)
            .unwrap();
        let orphan = net.hosts[0].spawn(shell("sleep 1000 & wait")).unwrap();
        let pid = orphan.pid();
        // Its owner forgets it, so only the lab's own teardown can end it.
        std::mem::forget(orphan);
        seen = Some((namespaces_of("panics").len(), lab.outputs().to_owned(), pid));
        assert_eq!(
            links_of_the_machine(),
            links_before,
            "the lab stays out of the machine's network"
        );
        std::panic::panic_any("on purpose");
    }));
    let (count, outputs, pid) = seen.unwrap();
    assert_eq!(
        *result.unwrap_err().downcast::<&str>().unwrap(),
        "on purpose"
    );
    assert_eq!(
        count, 5,
        "two hosts, a bridge, a shim and its host were there"
    );
    assert_eq!(namespaces_of("panics"), Vec::<String>::new());
    assert_eq!(links_of_the_machine(), links_before);
    assert!(!outputs.exists());
    let stat = Path::new("/proc").join(pid.to_string()).join("stat");
    eventually(ARRIVES_WITHIN, || {
        // Killed, and waiting only for us to collect it.
        std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
    });
}

#[test]
fn given_a_dead_owner_when_a_lab_is_made_then_what_it_left_is_removed() {
    let Some(_lab) = Lab::or_skip("before-reaping") else {
        return;
    };
    let mut owner = Command::new("true").spawn().unwrap();
    let left = format!("warren-lab.{}.1.0.left.host", owner.id());
    owner.wait().unwrap();
    let added = Command::new("ip")
        .args(["netns", "add", &left])
        .status()
        .unwrap();
    assert!(added.success());
    let _second = Lab::new("reaps").unwrap();
    assert!(!Path::new("/run/netns").join(left).exists());
}

#[test]
fn given_an_owner_that_is_killed_when_the_next_lab_is_made_then_its_processes_and_namespaces_are_gone()
 {
    const VICTIM: &str = "WARREN_LAB_TEST_VICTIM";
    let Some(lab) = Lab::or_skip("killed-owner") else {
        return;
    };
    if let Some(report) = std::env::var_os(VICTIM) {
        let process = lab
            .host("host")
            .unwrap()
            .spawn(shell("exec sleep 1000"))
            .unwrap();
        std::fs::write(report, process.pid().to_string()).unwrap();
        loop {
            std::thread::park();
        }
    }
    let report = lab.outputs().join("victim");
    let mut victim = Command::new(std::env::current_exe().unwrap());
    victim.args([
        "--exact",
        "given_an_owner_that_is_killed_when_the_next_lab_is_made_then_its_processes_and_namespaces_are_gone",
    ]);
    let mut victim = victim.env(VICTIM, &report).spawn().unwrap();
    let read = || std::fs::read_to_string(&report).unwrap_or_default();
    eventually(Duration::from_secs(30), || !read().is_empty());
    let process = Path::new("/proc").join(read());
    let prefix = format!("warren-lab.{}.", victim.id());
    let left = || {
        std::fs::read_dir("/run/netns")
            .unwrap()
            .filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with(&prefix)
            })
            .count()
    };
    assert_eq!(left(), 1);
    victim.kill().unwrap();
    victim.wait().unwrap();
    eventually(ARRIVES_WITHIN, || !process.exists());
    let _next = Lab::new("after-killed-owner").unwrap();
    assert_eq!(left(), 0);
}

#[test]
fn given_two_labs_at_once_when_they_use_the_same_names_and_addresses_then_neither_sees_the_other() {
    let Some(first) = Lab::or_skip("twins") else {
        return;
    };
    let second = Lab::new("twins").unwrap();
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| topology::one_bridge(&first, 2).unwrap());
        let other = scope.spawn(|| topology::one_bridge(&second, 1).unwrap());
        (one.join().unwrap(), other.join().unwrap())
    });
    assert!(one.hosts[0].reaches(ip("10.0.0.2")));
    assert!(!other.hosts[0].reaches(ip("10.0.0.2")));
}

#[test]
fn given_a_name_in_use_when_a_host_is_made_then_it_is_refused_by_name() {
    let Some(lab) = Lab::or_skip("names-taken") else {
        return;
    };
    lab.host("node").unwrap();
    let refusal = lab.host("node").unwrap_err().to_string();
    assert!(refusal.contains("\"node\""), "{refusal}");
}

#[test]
fn given_a_published_name_when_hosts_resolve_it_then_old_and_new_ones_find_it_and_the_machine_does_not()
 {
    let Some(lab) = Lab::or_skip("dns") else {
        return;
    };
    let old = lab.host("old").unwrap();
    lab.publish_name("server.lab.test", ip("192.0.2.10"))
        .unwrap();
    let new = lab.host("new").unwrap();
    for host in [&old, &new] {
        let found = host.exec({
            let mut command = Command::new("getent");
            command.args(["hosts", "server.lab.test"]);
            command
        });
        assert!(found.unwrap().stdout.starts_with("192.0.2.10"));
        let in_process = host.enter(|| ("server.lab.test", 80).to_socket_addrs().unwrap().next());
        assert_eq!(in_process.unwrap(), Some("192.0.2.10:80".parse().unwrap()));
    }
    assert!(
        !std::fs::read_to_string("/etc/hosts")
            .unwrap()
            .contains("server.lab.test")
    );
}

#[test]
fn given_name_servers_when_a_program_reads_them_then_it_sees_the_hosts_own() {
    let Some(lab) = Lab::or_skip("resolvers") else {
        return;
    };
    let host = lab.host("node").unwrap();
    host.set_name_servers(&[ip("192.0.2.53")]).unwrap();
    let read = host.exec(shell("cat /etc/resolv.conf")).unwrap();
    assert_eq!(read.stdout, "nameserver 192.0.2.53\n");
}

#[test]
fn given_a_process_when_signalled_then_it_stops_goes_on_and_ends_as_told() {
    let Some(lab) = Lab::or_skip("signals") else {
        return;
    };
    let host = lab.host("node").unwrap();
    let script = "trap 'echo asked to end; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    let mut process = host.spawn(shell(script)).unwrap();
    eventually(ARRIVES_WITHIN, || process.stdout() == "ready\n");
    process.signal(Signal::STOP).unwrap();
    process.signal(Signal::TERM).unwrap();
    let waited = process.wait(SILENT_FOR);
    assert!(
        matches!(waited, Err(ProcessError::TimedOut { .. })),
        "{waited:?}"
    );
    process.signal(Signal::CONT).unwrap();
    assert_eq!(process.wait(ARRIVES_WITHIN).unwrap().code(), Some(3));
    assert_eq!(process.stdout(), "ready\nasked to end\n");
}

#[test]
fn given_a_process_when_its_handle_is_dropped_then_it_is_gone() {
    let Some(lab) = Lab::or_skip("drop-kills") else {
        return;
    };
    let process = lab
        .host("node")
        .unwrap()
        .spawn(shell("exec sleep 1000"))
        .unwrap();
    let folder = Path::new("/proc").join(process.pid().to_string());
    assert!(folder.exists());
    drop(process);
    assert!(!folder.exists());
}

#[test]
fn given_a_program_that_fails_when_executed_then_the_error_has_its_status_and_words() {
    let Some(lab) = Lab::or_skip("exec-fails") else {
        return;
    };
    let error = lab
        .host("node")
        .unwrap()
        .exec(shell("echo no such luck >&2; exit 7"));
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("exit status: 7") && message.contains("no such luck"),
        "{message}"
    );
}

#[test]
fn given_a_link_when_cut_and_healed_then_packets_stop_and_flow_again() {
    let Some(lab) = Lab::or_skip("cut") else {
        return;
    };
    let net = topology::one_bridge(&lab, 2).unwrap();
    let there = ip("10.0.0.2");
    assert!(net.hosts[0].reaches(there));
    net.links[1].cut().unwrap();
    assert_eq!(net.hosts[0].ping(there, SILENT_FOR).unwrap(), None);
    net.links[1].heal().unwrap();
    eventually(ARRIVES_WITHIN, || net.hosts[0].reaches(there));
}

#[test]
fn given_a_link_when_cut_one_way_then_only_that_way_is_silent() {
    let Some(lab) = Lab::or_skip("cut-one-way") else {
        return;
    };
    let net = topology::one_bridge(&lab, 2).unwrap();
    let (one, two) = (socket(&net.hosts[0], 5000), socket(&net.hosts[1], 5000));
    let (at_one, at_two): (SocketAddr, SocketAddr) = (
        "10.0.0.1:5000".parse().unwrap(),
        "10.0.0.2:5000".parse().unwrap(),
    );
    // Neighbours know each other first: resolution needs both ways.
    assert!(
        passes(&one, at_two, &two, ARRIVES_WITHIN) && passes(&two, at_one, &one, ARRIVES_WITHIN)
    );
    net.links[0].cut_one_way(Direction::Inbound).unwrap();
    assert!(passes(&one, at_two, &two, ARRIVES_WITHIN));
    assert!(!passes(&two, at_one, &one, SILENT_FOR));
    net.links[0].heal().unwrap();
    assert!(passes(&two, at_one, &one, ARRIVES_WITHIN));
}

#[test]
fn given_an_unplugged_link_when_looked_at_then_the_carrier_is_gone_and_comes_back_with_routes() {
    let Some(lab) = Lab::or_skip("unplug") else {
        return;
    };
    let net = topology::one_bridge(&lab, 2).unwrap();
    let carrier = |host: &Host| host.exec(shell("ip -o link show eth0")).unwrap().stdout;
    net.links[0].unplug().unwrap();
    eventually(ARRIVES_WITHIN, || {
        carrier(&net.hosts[0]).contains("NO-CARRIER")
    });
    assert_eq!(net.hosts[0].ping(ip("10.0.0.2"), SILENT_FOR).unwrap(), None);
    net.links[0].plug().unwrap();
    eventually(ARRIVES_WITHIN, || net.hosts[0].reaches(ip("10.0.0.2")));
    let routes = net.hosts[0]
        .exec(shell("ip route show default"))
        .unwrap()
        .stdout;
    assert!(routes.contains("10.0.255.254"), "{routes}");
}

#[test]
fn given_half_the_packets_lost_when_many_are_sent_then_about_half_arrive() {
    let Some(lab) = Lab::or_skip("kernel-loss") else {
        return;
    };
    let net = topology::one_bridge(&lab, 2).unwrap();
    let (one, two) = (socket(&net.hosts[0], 5000), socket(&net.hosts[1], 5000));
    assert!(passes(
        &one,
        "10.0.0.2:5000".parse().unwrap(),
        &two,
        ARRIVES_WITHIN
    ));
    net.links[0]
        .set_loss(Direction::Outbound, Probability::percent(50))
        .unwrap();
    let mut arrived = 0;
    for _ in 0..10 {
        for _ in 0..100 {
            one.send_to(b"x", "10.0.0.2:5000").unwrap();
        }
        two.set_nonblocking(true).unwrap();
        while two.recv(&mut [0; 8]).is_ok() {
            arrived += 1;
        }
    }
    // Twelve standard deviations to each side.
    assert!((300..700).contains(&arrived), "{arrived} of 1000");
}

#[test]
fn given_blocked_udp_when_probed_then_udp_is_silent_and_tcp_passes_until_opened() {
    let Some(lab) = Lab::or_skip("firewall") else {
        return;
    };
    let net = topology::one_bridge(&lab, 2).unwrap();
    let (one, two) = (socket(&net.hosts[0], 5000), socket(&net.hosts[1], 5000));
    let there: SocketAddr = "10.0.0.2:5000".parse().unwrap();
    let listener = net.hosts[1]
        .enter(|| TcpListener::bind("0.0.0.0:5000"))
        .unwrap()
        .unwrap();
    let connects = || {
        net.hosts[0]
            .enter(|| TcpStream::connect_timeout(&there, SILENT_FOR).is_ok())
            .unwrap()
    };
    net.hosts[1].block(&[Block::Udp]).unwrap();
    assert!(!passes(&one, there, &two, SILENT_FOR));
    assert!(connects());
    net.hosts[1].block(&[Block::TcpPort(5000)]).unwrap();
    assert!(passes(&one, there, &two, ARRIVES_WITHIN));
    assert!(!connects());
    net.hosts[1].block(&[]).unwrap();
    assert!(connects());
    drop(listener);
}

#[test]
fn given_one_bridge_when_mdns_is_multicast_then_every_other_host_receives_it() {
    let Some(lab) = Lab::or_skip("multicast") else {
        return;
    };
    let net = topology::one_bridge(&lab, 3).unwrap();
    let group = Ipv4Addr::new(224, 0, 0, 251);
    let sockets: Vec<UdpSocket> = net
        .hosts
        .iter()
        .map(|host| {
            let socket = socket(host, 5353);
            let IpAddr::V4(own) = host.addresses()[0] else {
                panic!("IPv4 comes first")
            };
            host.enter(|| socket.join_multicast_v4(&group, &own))
                .unwrap()
                .unwrap();
            socket
        })
        .collect();
    sockets[0].send_to(b"who is there", (group, 5353)).unwrap();
    for socket in &sockets[1..] {
        let (text, sender) = receive(socket, ARRIVES_WITHIN).unwrap();
        assert_eq!(
            (text.as_str(), sender.ip()),
            ("who is there", ip("10.0.0.1"))
        );
    }
}

#[test]
fn given_an_ipv6_only_pair_when_one_sends_then_it_arrives_at_once_and_ipv4_goes_nowhere() {
    let Some(lab) = Lab::or_skip("ipv6") else {
        return;
    };
    let pair = topology::ipv6_only_pair(&lab).unwrap();
    let (left, right) = (socket(&pair.left, 5000), socket(&pair.right, 5000));
    assert!(passes(
        &left,
        "[2001:db8:b::2]:5000".parse().unwrap(),
        &right,
        ARRIVES_WITHIN
    ));
    assert!(pair.left.reaches(ip("2001:db8:b::2")));
    assert!(
        pair.left
            .enter(|| TcpStream::connect("192.0.2.1:80"))
            .unwrap()
            .is_err()
    );
}

#[test]
fn given_a_capture_when_a_marker_passes_in_clear_then_it_is_found_and_another_is_not() {
    let Some(lab) = Lab::or_skip("capture") else {
        return;
    };
    let net = topology::one_bridge(&lab, 2).unwrap();
    let (one, two) = (socket(&net.hosts[0], 5000), socket(&net.hosts[1], 5000));
    let capture = net.links[1].capture().unwrap();
    one.send_to(b"a plain-marker in clear", "10.0.0.2:5000")
        .unwrap();
    receive(&two, ARRIVES_WITHIN).unwrap();
    let recording = capture.stop().unwrap();
    assert!(recording.frames().unwrap() >= 1);
    assert!(recording.contains(b"plain-marker").unwrap());
    assert!(!recording.contains(b"another-marker").unwrap());
}

#[test]
fn given_runtimes_on_two_hosts_when_tasks_talk_then_each_has_its_own_address() {
    let Some(lab) = Lab::or_skip("runtimes") else {
        return;
    };
    let net = topology::one_bridge(&lab, 2).unwrap();
    let (one, two) = (
        net.hosts[0].runtime().unwrap(),
        net.hosts[1].runtime().unwrap(),
    );
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = two.spawn(async move {
        let listener = tokio::net::TcpListener::bind("10.0.0.2:6000")
            .await
            .unwrap();
        ready.send(()).unwrap();
        listener.accept().await.unwrap().1
    });
    is_ready.recv_timeout(ARRIVES_WITHIN).unwrap();
    let client = one.spawn(async {
        tokio::net::TcpStream::connect("10.0.0.2:6000")
            .await
            .is_ok()
    });
    assert!(one.block_on(client).unwrap());
    assert_eq!(two.block_on(server).unwrap().ip(), ip("10.0.0.1"));
}

#[test]
fn given_a_condition_that_never_holds_when_awaited_then_the_deadline_ends_it() {
    let began = Instant::now();
    let result = catch_unwind(|| eventually(Duration::from_millis(30), || false));
    assert!(result.is_err());
    assert!(began.elapsed() >= Duration::from_millis(30));
}
