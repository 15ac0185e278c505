//! Who a node is: its key pair, the certificate around it, and the id hashed from the public key.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ED25519};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::files::{self, Demand, PRIVATE, PUBLIC, ReadError};
use crate::pem_file;
pub use crate::pem_file::{PemBlock, PemItem, PemProblem};

/// Bytes in the public key (DER) of RSA 4096, the largest key accepted: checking signatures of
/// huge RSA keys is a known way to burn somebody else's CPU.
const SPKI_BYTES_MAX: usize = 550;
/// Bytes in the public key (DER) of RSA 2048, the smallest RSA key accepted.
const SPKI_RSA_BYTES_MIN: usize = 294;
/// DER of the object identifier rsaEncryption, 1.2.840.113549.1.1.1 (RFC 8017 appendix A.1).
const OID_RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// Largest key or certificate file read: the biggest real ones have some 10 KiB.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// SHA-256 of a certificate's SubjectPublicKeyInfo (DER): who a node is, whatever its address,
/// name or certificate.
///
/// Shown as 64 lower-case hexadecimal digits. Everybody can check one:
/// `openssl x509 -in cert.pem -pubkey -noout | openssl pkey -pubin -outform der | sha256sum`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// The id with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash itself.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first ten hexadecimal digits: enough to tell the nodes of a mesh apart by eye, not
    /// enough to authenticate one.
    #[must_use]
    pub fn short(&self) -> ShortId {
        ShortId(*self)
    }

    /// The id of the key in a certificate.
    ///
    /// # Errors
    /// The certificate can't be parsed, or its key is RSA of fewer than 2048 or more than 4096 bits.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        // The parser's error may quote the certificate.
        let parsed = ParsedCertificate::try_from(certificate).map_err(|_| CertificateError::Malformed)?;
        let key = parsed.subject_public_key_info();
        let is_rsa = key.windows(OID_RSA.len()).take(16).any(|w| w == OID_RSA);
        if key.len() > SPKI_BYTES_MAX || (is_rsa && key.len() < SPKI_RSA_BYTES_MIN) {
            return Err(CertificateError::KeySize);
        }
        Ok(Self(Sha256::digest(&key).into()))
    }

    /// The id of the key in a PEM file with a certificate.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn of_certificate_file(file: &Path) -> Result<Self, IdentityError> {
        Self::of_certificate(&read_certificate(file)?)
            .map_err(|source| IdentityError::Certificate { file: file.to_owned(), source })
    }
}

/// Why no id can be taken from a certificate.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum CertificateError {
    /// It is not an X.509 version 3 certificate.
    #[error("it is not a well-formed X.509 version 3 certificate")]
    Malformed,
    /// The key is too small to trust or too large to check.
    #[error("its RSA key is out of range: 2048 to 4096 bits are accepted")]
    KeySize,
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({})", self.short())
    }
}

/// The short form of a [`PeerId`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShortId(PeerId);

impl fmt::Display for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0[..5].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a peer id is 64 hexadecimal digits")]
pub struct ParsePeerIdError;

impl FromStr for PeerId {
    type Err = ParsePeerIdError;

    fn from_str(s: &str) -> Result<Self, ParsePeerIdError> {
        let digits = s.as_bytes();
        if digits.len() != 64 {
            return Err(ParsePeerIdError);
        }
        let mut id = [0; 32];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |b: u8| char::from(b).to_digit(16).ok_or(ParsePeerIdError);
            *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).map_err(|_| ParsePeerIdError)?;
        }
        Ok(Self(id))
    }
}

impl Serialize for PeerId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PeerId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A node's key pair with its certificate, ready for TLS. Cloning shares the key.
#[derive(Clone)]
pub struct Identity {
    id: PeerId,
    certified: Arc<CertifiedKey>,
}

