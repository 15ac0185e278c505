//! Recognizes files of keys and certificates in forms that this program does not read, to name the form and the
//! command that converts it.
//!
//! Invariant: nothing here keeps a byte of the file.

use crate::trust::pem_item::PemItem;

/// Tags of DER (ITU-T X.690 section 8).
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
/// The version of a certificate (RFC 5280 section 4.1).
const VERSION: u8 = 0xa0;
/// The beginning of a PKCS#12 file of indefinite length: a sequence and version 3 (RFC 7292 section 4).
const PKCS12_INDEFINITE: &[u8] = &[SEQUENCE, 0x80, INTEGER, 1, 3];
/// DER of the object identifier id-ecPublicKey, 1.2.840.10045.2.1 (RFC 5480 section 2.1.1).
const OID_EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// A form in which other programs write keys and certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForeignForm {
    /// A private key in binary form.
    DerPrivateKey,
    /// An encrypted private key in binary form.
    DerEncryptedKey,
    /// A public key in binary form.
    DerPublicKey,
    /// A certificate in binary form.
    DerCertificate,
    /// A certificate signing request in binary form.
    DerRequest,
    /// A key with its certificates, encrypted, in one binary file: `.p12` or `.pfx`.
    Pkcs12,
    /// A public key in OpenSSH's form.
    OpenSshPublicKey,
    /// A private key in PuTTY's form.
    Putty,
    /// Text with two bytes for each character.
    Utf16,
    /// Binary data of any other kind.
    Binary,
}

impl ForeignForm {
    /// Recognizes the form of a file; `None` for text of another kind.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let begins = |beginnings: &[&[u8]]| beginnings.iter().any(|beginning| bytes.starts_with(beginning));
        if begins(&[b"\xff\xfe", b"\xfe\xff", b"-\0-\0", b"\0-\0-"]) {
            Some(Self::Utf16)
        } else if begins(&[b"ssh-", b"ecdsa-sha2-", b"sk-ssh-", b"sk-ecdsa-"]) {
            Some(Self::OpenSshPublicKey)
        } else if begins(&[b"PuTTY-User-Key-File"]) {
            Some(Self::Putty)
        } else if begins(&[PKCS12_INDEFINITE]) {
            Some(Self::Pkcs12)
        } else if let Some(form) = Self::of_der(bytes) {
            Some(form)
        } else {
            (bytes.contains(&0) || std::str::from_utf8(bytes).is_err()).then_some(Self::Binary)
        }
    }

    fn of_der(bytes: &[u8]) -> Option<Self> {
        let whole = Element::read(bytes).filter(|element| element.tag == SEQUENCE)?;
        let first = Element::read(whole.content)?;
        let second = Element::read(first.rest)?;
        match (first.tag, second.tag) {
            // Version 3 is PKCS#12; PKCS#8 and PKCS#1 have 0 or 1.
            (INTEGER, SEQUENCE) if first.content == [3] => Some(Self::Pkcs12),
            (INTEGER, SEQUENCE | OCTET_STRING) => Some(Self::DerPrivateKey),
            (INTEGER, INTEGER) if second.rest.is_empty() => Some(Self::DerPublicKey),
            (INTEGER, INTEGER) => Some(Self::DerPrivateKey),
            (SEQUENCE, OCTET_STRING) => Some(Self::DerEncryptedKey),
            (SEQUENCE, BIT_STRING) => Some(Self::DerPublicKey),
            (SEQUENCE, SEQUENCE) => match Element::read(first.content)?.tag {
                VERSION => Some(Self::DerCertificate),
                INTEGER => Some(Self::DerRequest),
                _ => None,
            },
            _ => None,
        }
    }

    /// Describes the file as the rest of a sentence that begins with its name, with advice.
    pub(crate) fn describe(self, wanted: PemItem) -> &'static str {
        match (self, wanted) {
            (Self::DerPrivateKey, PemItem::PrivateKey) => {
                "is a private key in binary form (DER); convert it: openssl pkey -inform DER -in OLD -out NEW"
            }
            (Self::DerEncryptedKey, PemItem::PrivateKey) => {
                "is an encrypted private key in binary form (DER); decrypt it: openssl pkey -inform DER -in OLD -out NEW"
            }
            (Self::DerPrivateKey | Self::DerEncryptedKey | Self::Putty, PemItem::Certificate) => {
                "is a private key; did you mean --key?"
            }
            (Self::DerCertificate, PemItem::Certificate) => {
                "is a certificate in binary form (DER); convert it: openssl x509 -inform DER -in OLD -out NEW"
            }
            (Self::DerCertificate, PemItem::PrivateKey) => "is a certificate; did you mean --cert?",
            (Self::Pkcs12, PemItem::PrivateKey) => {
                "is a PKCS#12 file; take the private key out of it: openssl pkcs12 -in OLD -nocerts -nodes -out NEW"
            }
            (Self::Pkcs12, PemItem::Certificate) => {
                "is a PKCS#12 file; take the certificate out of it: openssl pkcs12 -in OLD -clcerts -nokeys -out NEW"
            }
            (Self::DerPublicKey | Self::OpenSshPublicKey, PemItem::PrivateKey) => {
                "is a public key; name the file of the private key that belongs to it"
            }
            (Self::DerPublicKey | Self::OpenSshPublicKey, PemItem::Certificate) => {
                "is a public key; leave --cert out, and a certificate is made for the private key"
            }
            (Self::DerRequest, PemItem::PrivateKey) => {
                "is a certificate request; name the file of the private key that belongs to it"
            }
            (Self::DerRequest, PemItem::Certificate) => {
                "is a certificate request; leave --cert out, and a certificate is made for the private key"
            }
            (Self::Putty, PemItem::PrivateKey) => {
                "is a private key in PuTTY's form, which cannot be used: make a key with p2p-gossip keygen"
            }
            (Self::Utf16, _) => "is UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW",
            (Self::Binary, PemItem::PrivateKey) => {
                "is a binary file of unknown form; a PEM file with a private key is needed"
            }
            (Self::Binary, PemItem::Certificate) => {
                "is a binary file of unknown form; a PEM file with a certificate is needed"
            }
        }
    }

    /// Whether the file holds no secret.
    pub(crate) fn is_public(self) -> bool {
        matches!(self, Self::DerPublicKey | Self::DerCertificate | Self::DerRequest | Self::OpenSshPublicKey)
    }
}

