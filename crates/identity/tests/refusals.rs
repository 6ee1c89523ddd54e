//! Every reason for which a certificate is refused, and what makes a member.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType,
};
use support::{DAY, NOW_S, at, ca, ca_of, key, leaf, now, org, request, serial};
use warren_identity::{
    CLOCK_TOLERANCE, Capability, CertificateAuthority, CertificateDer, IssuanceLedger, Member,
    NodeRecord, OrganizationId, Refusal, RevocationList, Revocations, Roots, UnixTime,
    verify_member, verify_member_or_companion,
};

type Case = (&'static str, Result<(), &'static str>);

fn check(
    chain: &[CertificateDer<'_>],
    roots: &Roots,
    revoked: &Revocations,
    when: UnixTime,
) -> Result<(), &'static str> {
    verify_member(chain, roots, revoked, when)
        .map(drop)
        .map_err(|refusal| refusal.label())
}

/// A certificate for node 1's key that our CA signed without the care of `issue`.
fn odd_leaf(shape: impl FnOnce(&mut CertificateParams)) -> Vec<CertificateDer<'static>> {
    odd_leaf_for(&key(1), shape)
}

fn odd_leaf_for(
    subject: &impl rcgen::PublicKeyData,
    shape: impl FnOnce(&mut CertificateParams),
) -> Vec<CertificateDer<'static>> {
    let ca = ca();
    let pair = KeyPair::from_pem(ca.key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(ca.certificate(), pair).unwrap();
    let mut params = CertificateParams::default();
    params.not_before = time::OffsetDateTime::UNIX_EPOCH + Duration::from_secs(NOW_S - DAY);
    params.not_after = time::OffsetDateTime::UNIX_EPOCH + Duration::from_secs(NOW_S + DAY);
    params.distinguished_name.push(DnType::CommonName, "odd");
    params.is_ca = IsCa::ExplicitNoCa;
    params.subject_alt_names = vec![uri(&format!(
        "spiffe://{}/node/{}",
        org(),
        key(1).peer_id()
    ))];
    shape(&mut params);
    vec![params.signed_by(subject, &issuer).unwrap().der().clone()]
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn revocations(
    authority: &CertificateAuthority,
    revoke: impl FnOnce(&mut IssuanceLedger),
) -> Revocations {
    let mut ledger = IssuanceLedger::default();
    revoke(&mut ledger);
    let crl = ledger
        .sign_crl(authority, now(), Duration::from_secs(DAY))
        .unwrap();
    let mut revocations = Revocations::none();
    revocations
        .merge(RevocationList::from_der(&crl, authority.roots()).unwrap())
        .unwrap();
    revocations
}

#[test]
fn given_a_good_leaf_when_verified_then_the_member_is_what_the_ca_certified() {
    let leaf = leaf(1);
    let member =
        verify_member(leaf.chain_der(), ca().roots(), &Revocations::none(), now()).unwrap();
    assert_eq!(
        (member.peer_id, member.organization.clone()),
        (key(1).peer_id(), org())
    );
    assert_eq!(
        (
            member.name.as_str(),
            member.capabilities.to_string().as_str()
        ),
        ("node-1", "storage, discovery, route:192.168.4.0/24")
    );
    assert_eq!(
        (member.not_after, member.serial.as_slice()),
        (at(NOW_S + 365 * DAY), serial(1).as_bytes().as_slice())
    );
    assert!(member.allows(&Capability::Discovery) && !member.allows(&Capability::Admin));
}

#[test]
fn given_one_case_per_reason_when_verified_then_each_is_refused_with_exactly_that_reason() {
    let ca = ca();
    let (roots, none) = (ca.roots(), Revocations::none());
    let good = leaf(1);
    let chain = good.chain_der();
    let altered = {
        let mut der = chain[0].to_vec();
        let name = der.windows(6).position(|w| w == b"node-1").unwrap();
        der[name + 5] = b'2';
        vec![CertificateDer::from(der)]
    };
    let foreign = ca_of(org(), 101, at(NOW_S - DAY))
        .issue(&request(1), now(), serial(1))
        .unwrap();
    let other_org = OrganizationId::new("org_beta").unwrap();
    let other_name = odd_leaf(|p| {
        p.subject_alt_names = vec![uri(&format!(
            "spiffe://{other_org}/node/{}",
            key(1).peer_id()
        ))];
    });
    let companion = vec![good.companion().unwrap().clone()];
    let short_leaf = vec![CertificateDer::from(
        chain[0][..chain[0].len() - 1].to_vec(),
    )];
    let six = vec![chain[0].clone(); 6];
    let peer_revoked = revocations(&ca, |ledger| {
        assert!(ledger.revoke_peer(key(1).peer_id(), now()).is_some());
    });
    let serial_revoked = revocations(&ca, |ledger| {
        ledger.revoke_serial(serial(1).as_bytes(), now());
    });
    let end = good.facts().not_after.as_secs();
    let ca_end = roots.certificates()[0].facts().not_after.as_secs();
    let late = odd_leaf(|p| {
        p.not_after = time::OffsetDateTime::UNIX_EPOCH + Duration::from_secs(ca_end + 10 * DAY);
    });

    let cases: Vec<Case> = vec![
        ("no_certificate", check(&[], roots, &none, now())),
        ("malformed", check(&short_leaf, roots, &none, now())),
        ("unsupported", check(&six, roots, &none, now())),
        (
            "unsupported",
            check(&odd_leaf(unknown_critical_extension), roots, &none, now()),
        ),
        (
            "unknown_issuer",
            check(foreign.chain_der(), roots, &none, now()),
        ),
        (
            "unknown_issuer",
            check(chain, &Roots::none(org()), &none, now()),
        ),
        ("bad_signature", check(&altered, roots, &none, now())),
        ("issuer_expired", check(&late, roots, &none, at(ca_end + 1))),
        ("expired", check(chain, roots, &none, at(end + 1))),
        (
            "not_yet_valid",
            check(chain, roots, &none, at(NOW_S - 3 * DAY)),
        ),
        ("revoked", check(chain, roots, &serial_revoked, now())),
        ("peer_revoked", check(chain, roots, &peer_revoked, now())),
        (
            "not_a_leaf",
            check(&[ca.certificate().clone()], roots, &none, now()),
        ),
        (
            "wrong_usage",
            check(
                &odd_leaf(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
                roots,
                &none,
                now(),
            ),
        ),
        (
            "no_spiffe_id",
            check(
                &odd_leaf(|p| p.subject_alt_names.clear()),
                roots,
                &none,
                now(),
            ),
        ),
        (
            "bad_spiffe_id",
            check(
                &odd_leaf(|p| p.subject_alt_names = vec![uri("spiffe://org_acme_corp/ns/x")]),
                roots,
                &none,
                now(),
            ),
        ),
        (
            "several_spiffe_ids",
            check(
                &odd_leaf(|p| p.subject_alt_names.push(uri("spiffe://org_beta"))),
                roots,
                &none,
                now(),
            ),
        ),
        (
            "wrong_organization",
            check(&other_name, roots, &none, now()),
        ),
        ("key_is_not_ed25519", check(&companion, roots, &none, now())),
        (
            "peer_id_mismatch",
            check(&odd_leaf_for(&key(2), |_| {}), roots, &none, now()),
        ),
        (
            "malformed",
            check(&odd_leaf(malformed_capabilities), roots, &none, now()),
        ),
    ];
    for (expected, outcome) in &cases {
        assert_eq!(*outcome, Err(*expected));
    }
    // `missing_capability` comes from the TLS client's expectation, which tests/tls.rs shows.
    let seen: BTreeSet<_> = cases
        .iter()
        .map(|(label, _)| *label)
        .chain(["missing_capability"])
        .collect();
    assert_eq!(
        seen,
        BTreeSet::from(Refusal::LABELS),
        "a reason without a case"
    );
}

fn unknown_critical_extension(params: &mut CertificateParams) {
    let mut extension = CustomExtension::from_oid_content(&[2, 25, 99], vec![0x05, 0x00]);
    extension.set_criticality(true);
    params.custom_extensions = vec![extension];
}

fn malformed_capabilities(params: &mut CertificateParams) {
    let not_a_list = CustomExtension::from_oid_content(
        &warren_identity::CAPABILITIES_OID,
        vec![0x30, 0x03, 0x02, 0x01, 0x01],
    );
    params.custom_extensions = vec![not_a_list];
}

#[test]
fn given_any_altered_bit_of_a_leaf_when_verified_then_it_is_refused() {
    let ca = ca();
    let good = leaf(1).chain_der()[0].to_vec();
    for byte in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[byte] ^= 1 << bit;
            let outcome = verify_member(
                &[CertificateDer::from(bad)],
                ca.roots(),
                &Revocations::none(),
                now(),
            );
            assert!(outcome.is_err(), "byte {byte} bit {bit}");
        }
    }
}

