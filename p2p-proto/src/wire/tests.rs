use bytes::BytesMut;

use super::*;
use crate::frame::Frame;

#[test]
fn a_ping_comes_back() {
    let mut bytes = BytesMut::new();
    encode(&Frame::Ping { number: 7 }, &mut bytes);
    let mut decoder = Decoder::new();
    for byte in &bytes {
        assert_eq!(decoder.next(), Ok(None));
        decoder.push(&[*byte]);
    }
    assert_eq!(decoder.next(), Ok(Some(Frame::Ping { number: 7 })));
}
