//! Files with a private key, which may be under a passphrase that another file holds.

use std::path::{Path, PathBuf};

use warren_identity::{
    DecryptKeyError, EncryptKeyError, NoPassphrase, Passphrase, decrypt_key_pem, encrypt_key_pem,
    is_encrypted_key,
};
use zeroize::Zeroizing;

use crate::files::{self, FileError, Overwrite};
use crate::random;

/// Why a key file could not be read or written. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The key's file or the passphrase's.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file that is to hold the passphrase.
    #[error("the passphrase file {} cannot be used: {source}", path.display())]
    Passphrase {
        /// The file.
        path: PathBuf,
        /// Why.
        source: NoPassphrase,
    },
    /// The key does not open.
    #[error("{what} {} cannot be opened with the passphrase of {}: {source}", path.display(), passphrase.display())]
    Decrypt {
        /// What the key is for.
        what: &'static str,
        /// The key's file.
        path: PathBuf,
        /// The passphrase's file.
        passphrase: PathBuf,
        /// Why.
        source: DecryptKeyError,
    },
    /// The key cannot be put under the passphrase.
    #[error(transparent)]
    Encrypt(#[from] EncryptKeyError),
}

/// Reads the PEM text of a key, opened where it is encrypted and a passphrase file is named. An encrypted key without
/// one comes back as it is: whoever parses it says what is missing.
///
/// # Errors
/// [`KeyFileError`]: also a key or a passphrase that others may read.
pub fn read(
    what: &'static str,
    path: &Path,
    hint: &str,
    passphrase_file: Option<&Path>,
) -> Result<Zeroizing<String>, KeyFileError> {
    let text = Zeroizing::new(files::read_secret(what, path, hint)?);
    let Some(passphrase_file) = passphrase_file.filter(|_| is_encrypted_key(&text)) else {
        return Ok(text);
    };
    decrypt_key_pem(&text, &passphrase(passphrase_file)?).map_err(|source| KeyFileError::Decrypt {
        what,
        path: path.to_owned(),
        passphrase: passphrase_file.to_owned(),
        source,
    })
}

/// Writes a key's PEM text whole or not at all, under the passphrase where a file with one is named.
///
/// # Errors
/// [`KeyFileError`].
pub fn write(
    path: &Path,
    pem: &str,
    mode: u32,
    overwrite: Overwrite,
    passphrase_file: Option<&Path>,
) -> Result<(), KeyFileError> {
    let sealed;
    let text = match passphrase_file {
        None => pem,
        Some(file) => {
            sealed = encrypt_key_pem(pem, &passphrase(file)?, random::bytes())?;
            &sealed
        }
    };
    Ok(files::write_whole(path, text.as_bytes(), mode, overwrite)?)
}

fn passphrase(path: &Path) -> Result<Passphrase, KeyFileError> {
    let hint = "write the passphrase into it, readable by its owner only";
    let text = Zeroizing::new(files::read_secret("the passphrase file", path, hint)?);
    Passphrase::from_file_text(&text).map_err(|source| KeyFileError::Passphrase {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use warren_identity::NodeKey;

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        /// A file with this text, readable by its owner.
        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(name);
            files::write_whole(&path, text.as_bytes(), 0o600, Overwrite::Refuse).unwrap();
            path
        }
    }

    #[test]
    fn an_encrypted_key_is_written_and_read_with_its_passphrase_file() {
        let folder = Folder::new();
        let passphrase = folder.file("passphrase", "correct horse\n");
        let path = folder.0.path().join("node.pem");
        let key = NodeKey::from_seed(random::bytes());
        write(
            &path,
            &key.to_pem(),
            0o600,
            Overwrite::Refuse,
            Some(&passphrase),
        )
        .unwrap();

        assert!(is_encrypted_key(&std::fs::read_to_string(&path).unwrap()));
        let read = read("the node key", &path, "", Some(&passphrase)).unwrap();
        assert_eq!(*read, *key.to_pem());
    }

    #[test]
    fn a_wrong_passphrase_is_told_with_both_files_and_without_itself() {
        let folder = Folder::new();
        let right = folder.file("right", "correct horse");
        let wrong = folder.file("wrong", "battery staple");
        let path = folder.0.path().join("node.pem");
        let key = NodeKey::from_seed(random::bytes());
        write(&path, &key.to_pem(), 0o600, Overwrite::Refuse, Some(&right)).unwrap();

        let told = read("the node key", &path, "", Some(&wrong))
            .unwrap_err()
            .to_string();

        for part in ["node.pem", "wrong", "passphrase"] {
            assert!(told.contains(part), "{told}");
        }
        assert!(!told.contains("battery"), "{told}");
    }

    #[test]
    fn an_empty_passphrase_file_makes_no_key() {
        let folder = Folder::new();
        let empty = folder.file("empty", "\n");
        let path = folder.0.path().join("node.pem");
        let pem = NodeKey::from_seed(random::bytes()).to_pem();

        let refused = write(&path, &pem, 0o600, Overwrite::Refuse, Some(&empty)).unwrap_err();

        assert!(
            matches!(refused, KeyFileError::Passphrase { .. }),
            "{refused}"
        );
        assert!(!path.exists());
    }
}