#[test]
fn given_a_clock_that_is_behind_when_verified_then_only_the_tolerance_is_forgiven() {
    let (ca, leaf) = (ca(), leaf(1));
    let start = leaf.facts().not_before.as_secs();
    let none = Revocations::none();
    let tolerated = at(start - CLOCK_TOLERANCE.as_secs());
    let too_early = at(start - CLOCK_TOLERANCE.as_secs() - 1);
    assert_eq!(
        check(leaf.chain_der(), ca.roots(), &none, tolerated),
        Ok(())
    );
    let refusal = verify_member(leaf.chain_der(), ca.roots(), &none, too_early).unwrap_err();
    assert_eq!(refusal, Refusal::NotYetValid { until: at(start) });
    assert_eq!(
        check(leaf.chain_der(), ca.roots(), &none, leaf.facts().not_after),
        Ok(())
    );
}

#[test]
fn given_a_companion_where_companions_count_then_it_is_the_member_of_its_leaf() {
    let (ca, leaf) = (ca(), leaf(1));
    let none = Revocations::none();
    let companion = [leaf.companion().unwrap().clone()];
    let as_leaf = verify_member(leaf.chain_der(), ca.roots(), &none, now()).unwrap();
    let as_companion = verify_member_or_companion(&companion, ca.roots(), &none, now()).unwrap();
    assert_ne!(as_companion.serial, as_leaf.serial);
    let serial = as_leaf.serial.clone();
    assert_eq!(
        Member {
            serial,
            ..as_companion
        },
        as_leaf
    );
    let again = verify_member_or_companion(leaf.chain_der(), ca.roots(), &none, now());
    assert_eq!(again, Ok(as_leaf));
}

