//! What changes between two configurations, and what a running node may take over.

use std::collections::BTreeMap;

use crate::assemble::settings_from;
use crate::decode::Set;
use crate::load::Loaded;
use crate::problem::Problem;
use crate::table::KEYS;

/// What to do with a configuration that was read while running.
#[derive(Debug, Clone)]
pub struct ReloadPlan {
    /// Keys whose new value takes effect now.
    pub apply: Vec<&'static str>,
    /// Keys whose new value waits for a restart.
    pub needs_restart: Vec<&'static str>,
    /// What to run with from now on, and to compare the next reload with: the new value of `apply`, the old one of
    /// everything else.
    pub in_force: Loaded,
}

/// Compares the configuration in force with a new one.
///
/// # Errors
/// When the new one would lower admission or the protection of an API: all such keys. Nothing may be applied then; a restart
/// is a decision of a person with access to the machine, a reload is not.
pub fn diff(old: &Loaded, new: &Loaded) -> Result<ReloadPlan, Vec<Problem>> {
    let refusals = refusals(old, new);
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let mut values: BTreeMap<&'static str, Set> = old.values.clone();
    let (mut apply, mut needs_restart) = (Vec::new(), Vec::new());
    for key in KEYS.iter().filter(|key| !key.path.contains("[]")) {
        let [before, after] = [old, new].map(|loaded| loaded.values.get(key.path));
        if before.map(|set| &set.value) == after.map(|set| &set.value) {
            continue;
        }
        if !key.reload {
            needs_restart.push(key.path);
            continue;
        }
        apply.push(key.path);
        match after {
            Some(set) => values.insert(key.path, set.clone()),
            None => values.remove(key.path),
        };
    }
    let settings = settings_from(&values, old.settings.carried.clone());
    let in_force = Loaded {
        settings,
        warnings: new.warnings.clone(),
        values,
        carried: old.carried.clone(),
    };
    Ok(ReloadPlan {
        apply,
        needs_restart,
        in_force,
    })
}

fn refusals(old: &Loaded, new: &Loaded) -> Vec<Problem> {
    let (before, after) = (&old.settings, &new.settings);
    let lowered = [
        (
            "network.security.admission",
            after.network.security.admission < before.network.security.admission,
        ),
        (
            "api.tls.enabled",
            before.api.tls.is_some() && after.api.tls.is_none(),
        ),
        (
            "api.listen_address",
            before.api.listen_address.ip().is_loopback()
                && !after.api.listen_address.ip().is_loopback(),
        ),
        (
            "discovery.server.auth.require_certificates",
            before.discovery_server.require_certificates
                && !after.discovery_server.require_certificates,
        ),
        (
            "discovery.server.auth.anonymous_bootstrap",
            !before.discovery_server.anonymous_bootstrap
                && after.discovery_server.anonymous_bootstrap,
        ),
    ];
    let refuse = |path: &'static str| {
        let [before, after] = [old, new].map(|loaded| loaded.values.get(path));
        let show = |set: Option<&Set>| set.map(|set| set.value.show()).unwrap_or_default();
        let what = format!(
            "a reload does not lower protection (from {} to {})",
            show(before),
            show(after)
        );
        let origin = after.map_or(crate::Origin::Default, |set| set.origin.clone());
        Problem::new(origin, path, what).help("restart the node to apply it")
    };
    lowered
        .into_iter()
        .filter(|(_, lowered)| *lowered)
        .map(|(path, _)| refuse(path))
        .collect()
}
