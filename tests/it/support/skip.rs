//! Tests that this machine cannot run say so on stderr, past the test harness, which hides the output of passing tests.

use std::env;
use std::io::{self, Write as _};
use std::path::PathBuf;

/// Says that a test is skipped, and why.
pub(crate) fn say_skipped(reason: &str) {
    let _ = writeln!(io::stderr(), "\n*** SKIPPED, nothing was tested: {reason}\n");
}

/// The same, for functions that return nothing then.
pub(crate) fn skip<T>(reason: &str) -> Option<T> {
    say_skipped(reason);
    None
}

/// Whether a tool is installed. If not, says that the test is skipped, and where the tool is from.
pub(crate) fn has(tool: &str, source: &str) -> bool {
    let is_installed = find(tool).is_some();
    if !is_installed {
        say_skipped(&format!("{tool} is not installed ({source})"));
    }
    is_installed
}

/// The file of a tool, if it is installed.
pub(crate) fn find(tool: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(tool)).find(|file| file.is_file())
}
