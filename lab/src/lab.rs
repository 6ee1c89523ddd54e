//! The lab itself: what makes machines and networks, and takes all of them away again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

use crate::bridge::Bridge;
use crate::host::Host;
use crate::namespace::Namespace;
use crate::nat::Nat;
use crate::router::Router;
use crate::shim::Shim;
use crate::skip::skip;
use crate::{LabError, Reason, available, leftovers};

/// A set of machines and networks that shares nothing with the machine it runs on, nor with other labs.
///
/// Dropping it, also while a panic unwinds, kills every process in it and removes every namespace, and with them every
/// interface. A test process that dies without unwinding takes its processes with it (they are sent SIGKILL by the
/// kernel); its namespaces are removed when the next lab is made, by anyone.
///
/// Declare the lab before what is made from it, so that it is dropped last; the other order is safe, the handles then
/// answer with errors.
#[derive(Debug)]
pub struct Lab {
    inner: Arc<LabInner>,
}

/// What machines need of their lab.
#[derive(Debug)]
pub(crate) struct LabInner {
    prefix: String,
    outputs: TempDir,
    made: Mutex<Made>,
}

#[derive(Debug, Default)]
struct Made {
    labels: BTreeSet<String>,
    /// In the order they were made; removed in the reverse.
    namespaces: Vec<String>,
    shims: Vec<Arc<Shim>>,
    /// Names that every host resolves, as lines of `hosts`.
    names: Vec<(String, IpAddr)>,
    hosts: Vec<Arc<Namespace>>,
}

impl Lab {
    /// Whether this machine can hold a lab; cheap, and leaves nothing behind.
    ///
    /// # Errors
    /// The [`Reason`] why not, with what to do about it.
    pub fn available() -> Result<(), Reason> {
        available::check()
    }

    /// An empty lab. First removes what labs of dead processes left behind.
    ///
    /// # Errors
    /// [`LabError::Unavailable`], [`LabError::Name`], or a folder for outputs that cannot be made.
    pub fn new(name: &str) -> Result<Self, LabError> {
        available::check()?;
        check_label(name)?;
        leftovers::reap();
        let prefix = leftovers::unique_prefix();
        let outputs = tempfile::Builder::new()
            .prefix(&format!("{prefix}.{name}."))
            .tempdir()
            .map_err(LabError::system("make a folder for the lab's outputs"))?;
        Ok(Self {
            inner: Arc::new(LabInner {
                prefix: format!("{prefix}.{name}"),
                outputs,
                made: Mutex::default(),
            }),
        })
    }

    /// For tests: a lab, or `None` after a line `SKIPPED: <name>: <reason>` where there can be none. The line goes past
    /// the test runner's capture, so that a run always shows what it did not try.
    ///
    /// # Panics
    /// When a lab is possible here but could not be made.
    #[must_use]
    #[track_caller]
    pub fn or_skip(name: &str) -> Option<Self> {
        match Self::new(name) {
            Ok(lab) => Some(lab),
            Err(LabError::Unavailable(reason)) => {
                skip(name, reason);
                None
            }
            Err(error) => panic!("lab {name}: {error}"),
        }
    }

    /// A machine without any network yet.
    ///
    /// # Errors
    /// [`LabError::Name`], [`LabError::NameTaken`], or what the system refused.
    pub fn host(&self, name: &str) -> Result<Host, LabError> {
        Host::create(&self.inner, name)
    }

    /// A network segment: everything attached to it is one broadcast and multicast domain.
    ///
    /// # Errors
    /// As [`Lab::host`].
    pub fn bridge(&self, name: &str) -> Result<Bridge, LabError> {
        Bridge::create(&self.inner, name)
    }

    /// A machine that forwards, translating addresses as `nat` says, or plainly with `None`.
    ///
    /// # Errors
    /// As [`Lab::host`].
    pub fn router(&self, name: &str, nat: Option<Nat>) -> Result<Router, LabError> {
        Router::create(&self.inner, name, nat)
    }

    /// Makes `name` resolve to `address` on every host of the lab, those to come included (through `/etc/hosts`).
    ///
    /// # Errors
    /// When a host's file cannot be written.
    pub fn publish_name(&self, name: &str, address: IpAddr) -> Result<(), LabError> {
        let mut made = self.inner.made();
        made.names.push((name.to_owned(), address));
        made.hosts
            .iter()
            .try_for_each(|host| write_names(host, &made.names))
    }

    /// Where outputs of processes and captures lie, until the lab is dropped.
    #[must_use]
    pub fn outputs(&self) -> &Path {
        self.inner.outputs.path()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let made = std::mem::take(&mut *self.inner.made());
        for namespace in made.namespaces.iter().rev() {
            Namespace::remove(namespace);
        }
        // After the interfaces: a shim's thread ends whatever its sockets say.
        for shim in made.shims {
            shim.stop();
        }
    }
}

impl LabInner {
    /// Makes a namespace that goes with the lab.
    pub(crate) fn namespace(&self, label: &str) -> Result<Arc<Namespace>, LabError> {
        check_label(label)?;
        let mut made = self.made();
        if !made.labels.insert(label.to_owned()) {
            return Err(LabError::NameTaken(label.to_owned()));
        }
        let name = format!("{}.{label}", self.prefix);
        // Before it exists, so that a failure half-way is cleaned up too.
        made.namespaces.push(name.clone());
        drop(made);
        Namespace::create(name).map(Arc::new)
    }

    /// Gives a host the lab's published names, now and later.
    pub(crate) fn register_host(&self, host: &Arc<Namespace>) -> Result<(), LabError> {
        let mut made = self.made();
        made.hosts.push(Arc::clone(host));
        write_names(host, &made.names)
    }

    /// Keeps a shim running until the lab ends.
    pub(crate) fn keep_shim(&self, shim: Arc<Shim>) {
        self.made().shims.push(shim);
    }

    pub(crate) fn outputs(&self) -> &Path {
        self.outputs.path()
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        // The lists are whole after a panic elsewhere, and teardown must go on then.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes in place: the file is mounted into running processes.
fn write_names(host: &Namespace, names: &[(String, IpAddr)]) -> Result<(), LabError> {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
    for (name, address) in names {
        text.push_str(&format!("{address} {name}\n"));
    }
    let file = host.etc_file("hosts");
    std::fs::write(&file, text).map_err(LabError::system(format!("write {}", file.display())))
}

fn check_label(label: &str) -> Result<(), LabError> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=32).contains(&label.len()) && label.bytes().all(allowed) {
        Ok(())
    } else {
        Err(LabError::Name(label.to_owned()))
    }
}
