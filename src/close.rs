//! The end of a connection: the request to close, and the information after it.

pub(crate) mod info;
pub(crate) mod intent;

pub use self::info::{CloseCause, CloseInfo};
