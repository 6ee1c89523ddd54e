//! Certificates, keys and lists between Warren and the real `openssl` command, as an operator would use both.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::time::Duration;

use support::{
    DAY, NOW_S, at, ca, key, leaf, now, openssl, org, read, request, serial, try_openssl, write,
};
use warren_identity::{
    CertificateAuthority, CertificateFacts, Csr, DecryptKeyError, HttpsIdentity, IssuanceLedger,
    KeyError, Leaf, LoadAuthorityError, NodeKey, OrganizationId, Passphrase, PeerId, Purpose,
    Refusal, RevocationList, Revocations, Roots, UnixTime, decrypt_key_pem, encrypt_key_pem,
    verify_certificate, verify_member,
};

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The CA of the deployment guide: RSA 4096, self-signed, ten years.
fn openssl_ca(dir: &Path) {
    let subject = "/C=US/ST=California/O=ACME Corp/CN=Warren CA";
    openssl(dir, &["genrsa", "-out", "ca_key.pem", "4096"]);
    openssl(
        dir,
        &[
            "req",
            "-new",
            "-x509",
            "-days",
            "3650",
            "-key",
            "ca_key.pem",
            "-out",
            "ca_cert.pem",
            "-subj",
            subject,
        ],
    );
}

/// A node certificate of the deployment guide: RSA, CN = host name, DNS names only.
fn openssl_leaf(dir: &Path) {
    openssl(dir, &["genrsa", "-out", "node_key.pem", "4096"]);
    openssl(
        dir,
        &[
            "req",
            "-new",
            "-key",
            "node_key.pem",
            "-out",
            "node_csr.pem",
            "-subj",
            "/O=ACME Corp/CN=node1.acme.com",
        ],
    );
    write(
        dir,
        "ext.cnf",
        "subjectAltName=DNS:node1.acme.com,DNS:*.acme.com\n",
    );
    let sign = [
        "x509",
        "-req",
        "-in",
        "node_csr.pem",
        "-CA",
        "ca_cert.pem",
        "-CAkey",
        "ca_key.pem",
        "-CAcreateserial",
    ];
    openssl(
        dir,
        &[
            &sign[..],
            &[
                "-out",
                "node_cert.pem",
                "-days",
                "365",
                "-extfile",
                "ext.cnf",
            ],
        ]
        .concat(),
    );
}

fn load_ca(dir: &Path) -> CertificateAuthority {
    CertificateAuthority::from_pem(
        &read(dir, "ca_cert.pem"),
        &read(dir, "ca_key.pem"),
        Some(&org()),
    )
    .unwrap()
}

/// A moment just after the CA was made, whatever the clock said then.
fn shortly_after(ca: &CertificateAuthority) -> UnixTime {
    at(CertificateFacts::parse(ca.certificate())
        .unwrap()
        .not_before
        .as_secs()
        + 60)
}

#[test]
fn given_our_leaf_and_companion_when_openssl_verifies_them_then_both_chain_for_client_and_server() {
    let dir = dir();
    write(dir.path(), "ca.pem", &ca().certificate_pem());
    write(dir.path(), "node.pem", &leaf(1).to_pem());
    let companion = pem::encode(&pem::Pem::new(
        "CERTIFICATE",
        leaf(1).companion().unwrap().to_vec(),
    ));
    write(dir.path(), "companion.pem", &companion);
    let time = NOW_S.to_string();
    for file in ["node.pem", "companion.pem"] {
        for purpose in ["sslserver", "sslclient"] {
            let verify = [
                "verify",
                "-x509_strict",
                "-attime",
                &time,
                "-purpose",
                purpose,
                "-CAfile",
                "ca.pem",
                file,
            ];
            assert!(openssl(dir.path(), &verify).contains("OK"));
        }
    }
}

