//! NATS servers as a full mesh of routes with mutual TLS, which compare to the program's connections.
//!
//! The run creates a certificate authority and a certificate for each server, with `verify: true`. By default NATS
//! notices a silent server after minutes, so its ping interval and count are set to the program's heartbeat and
//! timeout. NATS reports routes at debug level only. Polling the monitoring endpoint of each server would cost the
//! servers far more than those lines.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use p2p_gossip::internals::limits::{HEARTBEAT, TIMEOUT};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ED25519};

use super::{Observation, OutputParser, Plan, SystemUnderTest, ask_version};

/// The port at which the first server accepts routes, below the kernel's range of source ports.
const FIRST_PORT: u16 = 25_000;

pub(crate) struct Nats {
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Nats {
    pub(crate) fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        // Without a name of its own it would have the default name, which the servers' certificates have, too.
        params.distinguished_name.push(DnType::CommonName, "benchmark authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        Ok(Self { authority: CertifiedIssuer::self_signed(params, key)? })
    }

    fn write_files(&self, plan: &Plan<'_>, stem: &Path) -> io::Result<()> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(io::Error::other)?;
        let port = if plan.join.is_some() { -1 } else { i32::from(FIRST_PORT) };
        let (ip, listen) = match plan.addr {
            Some(addr) => (addr.ip().to_string(), addr.to_string()),
            None => ("127.0.0.1".to_owned(), format!("127.0.0.1:{port}")),
        };
        let certificate = CertificateParams::new(vec![ip])
            .and_then(|params| params.signed_by(&key, &self.authority))
            .map_err(io::Error::other)?;
        fs::write(stem.with_extension("ca"), self.authority.pem())?;
        fs::write(stem.with_extension("key"), key.serialize_pem())?;
        fs::write(stem.with_extension("cert"), certificate.pem())?;
        let routes = plan.join.map_or_else(String::new, |join| format!("routes: [nats-route://{join}]"));
        let (name, stem) = (plan.name(), stem.display());
        let interval_s = HEARTBEAT.as_secs();
        let pings_max = TIMEOUT.as_secs() / interval_s;
        let config = format!(
            "server_name: \"{name}\"
listen: \"127.0.0.1:-1\"
ping_interval: \"{interval_s}s\"
ping_max: {pings_max}
cluster {{
  name: bench
  listen: \"{listen}\"
  {routes}
  tls {{
    cert_file: \"{stem}.cert\"
    key_file: \"{stem}.key\"
    ca_file: \"{stem}.ca\"
    verify: true
    timeout: 10
  }}
}}
"
        );
        fs::write(format!("{stem}.conf"), config)
    }
}

impl SystemUnderTest for Nats {
    fn name(&self) -> String {
        "nats routes".to_owned()
    }

    fn version(&self) -> Result<String, String> {
        ask_version("nats-server", "--version", "nats-server")
    }

    fn command(&self, plan: &Plan<'_>) -> io::Result<Command> {
        let stem = plan.dir.join(plan.name());
        self.write_files(plan, &stem)?;
        let mut command = Command::new("nats-server");
        command.arg("-D").arg("-c").arg(stem.with_extension("conf"));
        Ok(command)
    }

    fn parser(&self, _: &Plan<'_>) -> Box<dyn OutputParser> {
        Box::new(LogLines { id: String::new(), routes: BTreeMap::new() })
    }
}

/// Parses the log. Each route has a number there; one line tells the id of the server at its other end.
struct LogLines {
    id: String,
    routes: BTreeMap<String, String>,
}

impl OutputParser for LogLines {
    fn parse_line(&mut self, line: &str) -> Option<Observation> {
        if let Some((_, id)) = line.split_once("[INF]   ID:") {
            id.trim().clone_into(&mut self.id);
            return None;
        }
        if let Some((_, join)) = line.split_once("Listening for route connections on ") {
            return Some(Observation::Ready { id: self.id.clone(), join: join.trim().to_owned() });
        }
        let (route, text) = line.split_once(" - rid:")?.1.split_once(" - ")?;
        if let Some(id) = text.strip_prefix("Registering remote route ") {
            let id = id.trim().trim_matches('"').to_owned();
            self.routes.insert(route.to_owned(), id.clone());
            return Some(Observation::Up(id));
        }
        if text.starts_with("Router connection closed") {
            return self.routes.remove(route).map(Observation::Down);
        }
        None
    }
}
