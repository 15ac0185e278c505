//! A node's identity: its key pair, its certificate, and the id that is the hash of the public key.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ED25519};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::store::files::{Directory, Location, PRIVATE, PUBLIC, ReadError};
use crate::trust::crypto::{SIGNATURE_SCHEMES, provider};
use crate::trust::foreign_form::has_compressed_point;
use crate::trust::peer_id::{CertificateError, PeerId};
use crate::trust::pem_file::{self, PemProblem};
use crate::trust::pem_item::PemItem;
use crate::trust::secret_text::is_secret_name;

/// Largest accepted key or certificate file in bytes; real ones have up to 10 KiB.
const PEM_BYTES_MAX: u64 = 1 << 20;

impl PeerId {
    /// Computes the id of the key in a PEM file with a certificate.
    ///
    /// # Errors
    /// The file can't be read or holds no usable certificate. The error names the file.
    pub fn from_certificate_file(file: &Path) -> Result<Self, IdentityError> {
        Self::from_certificate(&read_certificate(Location::Path(file))?)
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
        Self::from_key(Location::Path(key_file))
    }

    /// As [`Identity::from_key_file`].
    pub(crate) fn from_key(key_file: Location<'_>) -> Result<Self, IdentityError> {
        let key = read_key(key_file)?;
        let unusable = || IdentityError::KeyUnusable { file: key_file.path() };
        let pair = KeyPair::try_from(&key).map_err(|_| unusable())?;
        let identity = Self::self_signed(&pair).map_err(|error| match error {
            // The key came from a file, so the error names the file.
            IdentityError::OwnKey(_) | IdentityError::Tls => unusable(),
            other => other,
        })?;
        identity.check_key(&key_file.path())?;
        Ok(identity)
    }

    /// Reads the private key and its certificate from PEM files.
    ///
    /// # Errors
    /// As [`Identity::from_key_file`], for either file, and if the two don't belong together.
    pub fn from_files(key_file: &Path, cert_file: &Path) -> Result<Self, IdentityError> {
        Self::from_pair(Location::Path(key_file), Location::Path(cert_file))
    }

    /// As [`Identity::from_files`].
    pub(crate) fn from_pair(key_file: Location<'_>, cert_file: Location<'_>) -> Result<Self, IdentityError> {
        let key = read_key(key_file).map_err(|error| match error {
            IdentityError::Pem { problem, .. } if problem.is_certificate() && holds_key(cert_file) => {
                IdentityError::Swapped { key: key_file.path(), cert: cert_file.path() }
            }
            other => other,
        })?;
        let certificate = read_certificate(cert_file)?;
        let signing_key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|_| IdentityError::KeyUnusable { file: key_file.path() })?;
        let id = PeerId::from_certificate(&certificate)
            .map_err(|source| IdentityError::Certificate { file: cert_file.path(), source })?;
        let certified = CertifiedKey::new(vec![certificate], signing_key);
        certified
            .keys_match()
            .map_err(|_| IdentityError::Mismatch { key: key_file.path(), cert: cert_file.path() })?;
        let identity = Self { id, certified: Arc::new(certified) };
        identity.check_key(&key_file.path())?;
        Ok(identity)
    }

    /// Generates an Ed25519 key with a self-signed certificate, and writes both to new files. Only the owner can
    /// read the key's file.
    ///
    /// # Errors
    /// Either file exists, or the system can't create it. No new file is left behind.
    pub fn create_files(key_file: &Path, cert_file: &Path) -> Result<Self, IdentityError> {
        let open = |file| Directory::of(file).map_err(|source| write_error(file, source));
        let ((key_dir, key), (cert_dir, cert)) = (open(key_file)?, open(cert_file)?);
        Self::create_in((&key_dir, key), (&cert_dir, cert))
    }

    /// As [`Identity::create_files`], in open directories.
    pub(crate) fn create_in(
        (key_dir, key_name): (&Directory, &OsStr),
        (cert_dir, cert_name): (&Directory, &OsStr),
    ) -> Result<Self, IdentityError> {
        // Checked before the key is written, which would have to be removed again.
        if cert_dir.has(cert_name) {
            return Err(write_error(&cert_dir.path_of(cert_name), io::ErrorKind::AlreadyExists.into()));
        }
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(|_| IdentityError::Generate)?;
        let identity = Self::self_signed(&key)?;
        let pem = Zeroizing::new(pem_text("PRIVATE KEY", private_key_der(&key)?.to_vec()));
        key_dir
            .create_new(key_name, pem.as_bytes(), PRIVATE)
            .map_err(|source| write_error(&key_dir.path_of(key_name), source))?;
        identity.write_certificate(cert_dir, cert_name).inspect_err(|_| {
            // The key is new, so no node has used its id.
            key_dir.remove(key_name);
        })?;
        Ok(identity)
    }

    /// Writes the certificate to a new file.
    pub(crate) fn write_certificate(&self, directory: &Directory, name: &OsStr) -> Result<(), IdentityError> {
        // The first certificate only: this program uses no chains.
        let der = self.certified.cert.first().map(|certificate| certificate.to_vec()).unwrap_or_default();
        directory
            .create_new(name, pem_text("CERTIFICATE", der).as_bytes(), PUBLIC)
            .map_err(|source| write_error(&directory.path_of(name), source))
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

/// The first version of PKCS#8 for an Ed25519 key (RFC 8410 section 7), up to the 32 bytes of the key.
const ED25519_PREFIX: &[u8] = &[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// Bytes of an Ed25519 private key.
const ED25519_BYTES: usize = 32;

/// The key in the first version of PKCS#8. The key library writes the second, which also has the public key, and
/// OpenSSL before 3.4 does not read that.
fn private_key_der(key: &KeyPair) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let written = Zeroizing::new(key.serialize_der());
    // The two versions differ in a length and a version number before the key, and in what follows it.
    let is_alike = |at: &usize| matches!(at, 1 | 4) || written.get(*at) == ED25519_PREFIX.get(*at);
    let secret = written.get(ED25519_PREFIX.len()..ED25519_PREFIX.len() + ED25519_BYTES);
    let secret = secret.filter(|_| (0..ED25519_PREFIX.len()).all(|at| is_alike(&at)));
    Ok(Zeroizing::new([ED25519_PREFIX, secret.ok_or(IdentityError::Generate)?].concat()))
}

fn pem_text(label: &str, der: Vec<u8>) -> String {
    let config = ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF);
    ::pem::encode_config(&::pem::Pem::new(label, der), config)
}

