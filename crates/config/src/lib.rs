//! From YAML, environment and flags to valid settings.
//!
//! The crate owns the one table of keys ([`KEYS`]) and everything that follows from it: reading files with every problem named at
//! once by file, line, column and key ([`load()`], [`inspect()`]), layers and merging, `${VAR}`, `config show` ([`Loaded::effective`]), the JSON
//! Schema ([`schema()`]), the documentation's table ([`docs_table`]), what a reload may change ([`diff`]), and the file of
//! `warren init` ([`Template`]). It is pure: files come through a function, the environment as a map. It never looks
//! whether a path exists, never opens a socket and never decides what a role does.
//!
//! Start reading at [`load()`], then `table`, then `kind`. Sections of planes that are not built are in `planes`.

mod assemble;
mod check;
mod decode;
mod derive;
mod environment;
mod expand;
mod kind;
mod load;
mod planes;
mod problem;
mod reload;
mod schema;
mod settings;
mod show;
mod table;
mod template;
mod value;
mod yaml;

pub use kind::{BadNodeId, Kind, check_node_id};
pub use load::{Flag, Inputs, Inspection, Loaded, inspect, load};
pub use multiaddr::{Multiaddr, PeerId};
pub use problem::{MAX_PROBLEMS, Origin, Problem, Problems};
pub use reload::{ReloadPlan, diff};
pub use schema::schema;
pub use settings::*;
pub use show::{Effective, docs_table};
pub use table::{Fallback, KEYS, Key};
pub use template::Template;
pub use value::{HostPort, Secret, Url, parse_duration};
pub use yaml::MAX_FILE_BYTES;

/// The whole reader on one file, for fuzzers: no input may panic, hang or exhaust memory.
///
/// Loads `bytes` as the only file and, where that succeeds, prints what it holds and compares it with itself.
pub fn fuzz(bytes: &[u8]) {
    let file = std::path::PathBuf::from("fuzz.yaml");
    let inputs = Inputs {
        files: vec![file],
        hostname: Some("host".to_owned()),
        ..Inputs::default()
    };
    match load(&inputs, |_| Ok(bytes.to_vec())) {
        Ok(loaded) => {
            let lines = loaded.effective();
            assert!(!lines.is_empty(), "every key has a line");
            let unchanged = diff(&loaded, &loaded)
                .is_ok_and(|plan| plan.apply.is_empty() && plan.needs_restart.is_empty());
            assert!(unchanged, "a configuration equals itself");
        }
        Err(problems) => {
            assert!(!problems.listed.is_empty(), "a refusal has a reason");
            assert!(!problems.to_string().is_empty(), "and says it");
        }
    }
}
