//! The load: callers that call again once they are answered, or calls begun at a fixed rate whatever becomes of them.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;

use super::{CallLoad, Echo, MESSAGE_BYTES};
use crate::child::{self, Ready};
use crate::measure::Section;

/// How often calls of a rate are begun; those that fall due between are begun together and count from their own time.
const PACE: Duration = Duration::from_micros(100);
/// Calls in flight at which a rate is given up: the other side does not keep up.
const MAX_BEHIND: usize = 50_000;
/// How long the last calls of a rate may take.
const LAST_CALLS: Duration = Duration::from_secs(20);
/// Callers that warm up for a rate.
const WARMING: usize = 16;

/// What a client says at its end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CallReport {
    /// Calls answered, every answer compared.
    pub(crate) calls: u64,
    pub(crate) wall_s: f64,
    /// Of the client.
    pub(crate) cpu_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Times of calls, in tenths of a microsecond.
type Latencies = Vec<u32>;

/// Warms up, says so, and measures once told.
pub(super) async fn run<E: Echo>(channels: &[E], load: &CallLoad) -> anyhow::Result<()> {
    let callers = if load.rate.is_some() {
        WARMING.max(channels.len())
    } else {
        load.concurrency
    };
    closed(channels, callers, Duration::from_millis(load.warm_ms)).await?;
    child::say(&Ready {
        address: String::new(),
    })?;
    child::until_told().await?;
    let measured = Duration::from_millis(load.measure_ms);
    let section = Section::begin();
    let mut latencies = match load.rate {
        None => closed(channels, load.concurrency, measured).await?,
        Some(rate) => open(channels, rate, measured).await?,
    };
    let report = section.end();
    latencies.sort_unstable();
    child::say(&CallReport {
        calls: latencies.len() as u64,
        wall_s: report.wall_s,
        cpu_s: report.cpu_s,
        p50_us: percentile_us(&latencies, 50)?,
        p99_us: percentile_us(&latencies, 99)?,
    })
}

/// `callers` that each have one call in flight.
async fn closed<E: Echo>(
    channels: &[E],
    callers: usize,
    during: Duration,
) -> anyhow::Result<Latencies> {
    let end = Instant::now() + during;
    let mut running = JoinSet::new();
    for caller in 0..callers {
        let mut echo = channels[caller % channels.len()].clone();
        running.spawn(async move {
            let mut latencies = Latencies::new();
            let mut bodies = Bodies::new(caller as u64);
            let mut begun = Instant::now();
            while begun < end {
                call(&mut echo, bodies.next()).await?;
                let answered = Instant::now();
                latencies.push(tenths(answered - begun));
                begun = answered;
            }
            anyhow::Ok(latencies)
        });
    }
    let mut all = Latencies::new();
    while let Some(finished) = running.join_next().await {
        all.extend(finished??);
    }
    Ok(all)
}

