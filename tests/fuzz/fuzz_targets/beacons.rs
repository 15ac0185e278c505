//! The decoder of beacons takes any datagram without a panic, and accepts those only that a node of the network made for
//! this sender.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use p2p_gossip::internals::beacon::Beacons;

fuzz_target!(|input: ([u8; 16], u64, u16, &[u8])| {
    let (source, instance, port, datagram) = input;
    let source = SocketAddr::new(IpAddr::from(source), 1);
    let (ours, theirs) = (Beacons::new("home", &[], 1), Beacons::new("home", &[], instance));
    let beacon = theirs.encode(port, source.ip());
    let is_good = port != 0 && instance != 1;
    assert_eq!(ours.decode(&beacon, source).map(|beacon| beacon.addr.port()), is_good.then_some(port));
    // Nothing that the fuzzer finds has a valid tag, unless it is the beacon itself.
    assert!(datagram == beacon || ours.decode(datagram, source).is_none());
    // The beginning of a beacon lets the fuzzer past the first checks.
    let mut changed = beacon;
    for (byte, change) in changed.iter_mut().zip(datagram) {
        *byte ^= change;
    }
    assert!(changed == beacon || ours.decode(&changed, source).is_none());
});