#[test]
fn given_what_is_no_companion_where_companions_count_then_it_is_refused_as_everywhere() {
    let (ca, none) = (ca(), Revocations::none());
    let revoked = revocations(&ca, |ledger| {
        assert!(ledger.revoke_peer(key(1).peer_id(), now()).is_some());
    });
    let companion = [leaf(1).companion().unwrap().clone()];
    let foreign = ca_of(org(), 101, at(NOW_S - DAY))
        .issue(&request(1), now(), serial(1))
        .unwrap();
    let foreign = [foreign.companion().unwrap().clone()];
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let other_node = odd_leaf_for(&key(2), |_| {});
    let nameless = odd_leaf_for(&KeyPair::generate().unwrap(), |p| {
        p.subject_alt_names.clear();
    });
    let cases = [
        (&foreign[..], &none, "unknown_issuer"),
        (&companion, &revoked, "peer_revoked"),
        (&odd_leaf_for(&p384, |_| {}), &none, "key_is_not_ed25519"),
        (&other_node, &none, "peer_id_mismatch"),
        (&nameless, &none, "no_spiffe_id"),
    ];
    for (chain, revocations, reason) in cases {
        let refusal = verify_member_or_companion(chain, ca.roots(), revocations, now());
        assert_eq!(refusal.unwrap_err().label(), reason);
    }
}

