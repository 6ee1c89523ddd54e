//! Who may call the management API, and what never leaves the node.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::{Home, Node, Organization, Plan, Request, eventually, tool};

fn one_node() -> (Organization, Node) {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    (organization, node)
}

#[test]
fn given_no_token_when_any_protected_path_is_called_then_it_is_401() {
    let (_organization, node) = one_node();

    for (method, path) in [
        ("GET", "/api/v1/status"),
        ("GET", "/api/v1/openapi.json"),
        ("POST", "/api/v1/documents"),
        ("POST", "/api/v1/network/connect"),
        ("GET", "/chunks/x"),
        ("GET", "/nothing"),
        ("GET", "/health/../api/v1/status"),
    ] {
        let reply = Request::new(node.api(), method, path).send();

        assert_eq!(reply.status, 401, "{method} {path}");
        assert_eq!(
            reply.header("www-authenticate"),
            Some("Bearer"),
            "RFC 9110 §11.6.1"
        );
    }
}

#[test]
fn given_a_wrong_token_when_called_then_it_is_401() {
    let (_organization, node) = one_node();
    let token = node.token();

    for wrong in ["", "x", &token[1..], &format!("{token}0")] {
        let reply = Request::new(node.api(), "GET", "/api/v1/status")
            .header("authorization", &format!("Bearer {wrong}"))
            .send();

        assert_eq!(reply.status, 401, "{wrong:?}");
    }
}

#[test]
fn given_the_host_of_somebody_else_when_called_with_the_token_then_it_is_refused() {
    let (_organization, node) = one_node();

    for host in [
        "evil.example",
        "evil.example:18080",
        "127.0.0.1.evil.example:18080",
        "",
    ] {
        let reply = node
            .request("GET", "/api/v1/status")
            .header("host", host)
            .send();

        assert_eq!(reply.status, 421, "{host:?}");
    }
}

#[test]
fn given_refused_requests_when_the_metrics_are_read_then_each_is_counted_by_its_reason() {
    let (_organization, node) = one_node();
    let status = |host: Option<&str>, origin: Option<&str>| {
        let mut request = Request::new(node.api(), "GET", "/api/v1/status");
        if let Some(host) = host {
            request = request.header("host", host);
        }
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        request.send().status
    };
    assert_eq!(status(None, None), 401);
    assert_eq!(status(Some("evil.example"), None), 421);
    assert_eq!(status(None, Some("http://evil.example")), 403);

    let metrics = Request::new(node.api(), "GET", "/metrics").send().text();
    for code in ["unauthorized", "wrong_host", "foreign_origin"] {
        let line = format!("warren_api_requests_refused_total{{code=\"{code}\"}} 1");
        assert!(metrics.contains(&line), "no {line}");
    }
}

#[test]
fn given_a_page_of_another_origin_when_it_calls_as_a_browser_does_then_it_is_refused() {
    let (_organization, node) = one_node();

    for (name, value) in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", "http://localhost:3000"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let reply = node
            .request("POST", "/api/v1/documents")
            .header(name, value)
            .body(b"planted")
            .send();

        assert_eq!(reply.status, 403, "{name}: {value}");
        assert!(reply.header("access-control-allow-origin").is_none());
    }
    assert_eq!(node.get("/api/v1/documents").json()["total"], 0);
}

#[test]
fn given_a_first_start_when_the_token_is_written_then_only_its_owner_may_read_it() {
    let (_organization, node) = one_node();

    let mode = std::fs::metadata(node.path("data/admin.token"))
        .unwrap()
        .mode();

    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn given_a_restart_when_the_token_is_read_then_it_is_the_same() {
    let (_organization, node) = one_node();
    let (home, before) = (node.home.clone(), node.token());
    node.stop();

    let node = Node::start(&home);

    assert_eq!(node.token(), before);
}

#[test]
fn given_a_token_file_that_others_may_read_when_started_then_it_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let (_organization, node) = one_node();
    let home = node.home.clone();
    node.stop();
    let token = home.path("data/admin.token");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();

    let refusal = home.warren(["start"]).failed();

    assert!(
        refusal.contains("chmod 600") && refusal.contains("admin.token"),
        "{refusal}"
    );
}

#[test]
fn given_another_address_than_loopback_without_tls_when_started_then_it_is_refused() {
    let organization = Organization::new();
    let home = organization.home("node-1");
    home.edit(
        &format!("listen_address: '{}:18080'", home.ip),
        "listen_address: '0.0.0.0:18080'",
    );

    let refusal = home.warren(["start"]).failed();

    assert!(
        refusal.contains("api.listen_address") && refusal.contains("api.tls"),
        "{refusal}"
    );
}

