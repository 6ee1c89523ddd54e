//! The shim's body: a thread that moves frames between two interfaces as [`LinkCore`] decides.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::LabError;
use crate::core::link::{Impairment, LinkCore, LinkStats};
use crate::core::random::Random;
use crate::link::Direction;
use crate::namespace::Namespace;
use crate::packet_socket::{PacketSocket, ReceiveBuffers};

/// As far before ordinary programs as it goes without real-time scheduling, which could starve a machine of one core.
const NICENESS: i32 = -20;

/// Handle to a running shim.
#[derive(Debug)]
pub(crate) struct Shim {
    control: Arc<Control>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the handle and the thread share.
#[derive(Debug)]
struct Control {
    /// Wakes the thread when there is an order.
    wake: OwnedFd,
    shared: Mutex<Shared>,
    /// Told when the thread has taken orders, and when it ends.
    obeyed: Condvar,
}

#[derive(Debug, Default)]
struct Shared {
    stop: bool,
    ended: bool,
    /// Per [`Direction::index`].
    orders: [Option<Impairment>; 2],
    stats: [LinkStats; 2],
}

impl Shim {
    /// Starts forwarding between two interfaces of `namespace`, which are up; perfectly, until told otherwise.
    pub(crate) fn start(
        namespace: &Namespace,
        near: &str,
        far: &str,
        seed: u64,
    ) -> Result<Self, LabError> {
        eprintln!("link shim {}: seed {seed}", namespace.name());
        let open = |interface: &str| {
            namespace
                .enter(|| PacketSocket::open_to_forward(interface))?
                .map_err(LabError::system(format!(
                    "open a packet socket on {interface} in {}",
                    namespace.name()
                )))
        };
        let sockets = [open(near)?, open(far)?];
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| LabError::system("make an event descriptor")(errno.into()))?;
        let control = Arc::new(Control {
            wake,
            shared: Mutex::default(),
            obeyed: Condvar::new(),
        });
        let worker = Worker {
            control: Arc::clone(&control),
            sockets,
            directions: [LinkCore::default(), LinkCore::default()],
            random: Random::from_seed(seed),
            started: Instant::now(),
            due: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("lab-shim".to_owned())
            .spawn(move || worker.run())
            .map_err(LabError::system("start the shim's thread"))?;
        Ok(Self {
            control,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Returns when the new conditions hold (or the lab is gone), so that a packet sent after this call meets them.
    pub(crate) fn shape(&self, direction: Direction, impairment: Impairment) {
        let mut shared = self.control.lock();
        shared.orders[direction.index()] = Some(impairment);
        self.control.wake();
        let pending =
            |shared: &mut Shared| shared.orders[direction.index()].is_some() && !shared.ended;
        // Nothing to do with the guard but to let it go.
        drop(self.control.obeyed.wait_while(shared, pending));
    }

    pub(crate) fn stats(&self, direction: Direction) -> LinkStats {
        self.control.lock().stats[direction.index()]
    }

    /// Ends the thread; frames on the way are gone.
    pub(crate) fn stop(&self) {
        self.control.lock().stop = true;
        self.control.wake();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic of the thread has been printed; teardown goes on.
            let _ = thread.join();
        }
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only when 2⁶⁴ orders are pending.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// The thread's own state. Frames go in at `sockets[d]` and out at `sockets[1 - d]`, `d` being [`Direction::index`].
struct Worker {
    control: Arc<Control>,
    sockets: [PacketSocket; 2],
    directions: [LinkCore; 2],
    random: Random,
    started: Instant,
    /// Frames that are due, kept to reuse the allocation.
    due: Vec<Vec<u8>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.control.lock().ended = true;
        self.control.obeyed.notify_all();
    }
}

impl Worker {
    fn run(mut self) {
        be_punctual();
        let mut buffers = ReceiveBuffers::new();
        loop {
            self.transmit_due();
            if !self.report_and_obey() {
                return;
            }
            let Some([near, far]) = self.wait() else {
                return;
            };
            for (direction, ready) in [near, far].into_iter().enumerate() {
                if ready && !self.receive(direction, &mut buffers) {
                    return;
                }
            }
        }
    }

    /// Reports and takes new conditions over; `false` when the thread is to end.
    fn report_and_obey(&mut self) -> bool {
        let mut shared = self.control.lock();
        for (direction, core) in self.directions.iter_mut().enumerate() {
            shared.stats[direction] = core.stats();
            if let Some(impairment) = shared.orders[direction].take() {
                core.set_impairment(impairment);
                self.control.obeyed.notify_all();
            }
        }
        !shared.stop
    }

    fn transmit_due(&mut self) {
        let now = self.started.elapsed();
        for (direction, core) in self.directions.iter_mut().enumerate() {
            self.due.clear();
            self.due
                .extend(std::iter::from_fn(|| core.poll_transmit(now)));
            if !self.due.is_empty() {
                self.sockets[1 - direction].send(&self.due);
            }
        }
    }

    /// Sleeps until a frame arrives, one is due or an order comes; says which sockets have frames. `None` when the
    /// system refuses to wait, which leaves nothing sensible to do.
    fn wait(&self) -> Option<[bool; 2]> {
        let timeout = self
            .directions
            .iter()
            .filter_map(LinkCore::poll_timeout)
            .min()
            .map(|due| timespec(due.saturating_sub(self.started.elapsed())));
        let mut waiting = [
            PollFd::new(&self.sockets[0], PollFlags::IN),
            PollFd::new(&self.sockets[1], PollFlags::IN),
            PollFd::new(&self.control.wake, PollFlags::IN),
        ];
        match poll(&mut waiting, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        let ready = [0, 1, 2].map(|at: usize| !waiting[at].revents().is_empty());
        if ready[2] {
            // Reading resets it; empty when another wake was read with the last.
            let _ = rustix::io::read(&self.control.wake, &mut [0_u8; 8]);
        }
        Some([ready[0], ready[1]])
    }

    /// Takes one batch in; `false` when the interface is gone, and with it the lab.
    fn receive(&mut self, direction: usize, buffers: &mut ReceiveBuffers) -> bool {
        let now = self.started.elapsed();
        let (core, random) = (&mut self.directions[direction], &mut self.random);
        self.sockets[direction]
            .receive(buffers, |frame| {
                // Counted in the core when it is lost or has no room.
                let _ = core.handle_packet(frame.to_vec(), now, random);
            })
            .is_ok()
    }
}

/// Time that passes between "due" and "awake" is delay nobody asked for. What is refused costs punctuality only.
fn be_punctual() {
    // The default slack is 50 µs.
    if let Ok(microsecond) = std::num::NonZeroU64::try_from(1_000) {
        let _ = rustix::thread::set_current_timer_slack(Some(microsecond));
    }
    // Before the programs under test, which may keep every core busy. Linux takes "this process" as this thread.
    let _ = rustix::process::setpriority_process(None, NICENESS);
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
