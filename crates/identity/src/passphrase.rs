//! Private keys under a passphrase: PKCS#8 `EncryptedPrivateKeyInfo` (RFC 5958 §3) with PBES2 (RFC 8018 §6.2).
//!
//! What is written here is scrypt (RFC 7914) and AES-256-CBC, with the work that `openssl pkcs8 -topk8 -scrypt` asks for;
//! what is read is that, and PBKDF2 as `openssl pkcs8 -topk8 -v2 aes-256-cbc` writes it.

use std::fmt;

use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::der::{Decode as _, Encode as _};
use pkcs8::pkcs5::pbes2::{Kdf, Parameters};
use pkcs8::pkcs5::{EncryptionScheme, scrypt};
use x509_parser::asn1_rs::{FromDer as _, Sequence};
use zeroize::Zeroizing;

use crate::key::private_key_pem;

const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
/// Binary logarithm of scrypt's cost; with [`SCRYPT_BLOCK`] 16 MiB, and more than 32 MiB `openssl` refuses to spend.
const SCRYPT_LOG_COST: u8 = 14;
const SCRYPT_BLOCK: u32 = 8;
const SCRYPT_PARALLEL: u32 = 1;
/// The most memory that reading a key may take.
const MAX_SCRYPT_BYTES: u64 = 256 << 20;
/// The most passes over that memory.
const MAX_SCRYPT_PARALLEL: u16 = 16;
/// A few seconds of work.
const MAX_PBKDF2_ITERATIONS: u32 = 10_000_000;

/// What opens a private key. Hidden in `Debug`, wiped when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(hidden)")
    }
}

/// A file that should hold a passphrase begins with an empty line, or is empty.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("its first line is empty, and so is no passphrase")]
pub struct NoPassphrase;

impl Passphrase {
    /// The first line of a file, as `openssl -passin file:` reads it.
    ///
    /// # Errors
    /// [`NoPassphrase`].
    pub fn from_file_text(text: &str) -> Result<Self, NoPassphrase> {
        match text.lines().next() {
            None | Some("") => Err(NoPassphrase),
            Some(line) => Ok(Self(Zeroizing::new(line.to_owned()))),
        }
    }
}

/// Why an encrypted key was not opened. The message holds nothing of key or passphrase.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecryptKeyError {
    /// Another passphrase was used, or the file was changed since; which of the two cannot be told.
    #[error("the passphrase is not the one it was encrypted with, or the file is damaged")]
    WrongPassphrase,
    /// Its PEM or DER stops early.
    #[error("it is damaged; restore it from a backup")]
    Damaged,
    /// The encryption of old `openssl` versions, or another one than PBES2 with AES.
    #[error(
        "it is encrypted in a way that is not read here; write it anew with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in FILE -out NEW`"
    )]
    Unsupported,
    /// Somebody asks for more memory or time than a key is worth.
    #[error(
        "its encryption takes more work than is done for a key (10,000,000 rounds of PBKDF2, or 256 MiB for scrypt); write it anew with `openssl pkcs8 -topk8`"
    )]
    TooMuchWork,
}

/// The key could not be encrypted: it is no PKCS#8 PEM, or the library refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the key could not be encrypted: {0}")]
pub struct EncryptKeyError(&'static str);

/// Turns PEM with an encrypted key into PEM with the key; any other text comes back as it is.
///
/// # Errors
/// [`DecryptKeyError`].
pub fn decrypt_key_pem(
    text: &str,
    passphrase: &Passphrase,
) -> Result<Zeroizing<String>, DecryptKeyError> {
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(DecryptKeyError::Unsupported);
    }
    if !is_encrypted_key(text) {
        return Ok(Zeroizing::new(text.to_owned()));
    }
    let blocks = pem::parse_many(text).map_err(|_| DecryptKeyError::Damaged)?;
    let block = blocks
        .iter()
        .find(|block| block.tag() == ENCRYPTED)
        .ok_or(DecryptKeyError::Damaged)?;
    Ok(private_key_pem(&decrypt(block.contents(), passphrase)?))
}

/// Whether the text is PEM with an encrypted PKCS#8 key.
#[must_use]
pub fn is_encrypted_key(text: &str) -> bool {
    text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----")
}

fn decrypt(der: &[u8], passphrase: &Passphrase) -> Result<Zeroizing<Vec<u8>>, DecryptKeyError> {
    let (_, outer) = Sequence::from_der(der).map_err(|_| DecryptKeyError::Damaged)?;
    if outer.content.is_empty() {
        return Err(DecryptKeyError::Damaged);
    }
    let info =
        EncryptedPrivateKeyInfoRef::from_der(der).map_err(|_| DecryptKeyError::Unsupported)?;
    let EncryptionScheme::Pbes2(parameters) = &info.encryption_algorithm else {
        return Err(DecryptKeyError::Unsupported);
    };
    refuse_too_much_work(&parameters.kdf)?;
    let mut buffer = Zeroizing::new(info.encrypted_data.as_bytes().to_vec());
    let length = match parameters.decrypt_in_place(passphrase.0.as_bytes(), &mut buffer) {
        Ok(plain) => plain.len(),
        Err(pkcs8::pkcs5::Error::UnsupportedAlgorithm { .. }) => {
            return Err(DecryptKeyError::Unsupported);
        }
        Err(_) => return Err(DecryptKeyError::WrongPassphrase),
    };
    buffer.truncate(length);
    // One wrong passphrase in 256 leaves padding that looks right; hardly any leaves DER.
    match Sequence::from_der(&buffer) {
        Ok(([], _)) => Ok(buffer),
        _ => Err(DecryptKeyError::WrongPassphrase),
    }
}

