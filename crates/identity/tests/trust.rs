//! The live handle: what it takes, what it refuses, and that a refused change leaves everything as it was.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::{DAY, NOW_S, at, ca, ca_of, key, leaf, now, org, request, serial};
use warren_identity::{
    CaRequest, CertificateAuthority, CrlError, IssuanceLedger, LeafRequest, MergeOutcome,
    OrganizationId, Refusal, ReplaceError, Roots, Trust,
};
use zeroize::Zeroizing;

fn member_trust() -> Trust {
    let trust = Trust::new(key(1), ca().roots().clone());
    trust.replace_leaf(leaf(1), now()).unwrap();
    trust
}

fn crl(authority: &CertificateAuthority, when_s: u64, revoke: &[u8]) -> Vec<u8> {
    let mut ledger = IssuanceLedger::default();
    for node in revoke {
        ledger
            .revoke_peer(key(*node).peer_id(), at(when_s))
            .unwrap();
    }
    ledger
        .sign_crl(authority, at(when_s), Duration::from_secs(DAY))
        .unwrap()
}

#[test]
fn given_a_leaf_that_is_not_this_nodes_or_not_valid_when_replaced_then_the_old_one_stays() {
    let trust = member_trust();
    let before = (trust.generation(), trust.leaf());
    assert!(matches!(
        trust.replace_leaf(leaf(2), now()),
        Err(ReplaceError::OtherNode { .. })
    ));
    let foreign = ca_of(org(), 101, now())
        .issue(&request(1), now(), serial(5))
        .unwrap();
    assert!(matches!(
        trust.replace_leaf(foreign, now()),
        Err(ReplaceError::Refused(Refusal::UnknownIssuer))
    ));
    let ended = ca()
        .issue(&request(1), at(NOW_S - 50 * DAY), serial(6))
        .unwrap();
    let much_later = at(NOW_S + 400 * DAY);
    assert!(matches!(
        trust.replace_leaf(ended, much_later),
        Err(ReplaceError::Refused(Refusal::Expired { .. }))
    ));
    assert_eq!((trust.generation(), trust.leaf()), before);
    assert_eq!(trust.own_member().unwrap().serial, serial(1).as_bytes());
}

#[test]
fn given_a_change_of_ca_when_done_in_the_right_order_then_the_node_is_a_member_throughout() {
    let (old, new) = (ca(), ca_of(org(), 101, at(NOW_S + DAY)));
    let when = at(NOW_S + 2 * DAY);
    let trust = member_trust();
    assert!(matches!(
        trust.replace_roots(new.roots().clone(), when),
        Err(ReplaceError::OwnLeafLeftOut(Refusal::UnknownIssuer))
    ));
    assert!(!trust.renewal_due(when));
    let both = Roots::new(
        org(),
        [old.certificate().clone(), new.certificate().clone()],
    )
    .unwrap();
    trust.replace_roots(both, when).unwrap();
    assert!(trust.renewal_due(when), "the leaf is of the old CA");
    trust
        .replace_leaf(new.issue(&request(1), when, serial(2)).unwrap(), when)
        .unwrap();
    assert!(!trust.renewal_due(when));
    trust.replace_roots(new.roots().clone(), when).unwrap();
    assert!(trust.verify(&trust.chain(), when).is_ok());
    let beta = ca_of(OrganizationId::new("org_beta").unwrap(), 102, now());
    assert!(matches!(
        trust.replace_roots(beta.roots().clone(), when),
        Err(ReplaceError::OtherOrganization { .. })
    ));
}

#[test]
fn given_revocation_lists_when_merged_then_only_a_newer_one_counts_and_a_replayed_one_is_refused() {
    let trust = member_trust();
    let (older, newer) = (crl(&ca(), NOW_S, &[]), crl(&ca(), NOW_S + 10, &[2]));
    assert_eq!(trust.merge_revocations(&newer), Ok(MergeOutcome::Updated));
    let generation = trust.generation();
    assert_eq!(trust.merge_revocations(&newer), Ok(MergeOutcome::Unchanged));
    let replayed = trust.merge_revocations(&older).unwrap_err();
    assert!(
        matches!(replayed, CrlError::Replayed { have, offered, .. } if (have, offered) == (NOW_S + 10, NOW_S))
    );
    let conflicting = trust
        .merge_revocations(&crl(&ca(), NOW_S + 10, &[3]))
        .unwrap_err();
    assert_eq!(conflicting.label(), "conflict");
    assert_eq!(trust.generation(), generation, "nothing changed");
    assert_eq!(
        trust.verify(leaf(2).chain_der(), now()),
        Err(Refusal::PeerRevoked(key(2).peer_id()))
    );
    assert!(trust.verify(leaf(3).chain_der(), now()).is_ok());
}

