//! Small tools that know nothing of the mesh: rate limits, a queue, hexadecimal digits, text made safe to show.

pub(crate) mod hex;
pub mod log_limit;
pub mod queue;
pub(crate) mod sync;
pub mod text;
pub(crate) mod thread_cache;
pub(crate) mod token_bucket;
pub mod worker;
