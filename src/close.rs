//! The end of connections: how it is asked for, and how it was.

pub(crate) mod info;
pub(crate) mod intent;

pub use self::info::{CloseCause, CloseInfo};
