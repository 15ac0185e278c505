//! Reads private keys and certificates from PEM text (RFC 7468), and diagnoses text that holds none.
//!
//! Invariant: an error holds no byte of the text, which may be a private key. The PEM parser's own errors
//! quote whole lines, so they are dropped here, and the diagnosis reads the text again.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::trust::foreign_form::ForeignForm;
use crate::trust::pem_item::PemItem;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

impl PemItem {
    /// Whether a block of this kind holds the item.
    fn is_in(self, block: PemBlock) -> bool {
        match self {
            Self::PrivateKey => block == PemBlock::PrivateKey,
            Self::Certificate => block == PemBlock::Certificate,
        }
    }
}

/// Kinds of PEM block, by the label in their BEGIN line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PemBlock {
    /// A private key in PKCS#8, PKCS#1 or SEC1 form.
    PrivateKey,
    /// An encrypted private key.
    EncryptedKey,
    /// A private key in OpenSSH's own form.
    OpenSshKey,
    /// A public key.
    PublicKey,
    /// A certificate.
    Certificate,
    /// A certificate signing request.
    Request,
    /// Any other block.
    Other,
}

impl PemBlock {
    fn labelled(label: &[u8]) -> Self {
        match label {
            b"PRIVATE KEY" | b"RSA PRIVATE KEY" | b"EC PRIVATE KEY" => Self::PrivateKey,
            b"ENCRYPTED PRIVATE KEY" => Self::EncryptedKey,
            b"OPENSSH PRIVATE KEY" => Self::OpenSshKey,
            b"PUBLIC KEY" | b"RSA PUBLIC KEY" => Self::PublicKey,
            b"CERTIFICATE" => Self::Certificate,
            b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => Self::Request,
            _ => Self::Other,
        }
    }

    /// Describes the block that the file has instead of the wanted item, with advice.
    fn instead_of(self, wanted: PemItem) -> &'static str {
        match (self, wanted) {
            (Self::EncryptedKey, PemItem::PrivateKey) => {
                "it has an encrypted one, which cannot be used: decrypt it with openssl pkey -in OLD -out NEW"
            }
            (Self::OpenSshKey, PemItem::PrivateKey) => {
                "it has a key in OpenSSH's own form: convert a copy with ssh-keygen -p -m PKCS8 -N '' -f COPY \
                 (not Ed25519 before OpenSSH 9.6), or make a key with p2p-gossip keygen"
            }
            (Self::PublicKey, PemItem::PrivateKey) => {
                "it has a public key: name the file of the private key that belongs to it"
            }
            (Self::Certificate, PemItem::PrivateKey) => "it has a certificate: did you mean --cert?",
            (Self::PrivateKey | Self::EncryptedKey | Self::OpenSshKey, PemItem::Certificate) => {
                "it has a private key: did you mean --key?"
            }
            (Self::PublicKey, PemItem::Certificate) => {
                "it has a public key: leave --cert out, and a certificate is made for the private key"
            }
            (Self::Request, PemItem::Certificate) => {
                "it has a certificate request: leave --cert out, and a certificate is made for the private key"
            }
            (Self::Request, PemItem::PrivateKey) => {
                "it has a certificate request: name the file of the private key that belongs to it"
            }
            _ => "it has a block of another kind",
        }
    }
}

/// The problem of a PEM file. Holds no byte of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PemProblem {
    /// A marker shares its line with other text, for example because blanks or `\n` replaced the line breaks.
    LineBreaksLost,
    /// There is no BEGIN and no END line.
    NoBlock,
    /// The file is in a form of another program.
    Foreign(ForeignForm),
    /// All blocks are complete, and none has the wanted item. The first block is of this kind.
    OtherBlock(PemBlock),
    /// The block that begins in this line, from 1, has no END line of its kind.
    #[non_exhaustive]
    NoEnd {
        /// The line.
        line: usize,
    },
    /// The block that ends in this line, from 1, has no BEGIN line.
    #[non_exhaustive]
    NoBegin {
        /// The line.
        line: usize,
    },
    /// A BEGIN or END line is indented, or lacks some of its dashes.
    #[non_exhaustive]
    Marker {
        /// The line, from 1.
        line: usize,
    },
    /// The text between BEGIN and END is not base64.
    #[non_exhaustive]
    Base64 {
        /// The first line with an invalid character, or else the BEGIN line; from 1.
        line: usize,
    },
}

