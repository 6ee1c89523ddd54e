//! The example's two ends in one process, with files as a member has them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{authority, member};
use warren_example_calculator::{bind, connect, tour};

#[tokio::test]
async fn given_a_server_when_the_client_tours_it_then_every_method_answers() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(7);
    let server_files = member(&ca, folder.path(), "server", 2);
    let client_files = member(&ca, folder.path(), "client", 3);
    let server = bind(&server_files, "127.0.0.1:0".parse().unwrap(), None).unwrap();
    let address = server.local_address().unwrap();
    let running = server.clone();
    tokio::spawn(async move { running.run().await });

    let calculator = connect(&client_files, address).await.unwrap();
    let lines = tour(&calculator, 2, 3).await.unwrap();

    assert_eq!(
        lines,
        [
            "2 + 3 = 5",
            "refused: 9223372036854775807 and 1 make more than 64 bits hold",
            "2 + 3 + 5 = 10",
            "so far: 2",
            "so far: 5",
            "so far: 10",
            "sum 0 was 5",
        ]
    );
}
