//! What decides, without sockets, clocks or files: the link model, its random numbers, the capture format.

pub mod link;
pub mod pcap;
pub mod random;
