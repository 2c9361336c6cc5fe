use bytes::BytesMut;

use super::*;
use crate::frame::Frame;

mod allocations;
mod broken;
mod frames;
mod golden;
mod streams;

fn bytes_of(frame: &Frame) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    encode(frame, &mut bytes);
    bytes.to_vec()
}

/// The first frame of these bytes.
fn decode(bytes: &[u8]) -> Result<Option<Frame>, WireError> {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    decoder.next()
}
