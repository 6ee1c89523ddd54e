//! What is said of a document: it comes with the document, however that comes, and stays until something else is said.

use crate::support::{Node, Organization, Plan, eventually};

fn follower(organization: &Organization, name: &str, first: &Node) -> Node {
    let plan = Plan {
        bootstrap: vec![first.address()],
        ..Plan::default()
    };
    let node = Node::start(&organization.planned(name, plan));
    node.meets(first);
    node
}

fn put(node: &Node, content: &[u8], words: &[&str]) -> String {
    let all = ["put", "-"].into_iter().chain(words.iter().copied());
    node.invocation().args(all).input(content).run().ok()
}

fn title(node: &Node, id: &str) -> String {
    let stat = node.warren(["stat", id, "--json"]).json();
    stat["title"].as_str().unwrap().to_owned()
}

#[test]
fn given_a_document_got_removed_and_got_again_when_listed_then_it_has_its_title_with_and_without_its_first_holder()
 {
    let organization = Organization::new();
    let first = Node::start(&organization.home("node-1"));
    let second = follower(&organization, "node-2", &first);
    let third = follower(&organization, "node-3", &second);
    let id = put(
        &first,
        b"the same bytes",
        &["--title", "T-one", "--tag", "x"],
    );
    for node in [&second, &third] {
        node.content(&id).ok();
        for _ in 0..3 {
            node.warren(["rm", &id]).ok();
            node.content(&id).ok();
            assert_eq!(title(node, &id), "T-one");
        }
    }
    let signer = first.peer_id.clone();
    assert!(first.stop().success());

    third.warren(["rm", &id]).ok();
    third.warren(["store", "gc"]).ok();
    third.content(&id).ok();
    second.warren(["rm", &id]).ok();
    second.content(&id).ok();

    for node in [&second, &third] {
        let stat = node.warren(["stat", &id, "--json"]).json();
        assert_eq!(stat["title"], "T-one");
        assert_eq!(stat["tags"], serde_json::json!(["x"]));
        assert_eq!(stat["signed_by"], signer.as_str());
    }
}

#[test]
fn given_a_document_without_its_record_when_a_holder_of_that_comes_then_it_is_asked_for() {
    let organization = Organization::new();
    let first = Node::start(&organization.home("node-1"));
    let second = follower(&organization, "node-2", &first);
    let id = put(&second, b"page one", &["--title", "A page"]);
    let home = second.home.clone();
    assert!(second.stop().success());
    // Its blocks are here as a file of a folder, which has a record of its own.
    let folder = organization.folder().join("pages");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("one"), b"page one").unwrap();
    first.warren(["put", folder.to_str().unwrap()]).ok();
    first.content(&id).ok();
    assert_eq!(title(&first, &id), "");

    let second = Node::start(&home);
    second.meets(&first);

    eventually("the record comes", || {
        (title(&first, &id) == "A page").then_some(())
    });
}

#[test]
fn given_a_document_when_put_again_then_what_was_said_stays_unless_something_else_is_said() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    let report = organization.folder().join("report.pdf");
    std::fs::write(&report, b"figures").unwrap();
    let report = report.to_str().unwrap();
    let words = ["--title", "Quarterly report", "--tag", "finance"];
    let id = node.warren(["put", report].into_iter().chain(words)).ok();

    let again = node.warren(["put", report]);

    assert!(
        again.stderr.contains("was here already")
            && again.stderr.contains("\"Quarterly report\"")
            && again.stderr.contains("kept until it is removed"),
        "{}",
        again.stderr
    );
    let stat = || node.warren(["stat", &id, "--json"]).json();
    assert_eq!(stat()["title"], "Quarterly report");
    assert_eq!(stat()["tags"], serde_json::json!(["finance"]));

    let named = node.warren(["put", report, "--retention", "1h", "--json"]);
    assert_eq!(named.json()["existed"], true);
    assert!(stat()["expires_at"].is_string());
    assert_eq!(stat()["title"], "Quarterly report");
    node.warren(["put", report, "--title", "Report", "--retention", "0"])
        .ok();
    assert!(stat()["expires_at"].is_null());
    assert_eq!(stat()["title"], "Report");
    assert_eq!(stat()["tags"], serde_json::json!(["finance"]));
}
