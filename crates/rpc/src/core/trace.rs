//! Which larger undertaking a call belongs to: the `traceparent` of W3C Trace Context, level 1.

use std::fmt;

/// The metadata key.
pub const TRACEPARENT: &str = "traceparent";
/// The metadata key of what vendors add; it goes along as it is.
pub const TRACESTATE: &str = "tracestate";

/// A trace and the step of it that calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: [u8; 16],
    parent_id: [u8; 8],
    flags: u8,
}

impl TraceParent {
    /// The first step of a new trace, marked as sampled. The ids are random and not all zero.
    #[must_use]
    pub const fn start(trace_id: [u8; 16], parent_id: [u8; 8]) -> Self {
        Self {
            trace_id,
            parent_id,
            flags: 1,
        }
    }

    /// Reads the value of `traceparent`; a later version's as far as this one knows it (section 4.3).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let version: [u8; 1] = hex(bytes.get(..2)?)?;
        let ends_well = match bytes.get(55) {
            None => true,
            Some(b'-') => version != [0],
            Some(_) => false,
        };
        let dashes = [2, 35, 52]
            .into_iter()
            .all(|at| bytes.get(at) == Some(&b'-'));
        if version == [0xff] || !ends_well || !dashes {
            return None;
        }
        let trace_id = hex(bytes.get(3..35)?)?;
        let parent_id = hex(bytes.get(36..52)?)?;
        let [flags] = hex(bytes.get(53..55)?)?;
        if trace_id == [0; 16] || parent_id == [0; 8] {
            return None;
        }
        Some(Self {
            trace_id,
            parent_id,
            // Only the lowest bit is known to this version.
            flags: flags & 1,
        })
    }

    /// The step `id` of the same trace, for the calls that this one makes.
    #[must_use]
    pub const fn child(self, id: [u8; 8]) -> Self {
        Self {
            parent_id: id,
            ..self
        }
    }

    /// The id of the whole, in 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        digits(&self.trace_id)
    }

    /// The id of the step, in 16 hexadecimal digits.
    #[must_use]
    pub fn parent_id(&self) -> String {
        digits(&self.parent_id)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, parent) = (self.trace_id(), self.parent_id());
        write!(f, "00-{trace}-{parent}-{:02x}", self.flags)
    }
}

/// A UUID of version 4 (RFC 9562, section 5.4) out of random bytes.
#[must_use]
pub fn uuid(mut random: [u8; 16]) -> String {
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let text = digits(&random);
    format!(
        "{}-{}-{}-{}-{}",
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..]
    )
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lower-case hexadecimal, as the specification wants it.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const VALUE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn given_the_specifications_example_then_it_reads_and_writes_the_same() {
        let parent = TraceParent::parse(VALUE).unwrap();
        assert_eq!(parent.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.to_string(), VALUE);
        let child = parent.child([0xab; 8]);
        assert_eq!(
            child.to_string(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-abababababababab-01"
        );
    }

    #[test]
    fn given_a_later_version_then_what_is_known_of_it_counts() {
        let later = VALUE.replacen("00", "cc", 1);
        assert!(TraceParent::parse(&format!("{later}-what-comes")).is_some());
        assert!(TraceParent::parse(&format!("{later}x")).is_none());
    }

    #[test]
    fn given_what_is_none_then_it_is_not_taken() {
        let zero_trace = VALUE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let zero_parent = VALUE.replace("00f067aa0ba902b7", &"0".repeat(16));
        for text in [
            "",
            "00",
            &VALUE[..54],
            &format!("{VALUE}-more"),
            &VALUE.to_uppercase(),
            &VALUE.replacen("00", "ff", 1),
            &VALUE.replace('-', "_"),
            &zero_trace,
            &zero_parent,
            &"ä".repeat(40),
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
    }

    #[test]
    fn given_random_bytes_then_the_uuid_says_version_and_variant() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
