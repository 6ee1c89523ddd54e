//! What is generated from the table: documentation, schema, the first file.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod sources;

use std::path::{Path, PathBuf};

use sources::Sources;
use warren_config::{KEYS, Role, Template, docs_table, schema};

const BEGIN: &str =
    "<!-- keys: begin (generated; WARREN_BLESS=1 cargo test -p warren-config writes it) -->\n\n";
const END: &str = "\n<!-- keys: end -->";

#[test]
fn given_the_documentation_when_compared_with_the_table_then_its_block_is_equal() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let start = text.find(BEGIN).expect("the begin mark") + BEGIN.len();
    let end = text.find(END).expect("the end mark");

    if std::env::var_os("WARREN_BLESS").is_some() {
        std::fs::write(
            path,
            format!("{}{}{}", &text[..start], docs_table(), &text[end..]),
        )
        .unwrap();
        return;
    }

    assert_eq!(
        &text[start..end],
        docs_table(),
        "run WARREN_BLESS=1 cargo test -p warren-config --test generated"
    );
}

#[test]
fn given_the_schema_when_walked_then_every_key_has_its_place() {
    let schema = schema();

    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    for key in KEYS.iter() {
        let mut node = &schema;
        for part in key.path.split('.') {
            let (name, item) = part
                .strip_suffix("[]")
                .map_or((part, false), |name| (name, true));
            assert_eq!(
                node["additionalProperties"], false,
                "{} above {}",
                node, key.path
            );
            node = &node["properties"][name];
            if item {
                node = &node["items"];
            }
        }
        assert_eq!(node["description"], key.doc, "{}", key.path);
    }
    let item = &schema["properties"]["discovery"]["properties"]["server"]["properties"]["bootstrap_peers"]
        ["items"];
    assert_eq!(
        item["required"],
        serde_json::json!(["peer_id", "addresses", "organization"])
    );
}

#[test]
fn given_a_template_when_rendered_then_it_loads_without_a_warning() {
    use Role::{Discovery, Issuer, Relay, Storage};
    for (roles, issuer_dir, region) in [
        ([Storage].as_slice(), None, None),
        (&[Discovery, Relay], None, None),
        (
            &[Storage, Discovery, Relay, Issuer],
            Some(Path::new("ca")),
            Some("us-west"),
        ),
    ] {
        let template = Template {
            node_id: "node-1",
            organization_id: "org_acme_corp",
            region,
            peer_key: Path::new("node.pem"),
            tls_cert: Path::new("node_cert.pem"),
            ca_cert: Path::new("ca/ca_cert.pem"),
            crl: None,
            roles,
            issuer_dir,
            passphrase_file: issuer_dir.map(|_| Path::new("passphrase")),
            discovery_servers: &[],
            storage_path: Path::new("/srv/it's ${odd}: #1"),
        };

        let sources = Sources::new().file("/etc/warren/warren.yaml", template.render());

        let settings = sources.settings();
        assert_eq!(sources.warnings(), [""; 0]);
        assert_eq!(settings.network.node_id, "node-1");
        assert_eq!(settings.network.region.as_deref(), region);
        assert_eq!(
            settings.network.libp2p.peer_key,
            Path::new("/etc/warren/node.pem")
        );
        let security = &settings.network.security;
        let passphrase = issuer_dir.map(|_| PathBuf::from("/etc/warren/passphrase"));
        assert_eq!(security.tls_key_passphrase_file, passphrase);
        assert_eq!(security.issuer_passphrase_file, passphrase);
        assert!(settings.roles.iter().eq(roles), "{:?}", settings.roles);
        assert_eq!(settings.storage.path, Path::new("/srv/it's ${odd}: #1"));
    }
}

#[test]
fn given_a_templates_commented_lines_when_uncommented_then_they_load_too() {
    let template = Template {
        node_id: "node-1",
        organization_id: "org_acme_corp",
        region: None,
        peer_key: Path::new("node.pem"),
        tls_cert: Path::new("node_cert.pem"),
        ca_cert: Path::new("ca_cert.pem"),
        crl: None,
        roles: &[Role::Storage],
        issuer_dir: None,
        passphrase_file: None,
        discovery_servers: &[],
        storage_path: Path::new("/var/lib/warren"),
    };
    let prose = |line: &str| {
        line.ends_with([':', '.', ','])
            && line.contains(' ')
            && !line.trim_start().starts_with("# discovery")
    };
    let text: String = template
        .render()
        .lines()
        .filter(|line| {
            !line.trim_start().starts_with('#') || !prose(line) || line.ends_with("monitoring:")
        })
        .map(|line| format!("{}\n", line.replacen("# ", "", 1)))
        .filter(|line| {
            !line.starts_with("Warren")
                && !line.starts_with("'warren")
                && !line.starts_with("WARREN")
        })
        .collect();

    let text = text.replace(
        "<peer id>",
        "12D3KooWA8EXV3KjBxEU5EnsPfneLx84vMWAtTBQBeyooN3hYKTQ",
    );

    let settings = Sources::new().file("warren.yaml", &text).settings();
    assert_eq!(settings.monitoring.listen_address.unwrap().port(), 9100);
    assert_eq!(settings.network.discovery.servers.len(), 1);
    assert_eq!(settings.network.libp2p.bootstrap_peers.len(), 1);
    assert_eq!(settings.network.region.as_deref(), Some("us-west"));
}
