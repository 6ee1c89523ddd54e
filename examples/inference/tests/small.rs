//! The example in one process: three directors, four workers, a client under load, and machines that go.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt;
use warren_cluster::Cluster;
use warren_example_inference::organization::{Files, set_up};
use warren_example_inference::{
    Backwards, Listen, ModelClient, ModelError, Prompt, client, director, load, worker,
};
use warren_rpc::{CallError, Context, Pool, Server, ms};

const PATIENCE: Duration = Duration::from_secs(30);

struct Running {
    directors: Vec<(Server, Cluster)>,
    workers: Vec<(Server, Cluster)>,
    model: ModelClient<Pool>,
}

fn listen(seeds: &[SocketAddr]) -> Listen {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Listen {
        calls: any,
        gossip: any,
        seeds: seeds.to_vec(),
    }
}

async fn start(folder: &Path) -> Running {
    let directors = (1..=3).map(|number| (format!("director-{number}"), &["director"][..]));
    let workers = (1..=4).map(|number| (format!("worker-{number}"), &["worker"][..]));
    let caller = [("client".to_owned(), &[][..])];
    set_up(folder, directors.chain(workers).chain(caller)).unwrap();
    let (mut directors, mut seeds) = (Vec::new(), Vec::new());
    for number in 1..=3 {
        let files = Files::of(folder, &format!("director-{number}"));
        let up = director(&files, &listen(&seeds)).await.unwrap();
        seeds.push(up.1.local_address());
        directors.push(up);
    }
    let mut workers = Vec::new();
    for number in 1..=4 {
        let name = format!("worker-{number}");
        let model = Backwards {
            worker: name.clone(),
            pace: Duration::from_millis(1),
        };
        let files = Files::of(folder, &name);
        workers.push(worker(&files, &listen(&seeds), model).await.unwrap());
    }
    for (server, _) in directors.iter().chain(&workers) {
        let server = server.clone();
        tokio::spawn(async move { server.run().await });
    }
    let end = Instant::now() + PATIENCE;
    while directors
        .iter()
        .any(|(_, cluster)| cluster.node_count() != 7 || cluster.registry().healthy_count != 4)
    {
        assert!(Instant::now() < end, "the cluster never formed");
        tokio::time::sleep(ms(10)).await;
    }
    let addresses = directors
        .iter()
        .map(|(server, _)| server.local_address().unwrap());
    let model = client(&Files::of(folder, "client"), addresses).unwrap();
    Running {
        directors,
        workers,
        model,
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_the_example_when_a_worker_and_two_directors_go_then_no_prompt_fails() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path()).await;

    let whole = load(&running.model, 16, soon()).await;
    assert_eq!(whole.failed, [""; 0]);
    assert_eq!(whole.completed.len(), 4, "{whole:?}");

    let model = running.model.clone();
    let under_load = tokio::spawn(async move { load(&model, 16, soon()).await });
    let end = Instant::now() + PATIENCE;
    while running.workers[0].0.in_flight() == 0 {
        assert!(Instant::now() < end, "there never was load");
        tokio::time::sleep(ms(1)).await;
    }
    running.workers[0].0.kill();
    running.workers[0].1.shutdown().await;
    running.directors[0].0.kill();
    running.directors[1].0.kill();

    let reduced = under_load.await.unwrap();
    assert_eq!(reduced.failed, [""; 0]);
    let after = load(&running.model, 16, soon()).await;
    assert_eq!(after.failed, [""; 0]);
    assert!(!after.completed.contains_key("worker-1"), "{after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_the_example_then_errors_keep_their_type_and_tokens_come_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path()).await;
    let prompt = |text: &str| Prompt {
        text: text.to_owned(),
    };

    let refused = running
        .model
        .complete(Context::deadline(ms(20_000)), prompt(" "))
        .await;
    assert_eq!(
        refused.unwrap_err(),
        CallError::Application(ModelError::Empty)
    );
    let tokens = running
        .model
        .tokens(Context::deadline(ms(20_000)), prompt("one two three"))
        .await
        .unwrap();
    let tokens: Vec<String> = tokens.map(Result::unwrap).collect().await;
    assert_eq!(tokens, ["three", "two", "one"]);
}
