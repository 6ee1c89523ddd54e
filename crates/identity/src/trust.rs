//! The live handle to everything trust depends on. Each handshake reads it anew, so a renewed leaf, a new CA or a
//! revocation takes effect without a restart. Readers never wait; writers take turns.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use libp2p_identity::PeerId;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::certificate::{Leaf, certificates_from_pem};
use crate::key::NodeKey;
use crate::organization::OrganizationId;
use crate::revocation::{CrlError, MergeOutcome, RevocationList, Revocations};
use crate::roots::Roots;
use crate::verify::{Member, Refusal, verify_member, verify_member_or_companion};

/// Why new material was not put in place. What was in place stays.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// The leaf is for another node's key.
    #[error(
        "the certificate is for node {found}, but this node's key makes it {own}; issue one with `warren ca issue --key` or `--peer`"
    )]
    OtherNode {
        /// The peer id in the certificate.
        found: Box<PeerId>,
        /// The peer id of the node's key.
        own: Box<PeerId>,
    },
    /// Other members would refuse the leaf.
    #[error("other members would refuse this node: {0}")]
    Refused(#[from] Refusal),
    /// The roots are another organisation's.
    #[error(
        "the CA certificates are for organisation {found}, but this node belongs to {own}; changing that takes a restart"
    )]
    OtherOrganization {
        /// The organisation of the new roots.
        found: OrganizationId,
        /// The node's.
        own: OrganizationId,
    },
    /// The node's present leaf is of a CA that the new roots leave out.
    #[error(
        "the node's own certificate is of none of these CAs ({0}): keep the old CA in the file until the node has a certificate of the new one"
    )]
    OwnLeafLeftOut(Refusal),
    /// The crypto library does not take the key.
    #[error("the TLS key cannot be used: {0}")]
    Key(rustls::Error),
}

/// Why a configured HTTPS certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpsIdentityError {
    /// No certificate, or a broken one.
    #[error("the HTTPS certificate is damaged or missing: expected `-----BEGIN CERTIFICATE-----`")]
    Certificate,
    /// No unencrypted private key.
    #[error(
        "the HTTPS key is damaged, encrypted or missing: expected an unencrypted PEM private key"
    )]
    Key,
    /// The two do not belong together, or the algorithm is not supported.
    #[error("the HTTPS certificate and key do not work together: {0}")]
    Mismatch(rustls::Error),
}

/// A certificate for HTTPS that was not made by Warren: by `openssl`, or a public CA. It proves no membership.
#[derive(Clone)]
pub struct HttpsIdentity(Arc<CertifiedKey>);

impl fmt::Debug for HttpsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpsIdentity({} certificates)", self.0.cert.len())
    }
}

impl HttpsIdentity {
    /// Pairs a certificate chain with its key (PKCS#8, PKCS#1 or SEC 1; RSA, ECDSA or Ed25519).
    ///
    /// # Errors
    /// [`HttpsIdentityError`].
    pub fn from_pem(certificates: &str, key: &str) -> Result<Self, HttpsIdentityError> {
        let chain =
            certificates_from_pem(certificates).map_err(|_| HttpsIdentityError::Certificate)?;
        if chain.is_empty() {
            return Err(HttpsIdentityError::Certificate);
        }
        let key =
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| HttpsIdentityError::Key)?;
        let certified = CertifiedKey::from_der(chain, key, &crate::tls::provider())
            .map_err(HttpsIdentityError::Mismatch)?;
        Ok(Self(Arc::new(certified)))
    }

    /// The chain that is served, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.cert
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0)
    }
}

/// What the node presents as a member.
#[derive(Clone, Debug)]
pub(crate) struct OwnLeaf {
    pub(crate) leaf: Leaf,
    pub(crate) member: Member,
    /// To nodes: leaf and intermediates.
    pub(crate) node: Arc<CertifiedKey>,
    /// To HTTPS clients: leaf, intermediates and the CA, whose hash a joining machine has pinned.
    pub(crate) https: Arc<CertifiedKey>,
    /// To HTTPS clients that refuse Ed25519.
    pub(crate) companion: Option<Arc<CertifiedKey>>,
}

/// One consistent state; a handshake holds on to the one it began with.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) own: Option<OwnLeaf>,
    pub(crate) https: Option<HttpsIdentity>,
    pub(crate) roots: Roots,
    pub(crate) revocations: Revocations,
    generation: u64,
}

type Listener = Box<dyn Fn(u64) + Send + Sync>;

struct Shared {
    key: NodeKey,
    organization: OrganizationId,
    state: ArcSwap<Snapshot>,
    /// Held by whoever changes the state, so that changes do not overwrite each other.
    writers: Mutex<Vec<Listener>>,
}

/// The node's key, leaf, roots and revocations. Clones are handles to the same state.
#[derive(Clone)]
pub struct Trust(Arc<Shared>);

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("organization", &self.0.organization)
            .field("peer_id", &self.peer_id())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

