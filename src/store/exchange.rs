//! Checks that no other user can put another directory, or a link, in the place of the state directory.
//!
//! A user can exchange a directory if the user may rename it: as the owner of a directory above it, or as one that may
//! write there. While a node runs this changes nothing, because the node keeps the directory open. But the next start
//! would open what stands there.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::store::files::{is_root, own_user};

/// Permission bits by which the group and other users may write.
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
/// In a directory with this bit, such as `/tmp`, only the owner of a name may rename it.
const STICKY: u32 = 0o1000;
/// Most links that are followed, as in Linux (path_resolution(7)).
const LINKS_MAX: u32 = 40;

/// The user who can exchange a state directory, and the place.
#[derive(Debug, thiserror::Error)]
#[error("other users can put another directory in the place of the state directory {}: {} {weakness}", path.display(), place.display())]
#[non_exhaustive]
pub struct ExchangeError {
    /// The state directory.
    pub path: PathBuf,
    /// A directory above it, or a link on the way.
    pub place: PathBuf,
    /// The weakness of that place.
    pub weakness: Weakness,
}

/// Why other users can exchange a directory below a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Weakness {
    /// The place belongs to this user.
    #[error("belongs to user {0}; choose a directory below places of your own")]
    Owner(u32),
    /// These permission bits let other users write.
    #[error("can be written by them (mode {0:04o}); run: chmod go-w on it")]
    Mode(u32),
}

/// Refuses a state directory that users other than its owner and root can exchange. It need not exist yet.
///
/// Write access of others is only a warning unless root runs: the volumes of containers often have it, and an
/// exchanged directory must still belong to this user.
pub(super) fn refuse(path: &Path, owner: u32) -> Result<(), ExchangeError> {
    let Ok(absolute) = std::path::absolute(path) else { return Ok(()) };
    let Err((place, weakness)) = check(&absolute, owner, LINKS_MAX) else { return Ok(()) };
    let error = ExchangeError { path: path.to_owned(), place, weakness };
    if matches!(weakness, Weakness::Mode(_)) && !is_root() {
        log::warn!("{error}");
        return Ok(());
    }
    Err(error)
}

/// Checks each directory on the way, also on the way that a link points to. A place that can't be read is left to
/// the error of opening the directory.
fn check(path: &Path, owner: u32, links_left: u32) -> Result<(), (PathBuf, Weakness)> {
    for name in path.ancestors() {
        let Some(place) = name.parent() else { continue };
        let Ok(metadata) = place.metadata() else { continue };
        let weak = |weakness| Err((place.to_owned(), weakness));
        if !is_trusted(metadata.uid(), owner) {
            return weak(Weakness::Owner(metadata.uid()));
        }
        let named = name.symlink_metadata();
        if is_written_by_others(&metadata) {
            match &named {
                Ok(named) if metadata.mode() & STICKY != 0 => {
                    if !is_trusted(named.uid(), owner) {
                        return Err((name.to_owned(), Weakness::Owner(named.uid())));
                    }
                }
                // In a sticky directory no other user can take a name that this process is about to create.
                Err(error) if error.kind() == io::ErrorKind::NotFound && metadata.mode() & STICKY != 0 => {}
                _ => return weak(Weakness::Mode(metadata.mode() & 0o7777)),
            }
        }
        if let Ok(target) = fs::read_link(name)
            && links_left > 0
        {
            check(&place.join(target), owner, links_left - 1)?;
        }
    }
    Ok(())
}

/// Whether users other than the owner, and those of the owner's private group, may write.
fn is_written_by_others(metadata: &Metadata) -> bool {
    let mode = metadata.mode();
    // By custom the private group of a user has the user's number.
    let is_private_group = metadata.gid() == metadata.uid();
    mode & OTHERS_WRITE != 0 || mode & GROUP_WRITES != 0 && !is_private_group
}

/// Whether this user is root, the directory's owner or the user that runs this.
fn is_trusted(user: u32, owner: u32) -> bool {
    user == 0 || user == owner || user == own_user() || is_unmapped(user)
}

/// Whether the user is one without a number in this user namespace, as root of the host is in a sandbox: no process
/// in the namespace can run as that user.
fn is_unmapped(user: u32) -> bool {
    let Ok(overflow) = fs::read_to_string("/proc/sys/kernel/overflowuid") else { return false };
    let Ok(map) = fs::read_to_string("/proc/self/uid_map") else { return false };
    let is_whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    !is_whole && overflow.trim().parse() == Ok(user)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn place_that_others_can_write_is_found_also_behind_links() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let check = |path: &Path| check(path, own_user(), LINKS_MAX);
        let open = root.join("open");
        fs::create_dir_all(open.join("deep/state")).unwrap();
        symlink("open/deep", root.join("link")).unwrap();
        symlink("link/state", root.join("link2")).unwrap();
        let paths = ["open/deep/state", "link/state", "link2", "open/new"].map(|path| root.join(path));
        for path in &paths {
            assert_eq!(check(path), Ok(()), "{path:?}");
        }
        for mode in [0o777, 0o757, 0o703] {
            set_mode(&open, mode);
            for path in &paths {
                assert_eq!(check(path), Err((open.clone(), Weakness::Mode(mode))), "{path:?}");
            }
        }
        set_mode(&open, 0o1777);
        for path in &paths {
            assert_eq!(check(path), Ok(()), "{path:?}");
        }
        // A link that leads to itself ends too.
        symlink("circle", root.join("circle")).unwrap();
        assert_eq!(check(&root.join("circle/state")), Ok(()));
    }

    #[test]
    fn place_of_another_user_is_found() {
        if !is_root() {
            eprintln!("SKIPPED: only root can give files away");
            return;
        }
        const OTHER: u32 = 54_321;
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let theirs = root.join("theirs");
        let state = theirs.join("state");
        fs::create_dir_all(&state).unwrap();
        chown(&theirs, Some(OTHER), None).unwrap();
        assert_eq!(check(&state, 0, LINKS_MAX), Err((theirs.clone(), Weakness::Owner(OTHER))));
        // Their own state directory is theirs to exchange.
        assert_eq!(check(&state, OTHER, LINKS_MAX), Ok(()));
        // A link in a sticky directory belongs to its owner.
        let sticky = root.join("sticky");
        fs::create_dir(&sticky).unwrap();
        set_mode(&sticky, 0o1777);
        let link = sticky.join("link");
        symlink(root.join("own"), &link).unwrap();
        fs::create_dir(root.join("own")).unwrap();
        assert_eq!(check(&link, 0, LINKS_MAX), Ok(()));
        std::os::unix::fs::lchown(&link, Some(OTHER), None).unwrap();
        assert_eq!(check(&link, 0, LINKS_MAX), Err((link.clone(), Weakness::Owner(OTHER))));
        // Members of a group may write, unless the group is the owner's own.
        let shared = root.join("shared");
        fs::create_dir(&shared).unwrap();
        set_mode(&shared, 0o775);
        assert_eq!(check(&shared.join("state"), 0, LINKS_MAX), Ok(()));
        chown(&shared, None, Some(OTHER)).unwrap();
        let weak = Err((shared.clone(), Weakness::Mode(0o775)));
        assert_eq!(check(&shared.join("state"), 0, LINKS_MAX), weak);
    }
}
