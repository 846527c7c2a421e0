//! The whole crate from outside: what a charging station and an application notice.

mod support;
