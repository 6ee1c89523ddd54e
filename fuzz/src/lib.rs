//! What fuzzers feed.
