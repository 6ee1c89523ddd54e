//! The capture file's format and a search for bytes in what was captured.
//!
//! Reads the classic pcap format (IETF draft-ietf-opsawg-pcap, section 4 and 5) with Ethernet frames. The search looks into
//! each frame as it is, and across the segments of each TCP flow, so that a marker split over two segments is found.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Size of the header at the start of a capture file, in bytes.
pub const FILE_HEADER_BYTES: usize = 24;
/// Size of the header before each frame, in bytes.
pub const RECORD_HEADER_BYTES: usize = 16;
/// The largest frame a capture may claim; more is a damaged file.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;

/// Link type of Ethernet frames.
const ETHERNET: u32 = 1;

/// Why bytes are no capture we can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The file does not begin with a pcap magic number.
    #[error("no pcap file: it begins with {0:#010x}")]
    Magic(u32),
    /// The frames are not Ethernet.
    #[error("captured frames are of link type {0}, only Ethernet (1) is read")]
    LinkType(u32),
    /// A record claims more than [`MAX_FRAME_BYTES`].
    #[error("a captured frame claims {0} bytes, at most {MAX_FRAME_BYTES} are read")]
    FrameTooLarge(u32),
}

/// How the numbers of one capture file are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    big_endian: bool,
}

impl FileHeader {
    /// Reads the header at the start of a file.
    ///
    /// # Errors
    /// [`FormatError::Magic`] and [`FormatError::LinkType`].
    pub fn parse(header: &[u8; FILE_HEADER_BYTES]) -> Result<Self, FormatError> {
        let magic = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let big_endian = match magic {
            // Microsecond and nanosecond time stamps.
            0xa1b2_c3d4 | 0xa1b2_3c4d => false,
            0xd4c3_b2a1 | 0x4d3c_b2a1 => true,
            other => return Err(FormatError::Magic(other)),
        };
        let header_values = Self { big_endian };
        // The upper bits carry frame check sequence flags.
        let link_type =
            header_values.number([header[20], header[21], header[22], header[23]]) & 0xffff;
        if link_type != ETHERNET {
            return Err(FormatError::LinkType(link_type));
        }
        Ok(header_values)
    }

    /// How many bytes of frame follow a record's header.
    ///
    /// # Errors
    /// [`FormatError::FrameTooLarge`].
    pub fn frame_bytes(self, record: &[u8; RECORD_HEADER_BYTES]) -> Result<usize, FormatError> {
        let claimed = self.number([record[8], record[9], record[10], record[11]]);
        usize::try_from(claimed)
            .ok()
            .filter(|bytes| *bytes <= MAX_FRAME_BYTES)
            .ok_or(FormatError::FrameTooLarge(claimed))
    }

    fn number(self, bytes: [u8; 4]) -> u32 {
        if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    }
}

/// Looks for a marker in frames, one after the other.
#[derive(Debug)]
pub struct MarkerSearch {
    marker: Vec<u8>,
    flows: BTreeMap<Flow, FlowEnd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flow {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
}

/// The last bytes of a TCP flow, short of a marker, and where it goes on.
#[derive(Debug)]
struct FlowEnd {
    next_sequence: u32,
    tail: Vec<u8>,
}

impl MarkerSearch {
    /// A search for `marker`; an empty one is found in every frame.
    #[must_use]
    pub fn new(marker: &[u8]) -> Self {
        Self {
            marker: marker.to_vec(),
            flows: BTreeMap::new(),
        }
    }

