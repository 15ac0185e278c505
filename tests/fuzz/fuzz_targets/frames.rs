//! The decoder turns any stream of bytes, in any pieces, into messages or one error, without a panic. An accepted
//! message can be encoded again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_gossip::internals::wire::{self, FrameReader};

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (piece, after_hello, stream) = input;
    let mut reader = FrameReader::new();
    if after_hello {
        reader.after_hello();
    }
    for bytes in stream.chunks(usize::from(piece).max(1)) {
        reader.buffer().extend_from_slice(bytes);
        loop {
            match reader.next_message() {
                Ok(Some(message)) => {
                    let frame = wire::encode(&message).expect("within the limits, as it was decoded");
                    assert_eq!(wire::decode(&frame[4..]).as_ref(), Ok(&message));
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    // Decodes without the framing as well, so that the fuzzer need not find a valid length first.
    let _ = wire::decode(stream);
});
