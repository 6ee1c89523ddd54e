//! A log file that is renamed away before it grows too large.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Rights of a log file: its owner writes, its group (an operator's, say) reads.
const MODE: u32 = 0o640;

/// Appends to a file; each `write` is one whole line and is never split over two files.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: u64,
    max_files: usize,
}

impl RotatingFile {
    /// Opens `path` for appending, with its folder.
    pub(super) fn open(path: &Path, max_size: u64, max_files: usize) -> io::Result<Self> {
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            fs::create_dir_all(folder)?;
        }
        let file = append(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            max_size,
            max_files,
        })
    }

    /// `<path>.<n>`
    fn numbered(&self, n: usize) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{n}"));
        PathBuf::from(name)
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.max_files == 0 {
            self.file.set_len(0)?;
            self.size = 0;
            return Ok(());
        }
        for n in (1..self.max_files).rev() {
            match fs::rename(self.numbered(n), self.numbered(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.numbered(1))?;
        self.file = append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(MODE)
        .open(path)
}

impl Write for RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let length = line.len() as u64;
        if self.size > 0 && self.size.saturating_add(length) > self.max_size {
            // A log that cannot be rotated (a folder that became read-only) grows on: lines are worth more than the limit.
            let _ = self.rotate();
        }
        self.file.write_all(line)?;
        self.size += length;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn given_lines_beyond_the_size_when_written_then_the_newest_files_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/node.log");
        let mut log = RotatingFile::open(&path, 12, 2).unwrap();

        for n in 0..9 {
            log.write_all(format!("line{n}\n").as_bytes()).unwrap();
        }

        assert_eq!(read(&path), "line8\n");
        assert_eq!(read(&dir.path().join("logs/node.log.1")), "line6\nline7\n");
        assert_eq!(read(&dir.path().join("logs/node.log.2")), "line4\nline5\n");
        assert_eq!(fs::read_dir(dir.path().join("logs")).unwrap().count(), 3);
    }

    #[test]
    fn given_an_existing_file_when_opened_then_its_size_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.log");
        fs::write(&path, "0123456789").unwrap();

        let mut log = RotatingFile::open(&path, 12, 1).unwrap();
        log.write_all(b"line\n").unwrap();

        assert_eq!(read(&path), "line\n");
        assert_eq!(read(&dir.path().join("node.log.1")), "0123456789");
    }

    #[test]
    fn given_a_line_longer_than_the_limit_when_written_then_it_stays_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.log");
        let mut log = RotatingFile::open(&path, 4, 1).unwrap();

        log.write_all(b"a long line\n").unwrap();

        assert_eq!(read(&path), "a long line\n");
    }

    #[test]
    fn given_no_files_to_keep_when_full_then_the_file_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.log");
        let mut log = RotatingFile::open(&path, 6, 0).unwrap();

        log.write_all(b"line1\n").unwrap();
        log.write_all(b"line2\n").unwrap();

        assert_eq!(read(&path), "line2\n");
    }

    #[test]
    fn given_a_new_file_when_opened_then_others_cannot_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.log");

        RotatingFile::open(&path, 6, 0).unwrap();

        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o007, 0, "{mode:o}");
    }
}
