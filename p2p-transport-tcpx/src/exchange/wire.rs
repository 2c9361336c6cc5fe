//! The words of an exchange stream, as bytes.
//!
//! A frame is a length (`u32`, of what follows), a kind (`u8`) and a body; numbers are little-endian. The
//! first frame of a connecting end is a hello, which begins with a magic number and a version, so that a
//! stranger is told apart by its first bytes. Nothing is allocated for a length before it has been checked
//! and its bytes have come.

use tcpx_core::Handle;

/// Version of what is said here; another one is refused.
pub(crate) const VERSION: u16 = 1;
/// First bytes of a hello's body.
const MAGIC: [u8; 4] = *b"UP2X";
/// Channels of a connection at most.
pub(crate) const MAX_CHANNELS: u16 = 64;
/// Bytes of a text at most.
const MAX_TEXT: usize = 1024;
/// Bytes of a frame's length.
const LENGTH: usize = 4;
/// Bytes after the length of any frame at most.
const MAX_FRAME: usize = 32 + MAX_CHANNELS as usize * Handle::BYTES;
/// Bytes after the length of a hello at most.
pub(crate) const MAX_HELLO: usize = 64 + MAX_TEXT;

/// Names a listener: whoever knows it may connect there.
pub(crate) type Key = [u8; 16];

/// What one end says to the other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Word {
    /// The connecting end asks for a listener.
    Hello(Hello),
    /// The accepting end agrees, and says where its receive comms listen: one handle for each channel.
    Welcome { max_message: u32, handles: Vec<Handle> },
    /// Where the connecting end's receive comms listen.
    Handles(Vec<Handle>),
    /// All comms of this end are up and its memory is registered.
    Ready,
    /// This end closes; on channel i it has sent `sent[i]` messages that must still be received.
    Closing { sent: Vec<u64> },
    /// Everything that was to be received has been.
    Received,
    /// No connection, or none any more, because of this.
    Refused(String),
}

/// The first word.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Hello {
    pub(crate) key: Key,
    /// Channels wanted.
    pub(crate) channels: u16,
    /// Longest message that this end carries.
    pub(crate) max_message: u32,
    /// Name of the plugin, for the peer's log.
    pub(crate) plugin: String,
}

/// Why bytes are no word.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum WireError {
    #[error(
        "its first bytes are not those of an exchange stream: something else connected, or listens there"
    )]
    Stranger,
    #[error(
        "it speaks version {0} of the exchange, and this is {VERSION}: run the same release at both ends"
    )]
    Version(u16),
    #[error("a frame of {0} bytes, which is too long")]
    Length(usize),
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    #[error("a frame that breaks a rule: {0}")]
    Body(&'static str),
}

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const WELCOME: u8 = 2;
    pub(super) const HANDLES: u8 = 3;
    pub(super) const READY: u8 = 4;
    pub(super) const CLOSING: u8 = 5;
    pub(super) const RECEIVED: u8 = 6;
    pub(super) const REFUSED: u8 = 7;
}

