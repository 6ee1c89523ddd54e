//! Hosts in network namespaces, for end-to-end tests and benchmarks.
