//! A node's identity: its key pair, its certificate, and the id that is the hash of the public key.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ED25519};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::store::files::{self, FileRequirement, PRIVATE, PUBLIC, ReadError};
use crate::trust::crypto::{SIGNATURE_SCHEMES, provider};
use crate::trust::peer_id::{CertificateError, PeerId};
use crate::trust::pem_file::{self, PemItem, PemProblem};

/// Largest accepted key or certificate file in bytes; real ones have up to 10 KiB.
const PEM_BYTES_MAX: u64 = 1 << 20;

impl PeerId {
    /// Computes the id of the key in a PEM file with a certificate.
    ///
    /// # Errors
    /// The file can't be read or holds no usable certificate. The error names the file.
    pub fn from_certificate_file(file: &Path) -> Result<Self, IdentityError> {
        Self::from_certificate(&read_certificate(file)?)
            .map_err(|source| IdentityError::Certificate { file: file.to_owned(), source })
    }
}

/// A node's key pair with its certificate, ready for TLS. Cloning shares the key.
#[derive(Clone)]
pub struct Identity {
    id: PeerId,
    certified: Arc<CertifiedKey>,
}

/// Shows the id alone: no byte of a key or certificate reaches a log.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Identity {
    /// Generates an Ed25519 key with a self-signed certificate, in memory only.
    ///
    /// # Errors
    /// The system provides no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(|_| IdentityError::Generate)?;
        Self::self_signed(&key)
    }

    /// Reads the private key from a PEM file (PKCS#8, SEC1 or PKCS#1; Ed25519, P-256, P-384 or
    /// RSA of 2048 to 4096 bits) and makes a self-signed certificate for it. The id depends on
    /// the key alone, so it is the same at every start.
    ///
    /// # Errors
    /// The file is missing, unreadable, readable by others, empty, without such a block, or its key can't be
    /// used. The error names the file.
    pub fn from_key_file(key_file: &Path) -> Result<Self, IdentityError> {
        Self::from_key(key_file, FileRequirement::Private)
    }

    /// Like [`Identity::from_key_file`], with another requirement on the file.
    pub(crate) fn from_key(key_file: &Path, requirement: FileRequirement) -> Result<Self, IdentityError> {
        let key = read_key(key_file, requirement)?;
        let unusable = || IdentityError::KeyUnusable { file: key_file.to_owned() };
        let pair = KeyPair::try_from(&key).map_err(|_| unusable())?;
        let identity = Self::self_signed(&pair).map_err(|error| match error {
            // The key came from a file, so the error names the file.
            IdentityError::OwnKey(_) | IdentityError::Tls => unusable(),
            other => other,
        })?;
        identity.check_key(key_file)?;
        Ok(identity)
    }

    /// Reads the private key and its certificate from PEM files.
    ///
    /// # Errors
    /// As [`Identity::from_key_file`], for either file, and if the two don't belong together.
    pub fn from_files(key_file: &Path, cert_file: &Path) -> Result<Self, IdentityError> {
        Self::from_pair(key_file, cert_file, FileRequirement::Private)
    }

    /// Like [`Identity::from_files`], with another requirement on the key's file.
    pub(crate) fn from_pair(
        key_file: &Path,
        cert_file: &Path,
        requirement: FileRequirement,
    ) -> Result<Self, IdentityError> {
        let key = read_key(key_file, requirement)?;
        let certificate = read_certificate(cert_file)?;
        let signing_key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|_| IdentityError::KeyUnusable { file: key_file.to_owned() })?;
        let id = PeerId::from_certificate(&certificate)
            .map_err(|source| IdentityError::Certificate { file: cert_file.to_owned(), source })?;
        let certified = CertifiedKey::new(vec![certificate], signing_key);
        certified
            .keys_match()
            .map_err(|_| IdentityError::Mismatch { key: key_file.to_owned(), cert: cert_file.to_owned() })?;
        let identity = Self { id, certified: Arc::new(certified) };
        identity.check_key(key_file)?;
        Ok(identity)
    }

    /// Generates an Ed25519 key with a self-signed certificate, and writes both to new files. Only the owner can
    /// read the key's file.
    ///
    /// # Errors
    /// Either file exists, or the system can't create it. No new file is left behind.
    pub fn create_files(key_file: &Path, cert_file: &Path) -> Result<Self, IdentityError> {
        let write_error = |file: &Path, source| IdentityError::Write { file: file.to_owned(), source };
        // Checked before the key is written, which would have to be removed again.
        if cert_file.symlink_metadata().is_ok() {
            return Err(write_error(cert_file, io::ErrorKind::AlreadyExists.into()));
        }
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(|_| IdentityError::Generate)?;
        let identity = Self::self_signed(&key)?;
        let pem = Zeroizing::new(key.serialize_pem());
        files::create_new(key_file, pem.as_bytes(), PRIVATE)
            .map_err(|source| write_error(key_file, source))?;
        identity.write_certificate(cert_file).inspect_err(|_| {
            // The key is new, so no node has used its id.
            let _ = std::fs::remove_file(key_file);
        })?;
        Ok(identity)
    }

    /// Writes the certificate to a new file.
    pub(crate) fn write_certificate(&self, file: &Path) -> Result<(), IdentityError> {
        // The first certificate only: this program uses no chains.
        let der = self.certified.cert.first().map(|certificate| certificate.to_vec()).unwrap_or_default();
        let config = ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF);
        let pem = ::pem::encode_config(&::pem::Pem::new("CERTIFICATE", der), config);
        files::create_new(file, pem.as_bytes(), PUBLIC)
            .map_err(|source| IdentityError::Write { file: file.to_owned(), source })
    }

    /// The id of this key.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.id
    }

    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    fn self_signed(key: &KeyPair) -> Result<Self, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "p2p-gossip");
        let certificate = params.self_signed(key).map_err(|_| IdentityError::Generate)?;
        let der = PrivateKeyDer::try_from(key.serialize_der()).map_err(|_| IdentityError::Generate)?;
        let id = PeerId::from_certificate(certificate.der()).map_err(IdentityError::OwnKey)?;
        let certified = CertifiedKey::from_der(vec![certificate.der().clone()], der, &provider())
            .map_err(|_| IdentityError::Tls)?;
        Ok(Self { id, certified: Arc::new(certified) })
    }

    /// Checks that peers accept this kind of key: a P-521 key would load here, and every peer would refuse it.
    fn check_key(&self, file: &Path) -> Result<(), IdentityError> {
        let ours = SIGNATURE_SCHEMES;
        if self.certified.key.choose_scheme(ours).is_none() {
            return Err(IdentityError::KeyUnusable { file: file.to_owned() });
        }
        Ok(())
    }
}

