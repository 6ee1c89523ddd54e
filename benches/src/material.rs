//! What is put and moved: files made from a seed, the same on every machine.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Write};
use std::path::Path;

/// Seed of all material; part of what a figure means.
pub(crate) const SEED: &str = "warren bench material v1";
/// Size of each file of [`small_files`].
pub(crate) const SMALL_FILE_BYTES: usize = 4096;

const WRITE_BYTES: usize = 1024 * 1024;
/// Pieces of [`corpus`] alternate between its three kinds at this length.
const CORPUS_PIECE_BYTES: usize = 2 * 1024 * 1024;
/// Words of the corpus' language.
const WORDS: usize = 20_000;

/// Incompressible bytes without repetition. Gives their BLAKE3 in hex.
pub(crate) fn random_file(path: &Path, name: &str, bytes: u64) -> io::Result<String> {
    let mut source = noise(name);
    write_hashed(path, bytes, |buffer| source.fill(buffer))
}

/// The named corpus `warren-mixed-1`: of every ten pieces of 2 MiB five are text of a word model (20,000 words, the
/// n-th common one 1/n as often, sentences and paragraphs), three are rows of structured data (counters, times,
/// identifiers out of few, measurements), two are incompressible. Gives its BLAKE3 in hex.
pub(crate) fn corpus(path: &Path, bytes: u64) -> io::Result<String> {
    let mut dice = Dice::new("corpus");
    let words = Words::new(&mut dice);
    let mut incompressible = noise("incompressible part of the corpus");
    let mut piece = Vec::with_capacity(CORPUS_PIECE_BYTES + 1024);
    let (mut used, mut number, mut row) = (0, 0, 0);
    write_hashed(path, bytes, |buffer| {
        let mut filled = 0;
        while filled < buffer.len() {
            if used == piece.len() {
                piece.clear();
                used = 0;
                match number % 10 {
                    0 | 2 | 4 | 6 | 8 => words.write_text(&mut dice, &mut piece),
                    1 | 5 | 9 => write_rows(&mut dice, &mut row, &mut piece),
                    _ => {
                        piece.resize(CORPUS_PIECE_BYTES, 0);
                        incompressible.fill(&mut piece);
                    }
                }
                number += 1;
            }
            let count = (buffer.len() - filled).min(piece.len() - used);
            buffer[filled..filled + count].copy_from_slice(&piece[used..used + count]);
            filled += count;
            used += count;
        }
    })
}

/// `count` incompressible files of 4 KiB in folders of 100. Gives [`folder_digest`].
pub(crate) fn small_files(folder: &Path, count: usize) -> io::Result<String> {
    let mut source = noise("small files");
    let mut content = [0; SMALL_FILE_BYTES];
    for number in 0..count {
        let below = folder.join(format!("{:03}", number / 100));
        fs::create_dir_all(&below)?;
        source.fill(&mut content);
        fs::write(below.join(format!("{number:06}.bin")), content)?;
    }
    folder_digest(folder)
}

/// The BLAKE3 in hex of a file.
pub(crate) fn file_digest(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; WRITE_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            count => hasher.update(&buffer[..count]),
        };
    }
}

/// One digest of all files below a folder, their relative names and their contents.
pub(crate) fn folder_digest(folder: &Path) -> io::Result<String> {
    let mut digest = FolderDigest::default();
    let mut open = vec![folder.to_owned()];
    while let Some(below) = open.pop() {
        for entry in fs::read_dir(below)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).map_err(io::Error::other)?;
                digest.add(&name.to_string_lossy(), blake3::hash(&fs::read(&path)?));
            }
        }
    }
    Ok(digest.finish())
}

/// Puts names and contents of files together, in whatever order they come.
#[derive(Default)]
pub(crate) struct FolderDigest(Vec<(String, blake3::Hash)>);

impl FolderDigest {
    pub(crate) fn add(&mut self, name: &str, content: blake3::Hash) {
        self.0.push((name.to_owned(), content));
    }