impl PemProblem {
    /// Describes the problem as the rest of a sentence that begins with the file's name.
    pub(crate) fn describe(self, wanted: PemItem) -> String {
        match self {
            Self::LineBreaksLost => {
                "has lost its line breaks: BEGIN, END and the text between them need separate \
                                     lines; copy the file itself, not its text through a shell variable"
                    .to_owned()
            }
            Self::Foreign(form) => form.describe(wanted).to_owned(),
            Self::NoBlock => format!("has no PEM block with a {wanted}: it has no BEGIN line"),
            Self::OtherBlock(block) => {
                format!("has no PEM block with a {wanted}; {}", block.instead_of(wanted))
            }
            Self::NoEnd { line } => format!(
                "is cut off: the block that begins in line {line} has no END line of its kind; \
                 copy the whole file again"
            ),
            Self::NoBegin { line } => format!(
                "is cut off: the block that ends in line {line} has no BEGIN line; copy the whole file again"
            ),
            Self::Marker { line } => format!(
                "is damaged in line {line}: a BEGIN or END line has five dashes on both sides, \
                 and no blanks before them"
            ),
            Self::Base64 { line } => format!(
                "is damaged in line {line}: the text between BEGIN and END is not base64; \
                 copy the whole file again"
            ),
        }
    }
}

impl PemProblem {
    /// Whether the file holds a certificate instead of the wanted item.
    pub(crate) fn is_certificate(self) -> bool {
        matches!(self, Self::OtherBlock(PemBlock::Certificate) | Self::Foreign(ForeignForm::DerCertificate))
    }

    /// Whether the file holds something that is no secret.
    pub(crate) fn is_public(self) -> bool {
        match self {
            Self::OtherBlock(block) => {
                matches!(block, PemBlock::PublicKey | PemBlock::Certificate | PemBlock::Request)
            }
            Self::Foreign(form) => form.is_public(),
            _ => false,
        }
    }
}

/// Reads the first private key in a PEM text.
pub(crate) fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemProblem> {
    let text = strip_byte_order_mark(text);
    PrivateKeyDer::from_pem_slice(text).map_err(|_| diagnose(text, PemItem::PrivateKey))
}

/// Reads the first certificate in a PEM text.
pub(crate) fn certificate(text: &[u8]) -> Result<CertificateDer<'static>, PemProblem> {
    let text = strip_byte_order_mark(text);
    CertificateDer::from_pem_slice(text).map_err(|_| diagnose(text, PemItem::Certificate))
}

/// Removes the byte order mark with which some editors begin a file.
fn strip_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text)
}

/// A complete block.
struct Block<'a> {
    kind: PemBlock,
    /// The line of BEGIN, from 0.
    line: usize,
    /// The lines between BEGIN and END.
    body: &'a [&'a [u8]],
}

/// Finds the problem of a text that the PEM parser refuses.
fn diagnose(text: &[u8], wanted: PemItem) -> PemProblem {
    let lines: Vec<&[u8]> = lines(text).collect();
    let blocks = match blocks(&lines) {
        Ok(blocks) => blocks,
        // Binary data may contain what looks like a part of a marker.
        Err(problem) => return ForeignForm::of(text).map_or(problem, PemProblem::Foreign),
    };
    let Some(block) = blocks.iter().find(|block| wanted.is_in(block.kind)).or(blocks.first()) else {
        return ForeignForm::of(text).map_or(PemProblem::NoBlock, PemProblem::Foreign);
    };
    if !wanted.is_in(block.kind) {
        return PemProblem::OtherBlock(block.kind);
    }
    // The older form of an encrypted key (RFC 1421) has the header "Proc-Type: 4,ENCRYPTED".
    if wanted == PemItem::PrivateKey && block.body.iter().any(|line| contains(line, b"ENCRYPTED")) {
        return PemProblem::OtherBlock(PemBlock::EncryptedKey);
    }
    let is_invalid = |byte: &u8| !(byte.is_ascii_alphanumeric() || b"+/=".contains(byte));
    let invalid = block.body.iter().position(|line| line.iter().any(is_invalid));
    PemProblem::Base64 { line: block.line + 1 + invalid.map_or(0, |index| index + 1) }
}

