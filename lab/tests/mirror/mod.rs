//! A UDP server that says what was done to a packet on its way.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use warren_lab::Host;

use crate::probe::{ARRIVES_WITHIN, receive, socket};

/// Answers each packet with the address it came from, as a STUN server does, until dropped.
pub(crate) struct Mirror {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    pub(crate) fn start(host: &Host, port: u16) -> Self {
        let socket = socket(host, port);
        let address = SocketAddr::new(host.addresses()[0], port);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Some((_, sender)) = receive(&socket, Duration::from_millis(20)) {
                    socket
                        .send_to(sender.to_string().as_bytes(), sender)
                        .unwrap();
                }
            }
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }

    /// The address a socket's packets have when they arrive here.
    pub(crate) fn ask(&self, from: &UdpSocket) -> SocketAddr {
        from.send_to(b"who am i", self.address).unwrap();
        let (text, _) = receive(from, ARRIVES_WITHIN).expect("the mirror answers");
        text.parse().unwrap()
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