impl Word {
    /// Appends the frame to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0; LENGTH]);
        match self {
            Self::Hello(hello) => {
                out.push(kind::HELLO);
                out.extend(MAGIC);
                out.extend(VERSION.to_le_bytes());
                out.extend(hello.key);
                out.extend(hello.channels.to_le_bytes());
                out.extend(hello.max_message.to_le_bytes());
                write_text(out, &hello.plugin);
            }
            Self::Welcome { max_message, handles } => {
                out.push(kind::WELCOME);
                out.extend(max_message.to_le_bytes());
                write_handles(out, handles);
            }
            Self::Handles(handles) => {
                out.push(kind::HANDLES);
                write_handles(out, handles);
            }
            Self::Ready => out.push(kind::READY),
            Self::Closing { sent } => {
                out.push(kind::CLOSING);
                out.extend((sent.len() as u16).to_le_bytes());
                sent.iter().for_each(|count| out.extend(count.to_le_bytes()));
            }
            Self::Received => out.push(kind::RECEIVED),
            Self::Refused(why) => {
                out.push(kind::REFUSED);
                write_text(out, why);
            }
        }
        let length = (out.len() - start - LENGTH) as u32;
        out[start..start + LENGTH].copy_from_slice(&length.to_le_bytes());
    }

    /// Takes the first frame from the front of `bytes`; `None` if it is not whole. Returns how many bytes it
    /// had.
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, WireError> {
        Self::read_within(bytes, MAX_FRAME)
    }

    /// As [`read`](Self::read), of somebody who has not said hello: a stranger is refused by its first bytes.
    pub(crate) fn read_hello(bytes: &[u8]) -> Result<Option<(Hello, usize)>, WireError> {
        let expected = [kind::HELLO, MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3]];
        let said = bytes.get(LENGTH..).unwrap_or_default();
        if !said.iter().zip(expected).all(|(said, expected)| *said == expected) {
            return Err(WireError::Stranger);
        }
        match Self::read_within(bytes, MAX_HELLO) {
            Ok(Some((Self::Hello(hello), length))) => Ok(Some((hello, length))),
            Ok(Some(_)) | Err(WireError::Length(_)) => Err(WireError::Stranger),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read_within(bytes: &[u8], longest: usize) -> Result<Option<(Self, usize)>, WireError> {
        let mut reader = Reader(bytes);
        let Ok(length) = reader.array() else { return Ok(None) };
        let length = u32::from_le_bytes(length) as usize;
        if length == 0 || length > longest {
            return Err(WireError::Length(length));
        }
        let Some(frame) = reader.0.get(..length) else { return Ok(None) };
        let mut reader = Reader(frame);
        let word = Self::parse(&mut reader)?;
        if !reader.0.is_empty() {
            return Err(WireError::Body("bytes after its end"));
        }
        Ok(Some((word, LENGTH + length)))
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let [kind] = reader.array()?;
        Ok(match kind {
            kind::HELLO => Self::Hello(Hello::parse(reader)?),
            kind::WELCOME => {
                let max_message = u32::from_le_bytes(reader.array()?);
                Self::Welcome { max_message, handles: reader.handles()? }
            }
            kind::HANDLES => Self::Handles(reader.handles()?),
            kind::READY => Self::Ready,
            kind::CLOSING => {
                let count = reader.channels()?;
                let sent = (0..count).map(|_| reader.array().map(u64::from_le_bytes));
                Self::Closing { sent: sent.collect::<Result<_, _>>()? }
            }
            kind::RECEIVED => Self::Received,
            kind::REFUSED => Self::Refused(reader.text()?),
            other => return Err(WireError::Kind(other)),
        })
    }
}