/// Why an identity can't be read, generated or written. Holds no byte of a key or certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file can't be read.
    #[error("cannot read {}: {source}", file.display())]
    #[non_exhaustive]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file can't be created.
    #[error("cannot write {}: {source}", file.display())]
    #[non_exhaustive]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The private key's file is a symbolic link.
    #[error("{} is a symbolic link; put the private key itself there, or name its file with --key", file.display())]
    #[non_exhaustive]
    Link {
        /// The link.
        file: PathBuf,
    },
    /// The private key's file belongs to another user.
    #[error("{} belongs to user {owner}, not to the user that runs this", file.display())]
    #[non_exhaustive]
    WrongOwner {
        /// The file.
        file: PathBuf,
        /// The owner's user id.
        owner: u32,
    },
    /// A file is empty.
    #[error("{} is empty; a PEM file with a {wanted} is needed", file.display())]
    #[non_exhaustive]
    Empty {
        /// The file.
        file: PathBuf,
        /// The item that the file should hold.
        wanted: PemItem,
    },
    /// A file is too large for its item.
    #[error("{} is larger than 1 MiB, so it is no {wanted}", file.display())]
    #[non_exhaustive]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The item that the file should hold.
        wanted: PemItem,
    },
    /// A file has no complete PEM block of the right kind.
    #[error("{} {}", file.display(), problem.describe(*wanted))]
    #[non_exhaustive]
    Pem {
        /// The file.
        file: PathBuf,
        /// The item that the file should hold.
        wanted: PemItem,
        /// The problem of the text.
        problem: PemProblem,
    },
    /// The caller passed the text of a key or certificate instead of the name of its file.
    #[error("the name of a file is needed, not the text of a {wanted}")]
    #[non_exhaustive]
    TextAsName {
        /// The item that the file should hold.
        wanted: PemItem,
    },
    /// Other users can read or write the private key.
    #[error("{} can be read or written by other users (mode {mode:04o}); run: chmod 600 {}", file.display(), file.display())]
    #[non_exhaustive]
    TooPermissive {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key is damaged or of a kind that peers don't accept.
    #[error("the private key in {} cannot be used; accepted are Ed25519, P-256, P-384 and RSA of 2048 to 4096 bits, not encrypted", file.display())]
    #[non_exhaustive]
    KeyUnusable {
        /// The file.
        file: PathBuf,
    },
    /// The certificate can't be used.
    #[error("the certificate in {} cannot be used: {source}", file.display())]
    #[non_exhaustive]
    Certificate {
        /// The file.
        file: PathBuf,
        /// The problem of the certificate.
        source: CertificateError,
    },
    /// The certificate is for another key.
    #[error("the private key in {} and the certificate in {} do not belong together", key.display(), cert.display())]
    #[non_exhaustive]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        cert: PathBuf,
    },
    /// A key or certificate can't be generated.
    #[error(
        "cannot make a key and certificate: the cryptographic library failed, perhaps for lack of randomness"
    )]
    Generate,
    /// The key can't be used.
    #[error("cannot use this key: {0}")]
    OwnKey(CertificateError),
    /// The TLS library refuses the key.
    #[error("cannot use this key: the TLS library refuses it")]
    Tls,
}

