//! WebSocket messages as bytes (RFC 6455), and their compression (RFC 7692): a pure codec without I/O and without a
//! clock.

pub(crate) mod compression;
pub(crate) mod deflate;
pub(crate) mod extension;
pub(crate) mod head;
pub(crate) mod reader;
pub(crate) mod writer;

use crate::{
    message::tolerance::Tolerance,
    websocket::{
        compression::Compression,
        deflate::{Deflate, Inflate},
        extension::DeflateParams,
        head::Role,
        reader::Reader,
        writer::Writer,
    },
};

#[cfg(test)]
mod tests;

/// Creates the codec of one end. `deflate` has the parameters on which both ends agreed, and the settings of this end.
pub(crate) fn codec(
    role: Role,
    tolerance: Tolerance,
    max_message_size: usize,
    deflate: Option<(DeflateParams, Compression)>,
) -> (Reader, Writer) {
    let inflate =
        deflate.map(|(params, settings)| Box::new(Inflate::new(params.received_by(role), settings.max_ratio)));
    let deflate = deflate.and_then(|(params, _)| Deflate::new(params.sent_by(role))).map(Box::new);
    (Reader::new(role, tolerance, max_message_size, inflate), Writer::new(role, deflate))
}
