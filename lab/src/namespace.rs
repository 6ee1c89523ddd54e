//! One network namespace: making it, entering it, running tools in it, removing it with all that runs inside.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::LabError;
use crate::available::find_tool;

/// Where iproute2 keeps named namespaces.
pub(crate) const NAMESPACES: &str = "/run/netns";
/// Where iproute2 looks for files that replace those of `/etc` inside a namespace.
pub(crate) const ETC_NAMESPACES: &str = "/etc/netns";

/// How long an interface may take to come up: the kernel's own slow path takes a second.
const UP_WITHIN: Duration = Duration::from_secs(10);

/// Set in every namespace before it has an interface: addresses are usable at once (no duplicate address detection, no
/// router solicitation), routers do not send hosts around themselves, and a reverse path check does not hide packets.
const SETTINGS: [(&str, &str); 8] = [
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/icmp_ratelimit", "0"),
];

/// What it takes to enter a namespace, prepared so that entering makes system calls and nothing else: it also runs
/// between fork and exec, where allocation is not allowed.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    network: Arc<OwnedFd>,
    /// Our file, and the file of `/etc` it covers.
    files: Arc<Vec<(CString, CString)>>,
}

impl Entry {
    /// Moves the calling thread into the namespace, with the namespace's own `hosts` and `resolv.conf` over the machine's.
    pub(crate) fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.network.as_fd(), Some(LinkNameSpaceType::Network))?;
        // SAFETY: the flag is not FILES, so no thread loses sight of another's file descriptors.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        // Or our mounts would spread over the whole machine.
        mount_change(
            c"/",
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )?;
        for (ours, covered) in self.files.iter() {
            mount_bind(ours.as_c_str(), covered.as_c_str())?;
        }
        Ok(())
    }

    /// Makes `command` run inside the namespace.
    pub(crate) fn apply(&self, command: &mut Command) {
        let entry = self.clone();
        // SAFETY: `Entry::enter` makes system calls only, on values prepared here; it neither allocates nor locks.
        unsafe {
            command.pre_exec(move || entry.enter());
        }
    }
}

/// A named network namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    entry: Entry,
    interfaces: AtomicU32,
}

