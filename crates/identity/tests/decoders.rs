//! Every decoder of bytes from outside: arbitrary and half-good input is refused, never a panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use support::{DAY, ca, key, leaf, now, org};
use warren_identity::join::JoinToken;
use warren_identity::{
    CertificateDer, CertificateFacts, Csr, IssuanceLedger, Leaf, NodeKey, NodeRecord,
    RevocationList, Revocations, Roots, Signed, decode_chain, encode_chain, verify_member,
};

/// Good bytes with a few of them changed, cut off or added; or any bytes at all.
fn damaged(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let edited = (
        Just(good),
        edits,
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(mut bytes, edits, cut, shorten)| {
            for (index, value) in edits {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
            if shorten {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        });
    prop_oneof![4 => edited, 1 => prop::collection::vec(any::<u8>(), 0..600)]
}

fn crl() -> Vec<u8> {
    let mut ledger = IssuanceLedger::default();
    ledger.revoke_peer(key(2).peer_id(), now());
    ledger
        .sign_crl(&ca(), now(), std::time::Duration::from_secs(DAY))
        .unwrap()
}

fn record() -> Vec<u8> {
    let record = NodeRecord {
        peer_id: key(1).peer_id(),
        organization: org(),
        name: "node-1".into(),
        region: None,
        roles: vec!["storage".into()],
        addresses: vec!["/ip4/10.0.0.1/tcp/4001".into()],
        bulk_addresses: vec![],
        sequence: 1,
        issued_at_unix_s: support::NOW_S,
    };
    Signed::sign(record, &key(1)).unwrap().to_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn given_damaged_chains_when_decoded_then_what_passes_is_the_good_chain(bytes in damaged(encode_chain(leaf(1).chain_der()))) {
        if let Ok(chain) = decode_chain(&bytes)
            && verify_member(&chain, ca().roots(), &Revocations::none(), now()).is_ok()
        {
            assert_eq!(CertificateFacts::parse(&chain[0]).unwrap().spiffe_id().unwrap().peer_id, key(1).peer_id());
        }
    }

    #[test]
    fn given_damaged_lists_when_decoded_then_what_passes_is_signed(bytes in damaged(crl())) {
        if let Ok(list) = RevocationList::from_der(&bytes, ca().roots()) {
            assert!(list.is_peer_revoked(&key(2).peer_id()));
        }
        let _refused_or_read = RevocationList::from_file_bytes(&bytes, ca().roots());
    }

    #[test]
    fn given_damaged_records_when_decoded_then_what_passes_is_signed_by_its_node(bytes in damaged(record())) {
        if let Ok(signed) = Signed::<NodeRecord>::decode(&bytes) {
            assert_eq!(signed.signer(), signed.value().peer_id);
        }
    }

    #[test]
    fn given_damaged_texts_when_read_then_nothing_panics(
        key_pem in damaged(key(1).to_pem().as_bytes().to_vec()),
        leaf_pem in damaged(leaf(1).to_pem().into_bytes()),
        csr_pem in damaged(Csr::create_pem(&key(1), "n").unwrap().into_bytes()),
        token in damaged(b"warren-join-1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_vec()),
    ) {
        let _read = NodeKey::from_pem(&String::from_utf8_lossy(&key_pem));
        let _read = Leaf::from_pem(&String::from_utf8_lossy(&leaf_pem));
        let _read = Roots::from_pem(org(), &String::from_utf8_lossy(&leaf_pem));
        let _read = Csr::from_pem(&String::from_utf8_lossy(&csr_pem));
        let _read = JoinToken::parse(&String::from_utf8_lossy(&token));
    }
}

#[test]
fn given_a_chain_when_encoded_and_decoded_then_it_is_the_same_and_its_bounds_hold() {
    let one = leaf(1).chain_der()[0].clone();
    let chain = vec![one.clone(), ca().certificate().clone()];
    assert_eq!(decode_chain(&encode_chain(&chain)).unwrap(), chain);
    assert_eq!(decode_chain(&[]), Err("the chain is empty"));
    assert_eq!(
        decode_chain(&encode_chain(&vec![one.clone(); 5])),
        Err("the chain has more than 4 certificates")
    );
    let long = [&[0x30, 0x82, 0x50, 0x00][..], &[0; 0x5000]].concat();
    assert_eq!(
        decode_chain(&long),
        Err("a certificate is longer than 16 KiB")
    );
    let cut = CertificateDer::from(one[..100].to_vec());
    assert!(decode_chain(&encode_chain(&[cut])).is_err());
}
