//! Programs that end by themselves, and files that tests make executable.
//!
//! Another process, install(1), writes these files: a child that another test starts meanwhile would inherit a file
//! open for writing, and the kernel refuses to run such a file.

use std::io::{Read, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::DEADLINE;

/// Writes a script that every user may run.
pub(crate) fn write_script(file: &Path, text: &str) {
    let mut install = Command::new("install")
        .args(["-m", "755", "/dev/stdin"])
        .arg(file)
        .stdin(Stdio::piped())
        .spawn()
        .expect("install(1) is there");
    let mut stdin = install.stdin.take().expect("stdin was asked to be a pipe");
    stdin.write_all(text.as_bytes()).expect("install(1) reads the script");
    drop(stdin);
    assert!(install.wait().expect("it is our child").success(), "{} cannot be written", file.display());
}

/// Copies a program so that every user may run it.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let installed = Command::new("install").args(["-m", "755"]).arg(from).arg(to).status();
    assert!(installed.expect("install(1) is there").success(), "{} cannot be written", to.display());
}

/// Runs a program that ends by itself.
pub(crate) trait RunToEnd {
    /// Waits until the program has ended, and returns what it wrote. The caller sets its standard input.
    ///
    /// # Panics
    /// It does not start, or still runs after the deadline: then it is killed.
    fn run_to_end(&mut self) -> Output;

    /// The same with this standard input, which the program need not read.
    ///
    /// # Panics
    /// As [`RunToEnd::run_to_end`].
    fn run_to_end_on(&mut self, input: &[u8]) -> Output;
}

impl RunToEnd for Command {
    #[track_caller]
    fn run_to_end(&mut self) -> Output {
        self.run_to_end_on(b"")
    }

    #[track_caller]
    fn run_to_end_on(&mut self, input: &[u8]) -> Output {
        if !input.is_empty() {
            self.stdin(Stdio::piped());
        }
        let mut child =
            self.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let stdin = child.stdin.take();
        let (mut stdout, mut stderr) =
            (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
        let end = Instant::now() + DEADLINE;
        std::thread::scope(|scope| {
            let read = |pipe: &mut dyn Read| {
                let mut bytes = Vec::new();
                pipe.read_to_end(&mut bytes).expect("the pipe is ours");
                bytes
            };
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
            let stdout = scope.spawn(move || read(&mut stdout));
            let stderr = scope.spawn(move || read(&mut stderr));
            let status = loop {
                match child.try_wait().expect("it is our child") {
                    None if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                    status => break status,
                }
            };
            if status.is_none() {
                child.kill().expect("it is our child");
                child.wait().expect("it is our child");
            }
            let [stdout, stderr] = [stdout, stderr].map(|thread| thread.join().expect("it only reads"));
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let Some(status) = status else {
                panic!("{self:?} still runs after {DEADLINE:?}:\n{}{}", text(&stdout), text(&stderr));
            };
            Output { status, stdout, stderr }
        })
    }
}