impl Namespace {
    /// Makes the namespace, with its loopback up.
    pub(crate) fn create(name: String) -> Result<Self, LabError> {
        let etc = Path::new(ETC_NAMESPACES).join(&name);
        let files =
            write_etc(&etc).map_err(LabError::system(format!("write {}", etc.display())))?;
        ip(&["netns", "add", &name])?;
        let path = Path::new(NAMESPACES).join(&name);
        let network =
            File::open(&path).map_err(LabError::system(format!("open {}", path.display())))?;
        let namespace = Self {
            name,
            entry: Entry {
                network: Arc::new(network.into()),
                files: Arc::new(files),
            },
            interfaces: AtomicU32::new(0),
        };
        namespace.ip(&["link set lo up".to_owned()])?;
        for (key, value) in SETTINGS {
            namespace.set_kernel(key, value)?;
        }
        Ok(namespace)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// A number for the next interface.
    pub(crate) fn next_interface(&self) -> u32 {
        self.interfaces.fetch_add(1, Ordering::Relaxed)
    }

    /// How many interfaces have a number.
    pub(crate) fn interfaces(&self) -> u32 {
        self.interfaces.load(Ordering::Relaxed)
    }

    /// The file that is this namespace's `/etc/<name>`.
    pub(crate) fn etc_file(&self, name: &str) -> PathBuf {
        Path::new(ETC_NAMESPACES).join(&self.name).join(name)
    }

    /// Runs `work` on a thread of its own inside the namespace. A panic goes on in the caller.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| self.entry.enter().map(|()| work()));
            match inside.join() {
                Ok(result) => {
                    result.map_err(LabError::system(format!("enter namespace {}", self.name)))
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Sets a kernel parameter of this namespace, `net/ipv4/ip_forward` for instance.
    pub(crate) fn set_kernel(&self, key: &str, value: &str) -> Result<(), LabError> {
        self.enter(|| fs::write(Path::new("/proc/sys").join(key), value))?
            .map_err(LabError::system(format!(
                "set {key} to {value} in namespace {}",
                self.name
            )))
    }

    /// Runs lines of `ip` in one go.
    pub(crate) fn ip(&self, lines: &[String]) -> Result<(), LabError> {
        self.tool("ip", &["-batch", "-"], &lines.join("\n"))?;
        Ok(())
    }

    /// Waits until an interface carries frames. The kernel reports a new carrier from a work queue, after the call that made
    /// it; until then a bridge's port drops what comes.
    pub(crate) fn wait_until_up(&self, interface: &str) -> Result<(), LabError> {
        let deadline = Instant::now() + UP_WITHIN;
        loop {
            // "eth0@if7  UP  02:00:… <BROADCAST,…>"
            let state = self.tool("ip", &["-brief", "link", "show", "dev", interface], "")?;
            if state.split_whitespace().nth(1) == Some("UP") {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(LabError::System {
                    what: format!("bring {interface} up in namespace {}", self.name),
                    source: io::ErrorKind::TimedOut.into(),
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Loads rules; all or nothing.
    pub(crate) fn nft(&self, rules: &str) -> Result<(), LabError> {
        self.tool("nft", &["-f", "-"], rules)?;
        Ok(())
    }

    /// Runs a tool inside, with `input` on its standard input; returns what it wrote.
    pub(crate) fn tool(
        &self,
        tool: &str,
        arguments: &[&str],
        input: &str,
    ) -> Result<String, LabError> {
        let mut command = Command::new(find_tool(tool).unwrap_or_else(|| tool.into()));
        command.args(arguments);
        self.entry.apply(&mut command);
        run(command, &self.name, input)
    }

    /// Kills what runs inside and removes the namespace. Goes as far as it can; what is gone already is fine.
    pub(crate) fn remove(name: &str) {
        kill_all_inside(name);
        // Fails only when the namespace is gone, which is what is wanted.
        let _ = ip(&["netns", "del", name]);
        let _ = fs::remove_dir_all(Path::new(ETC_NAMESPACES).join(name));
    }
}

/// Writes the namespace's own `hosts` and `resolv.conf`, and pairs each with what it covers.
fn write_etc(etc: &Path) -> io::Result<Vec<(CString, CString)>> {
    fs::create_dir_all(etc)?;
    let defaults = [
        ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        // No server: a resolver falls back to loopback, where nothing answers, and fails at once.
        ("resolv.conf", "# no name server\n"),
    ];
    let mut files = Vec::new();
    for (name, text) in defaults {
        let ours = etc.join(name);
        fs::write(&ours, text)?;
        let covered = Path::new("/etc").join(name);
        // A file that does not exist cannot be covered.
        if covered.exists() {
            files.push((c_path(&ours)?, c_path(&covered)?));
        }
    }
    Ok(files)
}

fn c_path(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt as _;
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// Runs `ip` on the machine itself: only to add and remove namespaces.
fn ip(arguments: &[&str]) -> Result<(), LabError> {
    let mut command = Command::new(find_tool("ip").unwrap_or_else(|| "ip".into()));
    command.args(arguments);
    run(command, "of the machine", "")?;
    Ok(())
}

fn run(mut command: Command, namespace: &str, input: &str) -> Result<String, LabError> {
    let line = format!("{command:?}");
    let failed = |source| LabError::System {
        what: format!("run {line} in namespace {namespace}"),
        source,
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that stops reading says why on standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(LabError::Tool {
        command: line,
        namespace: namespace.to_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Kills every process whose network namespace is this one. They are the lab's: nobody else knows the namespace.
fn kill_all_inside(name: &str) {
    let Ok(namespace) = fs::metadata(Path::new(NAMESPACES).join(name)) else {
        return;
    };
    let own = std::process::id();
    let Ok(processes) = fs::read_dir("/proc") else {
        return;
    };
    for entry in processes.flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|pid| pid.parse::<u32>().ok());
        let Some(pid) = pid.filter(|pid| *pid != own) else {
            continue;
        };
        let inside = || {
            fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|theirs| {
                (theirs.dev(), theirs.ino()) == (namespace.dev(), namespace.ino())
            })
        };
        if !inside() {
            continue;
        }
        let handle = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // Looked at again with the handle held: the number may meanwhile belong to another process.
        if let Some(handle) = handle.filter(|_| inside()) {
            let _ = pidfd_send_signal(&handle, Signal::KILL);
        }
    }
}
