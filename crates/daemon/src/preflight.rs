//! What can be wrong with the files and folders that a configuration names, looked at without starting or making anything.
//!
//! Every file that can be told is looked at, whatever is wrong with the others or with other keys, and each pair of good
//! files is held against each other: so one look tells all there is to mend.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat, statfs};
use warren_config::{Inspection, Role, Settings};
use warren_identity::join::revocations_from_pem;
use warren_identity::{
    Leaf, NodeKey, OrganizationId, ReplaceError, Revocations, Roots, Trust, UnixTime, verify_member,
};

use crate::ca_folder::{CaError, CaFolder};
use crate::material::{self, MaterialError};

/// Something that a node would not start with.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// A key, certificate or revocation list.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// The issuer's CA.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A folder can be neither used nor made.
    #[error("{key}: {} cannot be used: {} {reason}", folder.display(), at.display())]
    Folder {
        /// The configuration's key.
        key: &'static str,
        /// The folder that it names.
        folder: PathBuf,
        /// The folder itself, or the nearest one above that is there.
        at: PathBuf,
        /// What is wrong with that.
        reason: FolderFault,
    },
}

/// Why nothing can be written to, or made in, a folder.
#[derive(Debug, thiserror::Error)]
pub enum FolderFault {
    /// It is a file.
    #[error("is no folder: choose another, or move the file away")]
    NoFolder,
    /// The system would refuse.
    #[error("cannot be written to ({0}): make it the node's own with `chown`, or choose another")]
    NotWritable(io::Error),
    /// The kernel makes what is in it, whatever the permissions say.
    #[error("is the kernel's own and keeps no files: choose another")]
    Pseudo,
}

/// File systems that take no files of ours though root may "write" to them: proc, sysfs, control groups (statfs(2)).
const PSEUDO: [i64; 4] = [0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270];

/// Everything that is wrong with the files and folders of a configuration, which may have problems of its own: keys that are
/// not what was meant are left out. Ports are not tried: a node that runs has its own.
#[must_use]
pub fn obstacles(inspection: &Inspection, now: UnixTime) -> Vec<Obstacle> {
    let mut look = Look {
        settings: &inspection.sketch,
        inspection,
        found: Vec::new(),
    };
    let (key, leaf) = (look.key(), look.leaf());
    let organization = look.organization(leaf.as_ref());
    let roots = look.roots(organization.as_ref());
    if let Some(leaf) = &leaf {
        look.roles(leaf);
    }
    match (key, leaf, roots) {
        (Some(key), Some(leaf), Some(roots)) => look.together(key, leaf, roots, now),
        (key, leaf, roots) => {
            if let (Some(key), Some(leaf)) = (&key, &leaf) {
                look.same_node(key, leaf);
            }
            if let (Some(leaf), Some(roots)) = (&leaf, &roots) {
                look.admitted(leaf, roots, now);
            }
            if let Some(roots) = &roots {
                look.revocation_lists(roots);
            }
        }
    }
    look.api();
    look.issuer(organization);
    look.folders();
    look.found
}

struct Look<'a> {
    settings: &'a Settings,
    inspection: &'a Inspection,
    found: Vec<Obstacle>,
}