#[test]
fn given_a_revoked_peer_when_it_comes_with_another_leaf_then_it_is_refused_though_the_ledger_lost_that_leaf()
 {
    let ca = ca();
    let revoked = revocations(&ca, |ledger| {
        ledger.issue(&ca, &request(1), now(), serial(1)).unwrap();
        assert_eq!(ledger.revoke_peer(key(1).peer_id(), now()), Some(2));
    });
    let unknown_to_ledger = ca.issue(&request(1), now(), serial(77)).unwrap();
    let refusal =
        verify_member(unknown_to_ledger.chain_der(), ca.roots(), &revoked, now()).unwrap_err();
    assert_eq!(refusal, Refusal::PeerRevoked(key(1).peer_id()));
    let companion = [unknown_to_ledger.companion().unwrap().clone()];
    let as_client = warren_identity::verify_certificate(
        &companion,
        ca.roots(),
        &revoked,
        now(),
        warren_identity::Purpose::Client,
    );
    assert_eq!(as_client.unwrap_err().label(), "peer_revoked");
    assert_eq!(
        check(leaf(2).chain_der(), ca.roots(), &revoked, now()),
        Ok(())
    );
}

#[test]
fn given_a_roll_over_when_both_cas_are_trusted_then_leaves_of_either_are_members_and_each_ca_revokes_its_own()
 {
    let (old, new) = (ca(), ca_of(org(), 101, at(NOW_S - DAY)));
    let both = Roots::from_pem(
        org(),
        &[new.certificate_pem(), old.certificate_pem()].concat(),
    )
    .unwrap();
    let by_old = old.issue(&request(1), now(), serial(1)).unwrap();
    let by_new = new.issue(&request(2), now(), serial(1)).unwrap();
    let mut ledger = IssuanceLedger::default();
    ledger.revoke_serial(serial(1).as_bytes(), now());
    let crl = ledger
        .sign_crl(&new, now(), Duration::from_secs(DAY))
        .unwrap();
    let mut revoked = Revocations::none();
    revoked
        .merge(RevocationList::from_der(&crl, &both).unwrap())
        .unwrap();
    assert_eq!(
        check(by_old.chain_der(), &both, &Revocations::none(), now()),
        Ok(())
    );
    assert_eq!(check(by_old.chain_der(), &both, &revoked, now()), Ok(()));
    assert_eq!(
        check(by_new.chain_der(), &both, &revoked, now()),
        Err("revoked")
    );
    assert_eq!(
        check(by_old.chain_der(), new.roots(), &Revocations::none(), now()),
        Err("unknown_issuer")
    );
}

#[test]
fn given_a_live_session_when_looked_at_again_then_expiry_revocation_and_lost_trust_end_it() {
    let ca = ca();
    let member =
        verify_member(leaf(1).chain_der(), ca.roots(), &Revocations::none(), now()).unwrap();
    let revoked = revocations(&ca, |ledger| {
        assert!(ledger.revoke_peer(key(1).peer_id(), now()).is_some());
    });
    let label = |outcome: Result<(), Refusal>| outcome.map_err(|refusal| refusal.label());
    assert_eq!(
        label(member.recheck(ca.roots(), &Revocations::none(), now())),
        Ok(())
    );
    assert_eq!(
        label(member.recheck(ca.roots(), &Revocations::none(), at(NOW_S + 366 * DAY))),
        Err("expired")
    );
    assert_eq!(
        label(member.recheck(ca.roots(), &revoked, now())),
        Err("peer_revoked")
    );
    let other = ca_of(org(), 101, now());
    assert_eq!(
        label(member.recheck(other.roots(), &Revocations::none(), now())),
        Err("unknown_issuer")
    );
}