impl Hello {
    fn parse(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        if reader.array()? != MAGIC {
            return Err(WireError::Stranger);
        }
        let version = u16::from_le_bytes(reader.array()?);
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let key = reader.array()?;
        let channels = reader.channels()?;
        let max_message = u32::from_le_bytes(reader.array()?);
        Ok(Self { key, channels, max_message, plugin: reader.text()? })
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend((end as u16).to_le_bytes());
    out.extend(&text.as_bytes()[..end]);
}

fn write_handles(out: &mut Vec<u8>, handles: &[Handle]) {
    out.extend((handles.len() as u16).to_le_bytes());
    handles.iter().for_each(|handle| out.extend(handle.as_bytes()));
}

/// Bytes not read yet.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(WireError::Body("too short"))?;
        self.0 = rest;
        Ok(*first)
    }

    fn channels(&mut self) -> Result<u16, WireError> {
        let count = u16::from_le_bytes(self.array()?);
        let good = (1..=MAX_CHANNELS).contains(&count);
        if good { Ok(count) } else { Err(WireError::Body("no channels, or more than a connection may have")) }
    }

    fn handles(&mut self) -> Result<Vec<Handle>, WireError> {
        let count = self.channels()?;
        (0..count).map(|_| self.array().map(Handle::new)).collect()
    }

    /// Control characters of a peer's text do not reach a log.
    fn text(&mut self) -> Result<String, WireError> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        if length > MAX_TEXT {
            return Err(WireError::Body("a text that is too long"));
        }
        let (text, rest) = self.0.split_at_checked(length).ok_or(WireError::Body("too short"))?;
        self.0 = rest;
        let text = std::str::from_utf8(text).map_err(|_| WireError::Body("a text that is no UTF-8"))?;
        Ok(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn handles() -> impl Strategy<Value = Vec<Handle>> {
        let handle = any::<[u8; 32]>().prop_map(|part| {
            let mut bytes = [0; Handle::BYTES];
            bytes[..32].copy_from_slice(&part);
            Handle::new(bytes)
        });
        proptest::collection::vec(handle, 1..=usize::from(MAX_CHANNELS))
    }

    fn word() -> impl Strategy<Value = Word> {
        let hello = (any::<Key>(), 1..=MAX_CHANNELS, any::<u32>(), "[a-zA-Z_ ]{0,60}").prop_map(
            |(key, channels, max_message, plugin)| Word::Hello(Hello { key, channels, max_message, plugin }),
        );
        prop_oneof![
            hello,
            (any::<u32>(), handles())
                .prop_map(|(max_message, handles)| Word::Welcome { max_message, handles }),
            handles().prop_map(Word::Handles),
            Just(Word::Ready),
            proptest::collection::vec(any::<u64>(), 1..=usize::from(MAX_CHANNELS))
                .prop_map(|sent| Word::Closing { sent }),
            Just(Word::Received),
            "[^\\p{Cc}]{0,80}".prop_map(Word::Refused),
        ]
    }

    proptest! {
        /// Whatever follows a frame, and however it is cut, it is read as it was written.
        #[test]
        fn what_was_written_is_read(words in proptest::collection::vec(word(), 1..4)) {
            let mut bytes = Vec::new();
            words.iter().for_each(|word| word.write(&mut bytes));
            let mut rest = &bytes[..];
            for word in &words {
                let (read, length) = Word::read(rest).unwrap().unwrap();
                prop_assert_eq!(&read, word);
                for cut in 0..length {
                    prop_assert_eq!(Word::read(&rest[..cut]), Ok(None));
                }
                rest = &rest[length..];
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn garbage_is_an_error_or_incomplete(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Word::read(&bytes);
            let _ = Word::read_hello(&bytes);
        }

        /// A wrong byte is noticed, or changes a value and nothing else.
        #[test]
        fn a_changed_byte_does_no_harm(word in word(), at in any::<prop::sample::Index>(), value: u8) {
            let mut bytes = Vec::new();
            word.write(&mut bytes);
            let at = at.index(bytes.len());
            bytes[at] = value;
            if let Ok(Some((_, length))) = Word::read(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }

    #[test]
    fn a_stranger_is_known_by_its_first_bytes() {
        assert_eq!(Word::read_hello(b"GET / HTTP/1.1\r\n"), Err(WireError::Stranger));
        assert_eq!(Word::read_hello(b"\x00\x00"), Ok(None));
        assert_eq!(Word::read_hello(b"\x20\x00\x00\x00\x01UP"), Ok(None));
        assert_eq!(Word::read_hello(b"\x20\x00\x00\x00\x01UX"), Err(WireError::Stranger));
        let long = [&u32::MAX.to_le_bytes()[..], &[kind::HELLO], &MAGIC].concat();
        assert_eq!(Word::read_hello(&long), Err(WireError::Stranger));
    }

    #[test]
    fn another_version_is_named() {
        let hello = Hello { key: [1; 16], channels: 1, max_message: 1, plugin: String::new() };
        let mut bytes = Vec::new();
        Word::Hello(hello).write(&mut bytes);
        bytes[9] = 9;
        assert_eq!(Word::read_hello(&bytes), Err(WireError::Version(9)));
        assert!(WireError::Version(9).to_string().contains("same release"));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let mut bytes = Vec::new();
        Word::Refused("ä".repeat(MAX_TEXT)).write(&mut bytes);
        let (word, _) = Word::read(&bytes).expect("good").expect("whole");
        assert_eq!(word, Word::Refused("ä".repeat(MAX_TEXT / 2)));
    }
}