/// Splits a text into lines at LF, CR and CR LF only, so that line numbers agree with an editor's.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
        .flat_map(|line| line.strip_suffix(b"\r").unwrap_or(line).split(|&byte| byte == b'\r'))
}

/// Finds the blocks in these lines. All must be complete.
fn blocks<'a>(lines: &'a [&'a [u8]]) -> Result<Vec<Block<'a>>, PemProblem> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, &[u8])> = None;
    for (line, content) in lines.iter().enumerate() {
        match (Marker::parse(content, line)?, open) {
            (None, _) => {}
            (Some(Marker::Begin(label)), None) => open = Some((line, label)),
            (Some(Marker::End(label)), Some((begin, opened))) if label == opened => {
                let kind = PemBlock::labelled(label);
                blocks.push(Block { kind, line: begin, body: &lines[begin + 1..line] });
                open = None;
            }
            (Some(_), Some((begin, _))) => return Err(PemProblem::NoEnd { line: begin + 1 }),
            (Some(Marker::End(_)), None) => return Err(PemProblem::NoBegin { line: line + 1 }),
        }
    }
    match open {
        Some((begin, _)) => Err(PemProblem::NoEnd { line: begin + 1 }),
        None => Ok(blocks),
    }
}

/// A BEGIN or END line, with its label.
enum Marker<'a> {
    Begin(&'a [u8]),
    End(&'a [u8]),
}

impl<'a> Marker<'a> {
    /// Parses a line, counted from 0, that may be a marker. `None` if it contains no marker.
    fn parse(content: &'a [u8], line: usize) -> Result<Option<Self>, PemProblem> {
        let count = |needle: &[u8]| content.windows(needle.len()).filter(|found| *found == needle).count();
        // With a single dash, to find markers that lack dashes.
        match count(b"-BEGIN ") + count(b"-END ") {
            0 => return Ok(None),
            1 => {}
            _ => return Err(PemProblem::LineBreaksLost),
        }
        let label_of = |start: &[u8]| {
            let label = content.strip_prefix(start)?.trim_ascii_end().strip_suffix(DASHES)?;
            (!label.contains(&b'-')).then_some(label)
        };
        if let Some(label) = label_of(BEGIN) {
            return Ok(Some(Self::Begin(label)));
        }
        if let Some(label) = label_of(END) {
            return Ok(Some(Self::End(label)));
        }
        // Only dashes and a label: a marker that lacks dashes or is indented.
        let bare = content.trim_ascii();
        let is_alone = bare.starts_with(b"-")
            && bare.split(|&byte| byte == b'-').filter(|part| !part.is_empty()).count() == 1;
        Err(if is_alone { PemProblem::Marker { line: line + 1 } } else { PemProblem::LineBreaksLost })
    }
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|found| found == needle)
}

