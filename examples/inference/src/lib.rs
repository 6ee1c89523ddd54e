//! Inference behind directors: a service, the workers that have it, the directors that pass its calls on, a client.
//!
//! Start reading at [`Model`]; then [`worker`], [`director`] and [`client`], which put the programs together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use warren_balance::Place;
use warren_cluster::{Cluster, ClusterConfig};
use warren_director::{Director, DirectorOptions, keep_targets};
use warren_identity::Capability;
use warren_identity::tls::ExpectedPeer;
use warren_rpc::{ApplicationError, Code, Context, Pool, PoolOptions, Server, Status, Target, ms};

pub mod organization;

use organization::Files;

/// The longest prompt, in words.
const MAX_WORDS: usize = 1_000;

/// What is asked of a model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Prompt {
    /// The text to go on with.
    pub text: String,
}

/// What a model answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// The answer.
    pub text: String,
    /// The worker that gave it.
    pub worker: String,
}

/// Why a model does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ModelError {
    /// There is nothing to go on with.
    #[error("the prompt is empty")]
    Empty,
    /// More than the model reads.
    #[error("the prompt has {0} words, and the model reads {MAX_WORDS}")]
    TooLong(usize),
}

impl ApplicationError for ModelError {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

/// A model that completes prompts. The same prompt has the same completion, so calls may be tried again.
#[warren_rpc::service(package = "inference.v1")]
pub trait Model {
    /// The whole completion.
    #[rpc(idempotent)]
    async fn complete(&self, ctx: Context, prompt: Prompt) -> Result<Completion, ModelError>;
    /// The completion word by word.
    async fn tokens(
        &self,
        ctx: Context,
        prompt: Prompt,
    ) -> impl Stream<Item = Result<String, Status>>;
}

/// Says a prompt backwards, at the pace of a model.
#[derive(Debug)]
pub struct Backwards {
    /// What the worker is called.
    pub worker: String,
    /// The time that each word takes.
    pub pace: Duration,
}

impl Backwards {
    fn words(prompt: &Prompt) -> Result<Vec<String>, ModelError> {
        let words: Vec<String> = prompt.text.split_whitespace().map(str::to_owned).collect();
        match words.len() {
            0 => Err(ModelError::Empty),
            count if count > MAX_WORDS => Err(ModelError::TooLong(count)),
            _ => Ok(words),
        }
    }
}

impl Model for Backwards {
    async fn complete(&self, _: Context, prompt: Prompt) -> Result<Completion, ModelError> {
        let words = Self::words(&prompt)?;
        let count = u32::try_from(words.len()).unwrap_or(u32::MAX);
        tokio::time::sleep(self.pace * count).await;
        let backwards: Vec<String> = words.into_iter().rev().collect();
        Ok(Completion {
            text: backwards.join(" "),
            worker: self.worker.clone(),
        })
    }

    async fn tokens(
        &self,
        _: Context,
        prompt: Prompt,
    ) -> impl Stream<Item = Result<String, Status>> {
        let words = match Self::words(&prompt) {
            Ok(words) => words.into_iter().rev().map(Ok).collect(),
            Err(error) => vec![Err(Status::from(error))],
        };
        stream::iter(words).then(async |word| {
            tokio::time::sleep(self.pace).await;
            word
        })
    }
}

/// Where a program takes part.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Where it takes calls.
    pub calls: SocketAddr,
    /// Where it gossips.
    pub gossip: SocketAddr,
    /// Gossip addresses to begin with.
    pub seeds: Vec<SocketAddr>,
}

/// A worker that is up; drains with [`Server::run_until_signal`] or [`Server::shutdown`].
///
/// # Errors
/// The files do not serve, or an address is taken.
pub async fn worker(
    files: &Files,
    listen: &Listen,
    model: Backwards,
) -> anyhow::Result<(Server, Cluster)> {
    let server = files.server()?.bind(listen.calls)?;
    let label = model.worker.clone();
    server.register(ModelServer::new(model));
    let cluster = take_part(&server, listen).await?;
    cluster.set_tag("label", &label)?;
    cluster.set_tag("role", "worker")?;
    Ok((server, cluster))
}

