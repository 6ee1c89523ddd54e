//! Recording what passes on a link, and looking for bytes in it afterwards.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::LabError;
use crate::core::pcap::{FILE_HEADER_BYTES, FileHeader, MarkerSearch, RECORD_HEADER_BYTES};
use crate::namespace::Namespace;
use crate::packet_socket::PacketSocket;
use crate::process::Process;

/// How long `tcpdump` may take to start, or to write its last frames: a fraction of a second, but for a busy machine.
const WITHIN: Duration = Duration::from_secs(10);

/// How often `tcpdump` is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The last frame of a capture, sent by the capture itself, so that what came before it is known to be in the file. To the
/// address of link-layer discovery, which no bridge forwards, of a type for local experiments (IEEE 802).
const LAST_FRAME: &[u8] =
    b"\x01\x80\xc2\x00\x00\x0e\x02\x00\x00\x00\x00\x01\x88\xb5this is the end of the capture ";

/// A capture that runs; dropping it ends it without a recording.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
    namespace: Arc<Namespace>,
    interface: String,
}

impl Capture {
    /// Returns once every later frame is captured.
    pub(crate) fn start(
        namespace: &Arc<Namespace>,
        interface: &str,
        outputs: &Path,
    ) -> Result<Self, LabError> {
        static CAPTURES: AtomicU32 = AtomicU32::new(0);
        let file = outputs.join(format!(
            "capture-{}.pcap",
            CAPTURES.fetch_add(1, Ordering::Relaxed)
        ));
        let mut command = Command::new("tcpdump");
        command
            .args(["-i", interface, "-n", "-s", "0", "-w"])
            .arg(&file)
            // Each frame is written when it arrives, by root (the folder is ours alone), with 16 MiB to fall behind.
            .args(["-U", "--immediate-mode", "-Z", "root", "-B", "16384"]);
        let mut tcpdump = Process::spawn("capture", namespace.entry(), command, outputs)?;
        let deadline = Instant::now() + WITHIN;
        while !tcpdump.stderr().contains("listening on") {
            if !tcpdump.is_running() || Instant::now() >= deadline {
                tcpdump.wait_success(Duration::ZERO)?;
                return Err(LabError::System {
                    what: format!("capture on {interface}"),
                    source: io::Error::other("tcpdump ended before it began"),
                });
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(Self {
            tcpdump,
            file,
            namespace: Arc::clone(namespace),
            interface: interface.to_owned(),
        })
    }

    /// Ends the capture, with everything in it that passed before this call.
    ///
    /// # Errors
    /// When the interface is down or gone, or `tcpdump` failed or does not end.
    pub fn stop(mut self) -> Result<Recording, LabError> {
        self.wait_for_all()?;
        self.tcpdump.signal(Signal::TERM)?;
        self.tcpdump.wait_success(WITHIN)?;
        Ok(Recording { file: self.file })
    }

    /// On a signal `tcpdump` ends without writing what it has not looked at yet, so its end has to pass through it first.
    fn wait_for_all(&mut self) -> Result<(), LabError> {
        let system = || LabError::system(format!("end the capture on {}", self.interface));
        let mut file = File::open(&self.file).map_err(system())?;
        let so_far = file.seek(SeekFrom::End(0)).map_err(system())?;
        self.namespace
            .enter(|| {
                PacketSocket::open(&self.interface)
                    .map(|socket| socket.send(&[LAST_FRAME.to_vec()]))
            })?
            .map_err(system())?;
        let deadline = Instant::now() + WITHIN;
        loop {
            let mut rest = Vec::new();
            file.seek(SeekFrom::Start(so_far)).map_err(system())?;
            file.read_to_end(&mut rest).map_err(system())?;
            if rest
                .windows(LAST_FRAME.len())
                .any(|bytes| bytes == LAST_FRAME)
            {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(system()(io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// What was captured; the file goes with the lab.
#[derive(Clone, Debug)]
pub struct Recording {
    file: PathBuf,
}

impl Recording {
    /// The pcap file, to copy away or look at by hand.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// How many frames were captured.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn frames(&self) -> Result<u64, LabError> {
        let mut count = 0;
        self.each_frame(|_| {
            count += 1;
            true
        })?;
        Ok(count)
    }

    /// Whether `marker` passed in clear: within a frame, or across the segments of a TCP flow that follow each other.
    /// A test that expects `false` should also expect [`Recording::frames`], lest it searched nothing.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn contains(&self, marker: &[u8]) -> Result<bool, LabError> {
        let mut search = MarkerSearch::new(marker);
        let mut found = false;
        self.each_frame(|frame| {
            found = search.handle_frame(frame);
            !found
        })?;
        Ok(found)
    }

    /// Gives each frame to `look` until it returns `false`, but for those that end captures.
    fn each_frame(&self, mut look: impl FnMut(&[u8]) -> bool) -> Result<(), LabError> {
        let system = |source| LabError::System {
            what: format!("read {}", self.file.display()),
            source,
        };
        let format = |source| LabError::Capture {
            path: self.file.clone(),
            source,
        };
        let mut file = BufReader::new(File::open(&self.file).map_err(system)?);
        let mut header = [0; FILE_HEADER_BYTES];
        file.read_exact(&mut header).map_err(system)?;
        let header = FileHeader::parse(&header).map_err(format)?;
        let mut record = [0; RECORD_HEADER_BYTES];
        let mut frame = Vec::new();
        while read_whole(&mut file, &mut record).map_err(system)? {
            frame.resize(header.frame_bytes(&record).map_err(format)?, 0);
            let whole = read_whole(&mut file, &mut frame).map_err(system)?;
            if !whole || !(frame.starts_with(LAST_FRAME) || look(&frame)) {
                break;
            }
        }
        Ok(())
    }
}

/// Fills `buffer`; `false` when the file ends before that.
fn read_whole(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
