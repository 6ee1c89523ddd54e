//! The container images: built by `cargo xtask image` from the binary under test, run by the commands of
//! `docs/operations.md`, as root on a machine of the lab whose podman shares nothing with this machine's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, unused_imports, reason = "each set of tests uses a part")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::process::{Resource, getrlimit};
use support::{Finished, Invocation, Organization, binary, eventually, noise, tool, warren};
use warren_lab::Lab;

const OPERATIONS: &str = include_str!("../../../docs/operations.md");

/// Names of the documented containers.
const NODE: &str = "warren-p2p";
const DISCOVERY: &str = "warren-discovery";

/// The documented server, as the node and `curl` reach it.
const SERVER: &str = "https://127.0.0.1:8081";

/// Added to a documented command by whoever wants nothing written beside the volume.
const READ_ONLY: &[&str] = &["--read-only", "--read-only-tmpfs=false"];

/// What podman keeps its own files in; each is covered by an empty folder on the test's machine.
const PODMANS: [&str; 2] = ["/run", "/var/lib"];

/// With systemd, controllers may be mounted twice, once as version 2, which crun takes for a mistake.
const SECOND_CGROUPS: &str = "/sys/fs/cgroup/unified";

#[test]
fn given_the_documented_commands_when_both_run_then_the_node_registers_through_the_published_port()
{
    on_a_machine("containers-documented", |machine| {
        machine.starts(DISCOVERY, &[]);
        eventually("the published port answers", || {
            machine.asks_discovery("/api/v1/network/bootstrap")
        });

        machine.starts(NODE, &[]);

        let peers = format!(
            "/api/v1/network/peers?organization={}",
            machine.organization.id
        );
        eventually("the node is registered", || {
            let answer = machine.asks_discovery(&peers)?;
            answer.contains(&machine.node_id).then_some(())
        });
    });
}

#[test]
fn given_a_read_only_root_when_a_document_is_stored_then_only_the_volume_is_written() {
    on_a_machine("containers-read-only", |machine| {
        let before = contents(&machine.path("/etc/warren"));
        machine.starts(NODE, READ_ONLY);
        machine.awaits_node();
        let mounts = machine.mounts(NODE);
        assert_eq!(mounts["/"], "ro");
        assert_eq!(mounts["/etc/warren"], "ro");

        let bytes = noise(1, 300_000);
        let put = ["exec", "--interactive", NODE, "warren", "put", "-"];
        let id = machine.invocation("podman").args(put).input(&bytes).run();

        let read = machine.podman(&["exec", NODE, "warren", "get", &id.ok()]);
        assert!(read.bytes() == bytes, "the bytes differ");
        assert!(machine.path("/var/lib/warren/store").is_dir());
        assert_eq!(contents(&machine.path("/etc/warren")), before);
    });
}

#[test]
fn given_running_containers_when_podman_stops_them_then_each_ends_by_itself_with_success() {
    on_a_machine("containers-stop", |machine| {
        machine.starts(DISCOVERY, &[]);
        machine.starts(NODE, &[]);
        eventually("the server is up", || {
            machine.asks_discovery("/api/v1/network/bootstrap")
        });
        machine.awaits_node();

        for container in [NODE, DISCOVERY] {
            machine.podman(&["stop", "--time", "30", container]).ok();

            let code = ["inspect", "--format", "{{.State.ExitCode}}", container];
            assert_eq!(machine.podman(&code).ok(), "0", "{container}");
        }
    });
}

/// Runs a test on a machine of its own that has both images, or skips it where that cannot be.
fn on_a_machine(test: &str, work: impl FnOnce(&Machine) + Send) {
    for program in ["podman", "crun", "curl"] {
        if !has(program) {
            let reason = format!("needs {program}; `apt-get install {program}` brings it");
            return warren_lab::skip(test, reason);
        }
    }
    let Some(lab) = Lab::or_skip(test) else {
        return;
    };
    // Removed out here, where nothing is mounted on it.
    let folder = tempfile::Builder::new()
        .prefix("warren-containers-")
        .tempdir()
        .unwrap();
    let host = lab.host("machine").unwrap();
    host.enter(|| {
        let machine = Machine::new(folder.path());
        machine.builds_images();
        work(&machine);
    })
    .unwrap();
}

fn has(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|folder| folder.join(program).is_file())
}

/// The thread that made it is on a machine of the lab and has a view of the file system of its own; so has every program
/// that it starts.
struct Machine {
    /// Stands for the machine's root wherever the documents mount something from there.
    folder: PathBuf,
    organization: Organization,
    node_id: String,
}

impl Machine {
    fn new(folder: &Path) -> Self {
        if Path::new(SECOND_CGROUPS).is_dir() {
            unmount(SECOND_CGROUPS, UnmountFlags::DETACH).unwrap();
        }
        for covered in PODMANS {
            let empty = folder.join("podman").join(&covered[1..]);
            fs::create_dir_all(&empty).unwrap();
            mount_bind(&empty, covered).unwrap();
        }
        let mut this = Self {
            folder: folder.to_owned(),
            organization: Organization::new(),
            node_id: String::new(),
        };
        fs::write(this.podman_settings(), settings()).unwrap();
        fs::create_dir_all(this.path("/var/lib/warren")).unwrap();
        this.node_id = this.member(
            "/etc/warren/warren.yaml",
            "storage",
            &format!("  discovery: {{servers: ['{SERVER}']}}\n"),
        );
        this.member(
            "/etc/warren/discovery/discovery.yaml",
            "discovery",
            "discovery: {server: {listen_address: '0.0.0.0:8080'}}\n",
        );
        this
    }