impl Look<'_> {
    fn sure(&self, paths: &[&str]) -> bool {
        paths.iter().all(|path| self.inspection.is_sure(path))
    }

    fn note<T>(&mut self, outcome: Result<T, impl Into<Obstacle>>) -> Option<T> {
        outcome
            .map_err(|problem| self.found.push(problem.into()))
            .ok()
    }

    fn key(&mut self) -> Option<NodeKey> {
        if !self.sure(&[
            "network.libp2p.peer_key",
            "network.security.tls_key_passphrase_file",
        ]) {
            return None;
        }
        let read = if self.sure(&["network.security.tls_key"]) {
            material::node_key(self.settings)
        } else {
            let passphrase = self
                .settings
                .network
                .security
                .tls_key_passphrase_file
                .as_deref();
            material::read_key(&self.settings.network.libp2p.peer_key, passphrase)
        };
        self.note(read)
    }

    fn leaf(&mut self) -> Option<Leaf> {
        if !self.sure(&["network.security.tls_cert"]) {
            return None;
        }
        self.note(material::leaf(&self.settings.network.security.tls_cert))
    }

    /// The configured organisation, else the certificate's.
    fn organization(&mut self, leaf: Option<&Leaf>) -> Option<OrganizationId> {
        if !self.sure(&["network.organization_id"]) {
            return None;
        }
        match &self.settings.network.organization_id {
            Some(id) => self.note(OrganizationId::new(id.clone()).map_err(MaterialError::from)),
            None => leaf.map(|leaf| leaf.organization().clone()),
        }
    }

    fn roots(&mut self, organization: Option<&OrganizationId>) -> Option<Roots> {
        if !self.sure(&["network.security.ca_cert"]) {
            return None;
        }
        let path = &self.settings.network.security.ca_cert;
        match organization {
            Some(organization) => self.note(material::roots(path, organization.clone())),
            // There is nothing to hold the certificates against, but the file must be there.
            None => {
                self.note(material::roots_text(path));
                None
            }
        }
    }

    fn roles(&mut self, leaf: &Leaf) {
        if !self.sure(&["roles"]) {
            return;
        }
        let lacking =
            material::roles_without_capability(&self.settings.roles, &leaf.facts().capabilities);
        for role in lacking {
            self.found.push(
                MaterialError::LacksCapability {
                    path: self.settings.network.security.tls_cert.clone(),
                    role,
                }
                .into(),
            );
        }
    }

    /// As a start does it, but on to the end.
    fn together(&mut self, key: NodeKey, leaf: Leaf, roots: Roots, now: UnixTime) {
        let trust = Trust::new(key, roots);
        for path in self.list_files() {
            self.note(material::merge_file(&trust, &path));
        }
        let path = &self.settings.network.security.tls_cert;
        self.note(material::replace_leaf(&trust, path, leaf, now));
    }

    fn same_node(&mut self, key: &NodeKey, leaf: &Leaf) {
        if key.peer_id() != leaf.peer_id() {
            self.refused(ReplaceError::OtherNode {
                found: Box::new(leaf.peer_id()),
                own: Box::new(key.peer_id()),
            });
        }
    }

    fn admitted(&mut self, leaf: &Leaf, roots: &Roots, now: UnixTime) {
        if let Err(refusal) = verify_member(leaf.chain_der(), roots, &Revocations::none(), now) {
            self.refused(refusal.into());
        }
    }

    fn refused(&mut self, source: ReplaceError) {
        self.found.push(
            MaterialError::Refused {
                path: self.settings.network.security.tls_cert.clone(),
                source: Box::new(source),
            }
            .into(),
        );
    }

    fn revocation_lists(&mut self, roots: &Roots) {
        for path in self.list_files() {
            let lists = material::lists_text(&path).and_then(|text: String| {
                revocations_from_pem(&text, roots).map_err(|source| MaterialError::Crl {
                    path: path.clone(),
                    source,
                })
            });
            self.note(lists);
        }
    }

    /// The revocation lists that are there.
    fn list_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        if self.sure(&["network.security.crl"]) {
            files.extend(self.settings.network.security.crl.clone());
        }
        if self.sure(&["storage.path"]) {
            files.push(material::learnt_crl(self.settings));
        }
        files.retain(|path| path.exists());
        files
    }

    fn api(&mut self) {
        let keys = ["api.tls.enabled", "api.tls.cert", "api.tls.key"];
        if let Some(tls) = &self.settings.api.tls
            && self.sure(&keys)
            // The node's own has been looked at.
            && tls.cert != self.settings.network.security.tls_cert
        {
            self.note(material::https_identity(&tls.cert, &tls.key));
        }
    }

    fn issuer(&mut self, organization: Option<OrganizationId>) {
        if let Some(folder) = &self.settings.network.security.issuer_dir
            && self.sure(&[
                "roles",
                "network.security.issuer_dir",
                "network.security.issuer_passphrase_file",
            ])
            && self.settings.roles.contains(&Role::Issuer)
            && organization.is_some()
        {
            let passphrase = self
                .settings
                .network
                .security
                .issuer_passphrase_file
                .clone();
            let ca = CaFolder::new(folder, organization).with_passphrase_file(passphrase);
            self.note(ca.authority());
        }
    }

    fn folders(&mut self) {
        let storage = ("storage.path", Some(self.settings.storage.path.as_path()));
        let log = self.settings.logging.file.as_deref();
        for (key, folder) in [storage, ("logging.file", log.and_then(Path::parent))] {
            if let Some(folder) = folder
                && self.sure(&[key])
                && let Err((at, reason)) = usable(folder)
            {
                self.found.push(Obstacle::Folder {
                    key,
                    folder: folder.to_owned(),
                    at,
                    reason,
                });
            }
        }
    }
}

/// Whether files can be written to `folder`, made where it is not there yet. Makes nothing.
fn usable(folder: &Path) -> Result<(), (PathBuf, FolderFault)> {
    let folder = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let nearest = folder.ancestors().find(|path| path.exists());
    // A relative path ends with the empty one, which stands for where we are.
    let nearest = nearest.unwrap_or(Path::new("."));
    if !nearest.is_dir() {
        return Err((nearest.to_owned(), FolderFault::NoFolder));
    }
    let kind = statfs(nearest).map(|system| system.f_type);
    if kind.is_ok_and(|kind| PSEUDO.contains(&kind)) {
        return Err((nearest.to_owned(), FolderFault::Pseudo));
    }
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    accessat(CWD, nearest, wanted, AtFlags::EACCESS)
        .map_err(|refusal| (nearest.to_owned(), FolderFault::NotWritable(refusal.into())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn given_a_folder_that_can_be_made_when_looked_at_then_it_is_usable_and_not_made() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("a/b/c");

        assert!(usable(&folder).is_ok());
        assert!(!home.path().join("a").exists());
    }

    #[test]
    fn given_a_folder_of_the_kernel_when_looked_at_then_it_is_not_usable() {
        let (at, fault) = usable(Path::new("/proc/nope")).unwrap_err();

        assert_eq!(at, Path::new("/proc"));
        assert!(matches!(fault, FolderFault::Pseudo), "{fault}");
    }

    #[test]
    fn given_a_file_in_the_way_when_looked_at_then_the_file_is_named() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        std::fs::write(&file, "").unwrap();

        let (at, fault) = usable(&file.join("data")).unwrap_err();

        assert_eq!(at, file);
        assert!(matches!(fault, FolderFault::NoFolder), "{fault}");
    }
}
