//! A new machine gets its first leaf with a token, and renews it as a member.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use support::{DAY, NOW_S, at, ca, ca_of, key, leaf, now, org, serial};
use warren_identity::join::{
    Issuer, JoinError, JoinGrant, JoinRequest, JoinSecret, JoinToken, RenewRequest, ResponseError,
    TokenError,
};
use warren_identity::{
    Capabilities, Capability, CertificateAuthority, Csr, CsrError, IssuanceLedger, IssueError,
    Leaf, RevocationList, Revocations, UnixTime,
};

fn token() -> JoinToken {
    JoinToken::new(
        ca().certificate(),
        JoinSecret::from_random([9; 32]),
        Some("https://node-1:8443".into()),
    )
    .unwrap()
}

fn grant() -> JoinGrant {
    JoinGrant {
        token_hash: token().secret().token_hash(),
        name: "node-7".into(),
        capabilities: Capabilities::parse(["storage"]).unwrap(),
        dns: vec!["node7.acme.com".into()],
        ip: vec![],
        validity_s: 90 * DAY,
        expires_at_unix_s: NOW_S + 3600,
    }
}

/// Gives a test an issuer with this CA and these revocations.
fn with_issuer<R>(
    authority: &CertificateAuthority,
    revocations: &Revocations,
    run: impl FnOnce(&Issuer<'_>) -> R,
) -> R {
    run(&Issuer {
        authority,
        roots: authority.roots(),
        revocations,
    })
}

fn request(node: u8) -> JoinRequest {
    JoinRequest::new(&token(), &key(node), "whatever-i-like").unwrap()
}

#[test]
fn given_a_token_when_a_machine_joins_then_it_gets_what_the_grant_names_and_not_what_it_asks_for() {
    let (ca, mut ledger) = (ca(), IssuanceLedger::default());
    let response = with_issuer(&ca, &Revocations::none(), |issuer| {
        grant().issue(&request(7), issuer, &mut ledger, now(), serial(7))
    })
    .unwrap();
    let accepted = response.accept(&token(), &key(7), now()).unwrap();
    assert_eq!(
        (accepted.member.name.as_str(), accepted.member.peer_id),
        ("node-7", key(7).peer_id())
    );
    assert!(
        accepted.member.allows(&Capability::Storage) && !accepted.member.allows(&Capability::Admin)
    );
    assert_eq!(accepted.leaf.facts().dns, ["node7.acme.com"]);
    assert!(accepted.leaf.companion().is_some());
    assert_eq!(ledger.issued().len(), 2);
    let text = serde_json::to_string(&response).unwrap();
    assert_eq!(
        serde_json::from_str::<warren_identity::join::JoinResponse>(&text).unwrap(),
        response
    );
}

#[test]
fn given_a_wrong_secret_a_late_one_or_a_damaged_request_when_joining_then_each_is_refused_and_nothing_issued()
 {
    let (ca, mut ledger) = (ca(), IssuanceLedger::default());
    let wrong = JoinRequest {
        secret: JoinSecret::from_random([8; 32]),
        ..request(7)
    };
    let damaged = JoinRequest {
        csr_pem: "-----BEGIN CERTIFICATE REQUEST-----".into(),
        ..request(7)
    };
    let mut try_at = |request: &JoinRequest, when| {
        with_issuer(&ca, &Revocations::none(), |issuer| {
            grant().issue(request, issuer, &mut ledger, when, serial(7))
        })
        .unwrap_err()
    };
    assert_eq!(try_at(&wrong, now()), JoinError::UnknownToken);
    assert_eq!(
        try_at(&request(7), at(NOW_S + 3601)),
        JoinError::ExpiredToken(NOW_S + 3600)
    );
    assert_eq!(try_at(&damaged, now()), JoinError::Csr(CsrError::Malformed));
    assert!(ledger.issued().is_empty());
}

#[test]
fn given_a_revoked_node_when_it_joins_or_renews_with_its_old_key_then_it_is_refused() {
    let (ca, mut ledger) = (ca(), IssuanceLedger::default());
    let mut elsewhere = IssuanceLedger::default();
    elsewhere.revoke_peer(key(7).peer_id(), now()).unwrap();
    let crl = elsewhere
        .sign_crl(&ca, now(), Duration::from_secs(DAY))
        .unwrap();
    let mut revocations = Revocations::none();
    revocations
        .merge(RevocationList::from_der(&crl, ca.roots()).unwrap())
        .unwrap();
    let refused = JoinError::Issue(IssueError::PeerRevoked(key(7).peer_id()));
    let renewal = RenewRequest {
        csr_pem: request(7).csr_pem,
    };
    with_issuer(&ca, &revocations, |issuer| {
        let joined = grant().issue(&request(7), issuer, &mut ledger, now(), serial(7));
        assert_eq!(joined.unwrap_err(), refused);
        let renewed = issuer.renew(
            &leaf(7),
            &renewal,
            &mut ledger,
            Duration::from_secs(DAY),
            now(),
            serial(7),
        );
        assert_eq!(renewed.unwrap_err(), refused);
    });
}

#[test]
fn given_a_member_when_it_renews_then_names_and_capabilities_stay_and_the_end_moves() {
    let (ca, mut ledger) = (ca(), IssuanceLedger::default());
    let present = leaf(1);
    let later = at(NOW_S + 350 * DAY);
    let request = RenewRequest {
        csr_pem: Csr::create_pem(&key(1), "ignored").unwrap(),
    };
    with_issuer(&ca, &Revocations::none(), |issuer| {
        let response = issuer
            .renew(
                &present,
                &request,
                &mut ledger,
                Duration::from_secs(365 * DAY),
                later,
                serial(2),
            )
            .unwrap();
        let renewed = warren_identity::Leaf::from_pem(&response.leaf_pem).unwrap();
        assert_eq!(renewed.facts().capabilities, present.facts().capabilities);
        assert_eq!(
            (&renewed.facts().dns, &renewed.facts().ip),
            (&present.facts().dns, &present.facts().ip)
        );
        assert_eq!(renewed.facts().not_after, at(NOW_S + 715 * DAY));
        let other = RenewRequest {
            csr_pem: Csr::create_pem(&key(2), "ignored").unwrap(),
        };
        let refused = issuer.renew(
            &present,
            &other,
            &mut ledger,
            Duration::from_secs(DAY),
            later,
            serial(3),
        );
        assert_eq!(refused.unwrap_err(), JoinError::OtherNode);
    });
}

fn renewed(
    ca: &CertificateAuthority,
    ledger: &mut IssuanceLedger,
    present: &Leaf,
    when: UnixTime,
    serial_of: u8,
) -> Result<(), JoinError> {
    let request = RenewRequest {
        csr_pem: Csr::create_pem(&key(1), "ignored").unwrap(),
    };
    let year = Duration::from_secs(365 * DAY);
    with_issuer(ca, &Revocations::none(), |issuer| {
        issuer.renew(present, &request, ledger, year, when, serial(serial_of))
    })
    .map(drop)
}

#[test]
fn given_a_leaf_in_the_first_third_of_its_life_when_renewed_then_it_is_told_from_when_on() {
    let (ca, mut ledger, present) = (ca(), IssuanceLedger::default(), leaf(1));
    let from = present.facts().not_before.as_secs() + present.facts().lifetime().as_secs() / 3;

    let early = renewed(&ca, &mut ledger, &present, at(from - 1), 2);
    let due = renewed(&ca, &mut ledger, &present, at(from), 3);

    assert_eq!(early, Err(JoinError::NotDue { from: at(from) }));
    assert_eq!(due, Ok(()));
}

#[test]
fn given_a_young_leaf_of_the_ca_before_when_renewed_then_the_new_ca_signs_at_once() {
    let next = ca_of(org(), 101, at(NOW_S - DAY));
    let mut ledger = IssuanceLedger::default();

    assert_eq!(renewed(&next, &mut ledger, &leaf(1), now(), 2), Ok(()));
}

#[test]
fn given_one_old_leaf_when_it_is_renewed_again_and_again_then_a_few_are_given_an_hour() {
    let (ca, mut ledger, present) = (ca(), IssuanceLedger::default(), leaf(1));
    let start_s = NOW_S + 300 * DAY;
    let mut renew_after =
        |seconds: u64, count: u8| renewed(&ca, &mut ledger, &present, at(start_s + seconds), count);
    let given = (2..50)
        .take_while(|count| renew_after(u64::from(*count), *count).is_ok())
        .count();

    assert_eq!(given, 8);
    assert_eq!(
        renew_after(60, 60),
        Err(JoinError::TooManyRenewals(key(1).peer_id()))
    );
    assert_eq!(renew_after(3700, 61), Ok(()));
}

#[test]
fn given_an_answer_of_another_ca_or_for_another_key_when_checked_then_nothing_of_it_is_taken() {
    let (ours, theirs, mut ledger) = (
        ca(),
        ca_of(org(), 101, at(NOW_S - DAY)),
        IssuanceLedger::default(),
    );
    let mut answer = |authority: &CertificateAuthority| {
        with_issuer(authority, &Revocations::none(), |issuer| {
            grant().issue(&request(7), issuer, &mut ledger, now(), serial(7))
        })
        .unwrap()
    };
    let (good, foreign) = (answer(&ours), answer(&theirs));
    assert!(matches!(
        foreign.accept(&token(), &key(7), now()),
        Err(ResponseError::PinMissing)
    ));
    assert!(matches!(
        good.accept(&token(), &key(8), now()),
        Err(ResponseError::OtherNode)
    ));
}

#[test]
fn given_a_token_when_written_and_read_then_it_is_the_same_and_every_damage_is_seen() {
    let text = token().to_text();
    assert!(text.starts_with("warren-join-1.") && !text.contains(char::is_whitespace));
    let read = JoinToken::parse(&format!("  {}\n", text.as_str())).unwrap();
    assert_eq!(
        (read.ca_fingerprint(), read.hint()),
        (token().ca_fingerprint(), Some("https://node-1:8443"))
    );
    assert_eq!(read.secret().token_hash(), token().secret().token_hash());
    for i in "warren-join-1.".len()..text.len() {
        let mut bytes = text.as_bytes().to_vec();
        bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
        let damaged = String::from_utf8(bytes).unwrap();
        assert_eq!(
            JoinToken::parse(&damaged).unwrap_err(),
            TokenError::Damaged,
            "character {i}"
        );
    }
    assert_eq!(
        JoinToken::parse("warren-join-2.AAAA").unwrap_err(),
        TokenError::OtherVersion
    );
    assert_eq!(
        JoinToken::parse("hello").unwrap_err(),
        TokenError::NotAToken
    );
}

#[test]
fn given_secrets_when_printed_for_debugging_then_they_do_not_show() {
    let text = token().to_text();
    let secret = String::from(token().secret().clone());
    for shown in [
        format!("{:?}", token()),
        format!("{:?}", request(7)),
        format!("{:?}", key(7)),
        format!("{:?}", ca()),
    ] {
        assert!(
            !shown.contains(&secret) && !shown.contains(text.as_str()),
            "{shown}"
        );
        assert!(
            !shown.contains(&hex::encode([9_u8; 32]))
                && !shown.contains("9, 9, 9")
                && !shown.contains("7, 7, 7"),
            "{shown}"
        );
    }
    assert!(!token().secret().token_hash().to_string().contains(&secret));
}

#[test]
fn given_a_companion_request_exchanged_on_the_way_when_read_then_it_is_refused() {
    let (own, other) = (
        Csr::create_pem(&key(1), "a").unwrap(),
        Csr::create_pem(&key(2), "b").unwrap(),
    );
    let second = |text: &str| text[text.rfind("-----BEGIN").unwrap()..].to_owned();
    let first = own[..own.rfind("-----BEGIN").unwrap()].to_owned();
    assert!(Csr::from_pem(&first).unwrap().companion_key().is_none());
    assert!(Csr::from_pem(&own).unwrap().companion_key().is_some());
    assert_eq!(
        Csr::from_pem(&(first + &second(&other))).unwrap_err(),
        CsrError::BadCompanion
    );
    assert!(matches!(
        Csr::from_pem(&second(&own)).unwrap_err(),
        CsrError::WrongAlgorithm(_)
    ));
    assert_eq!(Csr::from_pem("hello").unwrap_err(), CsrError::NotPem);
}
