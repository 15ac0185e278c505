//! Not part of the API: what the program, the simulator and the tests use of the library's inside.
//! Anything here may change in any version.

pub use crate::config::check_name;
pub use crate::trust::pin::{Expected, PIN_DIGITS_MIN};

/// Defaults, limits and intervals.
pub mod limits {
    pub use crate::limits::*;
}

/// The pure state machine that decides about membership, dials and deaths.
pub mod mesh {
    pub use crate::mesh::*;
}

/// Drives the mesh: the order of its inputs and outputs.
pub mod driver {
    pub use crate::runtime::driver::*;
}

/// One connection above TLS, as a pure state machine.
pub mod session {
    pub use crate::session::{
        Ends, Exported, HelloExchange, OutboxFull, Protocol, Request, Role, SessionEvent, Transmit,
    };
}

/// Messages and their framing.
pub mod wire {
    pub use crate::wire::*;
}

pub use crate::util::{log_limit, queue, text, worker};