#[test]
fn given_our_certificates_when_openssl_prints_them_then_everything_stands_where_it_should() {
    let dir = dir();
    write(dir.path(), "ca.pem", &ca().certificate_pem());
    write(dir.path(), "node.pem", &leaf(1).to_pem());
    let ca_text = openssl(dir.path(), &["x509", "-in", "ca.pem", "-noout", "-text"]);
    for part in [
        "CA:TRUE",
        "Certificate Sign, CRL Sign",
        "URI:spiffe://org_acme_corp",
        "O = org_acme_corp, CN = org_acme_corp Warren CA",
        "prime256v1",
        "Subject Key Identifier",
    ] {
        assert!(ca_text.contains(part), "{part} is missing in\n{ca_text}");
    }
    let text = openssl(dir.path(), &["x509", "-in", "node.pem", "-noout", "-text"]);
    let spiffe = format!("URI:spiffe://org_acme_corp/node/{}", key(1).peer_id());
    for part in [
        "Subject: CN = node-1",
        "ED25519",
        &spiffe,
        "DNS:node1.acme.com",
        "IP Address:127.0.0.1",
        "CA:FALSE",
        "Digital Signature",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "2.25.6842175390418277053.1:",
        "Authority Key Identifier",
        "Subject Key Identifier",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn given_keys_of_openssl_when_read_then_ed25519_is_taken_and_the_rest_refused_by_name() {
    let dir = dir();
    openssl(
        dir.path(),
        &["genpkey", "-algorithm", "ed25519", "-out", "ed.pem"],
    );
    openssl(
        dir.path(),
        &[
            "genpkey",
            "-algorithm",
            "ed25519",
            "-aes256",
            "-pass",
            "pass:x",
            "-out",
            "locked.pem",
        ],
    );
    openssl(dir.path(), &["genrsa", "-out", "rsa.pem", "2048"]);
    openssl(
        dir.path(),
        &[
            "ecparam",
            "-name",
            "prime256v1",
            "-genkey",
            "-out",
            "ec.pem",
        ],
    );
    openssl(
        dir.path(),
        &["genpkey", "-algorithm", "x25519", "-out", "x.pem"],
    );
    let key = NodeKey::from_pem(&read(dir.path(), "ed.pem")).unwrap();
    assert_eq!(key.to_pem().as_str(), read(dir.path(), "ed.pem"));
    write(dir.path(), "ours.pem", &key.to_pem());
    let public = openssl(
        dir.path(),
        &[
            "pkey", "-in", "ours.pem", "-pubout", "-outform", "DER", "-out", "pub.der",
        ],
    );
    assert!(public.is_empty());
    // The peer id recomputed by hand: identity multihash (00 24) of the protobuf (08 01 12 20) and the raw key.
    let raw = std::fs::read(dir.path().join("pub.der")).unwrap();
    let bytes = [
        &[0x00, 0x24, 0x08, 0x01, 0x12, 0x20],
        &raw[raw.len() - 32..],
    ]
    .concat();
    assert_eq!(PeerId::from_bytes(&bytes).unwrap(), key.peer_id());
    assert!(key.peer_id().to_base58().starts_with("12D3KooW"));
    let error = |file| NodeKey::from_pem(&read(dir.path(), file)).unwrap_err();
    assert_eq!(error("locked.pem"), KeyError::Encrypted);
    assert_eq!(error("rsa.pem"), KeyError::WrongAlgorithm("RSA"));
    assert_eq!(
        error("ec.pem"),
        KeyError::WrongAlgorithm("elliptic-curve (ECDSA)")
    );
    assert_eq!(error("x.pem"), KeyError::WrongAlgorithm("X25519"));
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::from_file_text(text).unwrap()
}

#[test]
fn given_keys_that_openssl_encrypted_when_read_with_their_passphrase_then_each_is_the_key() {
    let dir = dir();
    let plain = key(1).to_pem();
    write(dir.path(), "plain.pem", &plain);
    write(dir.path(), "passphrase", "correct horse\n");
    let ways: [&[&str]; 4] = [
        &["-v2", "aes-256-cbc"],
        &["-v2", "aes-128-cbc", "-iter", "4000"],
        &["-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512"],
        &["-scrypt"],
    ];
    for way in ways {
        let fixed = ["pkcs8", "-topk8", "-in", "plain.pem", "-out", "locked.pem"];
        let arguments = [&fixed, way, &["-passout", "file:passphrase"]].concat();
        openssl(dir.path(), &arguments);
        let locked = read(dir.path(), "locked.pem");

        let opened = decrypt_key_pem(&locked, &passphrase("correct horse\n")).unwrap();

        assert_eq!(*opened, *plain, "{way:?}");
        assert_eq!(
            decrypt_key_pem(&locked, &passphrase("battery staple")).unwrap_err(),
            DecryptKeyError::WrongPassphrase,
            "{way:?}"
        );
    }
}

#[test]
fn given_keys_that_we_encrypted_when_openssl_reads_them_then_it_finds_the_key() {
    let dir = dir();
    write(dir.path(), "passphrase", "correct horse\n");
    for plain in [&key(1).to_pem(), ca().key_pem()] {
        let locked = encrypt_key_pem(plain, &passphrase("correct horse"), [9; 32]).unwrap();
        write(dir.path(), "locked.pem", &locked);

        openssl(
            dir.path(),
            &[
                "pkey",
                "-in",
                "locked.pem",
                "-passin",
                "file:passphrase",
                "-out",
                "opened.pem",
            ],
        );

        assert_eq!(read(dir.path(), "opened.pem"), plain);
    }
}

#[test]
fn given_an_rsa_ca_key_that_openssl_encrypted_when_read_then_it_signs_with_its_passphrase_only() {
    let dir = dir();
    openssl_ca(dir.path());
    write(dir.path(), "passphrase", "correct horse\n");
    openssl(
        dir.path(),
        &[
            "pkcs8",
            "-topk8",
            "-v2",
            "aes-256-cbc",
            "-in",
            "ca_key.pem",
            "-out",
            "locked.pem",
            "-passout",
            "file:passphrase",
        ],
    );
    let (cert, locked) = (
        read(dir.path(), "ca_cert.pem"),
        read(dir.path(), "locked.pem"),
    );

    let refused = CertificateAuthority::from_pem(&cert, &locked, Some(&org())).unwrap_err();
    let opened = decrypt_key_pem(&locked, &passphrase("correct horse")).unwrap();

    assert!(refused.to_string().contains("passphrase"), "{refused}");
    CertificateAuthority::from_pem(&cert, &opened, Some(&org())).unwrap();
}

#[test]
fn given_keys_in_encryptions_of_old_when_opened_then_the_message_says_how_to_write_them_anew() {
    let dir = dir();
    openssl(
        dir.path(),
        &[
            "genrsa",
            "-traditional",
            "-aes256",
            "-passout",
            "pass:correct horse",
            "-out",
            "old.pem",
            "2048",
        ],
    );

    let refused =
        decrypt_key_pem(&read(dir.path(), "old.pem"), &passphrase("correct horse")).unwrap_err();

    assert_eq!(refused, DecryptKeyError::Unsupported);
    assert!(
        refused.to_string().contains("openssl pkcs8 -topk8"),
        "{refused}"
    );
}

#[test]
fn given_the_rsa_ca_of_the_deployment_guide_when_it_signs_our_leaf_then_openssl_and_we_accept_it() {
    let dir = dir();
    openssl_ca(dir.path());
    let ca = load_ca(dir.path());
    let now = shortly_after(&ca);
    let leaf = ca.issue(&request(1), now, serial(1)).unwrap();
    write(dir.path(), "leaf.pem", &leaf.to_pem());
    let time = now.as_secs().to_string();
    assert!(
        openssl(
            dir.path(),
            &[
                "verify",
                "-attime",
                &time,
                "-CAfile",
                "ca_cert.pem",
                "leaf.pem"
            ]
        )
        .contains("OK")
    );
    let member = verify_member(leaf.chain_der(), ca.roots(), &Revocations::none(), now).unwrap();
    assert_eq!(
        (member.peer_id, member.organization),
        (key(1).peer_id(), org())
    );
    let text = openssl(
        dir.path(),
        &["x509", "-in", "ca_cert.pem", "-noout", "-text"],
    );
    assert!(text.contains("CA:TRUE") && text.contains("4096 bit"));
}

#[test]
fn given_the_rsa_leaf_of_the_deployment_guide_when_shown_then_it_serves_https_and_is_no_member() {
    let dir = dir();
    openssl_ca(dir.path());
    openssl_leaf(dir.path());
    let ca = load_ca(dir.path());
    let now = shortly_after(&ca);
    let (cert, key) = (
        read(dir.path(), "node_cert.pem"),
        read(dir.path(), "node_key.pem"),
    );
    let https = HttpsIdentity::from_pem(&cert, &key).unwrap();
    let member = verify_member(https.chain(), ca.roots(), &Revocations::none(), now);
    assert_eq!(member.unwrap_err(), Refusal::NoSpiffeId);
    let facts = verify_certificate(
        https.chain(),
        ca.roots(),
        &Revocations::none(),
        now,
        Purpose::Server,
    )
    .unwrap();
    assert_eq!(facts.dns, ["node1.acme.com", "*.acme.com"]);
    assert!(
        Leaf::from_pem(&cert)
            .unwrap_err()
            .to_string()
            .contains("can serve HTTPS")
    );
    assert!(HttpsIdentity::from_pem(&cert, &read(dir.path(), "ca_key.pem")).is_err());
}

#[test]
fn given_a_ca_of_openssl_with_an_elliptic_curve_key_when_loaded_then_it_signs_leaves_and_lists() {
    for curve in ["prime256v1", "secp384r1"] {
        let dir = dir();
        openssl(
            dir.path(),
            &[
                "ecparam",
                "-name",
                curve,
                "-genkey",
                "-noout",
                "-out",
                "ca_key.pem",
            ],
        );
        openssl(
            dir.path(),
            &[
                "req",
                "-new",
                "-x509",
                "-days",
                "30",
                "-key",
                "ca_key.pem",
                "-out",
                "ca_cert.pem",
                "-subj",
                "/CN=ec",
            ],
        );
        let ca = load_ca(dir.path());
        let now = shortly_after(&ca);
        let leaf = ca.issue(&request(1), now, serial(1)).unwrap();
        assert!(
            verify_member(leaf.chain_der(), ca.roots(), &Revocations::none(), now).is_ok(),
            "{curve}"
        );
        assert!(
            leaf.facts().not_after.as_secs()
                <= ca.roots().certificates()[0].facts().not_after.as_secs(),
            "outlives its CA"
        );
        let crl = IssuanceLedger::default()
            .sign_crl(&ca, now, Duration::from_secs(DAY))
            .unwrap();
        assert!(
            RevocationList::from_der(&crl, ca.roots()).is_ok(),
            "{curve}"
        );
    }
}

#[test]
fn given_a_ca_and_a_wrong_or_missing_part_when_loaded_then_the_error_names_it() {
    let dir = dir();
    openssl(
        dir.path(),
        &[
            "ecparam",
            "-name",
            "prime256v1",
            "-genkey",
            "-noout",
            "-out",
            "ca_key.pem",
        ],
    );
    openssl(
        dir.path(),
        &[
            "req",
            "-new",
            "-x509",
            "-days",
            "30",
            "-key",
            "ca_key.pem",
            "-out",
            "ca_cert.pem",
            "-subj",
            "/CN=ec",
        ],
    );
    let (cert, key) = (
        read(dir.path(), "ca_cert.pem"),
        read(dir.path(), "ca_key.pem"),
    );
    let load = |cert: &str, key: &str, org: Option<OrganizationId>| {
        CertificateAuthority::from_pem(cert, key, org.as_ref())
            .map(drop)
            .unwrap_err()
    };
    assert!(matches!(
        load(&cert, &key, None),
        LoadAuthorityError::NoOrganization
    ));
    assert!(matches!(
        load(&cert, ca().key_pem(), Some(org())),
        LoadAuthorityError::KeyMismatch(_)
    ));
    assert!(matches!(
        load(&cert, &key[..80], Some(org())),
        LoadAuthorityError::Key(_)
    ));
    let beta = OrganizationId::new("org_beta").unwrap();
    assert!(matches!(
        load(&ca().certificate_pem(), ca().key_pem(), Some(beta)),
        LoadAuthorityError::Certificate(_)
    ));
    assert!(CertificateAuthority::from_pem(&ca().certificate_pem(), ca().key_pem(), None).is_ok());
    openssl(
        dir.path(),
        &[
            "req",
            "-new",
            "-x509",
            "-key",
            "ca_key.pem",
            "-out",
            "no_ca.pem",
            "-subj",
            "/CN=x",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ],
    );
    let no_ca = load(&read(dir.path(), "no_ca.pem"), &key, Some(org()));
    assert!(no_ca.to_string().contains("is no CA"), "{no_ca}");
}

#[test]
fn given_our_revocation_list_when_openssl_reads_and_uses_it_then_the_revoked_leaf_is_refused() {
    let dir = dir();
    let ca = ca();
    let mut ledger = IssuanceLedger::default();
    let revoked = ledger.issue(&ca, &request(1), now(), serial(1)).unwrap();
    ledger.revoke_peer(key(1).peer_id(), now()).unwrap();
    let der = ledger
        .sign_crl(&ca, now(), Duration::from_secs(30 * DAY))
        .unwrap();
    let list = RevocationList::from_der(&der, ca.roots()).unwrap();
    write(dir.path(), "ca.pem", &ca.certificate_pem());
    write(dir.path(), "crl.pem", &list.to_pem());
    write(dir.path(), "revoked.pem", &revoked.to_pem());
    write(dir.path(), "good.pem", &leaf(2).to_pem());
    let text = openssl(
        dir.path(),
        &[
            "crl", "-in", "crl.pem", "-noout", "-text", "-CAfile", "ca.pem",
        ],
    );
    let serial_text = hex::encode(serial(1).as_bytes()).to_uppercase();
    assert!(
        text.contains("verify OK")
            && text.contains("X509v3 CRL Number")
            && text.contains(&serial_text),
        "{text}"
    );
    let time = NOW_S.to_string();
    let verify = |file: &str| {
        try_openssl(
            dir.path(),
            &[
                "verify",
                "-attime",
                &time,
                "-crl_check",
                "-CAfile",
                "ca.pem",
                "-CRLfile",
                "crl.pem",
                file,
            ],
        )
    };
    assert!(verify("good.pem").0);
    let (accepted, said) = verify("revoked.pem");
    assert!(!accepted && said.contains("certificate revoked"), "{said}");
}

#[test]
fn given_requests_of_either_side_when_read_by_the_other_then_the_proof_of_possession_holds() {
    let dir = dir();
    write(
        dir.path(),
        "ours.csr",
        &Csr::create_pem(&key(1), "node-1").unwrap(),
    );
    assert!(
        openssl(dir.path(), &["req", "-in", "ours.csr", "-noout", "-verify"]).contains("verify OK")
    );
    openssl(
        dir.path(),
        &["genpkey", "-algorithm", "ed25519", "-out", "ed.pem"],
    );
    openssl(
        dir.path(),
        &[
            "req",
            "-new",
            "-key",
            "ed.pem",
            "-out",
            "theirs.csr",
            "-subj",
            "/CN=theirs",
        ],
    );
    let csr = Csr::from_pem(&read(dir.path(), "theirs.csr")).unwrap();
    let theirs = NodeKey::from_pem(&read(dir.path(), "ed.pem")).unwrap();
    assert_eq!(
        (csr.peer_id(), csr.common_name()),
        (theirs.peer_id(), Some("theirs"))
    );
}

#[test]
fn given_a_ca_whose_subject_cannot_be_repeated_when_loaded_then_it_is_refused_before_it_signs_anything()
 {
    let dir = dir();
    openssl(
        dir.path(),
        &[
            "ecparam",
            "-name",
            "prime256v1",
            "-genkey",
            "-noout",
            "-out",
            "ca_key.pem",
        ],
    );
    let subject = "/DC=com/DC=acme/CN=ca";
    openssl(
        dir.path(),
        &[
            "req",
            "-new",
            "-x509",
            "-key",
            "ca_key.pem",
            "-out",
            "ca_cert.pem",
            "-subj",
            subject,
        ],
    );
    let (cert, key) = (
        read(dir.path(), "ca_cert.pem"),
        read(dir.path(), "ca_key.pem"),
    );
    let error = CertificateAuthority::from_pem(&cert, &key, Some(&org())).unwrap_err();
    assert!(matches!(error, LoadAuthorityError::Subject(_)), "{error}");
    assert!(
        Roots::from_pem(org(), &cert).is_ok(),
        "others may still sign with it"
    );
}