    /// Where the test has what the documents know as `path`.
    fn path(&self, path: &str) -> PathBuf {
        self.folder.join(&path[1..])
    }

    fn podman_settings(&self) -> PathBuf {
        self.folder.join("containers.conf")
    }

    /// Makes a member's key, certificate and configuration, all in one folder; gives its peer id. Its one role needs the
    /// capability of the same name.
    fn member(&self, config: &str, role: &str, further: &str) -> String {
        let config = self.path(config);
        let folder = config.parent().unwrap();
        fs::create_dir_all(folder).unwrap();
        let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let ca = self.organization.ca();
        fs::copy(ca.join("ca_cert.pem"), file("ca_cert.pem")).unwrap();
        let peer_id = warren(["keygen", "--output", &file("node.pem")]).ok();
        let issue = ["ca", "issue", "--dir", ca.to_str().unwrap(), "--name", role];
        let of = ["--key", &file("node.pem"), "--out", &file("node_cert.pem")];
        let grant = ["--capability", role, "--capability", "admin"];
        warren([&issue[..], &of, &grant, &["--ip", "127.0.0.1"]].concat()).ok();
        let text = format!(
            "network:
  node_id: {role}
  organization_id: {organization}
  security: {{tls_cert: node_cert.pem, tls_key: node.pem, ca_cert: ca_cert.pem}}
{further}roles: [{role}]
",
            organization = self.organization.id
        );
        fs::write(config, text).unwrap();
        peer_id
    }

    /// Packs the binary under test.
    fn builds_images(&self) {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let binary = PathBuf::from(binary());
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        self.invocation(&cargo)
            .folder(&root)
            .args(["run", "--quiet", "--package", "xtask", "--", "image"])
            .args(["--binary", binary.to_str().unwrap()])
            .run()
            .ok();
    }

    /// Runs the documented command that starts a container, with `further` options.
    fn starts(&self, container: &str, further: &[&str]) {
        let named = format!(" --name {container} ");
        let command = OPERATIONS
            .lines()
            .find(|line| line.starts_with("podman run ") && line.contains(&named))
            .unwrap_or_else(|| panic!("docs/operations.md does not start {container}"));
        let here = format!(" -v {}/", self.folder.display());
        let command = command.replace(" -v /", &here);
        let words: Vec<&str> = command.split_whitespace().skip(2).collect();
        self.podman(&[&["run"], further, &words].concat()).ok();
    }

    /// Asks the node by the command line in its own container.
    fn awaits_node(&self) {
        eventually("the node is up", || {
            let health = self.podman(&["exec", NODE, "warren", "health"]);
            (health.code == Some(0)).then_some(())
        });
    }

    fn podman(&self, arguments: &[&str]) -> Finished {
        self.invocation("podman").args(arguments).run()
    }

    fn invocation(&self, program: &str) -> Invocation {
        let settings = self.podman_settings();
        Invocation::new(program.as_ref()).env("CONTAINERS_CONF", settings.to_str().unwrap())
    }

    /// What the discovery server answers to the node; `None` while it does not.
    fn asks_discovery(&self, path: &str) -> Option<String> {
        let url = format!("{SERVER}{path}");
        let proof = ["--cacert", "ca_cert.pem", "--cert", "node_cert.pem"];
        let arguments = [&["-sSf", &url, "--key", "node.pem"][..], &proof].concat();
        let answer = tool("curl", &self.path("/etc/warren"), arguments);
        (answer.code == Some(0)).then(|| answer.ok())
    }

    /// `ro` or `rw` by mount point, as a container's first process sees it (proc(5), `mountinfo`).
    fn mounts(&self, container: &str) -> BTreeMap<String, String> {
        let pid = ["inspect", "--format", "{{.State.Pid}}", container];
        let pid = self.podman(&pid).ok();
        let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let mount = |line: &str| {
            let mut words = line.split(' ').skip(4);
            let (point, options) = (words.next()?, words.next()?);
            Some((point.to_owned(), options.split(',').next()?.to_owned()))
        };
        table.lines().filter_map(mount).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for container in [NODE, DISCOVERY] {
                let logs = self.podman(&["logs", container]);
                eprintln!("--- log of {container}\n{}", logs.stderr);
            }
        }
        // They would outlive the lab, which knows nothing of them; images and volumes go with the folder.
        self.podman(&["rm", "--force", "--all", "--time", "0"]);
    }
}

/// Podman's settings: no more open files and processes than whoever runs the tests may give, and neither systemd nor
/// control groups, which need not be there.
fn settings() -> String {
    // Podman takes no more processes than numbers for them, of which a small kernel has this many.
    let limit = |resource| {
        getrlimit(resource)
            .current
            .map_or(32_768, |now| now.min(32_768))
    };
    let (files, processes) = (limit(Resource::Nofile), limit(Resource::Nproc));
    format!(
        "[containers]
cgroups = \"disabled\"
default_ulimits = [\"nofile={files}:{files}\", \"nproc={processes}:{processes}\"]
log_driver = \"k8s-file\"
[engine]
runtime = \"crun\"
events_logger = \"file\"
"
    )
}

/// Every file below a folder with its bytes.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}