    pub(crate) fn finish(mut self) -> String {
        self.0.sort_by(|one, other| one.0.cmp(&other.0));
        let mut hasher = blake3::Hasher::new();
        for (name, content) in self.0 {
            hasher
                .update(name.as_bytes())
                .update(&[0])
                .update(content.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

fn noise(name: &str) -> blake3::OutputReader {
    blake3::Hasher::new_derive_key(SEED)
        .update(name.as_bytes())
        .finalize_xof()
}

fn write_hashed(path: &Path, bytes: u64, mut fill: impl FnMut(&mut [u8])) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut file = BufWriter::new(File::create(path)?);
    let mut buffer = vec![0; WRITE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(WRITE_BYTES);
        fill(&mut buffer[..count]);
        hasher.update(&buffer[..count]);
        file.write_all(&buffer[..count])?;
        left -= count as u64;
    }
    file.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Pseudo-random numbers of a name.
struct Dice {
    source: blake3::OutputReader,
    buffer: Vec<u8>,
    used: usize,
}

impl Dice {
    fn new(name: &str) -> Self {
        let buffer = vec![0; 64 * 1024];
        Self {
            source: noise(name),
            used: buffer.len(),
            buffer,
        }
    }

    fn next(&mut self) -> u32 {
        if self.used == self.buffer.len() {
            self.source.fill(&mut self.buffer);
            self.used = 0;
        }
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.buffer[self.used..self.used + 4]);
        self.used += 4;
        u32::from_le_bytes(bytes)
    }

    fn below(&mut self, end: u32) -> u32 {
        self.next() % end
    }
}

/// The corpus' language.
struct Words {
    words: Vec<String>,
    /// Of each word, the odds up to and with it, of 2^32.
    odds: Vec<u32>,
}

impl Words {
    fn new(dice: &mut Dice) -> Self {
        const CONSONANTS: &[u8] = b"bcdfghjklmnprstvwz";
        const VOWELS: &[u8] = b"aeiou";
        let pick = |letters: &[u8], dice: &mut Dice| {
            let count = u32::try_from(letters.len()).unwrap_or(u32::MAX);
            char::from(letters[dice.below(count) as usize])
        };
        let words = (0..WORDS)
            .map(|_| {
                let syllables = 1 + dice.below(4);
                (0..syllables)
                    .flat_map(|_| [pick(CONSONANTS, dice), pick(VOWELS, dice)])
                    .collect()
            })
            .collect();
        let harmonic: f64 = (1..=WORDS).map(|rank| 1.0 / rank as f64).sum();
        let mut sum = 0.0;
        let odds = (1..=WORDS)
            .map(|rank| {
                sum += 1.0 / (rank as f64 * harmonic);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "within 0 and 2^32 - 1"
                )]
                let odds = (sum * f64::from(u32::MAX)) as u32;
                odds
            })
            .collect();
        Self { words, odds }
    }

    fn write_text(&self, dice: &mut Dice, out: &mut Vec<u8>) {
        while out.len() < CORPUS_PIECE_BYTES {
            for sentence in 0..3 + dice.below(5) {
                if sentence > 0 {
                    out.push(b' ');
                }
                let length = 4 + dice.below(18);
                for position in 0..length {
                    let roll = dice.next();
                    let rank = self
                        .odds
                        .partition_point(|odds| *odds < roll)
                        .min(WORDS - 1);
                    let begin = out.len();
                    out.extend_from_slice(self.words[rank].as_bytes());
                    if position == 0 {
                        out[begin].make_ascii_uppercase();
                    }
                    out.push(if position + 1 == length { b'.' } else { b' ' });
                }
            }
            out.extend_from_slice(b"\n\n");
        }
    }
}

/// Rows of 32 bytes as a program would write them.
fn write_rows(dice: &mut Dice, row: &mut u64, out: &mut Vec<u8>) {
    let device = dice.below(64);
    while out.len() < CORPUS_PIECE_BYTES {
        *row += 1;
        let time = 1_700_000_000_000 + *row * 40 + u64::from(dice.below(8));
        let value = 20.0 + f64::from(dice.below(2000)) / 100.0;
        out.extend_from_slice(&row.to_le_bytes());
        out.extend_from_slice(&time.to_le_bytes());
        out.extend_from_slice(&(device + dice.below(4)).to_le_bytes());
        out.extend_from_slice(&dice.below(3).to_le_bytes());
        out.extend_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_the_seed_when_material_is_made_twice_then_it_is_the_same_and_of_the_size_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        assert_eq!(
            corpus(&one, 5_000_001).unwrap(),
            corpus(&other, 5_000_001).unwrap()
        );
        assert_eq!(one.metadata().unwrap().len(), 5_000_001);
        assert_eq!(
            random_file(&one, "a", 70_000).unwrap(),
            file_digest(&one).unwrap()
        );
    }

    #[test]
    fn given_a_changed_byte_when_a_folder_is_digested_then_the_digest_differs() {
        let folder = tempfile::tempdir().unwrap();
        let before = small_files(folder.path(), 101).unwrap();
        fs::write(folder.path().join("001/000100.bin"), b"other").unwrap();
        assert_ne!(folder_digest(folder.path()).unwrap(), before);
    }
}
