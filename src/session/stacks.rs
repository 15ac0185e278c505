//! The stacks that handshakes compute on, and names are looked up on.
//!
//! The key exchange takes ten times the stack of all that follows, and a thread's stack keeps the memory
//! that it has ever touched. So the few handshakes that compute at one moment borrow a stack for that
//! moment; a session's thread waits, and lives, on a small one of its own.

use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use switch::{Stack, on_stack};

use crate::limits::HANDSHAKE_STACK_BYTES;

/// The stack of a session's thread.
pub(super) use switch::OWN_BYTES;

/// Idle stacks that are kept for the next handshakes, with their memory.
const IDLE_MAX: usize = 2;

/// The stacks that the sessions of a node share.
#[derive(Default)]
pub(crate) struct Stacks {
    idle: Mutex<Vec<Stack>>,
}

impl Stacks {
    /// Computes on one of the stacks.
    ///
    /// # Errors
    /// There is no memory for another one.
    pub(super) fn run<T>(&self, compute: impl FnOnce() -> T) -> io::Result<T> {
        let idle = self.idle().pop();
        let mut stack = idle.map_or_else(|| Stack::new(HANDSHAKE_STACK_BYTES), Ok)?;
        // A panic goes through here, and takes the stack along.
        let computed = on_stack(&mut stack, compute);
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.push(stack);
        }
        Ok(computed)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Stack>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Stacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stacks").field("idle", &self.idle().len()).finish()
    }
}

#[cfg(any(
    target_arch = "x86",
    target_arch = "x86_64",
    target_arch = "arm",
    target_arch = "aarch64",
    target_arch = "riscv64"
))]
mod switch {
    pub(super) use corosensei::on_stack;
    pub(super) use corosensei::stack::DefaultStack as Stack;

    pub(in crate::session) const OWN_BYTES: usize = crate::limits::SESSION_STACK_BYTES;
}

/// corosensei does not support these architectures, so each session's own stack is large.
#[cfg(not(any(
    target_arch = "x86",
    target_arch = "x86_64",
    target_arch = "arm",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
mod switch {
    pub(super) struct Stack;

    impl Stack {
        pub(super) fn new(_bytes: usize) -> std::io::Result<Self> {
            Ok(Self)
        }
    }

    pub(super) fn on_stack<T>(_stack: &mut Stack, compute: impl FnOnce() -> T) -> T {
        compute()
    }

    pub(in crate::session) const OWN_BYTES: usize = crate::limits::HANDSHAKE_STACK_BYTES;
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use super::*;

    #[test]
    fn stacks_are_used_again_and_few_are_kept() {
        let stacks = Stacks::default();
        let kept = || stacks.idle().len();
        assert_eq!(stacks.run(|| 7).unwrap(), 7);
        assert_eq!((stacks.run(kept).unwrap(), kept()), (0, 1));
        // As many at once as there are stacks for, and more.
        let nested = stacks.run(|| stacks.run(|| stacks.run(kept)));
        assert_eq!((nested.unwrap().unwrap().unwrap(), kept()), (0, IDLE_MAX));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn there_is_room_for_a_handshake_on_a_small_thread() {
        const DEEP: usize = HANDSHAKE_STACK_BYTES / 8;
        let small = thread::Builder::new().stack_size(DEEP / 2);
        let run = || Stacks::default().run(|| std::hint::black_box([7_u8; DEEP]).len());
        assert_eq!(small.spawn(run).unwrap().join().unwrap().unwrap(), DEEP);
    }

    #[test]
    fn panic_passes_through_and_leaves_the_stacks_usable() {
        let stacks = Stacks::default();
        let panicked = catch_unwind(AssertUnwindSafe(|| stacks.run(|| panic!("out of the depths"))));
        let words = panicked.unwrap_err().downcast_ref::<&str>().map(|words| (*words).to_owned());
        assert_eq!(words.as_deref(), Some("out of the depths"));
        assert_eq!(stacks.run(|| 7).unwrap(), 7);
    }
}