#[test]
fn given_a_running_node_when_its_log_is_read_then_no_secret_is_in_it() {
    let organization = Organization::new();
    let home = organization.planned(
        "node-1",
        Plan {
            sections: "logging: {level: trace}".to_owned(),
            ..Plan::default()
        },
    );
    let node = Node::start(&home);
    node.put(b"something");
    node.warren(["status"]).ok();
    let (token, log) = (node.token(), node.log());

    let key = std::fs::read_to_string(node.path("node.pem")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    assert!(!log.contains(&token), "the admin token is in the log");
    assert!(!log.contains(secret), "the node key is in the log");
}

#[test]
fn given_an_unreachable_database_when_started_then_its_password_is_nowhere_in_the_log() {
    let organization = Organization::new();
    let home = organization.planned(
        "node-1",
        Plan {
            capabilities: vec!["storage", "discovery", "admin"],
            roles: "storage, discovery",
            sections:
                "logging: {level: debug}\ndiscovery: {server: {listen_address: '127.0.0.1:0', \
                       database: {url: 'postgresql://warren:hunter2@127.0.0.1:9/warren'}}}"
                    .to_owned(),
            ..Plan::default()
        },
    );
    let mut node = Node::launch(&home, &[]);
    eventually("the node is up without its database", || {
        node.answers("/health")
    });
    node.logs("database");

    assert!(!node.log().contains("hunter2"), "{}", node.log());
}

/// A node whose API speaks TLS with its own leaf.
fn over_tls(organization: &Organization) -> Node {
    let home = organization.planned(
        "node-1",
        Plan {
            api: ", tls: {enabled: true}".to_owned(),
            ..Plan::default()
        },
    );
    let node = Node::launch(&home, &[]);
    eventually("the API answers", || {
        (home.warren(["health"]).code == Some(0)).then_some(())
    });
    node
}

/// `curl` with further arguments; gives the status, or `curl`'s own exit code as an error.
fn curl(
    node: &Home,
    organization: &Organization,
    path: &str,
    further: &[&str],
) -> Result<u16, i32> {
    let (url, ca) = (
        format!("https://{}{path}", node.api()),
        organization.ca().join("ca_cert.pem"),
    );
    let fixed = [
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--cacert",
        ca.to_str().unwrap(),
        &url,
    ];
    let finished = tool("curl", &node.folder, fixed.iter().chain(further));
    match finished.code {
        Some(0) => Ok(finished.ok().parse().unwrap()),
        code => Err(code.unwrap()),
    }
}

fn has(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|folder| Path::new(&folder).join(program).is_file())
}

#[test]
fn given_an_admin_certificate_when_it_calls_over_tls_then_no_token_is_needed() {
    if !has("curl") {
        return warren_lab::skip("access::admin_certificate", "needs curl");
    }
    let organization = Organization::new();
    let node = over_tls(&organization);
    let admin = organization.planned(
        "operator",
        Plan {
            capabilities: vec!["admin"],
            ..Plan::default()
        },
    );
    let (cert, key) = (admin.path("node_cert.pem"), admin.path("node.pem"));
    let identity = [
        "--cert",
        cert.to_str().unwrap(),
        "--key",
        key.to_str().unwrap(),
    ];

    let answer = curl(&node, &organization, "/api/v1/status", &identity);

    assert_eq!(answer, Ok(200));
}

#[test]
fn given_a_certificate_without_the_capability_when_it_calls_over_tls_then_it_is_401() {
    if !has("curl") {
        return warren_lab::skip("access::ordinary_certificate", "needs curl");
    }
    let organization = Organization::new();
    let node = over_tls(&organization);
    let member = organization.planned(
        "member",
        Plan {
            capabilities: vec!["storage"],
            ..Plan::default()
        },
    );
    let (cert, key) = (member.path("node_cert.pem"), member.path("node.pem"));
    let identity = [
        "--cert",
        cert.to_str().unwrap(),
        "--key",
        key.to_str().unwrap(),
    ];

    assert_eq!(
        curl(&node, &organization, "/api/v1/status", &identity),
        Ok(401)
    );
    assert_eq!(curl(&node, &organization, "/api/v1/status", &[]), Ok(401));
    assert_eq!(curl(&node, &organization, "/health", &[]), Ok(200));
}

#[test]
fn given_an_admin_certificate_of_another_organisation_when_it_calls_then_it_is_no_admin() {
    if !has("curl") {
        return warren_lab::skip("access::foreign_admin", "needs curl");
    }
    let organization = Organization::new();
    let node = over_tls(&organization);
    let foreign = Organization::without_ca("org_other");
    let ca = foreign.ca();
    crate::support::warren([
        "ca",
        "init",
        "--org",
        "org_other",
        "--dir",
        ca.to_str().unwrap(),
    ])
    .ok();
    let admin = foreign.home("operator");
    let (cert, key) = (admin.path("node_cert.pem"), admin.path("node.pem"));
    let identity = [
        "--cert",
        cert.to_str().unwrap(),
        "--key",
        key.to_str().unwrap(),
    ];

    // The handshake may end the connection, or the guard the request; neither lets it in.
    let answer = curl(&node, &organization, "/api/v1/status", &identity);

    assert!(matches!(answer, Ok(401) | Err(_)), "{answer:?}");
}

#[test]
fn given_tls_when_the_command_line_asks_then_it_checks_the_nodes_certificate() {
    let organization = Organization::new();
    let node = over_tls(&organization);

    let status = node.warren(["status", "--json"]).json();

    assert_eq!(status["peer_id"], node.peer_id.as_str());
}

#[test]
fn given_a_token_that_is_too_short_when_started_then_it_is_refused_with_the_remedy() {
    use std::os::unix::fs::PermissionsExt;
    let organization = Organization::new();
    let home = organization.home("node-1");
    std::fs::create_dir(home.path("data")).unwrap();
    let token = home.path("data/admin.token");
    std::fs::write(&token, "secret").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();

    let refusal = home.warren(["start"]).failed();

    assert!(
        refusal.contains("admin.token") && refusal.contains("remove the file"),
        "{refusal}"
    );
}

#[test]
fn given_an_allowed_host_name_when_called_by_it_then_it_is_ours() {
    let organization = Organization::new();
    let home = organization.planned(
        "node-1",
        Plan {
            api: ", allowed_hosts: [warren.acme.com]".to_owned(),
            ..Plan::default()
        },
    );
    let node = Node::start(&home);
    let by = |host: &str| {
        node.request("GET", "/api/v1/status")
            .header("host", host)
            .send()
            .status
    };

    assert_eq!(by("Warren.acme.com:18080"), 200);
    assert_eq!(by("warren.acme.com:80"), 421);
    assert_eq!(by("other.acme.com:18080"), 421);
}