impl Trust {
    /// A node with its key and the CAs of its organisation, without a leaf yet: it can verify others, and is a
    /// stranger to them until [`Trust::replace_leaf`].
    #[must_use]
    pub fn new(key: NodeKey, roots: Roots) -> Self {
        let organization = roots.organization().clone();
        let state = Snapshot {
            own: None,
            https: None,
            roots,
            revocations: Revocations::none(),
            generation: 0,
        };
        Self(Arc::new(Shared {
            key,
            organization,
            state: ArcSwap::from_pointee(state),
            writers: Mutex::new(Vec::new()),
        }))
    }

    /// The node's key.
    #[must_use]
    pub fn key(&self) -> &NodeKey {
        &self.0.key
    }

    /// The node's peer id.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.0.key.peer_id()
    }

    /// The node's organisation, fixed for the life of the process.
    #[must_use]
    pub fn organization(&self) -> &OrganizationId {
        &self.0.organization
    }

    /// The node's leaf, if it has one.
    #[must_use]
    pub fn leaf(&self) -> Option<Leaf> {
        self.snapshot().own.as_ref().map(|own| own.leaf.clone())
    }

    /// The node as other members see it, if it has a leaf.
    #[must_use]
    pub fn own_member(&self) -> Option<Member> {
        self.snapshot().own.as_ref().map(|own| own.member.clone())
    }

    /// What the node presents to other nodes: leaf and intermediates; empty without a leaf.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.snapshot()
            .own
            .as_ref()
            .map(|own| own.leaf.chain_der().to_vec())
            .unwrap_or_default()
    }

    /// The trusted CAs.
    #[must_use]
    pub fn roots(&self) -> Roots {
        self.snapshot().roots.clone()
    }

    /// The revocation lists in force.
    #[must_use]
    pub fn revocations(&self) -> Revocations {
        self.snapshot().revocations.clone()
    }

    /// Rises with every change. Whoever caches a decision compares it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.snapshot().generation
    }

    /// Calls `listener` with the new generation after every change, on the thread that made it. It must return at
    /// once (send into a `watch`), and must not change this `Trust`.
    pub fn on_change(&self, listener: impl Fn(u64) + Send + Sync + 'static) {
        self.lock_writers().push(Box::new(listener));
    }

    /// Puts a leaf in place after seeing to it that it is this node's and that other members would accept it.
    ///
    /// # Errors
    /// [`ReplaceError`]; the old leaf stays.
    pub fn replace_leaf(&self, leaf: Leaf, now: UnixTime) -> Result<(), ReplaceError> {
        self.change(|state| {
            let own = self.own_leaf(leaf, &state.roots, &state.revocations, now)?;
            Ok(Snapshot {
                own: Some(own),
                ..state.clone()
            })
        })
    }

    /// Puts CAs in place. During a roll-over they include the CA of the node's present leaf. Revocation lists of CAs
    /// that are left out go with them.
    ///
    /// # Errors
    /// [`ReplaceError::OtherOrganization`] or [`ReplaceError::OwnLeafLeftOut`]; the old CAs stay.
    pub fn replace_roots(&self, roots: Roots, now: UnixTime) -> Result<(), ReplaceError> {
        if *roots.organization() != self.0.organization {
            return Err(ReplaceError::OtherOrganization {
                found: roots.organization().clone(),
                own: self.0.organization.clone(),
            });
        }
        self.change(|state| {
            let revocations = state.revocations.retained(&roots);
            let own = match &state.own {
                None => None,
                Some(own) => match self.own_leaf(own.leaf.clone(), &roots, &revocations, now) {
                    Ok(own) => Some(own),
                    // A leaf that ended or was revoked is no reason to hold on to old CAs.
                    Err(ReplaceError::Refused(
                        Refusal::Expired { .. }
                        | Refusal::NotYetValid { .. }
                        | Refusal::Revoked { .. }
                        | Refusal::PeerRevoked(_),
                    )) => Some(own.clone()),
                    Err(ReplaceError::Refused(refusal)) => {
                        return Err(ReplaceError::OwnLeafLeftOut(refusal));
                    }
                    Err(other) => return Err(other),
                },
            };
            Ok(Snapshot {
                own,
                roots,
                revocations,
                ..state.clone()
            })
        })
    }

    /// Sets or removes a configured HTTPS certificate, which HTTPS clients then get instead of the node's leaf.
    pub fn replace_https_identity(&self, https: Option<HttpsIdentity>) {
        let done: Result<(), std::convert::Infallible> = self.change(|state| {
            Ok(Snapshot {
                https,
                ..state.clone()
            })
        });
        let Ok(()) = done;
    }

    /// Takes a revocation list (DER, from a file or a peer) if a trusted CA signed it and it is newer.
    /// [`MergeOutcome::Updated`] asks the caller to store it, pass it on and end sessions that
    /// [`Trust::recheck`] refuses.
    ///
    /// # Errors
    /// [`CrlError`]; what was in force stays.
    pub fn merge_revocations(&self, der: &[u8]) -> Result<MergeOutcome, CrlError> {
        let list = RevocationList::from_der(der, &self.snapshot().roots)?;
        let mut outcome = MergeOutcome::Unchanged;
        let result = self.change(|state| {
            let mut revocations = state.revocations.clone();
            // The roots may have changed since the signature was checked.
            if state.roots.by_key_hash(&list.issuer_key_hash()).is_none() {
                return Err(Some(CrlError::UnknownIssuer {
                    issuer: list.issuer().to_owned(),
                    organization: state.roots.organization().to_string(),
                }));
            }
            outcome = revocations.merge(list).map_err(Some)?;
            match outcome {
                MergeOutcome::Updated => Ok(Snapshot {
                    revocations,
                    ..state.clone()
                }),
                // No change, no new generation.
                MergeOutcome::Unchanged => Err(None),
            }
        });
        match result {
            Err(Some(error)) => Err(error),
            Ok(()) | Err(None) => Ok(outcome),
        }
    }

    /// Decides whether the holder of a chain is a member now; see [`verify_member`].
    ///
    /// # Errors
    /// The exact [`Refusal`].
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Member, Refusal> {
        let state = self.snapshot();
        verify_member(chain, &state.roots, &state.revocations, now)
    }

    /// As [`Trust::verify`], for sessions in which a companion counts as well; see [`verify_member_or_companion`].
    ///
    /// # Errors
    /// The exact [`Refusal`].
    pub fn verify_with_companion(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Member, Refusal> {
        let state = self.snapshot();
        verify_member_or_companion(chain, &state.roots, &state.revocations, now)
    }

    /// Looks again at the member of a live session: after a change of generation, and at its `not_after`.
    ///
    /// # Errors
    /// The reason for which the session must end now.
    pub fn recheck(&self, member: &Member, now: UnixTime) -> Result<(), Refusal> {
        let state = self.snapshot();
        member.recheck(&state.roots, &state.revocations, now)
    }

    /// Whether the node should get a new leaf: see [`crate::CertificateFacts::renewal_due`]; and, during a roll-over,
    /// when its leaf is older than the youngest CA. So the old CA can be dropped soon, and an issuer that still
    /// signs with the old one is asked once only.
    #[must_use]
    pub fn renewal_due(&self, now: UnixTime) -> bool {
        let state = self.snapshot();
        let Some(own) = &state.own else { return false };
        let facts = own.leaf.facts();
        let youngest = state
            .roots
            .certificates()
            .iter()
            .max_by_key(|root| root.facts().not_before.as_secs());
        let superseded = youngest.is_some_and(|root| {
            root.key_hash() != own.member.issuer
                && facts.not_before.as_secs() < root.facts().not_before.as_secs()
        });
        facts.renewal_due(now) || superseded
    }

    pub(crate) fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.0.state.load()
    }

    fn own_leaf(
        &self,
        leaf: Leaf,
        roots: &Roots,
        revocations: &Revocations,
        now: UnixTime,
    ) -> Result<OwnLeaf, ReplaceError> {
        if leaf.peer_id() != self.peer_id() {
            return Err(ReplaceError::OtherNode {
                found: Box::new(leaf.peer_id()),
                own: Box::new(self.peer_id()),
            });
        }
        let member = verify_member(leaf.chain_der(), roots, revocations, now)?;
        let certify = |chain, key| {
            CertifiedKey::from_der(chain, key, &crate::tls::provider())
                .map(Arc::new)
                .map_err(ReplaceError::Key)
        };
        let with_root = |mut chain: Vec<CertificateDer<'static>>| {
            chain.extend(
                roots
                    .by_key_hash(&member.issuer)
                    .map(|root| root.der().clone()),
            );
            chain
        };
        let intermediates = &leaf.chain_der()[1..];
        // The companion is of use only for this node's derived key: one issued to an earlier key is left aside.
        let companion = leaf.companion().and_then(|der| {
            let chain = with_root(std::iter::once(der).chain(intermediates).cloned().collect());
            certify(chain, self.0.key.companion_key().private_key_der()).ok()
        });
        Ok(OwnLeaf {
            node: certify(leaf.chain_der().to_vec(), self.0.key.private_key_der())?,
            https: certify(
                with_root(leaf.chain_der().to_vec()),
                self.0.key.private_key_der(),
            )?,
            companion,
            leaf,
            member,
        })
    }

    fn change<E>(&self, next: impl FnOnce(&Snapshot) -> Result<Snapshot, E>) -> Result<(), E> {
        let listeners = self.lock_writers();
        let current = self.0.state.load_full();
        let mut changed = next(&current)?;
        changed.generation = current.generation + 1;
        let generation = changed.generation;
        self.0.state.store(Arc::new(changed));
        for listener in listeners.iter() {
            listener(generation);
        }
        Ok(())
    }

    fn lock_writers(&self) -> std::sync::MutexGuard<'_, Vec<Listener>> {
        // A listener that panicked leaves the list whole.
        self.0
            .writers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