fn read_key(file: &Path, requirement: FileRequirement) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let wanted = PemItem::PrivateKey;
    let text = Zeroizing::new(read_pem(file, wanted, requirement)?);
    pem_file::private_key(&text).map_err(|problem| IdentityError::Pem {
        file: file.to_owned(),
        wanted,
        problem,
    })
}

fn read_certificate(file: &Path) -> Result<CertificateDer<'static>, IdentityError> {
    let wanted = PemItem::Certificate;
    // If the file is the wrong one, its text may be a private key.
    let text = Zeroizing::new(read_pem(file, wanted, FileRequirement::Anything)?);
    pem_file::certificate(&text).map_err(|problem| IdentityError::Pem {
        file: file.to_owned(),
        wanted,
        problem,
    })
}

fn read_pem(file: &Path, wanted: PemItem, requirement: FileRequirement) -> Result<Vec<u8>, IdentityError> {
    // If the name is a key itself, an error that names the file would show the key.
    if pem_file::is_pem_text(file.as_os_str().as_encoded_bytes()) {
        return Err(IdentityError::TextAsName { wanted });
    }
    let bytes = files::read(file, PEM_BYTES_MAX, requirement).map_err(|error| {
        let file = file.to_owned();
        match error {
            ReadError::System(source) => IdentityError::Read { file, source },
            ReadError::TooPermissive(mode) => IdentityError::TooPermissive { file, mode },
            ReadError::TooLarge => IdentityError::TooLarge { file, wanted },
            ReadError::WrongOwner(owner) => IdentityError::WrongOwner { file, owner },
            ReadError::Link => IdentityError::Link { file },
            ReadError::NoFile => IdentityError::Read { file, source: io::ErrorKind::InvalidInput.into() },
        }
    })?;
    if bytes.is_empty() {
        return Err(IdentityError::Empty { file: file.to_owned(), wanted });
    }
    Ok(bytes)
}
