//! WebSocket messages as bytes (RFC 6455): a pure codec without I/O and without a clock.

pub(crate) mod head;
pub(crate) mod reader;
pub(crate) mod writer;

#[cfg(test)]
mod tests;
