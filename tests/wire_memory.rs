//! Tests that decoding never allocates more than a small bound, for any bytes. A separate test program,
//! because it counts every allocation of its process.
#![allow(clippy::unwrap_used, missing_docs)]

use std::alloc::System;
use std::sync::Mutex;

use cap::Cap;
use p2p_gossip::internals::wire::{self, FRAME_BYTES_MAX, FrameReader, Message};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Bytes that decoding may allocate at once.
const ALLOCATED_MAX: usize = 1024 * 1024;

/// Held during a measurement: the allocator counts for all tests together.
static MEASURING: Mutex<()> = Mutex::new(());

/// The most bytes allocated at once during `work`, beyond those allocated before.
fn peak_bytes(work: impl FnOnce()) -> usize {
    let _measuring = MEASURING.lock().unwrap();
    // The process-wide maximum only grows, so a ballast lifts the current total to it first.
    let before = ALLOCATOR.allocated();
    let ballast = Vec::<u8>::with_capacity(ALLOCATOR.max_allocated().saturating_sub(before));
    let baseline = ALLOCATOR.allocated();
    work();
    drop(ballast);
    ALLOCATOR.max_allocated().saturating_sub(baseline)
}

/// A varint as bincode writes it: one byte below 251, else a marker and little-endian bytes.
fn varint(value: u64) -> Vec<u8> {
    match value {
        0..251 => vec![u8::try_from(value).unwrap()],
        251..0x1_0000 => [&[251][..], &u16::try_from(value).unwrap().to_le_bytes()].concat(),
        0x1_0000..0x1_0000_0000 => [&[252][..], &u32::try_from(value).unwrap().to_le_bytes()].concat(),
        _ => [&[253][..], &value.to_le_bytes()].concat(),
    }
}

#[test]
fn claimed_length_allocates_no_memory_beyond_the_bound() {
    let mut worst = 0;
    let lengths = [1, 250, 257, 4096, 65_536, 1 << 20, 1 << 31, 1 << 40, u64::MAX];
    for variant in 0..8_u8 {
        for length in lengths {
            for prefix in 0..6 {
                // Some variant has the length of a string or a list at this place.
                let mut bytes = vec![variant];
                bytes.extend(std::iter::repeat_n(1, prefix));
                bytes.extend(varint(length));
                bytes.resize(FRAME_BYTES_MAX, 1);
                worst = worst.max(peak_bytes(|| drop(wire::decode(&bytes))));
            }
        }
    }
    assert!(worst <= ALLOCATED_MAX, "{worst} bytes");
}

#[test]
fn random_frame_stays_within_the_bound() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut worst = 0;
    for _ in 0..3_000 {
        let mut bytes = vec![0; random.usize(1..=FRAME_BYTES_MAX)];
        random.fill(&mut bytes);
        bytes[0] = random.u8(0..9);
        worst = worst.max(peak_bytes(|| drop(wire::decode(&bytes))));
    }
    assert!(worst <= ALLOCATED_MAX, "{worst} bytes");
}

#[test]
fn frame_stream_holds_one_frame_at_a_time() {
    let text = "x".repeat(200);
    let frame = wire::encode(&Message::Ping { seq: 1, text }).unwrap();
    let peak = peak_bytes(|| {
        let mut reader = FrameReader::new();
        reader.after_hello();
        for _ in 0..20_000 {
            reader.buffer().extend_from_slice(&frame);
            while reader.next_message().unwrap().is_some() {}
        }
    });
    assert!(peak <= ALLOCATED_MAX, "{peak} bytes");
}

#[test]
fn measurement_counts_allocations() {
    let peak = peak_bytes(|| drop(Vec::<u8>::with_capacity(3 * ALLOCATED_MAX)));
    // Threads of other tests may free some kilobytes meanwhile.
    assert!(peak >= 2 * ALLOCATED_MAX, "{peak} bytes");
}