/// A director that is up. All of them are the same.
///
/// # Errors
/// As [`worker`].
pub async fn director(files: &Files, listen: &Listen) -> anyhow::Result<(Server, Cluster)> {
    let server = files.server()?.bind(listen.calls)?;
    let cluster = take_part(&server, listen).await?;
    cluster.set_tag("role", "director")?;
    let (sender, targets) = watch::channel(Vec::new());
    let followed = cluster.clone();
    tokio::spawn(async move { keep_targets(&followed, None, Vec::new(), sender).await });
    let options = DirectorOptions {
        here: Place::nowhere(),
        ..DirectorOptions::default()
    };
    server.set_fallback(Director::new(files.client()?, targets, options));
    Ok((server, cluster))
}

async fn take_part(server: &Server, listen: &Listen) -> anyhow::Result<Cluster> {
    let config = ClusterConfig::default()
        .with_bind_addr(listen.gossip)
        .with_seeds(&listen.seeds);
    Ok(server.enable_cluster(config).await?)
}

/// What a client's load came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Completions by worker.
    pub completed: BTreeMap<String, u64>,
    /// Why calls failed.
    pub failed: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        for (worker, count) in other.completed {
            *self.completed.entry(worker).or_default() += count;
        }
        self.failed.extend(other.failed);
    }
}

/// A client that knows the directors only.
///
/// # Errors
/// The files do not serve.
pub fn client(
    files: &Files,
    directors: impl IntoIterator<Item = SocketAddr>,
) -> anyhow::Result<ModelClient<Pool>> {
    let targets = directors
        .into_iter()
        .map(|address| Target::new(address, ExpectedPeer::Capability(Capability::Director)))
        .collect();
    let mut options = PoolOptions::default();
    // A director that is gone without a word is noticed by silence only.
    options.retry.try_timeout = Some(ms(2_000));
    Ok(ModelClient::new(Pool::fixed(
        files.client()?,
        targets,
        options,
    )))
}

/// Has `callers` prompts in flight at all times until `until`.
pub async fn load(model: &ModelClient<Pool>, callers: usize, until: Instant) -> Tally {
    let calls = (0..callers).map(|caller| {
        let model = model.clone();
        tokio::spawn(async move {
            let mut tally = Tally::default();
            while Instant::now() < until {
                let prompt = Prompt {
                    text: format!("caller {caller} asks"),
                };
                match model.complete(Context::deadline(ms(20_000)), prompt).await {
                    Ok(answer) if answer.text == format!("asks {caller} caller") => {
                        *tally.completed.entry(answer.worker).or_default() += 1;
                    }
                    Ok(answer) => tally.failed.push(format!("wrong answer {:?}", answer.text)),
                    Err(error) => tally.failed.push(error.to_string()),
                }
            }
            tally
        })
    });
    let mut total = Tally::default();
    for call in calls.collect::<Vec<_>>() {
        match call.await {
            Ok(tally) => total.add(tally),
            Err(error) => total.failed.push(error.to_string()),
        }
    }
    total
}

/// Directors of the example as it runs on one machine.
pub const DIRECTORS: u16 = 3;
/// Its workers.
pub const WORKERS: u16 = 4;

/// Where a director of the example takes part. Each has the first two as seeds.
#[must_use]
pub fn place_of_director(number: u16) -> Listen {
    place(18_100 + number)
}

/// Where a worker of the example takes part.
#[must_use]
pub fn place_of_worker(number: u16) -> Listen {
    place(18_200 + number)
}

fn place(port: u16) -> Listen {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    Listen {
        calls: at(port),
        gossip: at(port + 1_000),
        seeds: vec![at(19_101), at(19_102)],
    }
}
