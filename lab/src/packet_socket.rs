//! Raw Ethernet frames in and out of one interface, many per system call (packet(7)).

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

/// Frames per system call: enough to spread its cost, few enough that the first does not wait for the last.
pub(crate) const BATCH: usize = 64;

/// Room for one frame: the MTU of 1500 with its Ethernet header, and to spare. Larger ones come only from segmentation
/// offload, which the lab turns off.
pub(crate) const MAX_FRAME_BYTES: usize = 2048;

/// What the kernel keeps for us while we are busy. More than the link model's own queues would hold up.
const RECEIVE_BUFFER_BYTES: libc::c_int = 16 * 1024 * 1024;

/// A packet socket bound to one interface.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    socket: Socket,
}

/// Room for one batch of received frames.
pub(crate) struct ReceiveBuffers {
    frames: Vec<[u8; MAX_FRAME_BYTES]>,
}

impl ReceiveBuffers {
    pub(crate) fn new() -> Self {
        Self {
            frames: vec![[0; MAX_FRAME_BYTES]; BATCH],
        }
    }
}

impl PacketSocket {
    /// Opens in the namespace of the calling thread. The interface must be up.
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        // Protocol 0 receives nothing until bound: no frame of another interface slips in.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        let index = rustix::net::netdevice::name_to_index(&socket, interface)?;
        socket.bind(&every_frame_of(index)?)?;
        Ok(Self { socket })
    }

    /// As [`PacketSocket::open`], for one side of a forwarder: it receives nothing that was sent on the interface, or a
    /// forwarder would send frames back and forth for ever.
    pub(crate) fn open_to_forward(interface: &str) -> io::Result<Self> {
        let packets = Self::open(interface)?;
        let set = |level, option, value| set_option(&packets.socket, level, option, value);
        set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        // Straight to the interface; nobody captures here.
        set(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
        // Beyond the machine's limit, which root may pass.
        set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)?;
        Ok(packets)
    }

    /// Takes what has arrived, at most one batch, and returns how many frames that were; 0 when there is nothing. Frames
    /// that did not fit are passed over.
    pub(crate) fn receive(
        &self,
        buffers: &mut ReceiveBuffers,
        mut frame: impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        let mut parts: Vec<libc::iovec> = buffers
            .frames
            .iter_mut()
            .map(|buffer| libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts.iter_mut().map(message).collect();
        // SAFETY: `messages` has BATCH headers, each with one vector over its own live buffer in `buffers`; all outlive
        // the call, and nothing else reads or writes them meanwhile.
        let received = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            };
        };
        for (message, buffer) in messages.iter().zip(&buffers.frames).take(received) {
            if message.msg_hdr.msg_flags & libc::MSG_TRUNC == 0 {
                frame(&buffer[..message.msg_len as usize]);
            }
        }
        Ok(received)
    }

    /// Sends frames in order. One that the interface refuses (too large, or it is down) is passed over, as on a wire.
    pub(crate) fn send(&self, frames: &[Vec<u8>]) {
        for batch in frames.chunks(BATCH) {
            let mut parts: Vec<libc::iovec> = batch
                .iter()
                .map(|frame| libc::iovec {
                    // Only ever read by sendmmsg.
                    iov_base: frame.as_ptr().cast_mut().cast(),
                    iov_len: frame.len(),
                })
                .collect();
            let mut messages: Vec<libc::mmsghdr> = parts.iter_mut().map(message).collect();
            let mut done = 0;
            while done < messages.len() {
                let rest = &mut messages[done..];
                // SAFETY: `rest` are headers whose vectors point to live frames of `batch`, which the kernel only reads.
                let sent = unsafe {
                    libc::sendmmsg(
                        self.socket.as_raw_fd(),
                        rest.as_mut_ptr(),
                        rest.len() as libc::c_uint,
                        libc::MSG_DONTWAIT as _,
                    )
                };
                // An error concerns the first frame that is left.
                done += usize::try_from(sent).unwrap_or(0).max(1);
            }
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A header around one buffer, without address and control data.
fn message(part: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: msghdr is plain numbers and pointers, for which zero is "none".
    let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
    message.msg_hdr.msg_iov = part;
    message.msg_hdr.msg_iovlen = 1;
    message
}

/// The address that means every frame of interface number `index`.
fn every_frame_of(index: u32) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a kind of socket address: smaller than the storage, made of plain numbers.
    let link_layer = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link_layer.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link_layer.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    link_layer.sll_ifindex = i32::try_from(index)
        .map_err(|_| io::Error::other("the interface number is out of range"))?;
    let length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds a sockaddr_ll of exactly this length.
    Ok(unsafe { SockAddr::new(storage, length) })
}

fn set_option(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the option takes one int, which `value` is, and the kernel copies it before returning.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
