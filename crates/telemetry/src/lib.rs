//! Warren's `telemetry` crate.