#[cfg(test)]
#[path = "../../tests/it/support/leaks.rs"]
mod leaks;

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::leaks::{assert_hidden, with_backslashes, with_blanks};
    use super::*;
    use crate::trust::identity::Identity;

    const ED25519: &str = include_str!("../../tests/fixtures/keys/ed25519.pem");
    const CERTIFICATE: &str = include_str!("../../tests/fixtures/keys/ed25519_cert.pem");
    const ENCRYPTED: &str = include_str!("../../tests/fixtures/keys/encrypted.pem");
    const FILES: [&str; 10] = [
        ED25519,
        CERTIFICATE,
        ENCRYPTED,
        include_str!("../../tests/fixtures/keys/other.pem"),
        include_str!("../../tests/fixtures/keys/p256_sec1.pem"),
        include_str!("../../tests/fixtures/keys/p384.pem"),
        include_str!("../../tests/fixtures/keys/p521.pem"),
        include_str!("../../tests/fixtures/keys/rsa1024.pem"),
        include_str!("../../tests/fixtures/keys/rsa2048_pkcs1.pem"),
        include_str!("../../tests/fixtures/keys/rsa5120.pem"),
    ];

    /// The text with all kinds of damage that happen to key files.
    fn mangled(pem: &str) -> Vec<String> {
        let lines: Vec<&str> = pem.lines().collect();
        let joined = |lines: &[&str]| lines.join("\n") + "\n";
        let (begin, end) = (lines[0], lines[lines.len() - 1]);
        let mut all = vec![
            with_blanks(pem),
            with_backslashes(pem),
            with_backslashes(pem) + "\n",
            pem.replace('\n', "\\r\\n"),
            pem.replace('\n', ""),
            pem.replace('\n', "\t"),
            pem.replace('\n', "\r"),
            pem.replace('\n', "\r\n"),
            pem.replacen('\n', " ", 1),
            pem.replacen('\n', "\\n", 1),
            format!("\u{feff}{pem}"),
            format!("KEY=\"{pem}\""),
            pem.replace("-----", "----"),
            pem.replace("-----", ""),
            pem.replace("-----\n", "\n"),
            pem.replace("BEGIN ", "BEGIN X"),
            pem.replace("END ", "END X"),
            pem.to_lowercase(),
            pem.replace(['A', 'C', 'E'], "?"),
            format!("{begin}\n{pem}"),
            format!("{pem}{end}\n"),
            format!("{begin} {begin}\n{}{end} {end}\n", joined(&lines[1..lines.len() - 1])),
            joined(&lines.iter().rev().copied().collect::<Vec<_>>()),
            lines.iter().map(|line| format!("    {line}\n")).collect(),
            pem.chars().flat_map(|c| [c, '\0']).collect(),
        ];
        for index in 0..lines.len() {
            all.push(joined(&lines[..index]));
            all.push(lines[..=index].join("\n"));
            all.push(joined(&lines[index..]));
            all.push(joined(&[&lines[..index], &lines[index + 1..]].concat()));
            all.push(joined(&[&lines[..index], &["gar~bage"], &lines[index..]].concat()));
            let half = &lines[index][..lines[index].len() / 2];
            all.push(joined(&[&lines[..index], &[half]].concat()));
        }
        all
    }

    fn write(file: &Path, text: &str) {
        fs::write(file, text).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Every text form of an error and its causes.
    fn full_text(error: &dyn Error) -> String {
        let mut shown = format!("{error}\n{error:?}\n{error:#?}\n");
        let mut cause = error.source();
        while let Some(error) = cause {
            shown += &format!("{error}\n{error:?}\n{error:#?}\n");
            cause = error.source();
        }
        shown
    }

    #[test]
    fn errors_about_mangled_files_show_no_byte_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let (file, good) = (directory.path().join("bad"), directory.path().join("good"));
        write(&good, ED25519);
        let mut refused = 0;
        for (pem, text) in FILES.iter().flat_map(|pem| mangled(pem).into_iter().map(move |text| (pem, text)))
        {
            write(&file, &text);
            // Read as a key file, and as a certificate file.
            for result in [Identity::from_key_file(&file), Identity::from_files(&good, &file)] {
                match result {
                    Ok(identity) => assert_hidden(pem, &format!("{identity:?}")),
                    Err(error) => {
                        refused += 1;
                        assert_names_a_file_and_hides(&error, &[&file, &good], pem);
                    }
                }
            }
        }
        assert!(refused > 1000, "{refused}");
    }

    /// Fails unless the error is one short line with the name of one of the files and no part of the PEM text.
    fn assert_names_a_file_and_hides(error: &dyn Error, files: &[&Path], pem: &str) {
        assert_hidden(pem, &full_text(error));
        let message = error.to_string();
        assert!(files.iter().any(|file| message.contains(file.to_str().unwrap())), "{message}");
        assert!(!message.contains('\n') && message.len() < 400, "{message}");
    }

    #[test]
    fn key_text_given_as_a_file_name_is_not_shown() {
        for error in [
            Identity::from_key_file(Path::new(ED25519)).unwrap_err(),
            Identity::from_files(Path::new(ED25519), Path::new("x")).unwrap_err(),
        ] {
            assert_hidden(ED25519, &full_text(&error));
            assert_eq!(error.to_string(), "the name of a file is needed, not the text of a private key");
        }
    }

    #[test]
    fn identity_shows_its_id_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (key, cert) = (directory.path().join("key"), directory.path().join("cert"));
        write(&key, ED25519);
        write(&cert, CERTIFICATE);
        let identity = Identity::from_files(&key, &cert).unwrap();
        let shown = format!("{identity:?} {identity:#?}");
        assert!(shown.contains(&identity.id().short().to_string()), "{shown}");
        assert_hidden(ED25519, &shown);
        assert_hidden(CERTIFICATE, &shown);
    }

    #[test]
    fn each_kind_of_damage_has_a_diagnosis() {
        use PemProblem::*;
        let body = ED25519.lines().nth(1).unwrap();
        let key = |text: &str| match private_key(text.as_bytes()) {
            Ok(_) => panic!("this is a key: {text}"),
            Err(problem) => problem,
        };
        let block = |label: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        for (text, problem) in [
            (with_blanks(ED25519), LineBreaksLost),
            (with_backslashes(ED25519), LineBreaksLost),
            (ED25519.replace('\n', ""), LineBreaksLost),
            (ED25519.replacen('\n', " ", 1), LineBreaksLost),
            (format!("KEY=\"{ED25519}\""), LineBreaksLost),
            (String::new(), NoBlock),
            ("not a key\n".to_owned(), NoBlock),
            (body.to_owned(), NoBlock),
            (ED25519.lines().take(1).collect(), NoEnd { line: 1 }),
            (format!("# mine\n{}", &ED25519[..60]), NoEnd { line: 2 }),
            (ED25519.replace("END ", "END RSA "), NoEnd { line: 1 }),
            (ED25519.lines().skip(1).map(|line| format!("{line}\n")).collect(), NoBegin { line: 2 }),
            (format!(" {ED25519}"), Marker { line: 1 }),
            (ED25519.replace("-----END", "---END"), Marker { line: 3 }),
            (ED25519.replace("KEY-----\nM", "KEY\nM"), Marker { line: 1 }),
            (ED25519.replace("MC4C", "MC?C"), Base64 { line: 2 }),
            (ED25519.replace("MC4C", "M"), Base64 { line: 1 }),
            (CERTIFICATE.to_owned(), OtherBlock(PemBlock::Certificate)),
            (ENCRYPTED.to_owned(), OtherBlock(PemBlock::EncryptedKey)),
            (
                block("RSA PRIVATE KEY").replacen('\n', "\nProc-Type: 4,ENCRYPTED\n\n", 1),
                OtherBlock(PemBlock::EncryptedKey),
            ),
            (block("PUBLIC KEY"), OtherBlock(PemBlock::PublicKey)),
            (block("CERTIFICATE REQUEST"), OtherBlock(PemBlock::Request)),
            (block("OPENSSH PRIVATE KEY"), OtherBlock(PemBlock::OpenSshKey)),
            (block("DH PARAMETERS"), OtherBlock(PemBlock::Other)),
        ] {
            assert_eq!(key(&text), problem, "{text}");
        }
        let cert = |text: &str| certificate(text.as_bytes()).unwrap_err().describe(PemItem::Certificate);
        assert!(cert(ED25519).contains("did you mean --key?"));
        assert!(cert(&block("PUBLIC KEY")).contains("leave --cert out"));
        for text in [ED25519.replace('\n', "\r"), ED25519.replace('\n', "\r\n"), format!("\u{feff}{ED25519}")]
        {
            assert!(private_key(text.as_bytes()).is_ok(), "{text:?}");
        }
        assert_eq!(key(&ED25519.replace("MC4C", "MC?C").replace('\n', "\r\n")), Base64 { line: 2 });
    }
}
