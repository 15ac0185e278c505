//! Not part of the API: what the program, the simulator and the tests use of the library's inside.
//! Anything here may change in any version.

pub use crate::config::check_name;
pub use crate::trust::pin::{Expected, PIN_DIGITS_MIN};

/// See [`crate::limits`].
pub mod limits {
    pub use crate::limits::*;
}

/// See [`crate::mesh`].
pub mod mesh {
    pub use crate::mesh::*;
}

/// See [`crate::wire`].
pub mod wire {
    pub use crate::wire::*;
}

pub use crate::util::{log_limit, queue, text, worker};
