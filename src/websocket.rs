//! WebSocket messages as bytes (RFC 6455), and their compression (RFC 7692): a pure codec without I/O and without a
//! clock.

pub(crate) mod compression;
pub(crate) mod deflate;
pub(crate) mod extension;
pub(crate) mod head;
pub(crate) mod reader;
pub(crate) mod writer;

#[cfg(test)]
mod tests;
