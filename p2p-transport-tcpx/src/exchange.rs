//! The exchange stream of a connection: one TCP stream beside its channels, over which both ends trade plugin
//! handles, agree on the end, and notice each other's death.

pub(crate) mod address;
pub(crate) mod hub;
pub(crate) mod places;
pub(crate) mod stream;
pub(crate) mod wire;