#[test]
fn given_lists_that_are_foreign_altered_or_garbage_when_merged_then_each_is_refused_by_name() {
    let trust = member_trust();
    let good = crl(&ca(), NOW_S, &[2]);
    let mut altered = good.clone();
    *altered.last_mut().unwrap() ^= 1;
    let beta = ca_of(OrganizationId::new("org_beta").unwrap(), 101, now());
    let same_name = ca_of(org(), 102, now());
    let label = |der: &[u8]| trust.merge_revocations(der).unwrap_err().label();
    assert_eq!(label(&altered), "bad_signature");
    assert_eq!(label(&crl(&beta, NOW_S, &[])), "unknown_issuer");
    assert_eq!(label(&crl(&same_name, NOW_S, &[])), "bad_signature");
    assert_eq!(label(&good[..good.len() - 1]), "malformed");
    assert_eq!(label(b"garbage"), "malformed");
    assert_eq!(
        label(&vec![0; warren_identity::MAX_CRL_BYTES + 1]),
        "malformed"
    );
}

#[test]
fn given_a_list_whose_successor_is_overdue_when_asked_then_it_is_stale_and_still_in_force() {
    let trust = member_trust();
    trust.merge_revocations(&crl(&ca(), NOW_S, &[2])).unwrap();
    let later = at(NOW_S + 2 * DAY);
    assert_eq!(trust.revocations().stale(now()).count(), 0);
    assert_eq!(trust.revocations().stale(later).count(), 1);
    assert_eq!(
        trust
            .verify(leaf(2).chain_der(), later)
            .unwrap_err()
            .label(),
        "peer_revoked"
    );
    assert!(
        trust.verify(leaf(3).chain_der(), later).is_ok(),
        "members are still admitted"
    );
}

#[test]
fn given_a_listener_when_anything_changes_then_it_hears_the_new_generation() {
    let trust = member_trust();
    let heard = Arc::new(AtomicU64::new(0));
    let hears = Arc::clone(&heard);
    trust.on_change(move |generation| hears.store(generation, Ordering::SeqCst));
    let before = trust.generation();
    trust.merge_revocations(&crl(&ca(), NOW_S, &[1])).unwrap();
    assert_eq!(
        (heard.load(Ordering::SeqCst), trust.generation()),
        (before + 1, before + 1)
    );
}

#[test]
fn given_cas_of_several_lengths_when_their_end_nears_then_the_first_to_end_is_named_in_time() {
    let root = |days: u64| {
        let request = CaRequest {
            organization: org(),
            key_material: Zeroizing::new([u8::try_from(days % 200).unwrap(); 32]),
            serial: serial(1),
            validity: Duration::from_secs(days * DAY),
        };
        CertificateAuthority::create(&request, now()).unwrap()
    };
    let (long, short) = (root(3650), root(30));
    let due = |roots: &Roots, days: u64| {
        let due = roots.due_for_roll_over(at(NOW_S + days * DAY));
        due.map(|root| root.fingerprint())
    };
    let fingerprint = |ca: &CertificateAuthority| ca.roots().certificates()[0].fingerprint();

    assert_eq!(due(long.roots(), 3650 - 91), None);
    assert_eq!(due(long.roots(), 3650 - 89), Some(fingerprint(&long)));
    assert_eq!(due(short.roots(), 19), None, "a third of its life is left");
    assert_eq!(due(short.roots(), 21), Some(fingerprint(&short)));
    let both = [long.certificate().clone(), short.certificate().clone()];
    let both = Roots::new(org(), both).unwrap();
    assert_eq!(due(&both, 21), Some(fingerprint(&short)));
}

#[test]
fn given_leaves_of_several_lengths_when_their_end_nears_then_renewal_is_due_in_time() {
    let trust = Trust::new(key(1), ca().roots().clone());
    assert!(!trust.renewal_due(now()), "nothing to renew");
    let due = |days: u64, after_s: u64| {
        let request = LeafRequest {
            validity: Duration::from_secs(days * DAY),
            ..request(1)
        };
        trust
            .replace_leaf(ca().issue(&request, now(), serial(1)).unwrap(), now())
            .unwrap();
        trust.renewal_due(at(NOW_S + after_s))
    };
    assert!(
        !due(365, 334 * DAY) && due(365, 336 * DAY),
        "thirty days before the end"
    );
    assert!(!due(1, 0) && due(1, 17 * 3600), "a third of a short life");
}
