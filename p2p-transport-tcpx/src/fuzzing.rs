//! What the fuzz targets call, and the replay of their corpora.

#[cfg(test)]
#[path = "../../fuzz/harness/replay.rs"]
mod replay;

use p2p_transport::Address;

use crate::exchange::address::Place;
use crate::exchange::wire::Word;

/// Whatever is read as a word is read again after it was written.
pub fn word(bytes: &[u8]) {
    if let Ok(Some((word, length))) = Word::read(bytes) {
        assert!(length <= bytes.len());
        let mut written = Vec::new();
        word.write(&mut written);
        let again = Word::read(&written);
        assert_eq!(again, Ok(Some((word, written.len()))));
    }
}

/// As [`word`], of somebody who has not said hello.
pub fn hello(bytes: &[u8]) {
    if let Ok(Some((hello, length))) = Word::read_hello(bytes) {
        assert!(length <= bytes.len());
        assert_eq!(Word::read(bytes), Ok(Some((Word::Hello(hello), length))));
    }
}

/// Whatever is read as an address is the same bytes again.
pub fn address(bytes: &[u8]) {
    let Ok(address) = Address::new(bytes) else { return };
    if let Ok(place) = Place::parse(&address) {
        assert_eq!(place.to_address(), Some(address));
    }
}

#[cfg(test)]
mod tests {
    use super::replay::replay;

    #[test]
    fn the_corpora_of_the_fuzz_targets_do_no_harm() {
        replay("exchange_word", super::word);
        replay("exchange_hello", super::hello);
        replay("exchange_address", super::address);
    }
}
