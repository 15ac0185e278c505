//! Small tools that know nothing of the mesh: rate limits, queues, threads, text made safe to show.

pub mod log_limit;
pub mod queue;
pub mod text;
pub(crate) mod token_bucket;
pub mod worker;
