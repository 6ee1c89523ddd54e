//! Keys and roles of planes that this build does not run: known by name, so that the documents' files load.

/// Key paths (with everything below them) and the plane each belongs to.
pub(crate) const CARRIED: &[(&str, &str)] = &[
    ("access", "access"),
    ("bandwidth", "replication"),
    ("cache", "cache"),
    ("cdn", "cdn"),
    ("dns", "dns"),
    ("edge", "edge"),
    ("federation", "federation"),
    ("gateway", "gateway"),
    ("mesh", "services"),
    ("monitoring.exporters", "services"),
    ("network.cache", "edge"),
    ("network.cdn", "cdn"),
    ("network.deployment_mode", "replication"),
    ("network.federation", "federation"),
    ("network.hub", "edge"),
    ("network.node_role", "edge"),
    ("network.replication", "replication"),
    ("network.security.acl_conflict_resolution", "access"),
    ("network.security.acl_enforcement", "access"),
    ("network.security.trust_model", "federation"),
    ("network.trust", "federation"),
    ("regions", "blueprint"),
    ("replication", "replication"),
    ("search", "search"),
    ("security_groups", "blueprint"),
    ("services", "services"),
    ("vpn", "vpn"),
    ("zones", "dns"),
];

/// Roles of those planes.
pub(crate) const ROLES: &[(&str, &str)] = &[
    ("access", "vpn"),
    ("coordinator", "vpn"),
    ("edge", "edge"),
    ("exit", "vpn"),
    ("federation", "federation"),
    ("gateway", "gateway"),
    ("hub", "edge"),
    ("search", "search"),
];

/// The documents' short variables for keys of those planes.
pub(crate) const ENVIRONMENT: &[(&str, &str)] = &[
    ("WARREN_CDN_ENABLED", "network.cdn.enabled"),
    (
        "WARREN_REPLICATION_FACTOR",
        "network.replication.default_factor",
    ),
    ("WARREN_SYNC_INTERVAL", "network.replication.sync_interval"),
];

/// The plane that `path` belongs to, if it is a carried key or stands below one.
pub(crate) fn plane_of(path: &str) -> Option<&'static str> {
    CARRIED
        .iter()
        .find(|(carried, _)| {
            path.strip_prefix(carried)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
        .map(|(_, plane)| *plane)
}