    /// Whether the marker lies in this frame, or ends in it.
    pub fn handle_frame(&mut self, frame: &[u8]) -> bool {
        if contains(frame, &self.marker) {
            return true;
        }
        let Some((flow, sequence, payload)) = tcp_payload(frame) else {
            return false;
        };
        if payload.is_empty() {
            return false;
        }
        let end = self.flows.entry(flow).or_insert(FlowEnd {
            next_sequence: sequence,
            tail: Vec::new(),
        });
        // A retransmission or a gap: what is not next starts the tail anew.
        if end.next_sequence != sequence {
            end.tail.clear();
        }
        end.tail.extend_from_slice(payload);
        end.next_sequence = sequence.wrapping_add(payload.len() as u32);
        let found = contains(&end.tail, &self.marker);
        let keep = self.marker.len().saturating_sub(1).min(end.tail.len());
        end.tail.drain(..end.tail.len() - keep);
        found
    }
}

fn contains(haystack: &[u8], marker: &[u8]) -> bool {
    let Some(first) = marker.first() else {
        return true;
    };
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        if rest[at..].starts_with(marker) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// The flow, sequence number and payload of an Ethernet frame that carries TCP.
fn tcp_payload(frame: &[u8]) -> Option<(Flow, u32, &[u8])> {
    let packet = frame.get(14..)?;
    let (source, destination, segment) = match u16_at(frame, 12)? {
        0x0800 => ipv4_tcp(packet)?,
        0x86dd => ipv6_tcp(packet)?,
        _ => return None,
    };
    let header_bytes = usize::from(*segment.get(12)? >> 4) * 4;
    let flow = Flow {
        source: (source, u16_at(segment, 0)?),
        destination: (destination, u16_at(segment, 2)?),
    };
    let sequence = u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?);
    Some((flow, sequence, segment.get(header_bytes..)?))
}

fn ipv4_tcp(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header_bytes = usize::from(*packet.first()? & 0x0f) * 4;
    if *packet.get(9)? != 6 {
        return None;
    }
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let destination: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    // Short frames carry Ethernet padding after the packet.
    let total = usize::from(u16_at(packet, 2)?).min(packet.len());
    Some((
        source.into(),
        destination.into(),
        packet.get(header_bytes..total)?,
    ))
}

/// Only packets whose first next-header is TCP: the hosts of a lab send no extension headers with it.
fn ipv6_tcp(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    if *packet.get(6)? != 6 {
        return None;
    }
    let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
    let destination: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
    let end = (40 + usize::from(u16_at(packet, 4)?)).min(packet.len());
    Some((source.into(), destination.into(), packet.get(40..end)?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn tcp_frame(sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0_u8; 12];
        frame.extend([0x08, 0x00]);
        let total = 40 + payload.len() as u16;
        frame.extend([0x45, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0x0f, 0xa1, 0x0f, 0xa2]);
        frame.extend(sequence.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn given_a_marker_split_over_two_segments_when_both_pass_then_it_is_found() {
        let mut search = MarkerSearch::new(b"top-secret");
        assert!(!search.handle_frame(&tcp_frame(u32::MAX, b"xxtop-")));
        assert!(search.handle_frame(&tcp_frame(5, b"secret")));
    }

    #[test]
    fn given_halves_that_do_not_follow_each_other_when_searched_then_nothing_is_found() {
        let mut search = MarkerSearch::new(b"top-secret");
        assert!(!search.handle_frame(&tcp_frame(100, b"top-")));
        assert!(!search.handle_frame(&tcp_frame(5_000, b"secret")));
    }

    #[test]
    fn given_any_prefix_of_a_frame_when_searched_then_it_does_not_panic() {
        let frame = tcp_frame(1, b"payload");
        for end in 0..frame.len() {
            assert!(!MarkerSearch::new(b"absent").handle_frame(&frame[..end]));
        }
    }

    #[test]
    fn given_a_record_of_two_gigabytes_when_read_then_it_is_refused() {
        let mut header = [0_u8; FILE_HEADER_BYTES];
        header[..4].copy_from_slice(&0xa1b2_c3d4_u32.to_le_bytes());
        header[20] = 1;
        let file = FileHeader::parse(&header).unwrap();
        let mut record = [0_u8; RECORD_HEADER_BYTES];
        record[8..12].copy_from_slice(&0x8000_0000_u32.to_le_bytes());
        assert_eq!(
            file.frame_bytes(&record),
            Err(FormatError::FrameTooLarge(0x8000_0000))
        );
    }

    #[test]
    fn given_something_else_when_opened_as_a_capture_then_the_magic_is_named() {
        let header = [0x7f; FILE_HEADER_BYTES];
        assert_eq!(
            FileHeader::parse(&header),
            Err(FormatError::Magic(0x7f7f_7f7f))
        );
    }
}
