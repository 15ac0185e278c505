//! The mesh.
pub mod event;
