//! Keys, and the decisions that depend on them: identities, TLS, the network key, access lists, pins.

pub(crate) mod access;
pub(crate) mod crypto;
pub(crate) mod foreign_form;
pub(crate) mod identity;
pub(crate) mod key_ring;
pub(crate) mod network_key;
pub(crate) mod peer_id;
pub(crate) mod pem_file;
pub(crate) mod pem_item;
pub(crate) mod pin;
mod protocol_offer;
pub(crate) mod secret_text;
pub(crate) mod ticket;
pub(crate) mod tls;
pub(crate) mod tls_error;
mod verifier;
