//! Identity: node keys, the organisation's certificate authority, leaves, revocation and every decision about trust.
//!
//! Owns: Ed25519 node keys and their peer ids, the CA, leaves and their capabilities, revocation lists, join tokens,
//! signed payloads, and rustls configurations built from all of these.
//! Never does: files, sockets, clocks. `now` and random bytes are arguments; key and token bytes never reach `Debug`.
//!
//! Start reading at [`verify_member`] (who is a member, as a pure function with an exact reason of refusal), then
//! [`Trust`] (the live handle that everything else holds), then [`CertificateAuthority`] (who makes members).

mod authority;
mod capability;
mod certificate;
mod csr;
pub mod join;
mod key;
mod ledger;
mod organization;
mod passphrase;
mod record;
mod revocation;
mod roots;
mod signed;
mod time;
pub mod tls;
mod trust;
mod verify;

pub use authority::{
    CA_VALIDITY, CaRequest, CertificateAuthority, CrlRequest, ISSUE_BACKDATE, IssueError,
    LeafRequest, LoadAuthorityError, RevokedSerial, Serial, WildcardNames,
};
pub use capability::{Capabilities, Capability, CapabilityError};
pub use certificate::{
    CAPABILITIES_OID, CertificateFacts, Leaf, LeafError, MAX_CERTIFICATE_BYTES,
    MAX_CHAIN_CERTIFICATES, RENEW_BEFORE, SpiffeId, SubjectKey, certificates_from_pem,
    decode_chain, encode_chain,
};
pub use csr::{Csr, CsrError};
pub use key::{
    CompanionKey, KeyError, NodeKey, peer_id_of_public_key, peer_id_serde, public_key_of_peer_id,
};
pub use ledger::{CRL_VALIDITY, IssuanceLedger, IssuedLeaf, LeafRevocation};
pub use libp2p_identity::PeerId;
pub use organization::{OrganizationError, OrganizationId};
pub use passphrase::{
    DecryptKeyError, EncryptKeyError, NoPassphrase, Passphrase, decrypt_key_pem, encrypt_key_pem,
    is_encrypted_key,
};
pub use record::NodeRecord;
pub use revocation::{
    CrlError, MAX_CRL_BYTES, MergeOutcome, RevocationList, Revocations, peer_revocation_serial,
};
pub use roots::{ROLL_OVER_BEFORE, RootCertificate, Roots, RootsError};
pub use rustls_pki_types::{CertificateDer, UnixTime};
pub use signed::{Signed, SignedError, SignedPayload};
pub use time::UnixMillis;
pub use trust::{HttpsIdentity, HttpsIdentityError, ReplaceError, Trust};
pub use verify::{
    CLOCK_TOLERANCE, Intermediate, Member, Purpose, Refusal, verify_certificate, verify_member,
    verify_member_or_companion,
};
