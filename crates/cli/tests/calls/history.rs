//! What callers were told, held against what workers did: a call that may not run twice never does, whatever happens to
//! the machines meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rustix::process::Signal;
use warren_rpc::{Caller, Context, Failure, ms};

use crate::lot::{Load, Lot, Machine, Running, compute};
use crate::support::eventually;

/// What a caller was told of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    /// It was carried out.
    Done,
    /// It certainly was not.
    NothingDone,
    /// It failed, and nobody knows.
    Unknown,
}

/// A worker whose method `compute` writes down what it is asked before it answers.
struct Writer {
    machine: Machine,
    running: Running,
    history: PathBuf,
}

impl Writer {
    fn start(lot: &Lot, name: &str) -> Self {
        let mut machine = Machine::worker(&lot.organization, name, &lot.directors[0].0);
        let history = machine.home.path("history");
        // One short write at the end of the file: never half a line.
        machine.command(&format!(
            "read call; echo $call >> {}; echo $call",
            history.display()
        ));
        let running = machine.start();
        Self {
            machine,
            running,
            history,
        }
    }

    /// The calls that were carried out, in order.
    fn carried_out(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.history).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// Calls of `callers`, each with a name of its own, until told to stop.
fn calls(
    load: &Load,
    callers: usize,
    given_up: &Arc<AtomicUsize>,
) -> Vec<tokio::task::JoinHandle<Vec<(String, Told)>>> {
    (0..callers)
        .map(|caller| {
            let (pool, stop, done) = load.handles();
            let given_up = Arc::clone(given_up);
            load.spawn_on(async move {
                let mut history = Vec::new();
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("call-{caller}-{number}");
                    let request = Bytes::from(format!("{name}\n"));
                    let context = Context::deadline(ms(4_000));
                    let told = match pool.unary(&compute(false), context, request).await {
                        Ok(_) => Told::Done,
                        Err(Failure::Status(status)) if status.had_no_effect() => Told::NothingDone,
                        Err(_) => {
                            given_up.fetch_add(1, Ordering::Relaxed);
                            Told::Unknown
                        }
                    };
                    history.push((name, told));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                history
            })
        })
        .collect()
}

#[test]
fn given_kills_and_freezes_under_load_then_no_call_ran_twice_and_what_was_told_is_true() {
    let lot = Lot::start(2, 0);
    let mut writers: Vec<Writer> = (1..=3)
        .map(|number| Writer::start(&lot, &format!("writer-{number}")))
        .collect();
    for (director, _) in &lot.directors {
        director.knows(5, 3);
    }
    let load = lot.client();
    let given_up = Arc::default();
    let calls = calls(&load, 8, &given_up);
    load.goes_on(50);

    // A worker dies in the middle of its calls and comes back.
    writers[0].running.signal(Signal::KILL);
    load.goes_on(50);
    writers[0].running = writers[0].machine.start();
    // One is frozen longer than its callers wait, and goes on as if nothing had happened.
    writers[1].running.signal(Signal::STOP);
    let before = given_up.load(Ordering::Relaxed);
    eventually("a caller gave up on it", || {
        (given_up.load(Ordering::Relaxed) > before).then_some(())
    });
    writers[1].running.signal(Signal::CONT);
    load.goes_on(50);
    // So is a director, with calls in its hands.
    lot.directors[0].1.signal(Signal::STOP);
    load.goes_on(20);
    lot.directors[0].1.signal(Signal::CONT);
    // And one dies.
    lot.directors[1].1.signal(Signal::KILL);
    load.goes_on(50);

    let told: BTreeMap<String, Told> = load.collect(calls).into_iter().flatten().collect();
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for call in writers.iter().flat_map(Writer::carried_out) {
        *times.entry(call).or_default() += 1;
    }
    let wrong: Vec<_> = told
        .iter()
        .map(|(call, told)| (call, *told, times.get(call).copied().unwrap_or(0)))
        .filter(|(_, told, times)| match told {
            Told::Done => *times != 1,
            Told::NothingDone => *times != 0,
            Told::Unknown => *times > 1,
        })
        .collect();
    assert!(wrong.is_empty(), "of {} calls: {wrong:?}", told.len());
    let unknown = told.values().filter(|told| **told == Told::Unknown).count();
    // Otherwise nothing was hit, and nothing proved.
    assert!(
        unknown > 0,
        "no call was in the hands of a machine that went"
    );
}
