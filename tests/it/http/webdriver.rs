//! A headless Chromium, driven through chromedriver (<https://www.w3.org/TR/webdriver/>).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use crate::support::DEADLINE;
use crate::support::skip::has;

/// A browser with one window. Ended with all its processes when dropped.
pub(super) struct Browser {
    driver: Child,
    addr: SocketAddr,
    session: String,
    /// The browser's profile. Removed after the driver has ended, when no process writes there.
    _profile: tempfile::TempDir,
}

/// Attempts to start the driver.
const STARTS_MAX: usize = 5;

/// Starts the driver; returns it and its port. The driver picks a free IPv4 port, then needs the same
/// IPv6 port; it ends if another process has that one. `None` then.
fn start_driver() -> Option<(Child, u16)> {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let stdout = BufReader::new(driver.stdout.take().unwrap());
    let port = stdout.lines().map_while(Result::ok).find_map(|line| {
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    });
    if port.is_none() {
        // The driver has closed its stdout, so it ends.
        driver.wait().unwrap();
    }
    Some((driver, port?))
}

impl Browser {
    /// Starts a browser; `None`, with a line on stderr, if none is installed.
    pub(super) fn start() -> Option<Self> {
        if !has("chromedriver", "Debian: chromium-driver") || !has("chromium", "Debian: chromium") {
            return None;
        }
        let profile = tempfile::tempdir().unwrap();
        let (driver, port) = (0..STARTS_MAX).find_map(|_| start_driver()).expect("chromedriver starts");
        // From here on, a panic ends the driver.
        let addr = ([127, 0, 0, 1], port).into();
        let mut browser = Self { driver, addr, session: String::new(), _profile: profile };
        let profile = format!("--user-data-dir={}", browser._profile.path().display());
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1280,1000",
            &profile,
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": args },
        } } });
        let session = browser.call("POST", "/session", Some(&wanted));
        browser.session = session["sessionId"].as_str().expect("a session").to_owned();
        Some(browser)
    }

    pub(super) fn open(&self, url: &str) {
        self.command("url", &json!({ "url": url }));
    }

    /// Runs a script, a function's body, and returns its result.
    pub(super) fn run(&self, script: &str, args: &[&str]) -> Value {
        self.command("execute/sync", &json!({ "script": script, "args": args }))
    }

    /// Runs the script until it returns something true.
    #[track_caller]
    pub(super) fn wait_for(&self, awaited: &str, script: &str, args: &[&str]) {
        let deadline = Instant::now() + DEADLINE;
        while !is_true(&self.run(script, args)) {
            if Instant::now() > deadline {
                let seen = self.run("return document.body.innerText", &[]);
                panic!(
                    "waited for {awaited}; the page says: {}\n{:?}",
                    seen.as_str().unwrap(),
                    self.console()
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The console's messages since the last call, with violations of the page's content security policy.
    pub(super) fn console(&self) -> Vec<String> {
        let entries = self.command("se/log", &json!({ "type": "browser" }));
        entries
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }

    fn command(&self, command: &str, body: &Value) -> Value {
        self.call("POST", &format!("/session/{}/{command}", self.session), Some(body))
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut socket = BufReader::new(TcpStream::connect(self.addr).unwrap());
        socket.get_ref().set_read_timeout(Some(2 * DEADLINE)).unwrap();
        write!(
            socket.get_mut(),
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.addr,
            body.len()
        )
        .unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            socket.read_line(&mut line).expect("an answer of chromedriver");
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().unwrap();
                }
                Some(_) => {}
                None if line.trim_end().is_empty() => break,
                None => {}
            }
        }
        let mut answer = vec![0; length];
        socket.read_exact(&mut answer).unwrap();
        let mut answer: Value = serde_json::from_slice(&answer).unwrap();
        let value = answer["value"].take();
        assert!(value.get("error").is_none(), "{method} {path}: {value}");
        value
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser's processes may have left the process group; the driver ends them on request.
        if !self.session.is_empty() && !thread::panicking() {
            self.call("DELETE", &format!("/session/{}", self.session), None);
        } else if !self.session.is_empty() {
            let end = format!(
                "DELETE /session/{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                self.session, self.addr
            );
            if let Ok(mut socket) = TcpStream::connect(self.addr) {
                let _ = socket.set_read_timeout(Some(Duration::from_secs(10)));
                let _ = socket.write_all(end.as_bytes());
                let _ = socket.read(&mut [0; 512]);
            }
        }
        let _ = kill_process_group(Pid::from_child(&self.driver), Signal::KILL);
        let _ = self.driver.wait();
    }
}

fn is_true(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false))
}