/// Whether a certificate (DER) has its elliptic-curve key as a compressed point (SEC 1 section 2.3.3).
pub(crate) fn has_compressed_point(certificate: &[u8]) -> bool {
    let mut places = certificate.windows(OID_EC.len()).enumerate().filter(|(_, found)| *found == OID_EC);
    places.any(|(start, _)| {
        let curve = Element::read(&certificate[start + OID_EC.len()..]);
        let point = curve.and_then(|curve| Element::read(curve.rest));
        // A bit string begins with the number of unused bits; then 2 or 3 marks a compressed point.
        point.is_some_and(|point| point.tag == BIT_STRING && matches!(point.content, [0, 2 | 3, ..]))
    })
}

/// One element of DER, and the bytes behind it.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Element<'a> {
    /// Reads the first element; `None` if the bytes are no DER with lengths of at most three bytes.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&[tag, first], rest) = bytes.split_first_chunk()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                (digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        Some(Self { tag, content, rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(pem: &str) -> Vec<u8> {
        ::pem::parse(pem).unwrap().into_contents()
    }

    #[test]
    fn forms_of_keys_and_certificates_are_recognized() {
        use ForeignForm::*;
        let cases: [(&[u8], Option<ForeignForm>); 12] = [
            (&der(include_str!("../../tests/fixtures/keys/ed25519.pem")), Some(DerPrivateKey)),
            (&der(include_str!("../../tests/fixtures/keys/p256_sec1.pem")), Some(DerPrivateKey)),
            (&der(include_str!("../../tests/fixtures/keys/rsa2048_pkcs1.pem")), Some(DerPrivateKey)),
            (&der(include_str!("../../tests/fixtures/keys/encrypted.pem")), Some(DerEncryptedKey)),
            (&der(include_str!("../../tests/fixtures/keys/ed25519_cert.pem")), Some(DerCertificate)),
            (b"\xff\xfe-\0", Some(Utf16)),
            (b"ssh-ed25519 AAAA me@here\n", Some(OpenSshPublicKey)),
            (b"PuTTY-User-Key-File-3: ssh-rsa\r\n", Some(Putty)),
            (b"\x30\x80\x02\x01\x03\x30\x80", Some(Pkcs12)),
            (b"\0", Some(Binary)),
            (b"not a key\n", None),
            (b"", None),
        ];
        for (bytes, form) in cases {
            assert_eq!(ForeignForm::of(bytes), form, "{bytes:?}");
        }
    }

    #[test]
    fn every_beginning_of_a_file_is_read_without_a_panic() {
        let whole = der(include_str!("../../tests/fixtures/keys/ed25519_cert.pem"));
        for end in 0..whole.len() {
            assert_ne!(ForeignForm::of(&whole[..end]), Some(ForeignForm::DerCertificate), "{end}");
            assert!(!has_compressed_point(&whole[..end]));
        }
    }
}
