//! CPU time and memory of processes, from the system's own accounts.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use crate::child::Report;

/// Below this, a machine of two processors counts as quiet.
const QUIET_LOAD: f64 = 0.5;

/// What a process used from start to end, together with the children it waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) status: ExitStatus,
    /// User and system.
    pub(crate) cpu_s: f64,
}

/// Waits for `child` and gives what it used.
pub(crate) fn wait(mut child: Child) -> io::Result<Usage> {
    drop(child.stdin.take());
    let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    let mut status = 0;
    // SAFETY: all zeros is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right type; the child is ours and not waited for yet.
    while unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(Usage {
        status: ExitStatus::from_raw(status),
        cpu_s: cpu_s(&usage),
    })
}

fn cpu_s(usage: &libc::rusage) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a process of a benchmark runs for minutes, not for centuries"
    )]
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// CPU seconds that this process has used so far.
fn own_cpu_s() -> f64 {
    // SAFETY: all zeros is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live value of the right type.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    cpu_s(&usage)
}

/// Measures one section of this process.
pub(crate) struct Section {
    begun: Instant,
    cpu_s: f64,
}

impl Section {
    pub(crate) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            cpu_s: own_cpu_s(),
        }
    }

    /// Time and CPU of the section, the peak memory of the process so far; what came out is filled in by the caller.
    pub(crate) fn end(&self) -> Report {
        Report {
            wall_s: self.begun.elapsed().as_secs_f64(),
            cpu_s: own_cpu_s() - self.cpu_s,
            peak_mib: memory_mib(std::process::id(), "VmHWM").unwrap_or(f64::NAN),
            ..Report::default()
        }
    }
}

/// `VmRSS` or `VmHWM` of a process.
pub(crate) fn memory_mib(pid: u32, field: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}

/// CPU seconds that a running process has used so far.
pub(crate) fn running_cpu_s(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything; then utime and stime are the 12th and 13th, in ticks of 10 ms.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}

/// Of the last minute.
pub(crate) fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(f64::NAN)
}

/// What runs this, and how busy it is.
pub(crate) fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("", |found| found.1);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{processors} processors ({}), Linux {}, load average {:.2}",
        model.trim(),
        kernel.trim(),
        load_average(),
    )
}

/// Gives up after `at_most_s`.
pub(crate) fn wait_until_quiet(at_most_s: u64) {
    let deadline = Instant::now() + Duration::from_secs(at_most_s);
    while load_average() >= QUIET_LOAD && Instant::now() < deadline {
        std::thread::sleep(Duration::from_secs(2));
    }
}

/// Puts the machine into the same state before each side: what earlier ones left is written out, and `memory_bytes` are
/// touched and given back. The host of a virtual machine may back memory only when it is first used, which is slower than
/// any disk and would count against whoever writes files.
pub(crate) fn settle(memory_bytes: usize) -> io::Result<()> {
    // SAFETY: it has no arguments and cannot fail.
    unsafe { libc::sync() };
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
    );
    // SAFETY: a fresh anonymous mapping overlaps nothing.
    let mapped =
        unsafe { libc::mmap(std::ptr::null_mut(), memory_bytes, protection, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: exactly what was mapped above, and nothing refers to it.
    match unsafe { libc::munmap(mapped, memory_bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