/// The id alone: the bytes of a key or certificate never get into a log.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Identity {
    /// A new Ed25519 key with a self-signed certificate, in memory only.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(|_| IdentityError::Generate)?;
        Self::self_signed(&key)
    }

    /// Reads the private key from a PEM file (PKCS#8, SEC1 or PKCS#1; Ed25519, P-256, P-384 or
    /// RSA of 2048 to 4096 bits) and makes a self-signed certificate for it. The id depends on
    /// the key alone, so it is the same at every start.
    ///
    /// # Errors
    /// Names the file and what is wrong with it: missing, unreadable, readable by others, empty,
    /// without such a block, or with a key that can't be used.
    pub fn from_key_file(key_file: &Path) -> Result<Self, IdentityError> {
        Self::from_key(key_file, Demand::Private)
    }

    /// The same, with what is demanded of the file.
    pub(crate) fn from_key(key_file: &Path, demand: Demand) -> Result<Self, IdentityError> {
        let key = read_key(key_file, demand)?;
        let unusable = || IdentityError::KeyUnusable { file: key_file.to_owned() };
        let pair = KeyPair::try_from(&key).map_err(|_| unusable())?;
        let identity = Self::self_signed(&pair).map_err(|error| match error {
            // Whatever is wrong with a key that came from a file, the file is to be named.
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
        Self::from_pair(key_file, cert_file, Demand::Private)
    }

    /// The same, with what is demanded of the key's file.
    pub(crate) fn from_pair(
        key_file: &Path,
        cert_file: &Path,
        demand: Demand,
    ) -> Result<Self, IdentityError> {
        let key = read_key(key_file, demand)?;
        let certificate = read_certificate(cert_file)?;
        let signing_key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|_| IdentityError::KeyUnusable { file: key_file.to_owned() })?;
        let id = PeerId::of_certificate(&certificate)
            .map_err(|source| IdentityError::Certificate { file: cert_file.to_owned(), source })?;
        let certified = CertifiedKey::new(vec![certificate], signing_key);
        certified
            .keys_match()
            .map_err(|_| IdentityError::Mismatch { key: key_file.to_owned(), cert: cert_file.to_owned() })?;
        let identity = Self { id, certified: Arc::new(certified) };
        identity.check_key(key_file)?;
        Ok(identity)
    }

    /// Makes a new Ed25519 key with a self-signed certificate, and writes both to files that were not
    /// there before; the key's is readable by its owner only.
    ///
    /// # Errors
    /// Either file exists, or the system refuses to make them; then neither is left behind.
    pub fn create_files(key_file: &Path, cert_file: &Path) -> Result<Self, IdentityError> {
        let written = |file: &Path, source| IdentityError::Write { file: file.to_owned(), source };
        // Before a key is written that would have to be taken back.
        if cert_file.symlink_metadata().is_ok() {
            return Err(written(cert_file, io::ErrorKind::AlreadyExists.into()));
        }
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(|_| IdentityError::Generate)?;
        let identity = Self::self_signed(&key)?;
        let pem = Zeroizing::new(key.serialize_pem());
        files::create_new(key_file, pem.as_bytes(), PRIVATE).map_err(|source| written(key_file, source))?;
        identity.write_certificate(cert_file).inspect_err(|_| {
            // Made a moment ago, so nobody's id yet.
            let _ = std::fs::remove_file(key_file);
        })?;
        Ok(identity)
    }

    /// Writes the certificate to a file that was not there before.
    pub(crate) fn write_certificate(&self, file: &Path) -> Result<(), IdentityError> {
        // One certificate: chains mean nothing here.
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
        let id = PeerId::of_certificate(certificate.der()).map_err(IdentityError::OwnKey)?;
        let certified = CertifiedKey::from_der(vec![certificate.der().clone()], der, &provider())
            .map_err(|_| IdentityError::Tls)?;
        Ok(Self { id, certified: Arc::new(certified) })
    }

    /// Peers accept the kinds of key that this names; a P-521 key would load and then fail with everyone.
    fn check_key(&self, file: &Path) -> Result<(), IdentityError> {
        let ours = crate::tls::SIGNATURE_SCHEMES;
        if self.certified.key.choose_scheme(ours).is_none() {
            return Err(IdentityError::KeyUnusable { file: file.to_owned() });
        }
        Ok(())
    }
}

/// The one crypto provider of the program.
pub(crate) fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

