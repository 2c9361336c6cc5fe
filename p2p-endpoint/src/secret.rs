//! The secret that the endpoints of a job share, by which they know each other.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use hmac::{Hmac, KeyInit, Mac};
use p2p_proto::hello::Seal;
use sha2::Sha256;
use tcpx_core::config::Config;

/// A secret, or none. It is never printed.
///
/// With one, an endpoint speaks only with endpoints that have the same; who does not is told so. It shows who a
/// peer is, and hides nothing: what moves between endpoints is not encrypted.
#[derive(Clone, Default)]
pub struct Secret(Option<Keyed>);

/// The code with the secret in it, ready for the bytes that it is to cover.
type Keyed = Hmac<Sha256>;

impl Secret {
    /// No secret: whoever connects may speak.
    pub const fn none() -> Self {
        Self(None)
    }

    /// These bytes, of any length; none if there are no bytes.
    ///
    /// A peer that has not the secret can try guesses against what it has heard. So it should be as long as a key:
    /// 32 random bytes, or their text.
    pub fn new(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::none();
        }
        Self(Keyed::new_from_slice(bytes).ok())
    }

    /// The one of this process's settings.
    pub fn of(config: &Config) -> Self {
        config.secret.value.as_ref().map_or(Self::none(), |secret| Self::of_text(secret.reveal()))
    }

    fn of_text(text: &OsStr) -> Self {
        Self::new(text.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Secret(set)" } else { "Secret(none)" })
    }
}

impl Seal for Secret {
    /// HMAC-SHA256 over each part with its length before it, as eight bytes, lowest first. Zeros without a secret.
    fn seal(&self, parts: &[&[u8]]) -> [u8; 32] {
        let Some(keyed) = &self.0 else { return [0; 32] };
        let mut code = keyed.clone();
        for part in parts {
            code.update(&(part.len() as u64).to_le_bytes());
            code.update(part);
        }
        code.finalize().into_bytes().into()
    }

    fn is_secret(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use p2p_proto::hello::{Facts, Handshake, RailFacts, Step};
    use p2p_proto::id::{EndpointId, Epoch};
    use tcpx_core::config::FixedEnvironment;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Computed with another implementation.
    #[test]
    fn it_is_the_code_that_others_compute() {
        let secret = Secret::new(b"a secret of this test");
        let known = [
            (&[][..], "0270eb4f28002d249ecb9f73d1aaca26ecb1105ac3b85b2957347cb49c103d81"),
            (
                &[&b"first"[..], b"second"][..],
                "83b8eeedb2a4fb6d9c577a6f13b55e3255e546603250bc68bbe175dfbe14a0b6",
            ),
            (&[&b"firstsecond"[..]][..], "9be748fe546ac393555c0dc82edd968cd1d8c9ca4918e9d55a3096d2a02864f1"),
        ];
        for (parts, code) in known {
            assert_eq!(hex(&secret.seal(parts)), code);
        }
        // One that is longer than a block of the hash.
        assert_eq!(
            hex(&Secret::new(&[7; 100]).seal(&[b"x"])),
            "a7adba1c240613ea68eb8a3dadc3d7f88ba5e4452a8f06e7da7bdad0ee2c635e"
        );
    }

    #[test]
    fn where_parts_begin_counts() {
        let secret = Secret::new(b"s");
        assert_ne!(secret.seal(&[b"ab", b"c"]), secret.seal(&[b"a", b"bc"]));
        assert_ne!(secret.seal(&[b"abc"]), secret.seal(&[b"abc", b""]));
        assert_ne!(secret.seal(&[b"abc"]), Secret::new(b"t").seal(&[b"abc"]));
        assert_eq!(secret.seal(&[b"abc"]), secret.clone().seal(&[b"abc"]));
    }

    #[test]
    fn no_bytes_are_no_secret_and_none_is_printed() {
        for (secret, is_secret) in [
            (Secret::none(), false),
            (Secret::default(), false),
            (Secret::new(b""), false),
            (Secret::new(b"x"), true),
        ] {
            assert_eq!(secret.is_secret(), is_secret);
            assert_eq!(secret.seal(&[b"abc"]) != [0; 32], is_secret);
        }
        assert_eq!(format!("{:?} {:?}", Secret::new(b"x"), Secret::none()), "Secret(set) Secret(none)");
    }

    #[test]
    fn it_comes_from_the_settings() {
        let read = |value: &str| {
            let environment: FixedEnvironment = [("UCCL_P2P_SECRET", value)].into_iter().collect();
            Config::from_environment(&environment).expect("good settings")
        };
        assert_eq!(Secret::of(&read("abc")).seal(&[b"x"]), Secret::new(b"abc").seal(&[b"x"]));
        assert!(!Secret::of(&read("")).is_secret());
        assert!(!format!("{:?}", read("hush-hush")).contains("hush-hush"));
    }

    /// Lets two ends greet each other; whether both were satisfied.
    fn greet(one: &Secret, other: &Secret) -> bool {
        let facts = |byte| Facts {
            endpoint: EndpointId([byte; 16]),
            epoch: Epoch(byte.into()),
            device: None,
            name: "a test".to_owned(),
            rails: vec![RailFacts { nic: "eth0".to_owned(), megabits: 0, channels: 1 }],
        };
        let mut ends = [
            Handshake::connecting(facts(1), [3; 32], Box::new(one.clone())),
            Handshake::accepting(facts(2), [4; 32], Box::new(other.clone())),
        ];
        let mut satisfied = [false; 2];
        for round in 0..20 {
            let (speaks, hears) = (round % 2, 1 - round % 2);
            let said = ends[speaks].output().to_vec();
            ends[speaks].sent(said.len());
            match ends[hears].receive(&said) {
                Ok(Step::More) => {}
                Ok(Step::MakeRails { .. }) => {
                    satisfied[hears] = true;
                    ends[hears].rails(vec![Bytes::from_static(b"here")]).expect("one rail");
                }
                Ok(Step::Connect { .. }) => satisfied[hears] = true,
                Err(_) => return false,
            }
        }
        satisfied == [true; 2]
    }

    #[test]
    fn those_who_share_a_secret_know_each_other() {
        let (one, other, none) = (Secret::new(b"one"), Secret::new(b"other"), Secret::none());
        assert!(greet(&one, &one) && greet(&none, &none));
        for (first, second) in [(&one, &other), (&one, &none), (&none, &one)] {
            assert!(!greet(first, second), "{first:?} {second:?}");
        }
    }
}