/// A leaf of an intermediate CA (serial 0x42) that ends ten days from now.
fn chain_through_an_intermediate(ca: &CertificateAuthority) -> [CertificateDer<'static>; 2] {
    let root_pair = KeyPair::from_pem(ca.key_pem()).unwrap();
    let root = rcgen::Issuer::from_ca_cert_der(ca.certificate(), root_pair).unwrap();
    let middle_pem = key(50).companion_key().to_pem();
    let middle_pair = KeyPair::from_pem(&middle_pem).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "middle");
    params.serial_number = Some(vec![0x42].into());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after =
        time::OffsetDateTime::from_unix_timestamp(i64::try_from(NOW_S + 10 * DAY).unwrap())
            .unwrap();
    let middle_cert = params.signed_by(&middle_pair, &root).unwrap();
    let middle =
        CertificateAuthority::from_pem(&middle_cert.pem(), &middle_pem, Some(&org())).unwrap();
    let leaf = middle.issue(&request(1), now(), serial(1)).unwrap();
    [leaf.chain_der()[0].clone(), middle_cert.der().clone()]
}

#[test]
fn given_an_intermediate_ca_when_it_is_in_the_chain_then_its_leaf_is_a_member_and_its_revocation_counts()
 {
    let ca = ca();
    let chain = chain_through_an_intermediate(&ca);
    let revoked = revocations(&ca, |ledger| {
        ledger.revoke_serial(&[0x42], now());
    });
    assert_eq!(
        check(&chain, ca.roots(), &Revocations::none(), now()),
        Ok(())
    );
    assert_eq!(check(&chain, ca.roots(), &revoked, now()), Err("revoked"));
    assert_eq!(
        check(&chain[..1], ca.roots(), &Revocations::none(), now()),
        Err("unknown_issuer")
    );
}

#[test]
fn given_a_live_session_of_an_intermediates_leaf_when_the_intermediate_falls_then_the_session_ends()
{
    let ca = ca();
    let chain = chain_through_an_intermediate(&ca);
    let none = Revocations::none();
    let member = verify_member(&chain, ca.roots(), &none, now()).unwrap();
    let revoked = revocations(&ca, |ledger| {
        ledger.revoke_serial(&[0x42], now());
    });
    let label = |outcome: Result<(), Refusal>| outcome.map_err(|refusal| refusal.label());
    assert_eq!(label(member.recheck(ca.roots(), &none, now())), Ok(()));
    assert_eq!(
        label(member.recheck(ca.roots(), &revoked, now())),
        Err("revoked")
    );
    // Our CAs sign nothing that outlives them; others do.
    let outliving = Member {
        not_after: at(NOW_S + 30 * DAY),
        ..member
    };
    assert_eq!(
        label(outliving.recheck(ca.roots(), &none, at(NOW_S + 11 * DAY))),
        Err("issuer_expired")
    );
}

#[test]
fn given_what_a_node_says_of_itself_when_its_leaf_does_not_bear_it_then_nothing_of_it_counts() {
    let member = verify_member(
        leaf(1).chain_der(),
        ca().roots(),
        &Revocations::none(),
        now(),
    )
    .unwrap();
    let record = |n: u8, organization: OrganizationId, roles: &[&str]| NodeRecord {
        peer_id: key(n).peer_id(),
        organization,
        name: "node".into(),
        region: None,
        roles: roles.iter().map(ToString::to_string).collect(),
        addresses: Vec::new(),
        bulk_addresses: Vec::new(),
        sequence: 1,
        issued_at_unix_s: NOW_S,
    };
    let foreign = OrganizationId::new("org_other").unwrap();
    let cases = [
        (
            record(1, org(), &["storage", "discovery", "issuer"]),
            Ok(()),
        ),
        (
            record(1, org(), &["storage", "relay"]),
            Err("it claims a role that its certificate does not allow"),
        ),
        (
            record(1, org(), &["route:10.0.0.0/8"]),
            Err("it claims a role that its certificate does not allow"),
        ),
        (record(2, org(), &[]), Err("it is of another node")),
        (
            record(1, foreign, &[]),
            Err("it names another organisation"),
        ),
    ];
    for (record, expected) in cases {
        assert_eq!(member.check_record(&record), expected, "{record:?}");
    }
}