/// Why a node has no identity. Holds no byte of a key or certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file can't be read.
    #[error("cannot read {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file can't be made.
    #[error("cannot write {}: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A private key that was to lie here lies somewhere else.
    #[error("{} is a symbolic link; put the private key itself there, or name its file with --key", file.display())]
    Link {
        /// The link.
        file: PathBuf,
    },
    /// A private key belongs to somebody else.
    #[error("{} belongs to the user with the number {owner}, not to the one this runs as", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// A file has nothing in it.
    #[error("{} is empty; a PEM file with a {wanted} is needed", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
        /// What was to be read from it.
        wanted: PemItem,
    },
    /// A file is too large to be what it should be.
    #[error("{} is larger than 1 MiB; that is no {wanted}", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// What was to be read from it.
        wanted: PemItem,
    },
    /// A file has no whole PEM block of the kind needed.
    #[error("{} {}", file.display(), problem.in_file_with(*wanted))]
    Pem {
        /// The file.
        file: PathBuf,
        /// What was to be read from it.
        wanted: PemItem,
        /// What is wrong with it.
        problem: PemProblem,
    },
    /// The text of a key or certificate was given instead of the name of its file.
    #[error("the name of a file is needed, not the text of a {wanted}")]
    TextAsName {
        /// What was to be read.
        wanted: PemItem,
    },
    /// Other users can read or write the private key.
    #[error("{} can be read or written by other users (mode {mode:04o}); run: chmod 600 {}", file.display(), file.display())]
    Exposed {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key is damaged or of a kind that isn't accepted.
    #[error("the private key in {} cannot be used; accepted are Ed25519, P-256, P-384 and RSA of 2048 to 4096 bits, not encrypted", file.display())]
    KeyUnusable {
        /// The file.
        file: PathBuf,
    },
    /// The certificate can't be used.
    #[error("the certificate in {} cannot be used: {source}", file.display())]
    Certificate {
        /// The file.
        file: PathBuf,
        /// Why.
        source: CertificateError,
    },
    /// Key and certificate are not of one pair.
    #[error("the private key in {} and the certificate in {} do not belong together", key.display(), cert.display())]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        cert: PathBuf,
    },
    /// A key or certificate can't be made.
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

fn read_key(file: &Path, demand: Demand) -> Result<PrivateKeyDer<'static>, IdentityError> {
    let wanted = PemItem::PrivateKey;
    let text = Zeroizing::new(read_pem(file, wanted, demand)?);
    pem_file::private_key(&text).map_err(|problem| IdentityError::Pem {
        file: file.to_owned(),
        wanted,
        problem,
    })
}

fn read_certificate(file: &Path) -> Result<CertificateDer<'static>, IdentityError> {
    let wanted = PemItem::Certificate;
    // In the wrong file it may be a private key.
    let text = Zeroizing::new(read_pem(file, wanted, Demand::Anything)?);
    pem_file::certificate(&text).map_err(|problem| IdentityError::Pem {
        file: file.to_owned(),
        wanted,
        problem,
    })
}

fn read_pem(file: &Path, wanted: PemItem, demand: Demand) -> Result<Vec<u8>, IdentityError> {
    // Errors name the file: here that would show the key.
    if pem_file::is_pem_text(file.as_os_str().as_encoded_bytes()) {
        return Err(IdentityError::TextAsName { wanted });
    }
    let bytes = files::read(file, PEM_BYTES_MAX, demand).map_err(|error| {
        let file = file.to_owned();
        match error {
            ReadError::System(source) => IdentityError::Read { file, source },
            ReadError::Exposed(mode) => IdentityError::Exposed { file, mode },
            ReadError::TooLarge => IdentityError::TooLarge { file, wanted },
            ReadError::Foreign(owner) => IdentityError::Foreign { file, owner },
            ReadError::Link => IdentityError::Link { file },
            ReadError::NoFile => IdentityError::Read { file, source: io::ErrorKind::InvalidInput.into() },
        }
    })?;
    if bytes.is_empty() {
        return Err(IdentityError::Empty { file: file.to_owned(), wanted });
    }
    Ok(bytes)
}
