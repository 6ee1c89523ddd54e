//! UDP sockets on hosts, and what passes between them.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use warren_lab::{Host, eventually};

/// How long a packet may take that should arrive: a thousand times what it takes.
pub(crate) const ARRIVES_WITHIN: Duration = Duration::from_secs(5);
/// How long nothing must arrive that should not: what does arrive takes well under a millisecond.
pub(crate) const SILENT_FOR: Duration = Duration::from_millis(300);

/// A UDP socket on `host`. A port that was closed a moment ago may be busy yet: a process that another test forks has a
/// copy of every socket until it executes its program.
pub(crate) fn socket(host: &Host, port: u16) -> UdpSocket {
    let any: IpAddr = if host.addresses().iter().any(IpAddr::is_ipv4) {
        "0.0.0.0".parse().unwrap()
    } else {
        "::".parse().unwrap()
    };
    let mut bound = None;
    eventually(ARRIVES_WITHIN, || {
        bound = host
            .enter(move || UdpSocket::bind((any, port)))
            .unwrap()
            .ok();
        bound.is_some()
    });
    bound.unwrap()
}

/// The next packet, its text and sender.
pub(crate) fn receive(socket: &UdpSocket, within: Duration) -> Option<(String, SocketAddr)> {
    socket.set_read_timeout(Some(within)).unwrap();
    let mut buffer = [0; 2048];
    let (length, sender) = socket.recv_from(&mut buffer).ok()?;
    Some((
        String::from_utf8_lossy(&buffer[..length]).into_owned(),
        sender,
    ))
}

/// Whether a packet sent from one socket to an address arrives at another.
pub(crate) fn passes(from: &UdpSocket, to: SocketAddr, at: &UdpSocket, within: Duration) -> bool {
    from.send_to(b"probe", to).unwrap();
    receive(at, within).is_some_and(|(text, _)| text == "probe")
}