/// Calls begun `rate` times a second. A call's time counts from when it was due, not from when it could be begun.
async fn open<E: Echo>(channels: &[E], rate: f64, during: Duration) -> anyhow::Result<Latencies> {
    let done = Arc::new(Done::default());
    let pacer = pace(channels.to_vec(), rate, during, Arc::clone(&done));
    // Spawned: on a runtime of several threads this task is not on one of them.
    let begun = tokio::spawn(pacer).await??;
    let deadline = Instant::now() + LAST_CALLS;
    while done.count.load(Ordering::Acquire) < begun {
        ensure!(Instant::now() < deadline, "calls were not answered");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut taken = done.taken.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = taken.failed.take() {
        return Err(error);
    }
    Ok(std::mem::take(&mut taken.latencies))
}

/// What became of the calls of a rate.
#[derive(Default)]
struct Done {
    count: AtomicUsize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    latencies: Latencies,
    failed: Option<anyhow::Error>,
}

/// Begins the calls; gives how many there were.
async fn pace<E: Echo>(
    channels: Vec<E>,
    rate: f64,
    during: Duration,
    done: Arc<Done>,
) -> anyhow::Result<usize> {
    let mut ticks = Ticks::every(PACE)?;
    let mut bodies = Bodies::new(0);
    let mut count = 0;
    let origin = Instant::now();
    loop {
        #[expect(clippy::cast_precision_loss, reason = "some millions of calls")]
        let due = origin + Duration::from_secs_f64(count as f64 / rate);
        if due - origin >= during {
            return Ok(count);
        }
        if due > Instant::now() {
            ticks.next().await?;
            continue;
        }
        let behind = count - done.count.load(Ordering::Relaxed);
        ensure!(
            behind < MAX_BEHIND,
            "it does not keep up with {rate:.0} calls/s"
        );
        let mut echo = channels[count % channels.len()].clone();
        let (body, done) = (bodies.next(), Arc::clone(&done));
        tokio::spawn(async move {
            let outcome = call(&mut echo, body).await;
            let latency = tenths(due.elapsed());
            {
                let mut taken = done.taken.lock().unwrap_or_else(PoisonError::into_inner);
                match outcome {
                    Ok(()) => taken.latencies.push(latency),
                    Err(error) => taken.failed = Some(error),
                }
            }
            done.count.fetch_add(1, Ordering::Release);
        });
        count += 1;
    }
}

async fn call(echo: &mut impl Echo, body: Bytes) -> anyhow::Result<()> {
    let reply = echo.echo(body.clone()).await?;
    ensure!(reply == body, "another message came back than was sent");
    Ok(())
}

/// Bodies of which no two are alike: the outputs of SplitMix64.
struct Bodies(u64);

impl Bodies {
    fn new(caller: u64) -> Self {
        Self(caller << 40)
    }

    fn next(&mut self) -> Bytes {
        let mut body = [0; MESSAGE_BYTES];
        for word in body.as_chunks_mut().0 {
            self.0 += 1;
            let mut mixed = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *word = (mixed ^ (mixed >> 31)).to_le_bytes();
        }
        Bytes::copy_from_slice(&body)
    }
}

/// A timer of the system's: the runtime's own counts in milliseconds.
struct Ticks(AsyncFd<OwnedFd>);

impl Ticks {
    fn every(period: Duration) -> std::io::Result<Self> {
        // SAFETY: no pointers.
        let raw = unsafe {
            libc::timerfd_create(
                libc::CLOCK_MONOTONIC,
                libc::TFD_NONBLOCK | libc::TFD_CLOEXEC,
            )
        };
        if raw < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: it was just made and is nobody else's.
        let timer = unsafe { OwnedFd::from_raw_fd(raw) };
        let period = libc::timespec {
            tv_sec: 0,
            tv_nsec: period.subsec_nanos().into(),
        };
        let setting = libc::itimerspec {
            it_interval: period,
            it_value: period,
        };
        // SAFETY: a live setting, and no old one is asked for.
        let set =
            unsafe { libc::timerfd_settime(raw, 0, &raw const setting, std::ptr::null_mut()) };
        if set < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: what is owned stays open and the same until it is dropped, after its registration.
        let ticks = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
        Ok(Self(ticks?))
    }

    /// Returns at the next tick, at once if one has passed since the last.
    async fn next(&mut self) -> std::io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|timer| {
                let mut ticks = [0_u8; 8];
                // SAFETY: the buffer is live and as long as is said.
                let count = unsafe {
                    libc::read(timer.as_raw_fd(), ticks.as_mut_ptr().cast(), ticks.len())
                };
                if count < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
            if let Ok(read) = read {
                return read;
            }
        }
    }
}

fn tenths(latency: Duration) -> u32 {
    u32::try_from(latency.as_nanos() / 100).unwrap_or(u32::MAX)
}

/// The value below which `percent` of the sorted ones lie.
fn percentile_us(sorted: &[u32], percent: usize) -> anyhow::Result<f64> {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    let value = sorted.get(index).context("no call was answered")?;
    Ok(f64::from(*value) / 10.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::collections::HashSet;

    use super::*;

    /// Answers at once, with something else from the call `wrong_from` on.
    #[derive(Clone)]
    struct Parrot {
        calls: Arc<AtomicUsize>,
        wrong_from: usize,
    }

    impl Parrot {
        fn new(wrong_from: usize) -> Self {
            Self {
                calls: Arc::default(),
                wrong_from,
            }
        }
    }

    impl Echo for Parrot {
        async fn echo(&mut self, body: Bytes) -> anyhow::Result<Bytes> {
            tokio::task::yield_now().await;
            let wrong = self.calls.fetch_add(1, Ordering::Relaxed) >= self.wrong_from;
            Ok(if wrong { Bytes::new() } else { body })
        }
    }

    #[test]
    fn given_many_calls_of_many_callers_then_no_two_bodies_are_alike() {
        let bodies: HashSet<Bytes> = (0..100)
            .flat_map(|caller| {
                let mut bodies = Bodies::new(caller);
                std::iter::repeat_with(move || bodies.next()).take(100)
            })
            .collect();
        assert_eq!(bodies.len(), 10_000);
    }

    #[test]
    fn given_latencies_then_the_percentiles_are_those_of_the_ranks() {
        let sorted: Latencies = (1..=1000).collect();
        assert_eq!(percentile_us(&sorted, 50).unwrap(), 50.0);
        assert_eq!(percentile_us(&sorted, 99).unwrap(), 99.0);
        assert_eq!(percentile_us(&[7], 99).unwrap(), 0.7);
        assert!(percentile_us(&[], 99).is_err());
    }

    #[tokio::test]
    async fn given_a_wrong_answer_then_the_load_fails_whatever_its_kind() {
        let during = Duration::from_millis(50);
        assert!(closed(&[Parrot::new(10)], 4, during).await.is_err());
        assert!(open(&[Parrot::new(10)], 10_000.0, during).await.is_err());
    }

    #[tokio::test]
    async fn given_a_rate_then_as_many_calls_are_made_as_it_says() {
        let parrot = Parrot::new(usize::MAX);
        let latencies = open(&[parrot], 10_000.0, Duration::from_millis(100)).await;
        assert_eq!(latencies.unwrap().len(), 1000);
    }
}
