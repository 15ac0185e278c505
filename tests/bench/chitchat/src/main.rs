//! A node of the gossip library chitchat (a phi accrual failure detector over UDP), with its own settings; no
//! encryption.
//!
//! Usage: `chitchat-node BIND [JOIN]`. Prints `ready ADDRESS`, then `up ADDRESS` and `down ADDRESS`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chitchat::transport::UdpTransport;
use chitchat::{ChitchatConfig, ChitchatId, FailureDetectorConfig, spawn_chitchat};

/// The version that `Cargo.toml` pins.
const VERSION: &str = "chitchat 0.10.1";
/// Quickwit, for which the library was made, gossips once a second.
const GOSSIP_INTERVAL: Duration = Duration::from_secs(1);
/// No key is ever deleted here.
const DELETION_GRACE: Duration = Duration::from_secs(2 * 60 * 60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "--version") {
        println!("{VERSION}");
        return Ok(());
    }
    let [bind, seeds @ ..] = &arguments[..] else {
        anyhow::bail!("usage: chitchat-node BIND [JOIN]");
    };
    let addr: SocketAddr = bind.parse()?;
    let generation = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis().try_into()?;
    let config = ChitchatConfig {
        chitchat_id: ChitchatId::new(addr.to_string(), generation, addr),
        cluster_id: "bench".to_owned(),
        gossip_interval: GOSSIP_INTERVAL,
        listen_addr: addr,
        seed_nodes: seeds.to_vec(),
        failure_detector_config: FailureDetectorConfig::default(),
        marked_for_deletion_grace_period: DELETION_GRACE,
        catchup_callback: None,
        extra_liveness_predicate: None,
    };
    let node = spawn_chitchat(config, Vec::new(), &UdpTransport).await?;
    let mut watcher = node.with_chitchat(|chitchat| chitchat.live_nodes_watcher()).await;
    println!("ready {addr}");
    let mut seen = BTreeSet::new();
    loop {
        let live: BTreeSet<SocketAddr> = watcher
            .borrow_and_update()
            .keys()
            .map(|id| id.gossip_advertise_addr)
            .filter(|peer| *peer != addr)
            .collect();
        live.difference(&seen).for_each(|peer| println!("up {peer}"));
        seen.difference(&live).for_each(|peer| println!("down {peer}"));
        seen = live;
        watcher.changed().await?;
    }
}
