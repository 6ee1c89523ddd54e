//! Keys, certificates, revocation lists and signed records.

use std::sync::LazyLock;

use warren_identity::join::JoinToken;
use warren_identity::{
    CertificateFacts, Csr, NodeKey, NodeRecord, RevocationList, Revocations, Roots, Signed,
    decode_chain, encode_chain, peer_id_of_public_key, public_key_of_peer_id, verify_member,
};

use crate::world;

static ROOTS: LazyLock<Roots> = LazyLock::new(world::roots);

/// A chain as it travels in admission: whoever is accepted is of our organisation and valid at that moment.
pub fn chain(data: &[u8]) -> bool {
    let Ok(chain) = decode_chain(data) else {
        return false;
    };
    assert_eq!(
        encode_chain(&chain),
        data,
        "a chain reads back as it was written"
    );
    for certificate in &chain {
        // Only that it ends, with an answer or a reason.
        let _ = CertificateFacts::parse(certificate);
    }
    let Ok(member) = verify_member(&chain, &ROOTS, &Revocations::none(), world::now()) else {
        return false;
    };
    assert_eq!(&member.organization, ROOTS.organization());
    assert!(
        member.not_after >= world::now(),
        "a member's certificate has not ended"
    );
    assert!(
        world::issued().contains(&member.peer_id),
        "nobody else was ever issued a leaf"
    );
    true
}

/// A revocation list, in DER or PEM.
pub fn crl(data: &[u8]) -> bool {
    let Ok(list) = RevocationList::from_file_bytes(data, &ROOTS) else {
        return false;
    };
    let again =
        RevocationList::from_der(list.der(), &ROOTS).expect("an accepted list is accepted again");
    assert_eq!((again.number(), again.len()), (list.number(), list.len()));
    let from_pem =
        RevocationList::from_file_bytes(list.to_pem().as_bytes(), &ROOTS).expect("and from PEM");
    assert_eq!(from_pem.der(), list.der());
    true
}

/// A certificate request.
pub fn csr(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let Ok(request) = Csr::from_pem(text) else {
        return false;
    };
    let public =
        public_key_of_peer_id(&request.peer_id()).expect("a request is for an Ed25519 key");
    assert_eq!(peer_id_of_public_key(&public), Some(request.peer_id()));
    true
}

/// A join token as somebody pastes it. Its text form is one, whatever blanks surround it.
pub fn join_token(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let Ok(token) = JoinToken::parse(text) else {
        return false;
    };
    assert_eq!(token.to_text().as_str(), text.trim());
    true
}

/// A node key in PEM.
pub fn key(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let Ok(key) = NodeKey::from_pem(text) else {
        return false;
    };
    let again = NodeKey::from_pem(&key.to_pem()).expect("a key is read back from what it wrote");
    assert_eq!(again.peer_id(), key.peer_id());
    true
}

/// A signed node record: its signer is the node it speaks of.
pub fn node_record(data: &[u8]) -> bool {
    let Ok(record) = Signed::<NodeRecord>::decode(data) else {
        return false;
    };
    assert_eq!(record.signer(), record.value().peer_id);
    let again = Signed::<NodeRecord>::decode(&record.to_bytes())
        .expect("an accepted record is accepted again");
    assert_eq!(again, record);
    true
}
