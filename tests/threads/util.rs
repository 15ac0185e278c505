//! The program's small tools, and the checker's primitives.

#[path = "../../src/util/log_limit.rs"]
pub(crate) mod log_limit;
#[path = "../../src/util/queue.rs"]
pub(crate) mod queue;
pub(crate) mod sync;
#[path = "../../src/util/token_bucket.rs"]
pub(crate) mod token_bucket;
#[path = "../../src/util/worker.rs"]
pub(crate) mod worker;
