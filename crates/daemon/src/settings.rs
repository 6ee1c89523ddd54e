//! Reading the configuration from this machine: its files, environment and name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use warren_config::{Flag, Inputs, Inspection, Loaded, MAX_FILE_BYTES, Problems, Role};

/// Variables that belong to the command line and set no key.
const OWN_VARIABLES: [&str; 4] = [
    "WARREN_CONFIG",
    "WARREN_ENV",
    "WARREN_BIN",
    "WARREN_SKIP_LOG",
];

/// The port of gossip, at which a director named by its address for calls is asked.
const GOSSIP_PORT: u16 = 7946;

/// What a configuration of this machine is read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The files, later ones win.
    pub files: Vec<PathBuf>,
    /// What the node was started as, whatever the files say.
    pub variables: Variables,
    /// Keys that the command line sets.
    pub flags: Vec<Flag>,
}

/// Whose variables are read beside our own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Variables {
    /// Nobody's.
    #[default]
    Own,
    /// Those that RpcNet's directors and workers have; which of the two this is follows from them.
    Call,
    /// Those of a director, which this node is.
    Director,
    /// Those of a worker, which this node is.
    Worker,
}

impl Sources {
    /// Reads them with this process's environment.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn load(&self) -> Result<Loaded, Problems> {
        self.inspect().outcome
    }

    /// Reads them with this process's environment, and keeps what can be told of a wrong configuration.
    #[must_use]
    pub fn inspect(&self) -> Inspection {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let inputs = Inputs {
            files: self.files.clone(),
            legacy_variables: legacy(self, &environment),
            environment,
            flags: role_flag(self.variables)
                .into_iter()
                .chain(self.flags.iter().cloned())
                .collect(),
            hostname: Some(
                rustix::system::uname()
                    .nodename()
                    .to_string_lossy()
                    .into_owned(),
            ),
            reserved_variables: OWN_VARIABLES.map(str::to_owned).into(),
        };
        warren_config::inspect(&inputs, read)
    }
}

fn role_flag(variables: Variables) -> Option<Flag> {
    let role = match variables {
        Variables::Own | Variables::Call => return None,
        Variables::Director => Role::Director,
        Variables::Worker => Role::Worker,
    };
    Some(Flag {
        name: format!("warren {}", role.as_str()),
        path: "roles".to_owned(),
        value: role.as_str().to_owned(),
    })
}

/// What RpcNet's variables set. `DIRECTOR_ADDR` is where a director takes calls; a worker takes it as its seed. Where there
/// is no file, they say what the node is, too.
fn legacy(sources: &Sources, environment: &BTreeMap<String, String>) -> Vec<Flag> {
    let is_worker = match sources.variables {
        Variables::Own => return Vec::new(),
        Variables::Call => ["WORKER_ADDR", "WORKER_LABEL"]
            .iter()
            .any(|name| environment.contains_key(*name)),
        Variables::Director => false,
        Variables::Worker => true,
    };
    let mut names = vec![
        ("RUST_LOG", "logging.level"),
        ("BIND_ADDR", "cluster.bind_addr"),
    ];
    if is_worker {
        names.extend([
            ("DIRECTOR_ADDR", "cluster.seeds"),
            ("WORKER_ADDR", "rpc.bind_addr"),
            ("WORKER_LABEL", "cluster.label"),
        ]);
    } else {
        names.push(("DIRECTOR_ADDR", "rpc.bind_addr"));
    }
    // Last, so that a list of seeds beats the one director.
    names.push(("SEED_NODES", "cluster.seeds"));
    let role = match is_worker {
        true => Role::Worker,
        false => Role::Director,
    };
    let says_role = names
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| *name != "RUST_LOG")
        .find(|name| environment.contains_key(*name) && sources.files.is_empty());
    let says_role = says_role.map(|name| Flag {
        name: name.to_owned(),
        path: "roles".to_owned(),
        value: role.as_str().to_owned(),
    });
    let flag = |(name, path): (&str, &str)| {
        let mut value = environment.get(name)?.clone();
        if path == "cluster.seeds" && name == "DIRECTOR_ADDR" {
            value = gossip_of(&value);
        }
        Some(Flag {
            name: name.to_owned(),
            path: path.to_owned(),
            value,
        })
    };
    names
        .into_iter()
        .filter_map(flag)
        .chain(says_role)
        .collect()
}

/// Where a director that takes calls at `address` gossips. What is no address is left for the reader to complain of.
fn gossip_of(address: &str) -> String {
    match address.rsplit_once(':') {
        Some((host, _)) => format!("{host}:{GOSSIP_PORT}"),
        None => address.to_owned(),
    }
}

/// Reads a configuration from text, as `dev` writes it for its nodes; the environment has no part in it.
///
/// # Errors
/// Every problem at once.
pub fn from_text(name: &Path, text: &str) -> Result<Loaded, Problems> {
    let inputs = Inputs {
        files: vec![name.to_owned()],
        ..Inputs::default()
    };
    warren_config::load(&inputs, |_| Ok(text.as_bytes().to_vec()))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX) + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(variables: Variables, environment: &[(&str, &str)]) -> Vec<(String, String)> {
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let sources = Sources {
            files: vec![PathBuf::from("node.yaml")],
            variables,
            flags: Vec::new(),
        };
        legacy(&sources, &environment)
            .into_iter()
            .map(|flag| (flag.path, flag.value))
            .collect()
    }

    #[test]
    fn given_a_workers_variables_then_its_director_is_its_seed() {
        let worker = [
            ("WORKER_LABEL", "worker-1"),
            ("WORKER_ADDR", "0.0.0.0:8081"),
            ("DIRECTOR_ADDR", "director-1:8080"),
        ];
        let expected = [
            ("cluster.seeds", "director-1:7946"),
            ("rpc.bind_addr", "0.0.0.0:8081"),
            ("cluster.label", "worker-1"),
        ]
        .map(|(path, value)| (path.to_owned(), value.to_owned()));

        assert_eq!(set(Variables::Worker, &worker), expected);
        assert_eq!(set(Variables::Call, &worker), expected);
    }

    #[test]
    fn given_a_directors_variables_then_its_address_is_where_it_takes_calls() {
        let director = [
            ("DIRECTOR_ADDR", "0.0.0.0:8080"),
            ("SEED_NODES", "a:7946,b:7946"),
        ];
        let expected = [
            ("rpc.bind_addr", "0.0.0.0:8080"),
            ("cluster.seeds", "a:7946,b:7946"),
        ]
        .map(|(path, value)| (path.to_owned(), value.to_owned()));

        assert_eq!(set(Variables::Director, &director), expected);
        assert_eq!(set(Variables::Own, &director), []);
    }

    #[test]
    fn given_no_file_then_the_variables_say_what_the_node_is() {
        let role_of = |name: &str| {
            let environment = BTreeMap::from([(name.to_owned(), "a:1".to_owned())]);
            let sources = Sources {
                variables: Variables::Call,
                ..Sources::default()
            };
            let flags = legacy(&sources, &environment);
            flags
                .into_iter()
                .find(|flag| flag.path == "roles")
                .map(|flag| flag.value)
        };
        assert_eq!(role_of("WORKER_ADDR").as_deref(), Some("worker"));
        assert_eq!(role_of("DIRECTOR_ADDR").as_deref(), Some("director"));
        assert_eq!(role_of("RUST_LOG"), None);
    }
}