fn write_error(file: &Path, source: io::Error) -> IdentityError {
    IdentityError::Write { file: file.to_owned(), source }
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
    #[error("{} is empty; {}", file.display(), wanted.advice_for_empty())]
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
    /// The certificate has the elliptic-curve key in a form that peers don't accept.
    #[error("the certificate in {} has its key as a compressed point, which peers do not accept: leave --cert out, and a certificate is made for the key; or convert the key with openssl ec -in OLD -conv_form uncompressed -out NEW, and make a certificate for NEW", file.display())]
    #[non_exhaustive]
    CertificateCompressed {
        /// The file.
        file: PathBuf,
    },
    /// The key's file has the certificate, and the certificate's file the key.
    #[error("the two files are swapped: {} has the certificate, and {} the private key", key.display(), cert.display())]
    #[non_exhaustive]
    Swapped {
        /// The file named as the key's.
        key: PathBuf,
        /// The file named as the certificate's.
        cert: PathBuf,
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

fn read_key(file: Location<'_>) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let wanted = PemItem::PrivateKey;
    let error = |problem| IdentityError::Pem { file: file.path(), wanted, problem };
    let text = read_pem(file, wanted).map_err(|found| match found {
        // A file without a secret is the wrong file; its mode does not matter.
        IdentityError::TooPermissive { .. } => {
            let public = key_problem(file).filter(|problem| problem.is_public());
            public.map_or(found, error)
        }
        other => other,
    })?;
    pem_file::private_key(&text).map_err(error)
}

/// The problem of a file that holds no private key, whatever its mode is.
fn key_problem(file: Location<'_>) -> Option<PemProblem> {
    let text = Zeroizing::new(file.read_public(PEM_BYTES_MAX).ok()?);
    pem_file::private_key(&text).err()
}

/// Whether the file holds a private key.
fn holds_key(file: Location<'_>) -> bool {
    let text = file.read_public(PEM_BYTES_MAX).map(Zeroizing::new);
    text.is_ok_and(|text| pem_file::private_key(&text).is_ok())
}

fn read_certificate(file: Location<'_>) -> Result<CertificateDer<'static>, IdentityError> {
    let wanted = PemItem::Certificate;
    let text = read_pem(file, wanted)?;
    let certificate = pem_file::certificate(&text).map_err(|problem| IdentityError::Pem {
        file: file.path(),
        wanted,
        problem,
    })?;
    if has_compressed_point(&certificate) {
        return Err(IdentityError::CertificateCompressed { file: file.path() });
    }
    Ok(certificate)
}

/// Reads a file that should hold the item. The text is wiped from memory: if the file is the wrong one, a file of a
/// certificate may be a private key, too.
fn read_pem(file: Location<'_>, wanted: PemItem) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    // If the name is a key itself, an error that names the file would show the key.
    if matches!(file, Location::Path(path) if is_secret_name(path)) {
        return Err(IdentityError::TextAsName { wanted });
    }
    let read = match wanted {
        PemItem::PrivateKey => file.read_secret(PEM_BYTES_MAX),
        PemItem::Certificate => file.read_public(PEM_BYTES_MAX),
    };
    let bytes = read.map_err(|error| {
        let file = file.path();
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
        return Err(IdentityError::Empty { file: file.path(), wanted });
    }
    Ok(Zeroizing::new(bytes))
}