fn refuse_too_much_work(kdf: &Kdf) -> Result<(), DecryptKeyError> {
    let modest = match kdf {
        Kdf::Pbkdf2(work) => work.iteration_count <= MAX_PBKDF2_ITERATIONS,
        Kdf::Scrypt(work) => {
            let bytes = work
                .cost_parameter
                .saturating_mul(128)
                .saturating_mul(u64::from(work.block_size));
            bytes <= MAX_SCRYPT_BYTES && work.parallelization <= MAX_SCRYPT_PARALLEL
        }
        _ => return Err(DecryptKeyError::Unsupported),
    };
    if modest {
        Ok(())
    } else {
        Err(DecryptKeyError::TooMuchWork)
    }
}

/// Encrypts the key of a PKCS#8 PEM (`PRIVATE KEY`). `random` is fresh for each key: 16 bytes of salt, 16 of
/// initialisation vector.
///
/// # Errors
/// [`EncryptKeyError`].
pub fn encrypt_key_pem(
    text: &str,
    passphrase: &Passphrase,
    random: [u8; 32],
) -> Result<Zeroizing<String>, EncryptKeyError> {
    let refused = |_| EncryptKeyError("the library refused");
    let no_key = EncryptKeyError("expected a PEM block `PRIVATE KEY`");
    let block = pem::parse(text).map_err(|_| EncryptKeyError("it is no PEM"))?;
    let tagged = block.tag() == "PRIVATE KEY";
    let plain = Zeroizing::new(block.into_contents());
    if !tagged {
        return Err(no_key);
    }
    let (salt, iv) = random.split_at(16);
    let iv: [u8; 16] = iv
        .try_into()
        .map_err(|_| EncryptKeyError("its randomness is too short"))?;
    let work = scrypt::Params::new(SCRYPT_LOG_COST, SCRYPT_BLOCK, SCRYPT_PARALLEL)
        .map_err(|_| EncryptKeyError("the library refused"))?;
    let parameters = Parameters::generate_scrypt_aes256cbc(work, salt, iv).map_err(refused)?;
    let sealed = parameters
        .encrypt(passphrase.0.as_bytes(), &plain)
        .map_err(refused)?;
    let info = EncryptedPrivateKeyInfoRef {
        encryption_algorithm: parameters.into(),
        encrypted_data: OctetStringRef::new(&sealed)
            .map_err(|_| EncryptKeyError("the library refused"))?,
    };
    let der = info
        .to_der()
        .map_err(|_| EncryptKeyError("the library refused"))?;
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    Ok(Zeroizing::new(pem::encode_config(
        &pem::Pem::new(ENCRYPTED, der),
        config,
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::key::{KeyError, NodeKey};

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::from_file_text(text).unwrap()
    }

    #[test]
    fn given_a_key_when_encrypted_then_its_passphrase_alone_opens_it() {
        let key = NodeKey::from_seed([3; 32]);
        let sealed =
            encrypt_key_pem(&key.to_pem(), &passphrase("correct horse\n"), [7; 32]).unwrap();

        assert_eq!(NodeKey::from_pem(&sealed).unwrap_err(), KeyError::Encrypted);
        let opened = decrypt_key_pem(&sealed, &passphrase("correct horse")).unwrap();
        assert_eq!(*opened, *key.to_pem());
        let refused = decrypt_key_pem(&sealed, &passphrase("correct horse ")).unwrap_err();
        assert_eq!(refused, DecryptKeyError::WrongPassphrase);
    }

    #[test]
    fn given_a_key_that_is_not_encrypted_when_a_passphrase_is_there_then_the_key_is_read_as_it_is()
    {
        let plain = NodeKey::from_seed([3; 32]).to_pem();

        assert_eq!(
            decrypt_key_pem(&plain, &passphrase("unused")).unwrap(),
            plain
        );
    }

    #[test]
    fn given_a_file_when_its_passphrase_is_taken_then_it_is_the_first_line_and_never_an_empty_one()
    {
        assert_eq!(*passphrase("first\r\nsecond\n").0, "first");
        for nothing in ["", "\n", "\nsecond"] {
            assert_eq!(
                Passphrase::from_file_text(nothing).unwrap_err(),
                NoPassphrase
            );
        }
        assert!(!format!("{:?}", passphrase("hunter2")).contains("hunter2"));
    }

    #[test]
    fn given_a_damaged_or_absurd_encrypted_key_when_opened_then_the_reason_is_told_at_once() {
        let open = |der: &[u8]| decrypt(der, &passphrase("any")).unwrap_err();
        assert_eq!(open(b""), DecryptKeyError::Damaged);
        assert_eq!(open(&[0x30, 0x00]), DecryptKeyError::Damaged);
        assert_eq!(
            open(&[0x30, 0x02, 0x05, 0x00]),
            DecryptKeyError::Unsupported
        );
        let work = scrypt::Params::new(19, 8, 1).unwrap();
        let parameters = Parameters::generate_scrypt_aes256cbc(work, &[1; 16], [2; 16]).unwrap();
        let info = EncryptedPrivateKeyInfoRef {
            encryption_algorithm: parameters.into(),
            encrypted_data: OctetStringRef::new(&[0; 16]).unwrap(),
        };
        assert_eq!(open(&info.to_der().unwrap()), DecryptKeyError::TooMuchWork);
    }
}
