//! Who says what when.

use std::fmt;
use std::hint::black_box;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::intake::Intake;
use super::message::{self, CHALLENGE, HELLO, PROOF, Party, REFUSED, SEAL, WELCOME};
use super::{Facts, HelloError, LONGEST_HANDSHAKE, Seal, Step, VERSIONS, Versions};
use crate::wire::reader::Rule;

/// One end of a handshake.
///
/// Bytes of the peer go to [`receive`](Self::receive), and what [`output`](Self::output) has goes to the peer,
/// also after an error. How long a peer may take is up to the caller.
pub struct Handshake {
    own: Party,
    seal: Box<dyn Seal + Send>,
    state: State,
    intake: Intake,
    /// All messages before the next one, of both ends. A seal covers them.
    said: BytesMut,
    output: BytesMut,
    leftover: BytesMut,
}

/// What comes next.
enum State {
    /// The connecting end's hello.
    Hello,
    /// The accepting end's challenge.
    Challenge,
    /// The proof of the connecting end, which says that it is this.
    Proof(Facts),
    /// The addresses of this end's caller.
    Rails,
    /// The welcome of the accepting end, which is this.
    Welcome(Facts),
    /// Nothing.
    Done,
    /// Nothing, because of this.
    Failed(HelloError),
}

/// First bytes under each seal: those of nothing else that the secret may be used for. What follows begins with
/// the whole hello, and ends with the message itself, whose head says what kind it is.
const DOMAIN: &[u8; 16] = b"UP2P-handshake-1";

impl Handshake {
    /// The end that has opened the stream. It speaks first: there is output at once.
    ///
    /// The nonce is random and used for nothing else. Texts of `own` that are too long are cut.
    #[must_use]
    pub fn connecting(own: Facts, nonce: [u8; 32], seal: Box<dyn Seal + Send>) -> Self {
        let mut this = Self::new(own, nonce, seal, State::Challenge);
        let hello = message::write(HELLO, |into| {
            message::write_versions(VERSIONS, into);
            message::write_party(&this.own, into);
        });
        this.say(&hello);
        this
    }

    /// The end to which a stream was opened.
    ///
    /// The nonce is random and used for nothing else. Texts of `own` that are too long are cut.
    #[must_use]
    pub fn accepting(own: Facts, nonce: [u8; 32], seal: Box<dyn Seal + Send>) -> Self {
        Self::new(own, nonce, seal, State::Hello)
    }

    fn new(facts: Facts, nonce: [u8; 32], seal: Box<dyn Seal + Send>, state: State) -> Self {
        Self {
            own: Party { facts, secret: seal.is_secret(), nonce },
            seal,
            state,
            intake: Intake::default(),
            said: BytesMut::new(),
            output: BytesMut::new(),
            leftover: BytesMut::new(),
        }
    }

    /// Takes bytes of the peer, cut anywhere.
    ///
    /// What comes after the last message of the handshake is kept as [`leftover`](Self::leftover).
    ///
    /// # Errors
    ///
    /// Why the handshake has failed; again at every later call. Unless the peer is a stranger, or has refused
    /// itself, [`output`](Self::output) tells it.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<Step, HelloError> {
        let mut step = Step::More;
        loop {
            match &self.state {
                State::Failed(error) => return Err(error.clone()),
                State::Done => return self.keep(bytes).map(|()| step),
                State::Hello | State::Challenge | State::Proof(_) | State::Rails | State::Welcome(_) => {}
            }
            let came = self.intake.take(&mut bytes);
            match came.and_then(|came| came.map(|(kind, message)| self.hear(kind, &message)).transpose()) {
                Ok(None) => return Ok(step),
                Ok(Some(Step::More)) => {}
                Ok(Some(other)) => step = other,
                Err(error) => return Err(self.fail(error)),
            }
        }
    }

    /// The accepting end's answer to [`Step::MakeRails`]: one address for each rail, in their order. Its part is
    /// done when the output is sent.
    ///
    /// # Errors
    ///
    /// [`Misuse`](HelloError::Misuse), and nothing has changed: it is not the time, or there are no addresses,
    /// too many, or one that is empty or too long.
    pub fn rails(&mut self, addresses: Vec<Bytes>) -> Result<(), HelloError> {
        match &self.state {
            State::Rails => {}
            State::Failed(error) => return Err(error.clone()),
            State::Hello | State::Challenge | State::Proof(_) | State::Welcome(_) | State::Done => {
                return Err(HelloError::Misuse("nobody has asked it for rails"));
            }
        }
        message::check_addresses(&addresses).map_err(HelloError::Misuse)?;
        self.say_sealed(WELCOME, |_, into| message::write_addresses(&addresses, into));
        let rest = self.intake.rest();
        self.leftover.extend_from_slice(&rest);
        self.over(State::Done);
        Ok(())
    }

    /// What is to be sent to the peer.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// So many bytes of the output were sent.
    pub fn sent(&mut self, count: usize) {
        self.output.advance(count.min(self.output.len()));
    }

    /// Tells the peer that this end does not want to, and why; a long text is cut. When the handshake is over, it
    /// does nothing.
    pub fn refuse(&mut self, why: &str) {
        if !matches!(self.state, State::Done | State::Failed(_)) {
            self.output.extend_from_slice(&message::refused(VERSIONS, why));
            self.over(State::Failed(HelloError::Misuse("it has refused, and goes on")));
        }
    }

    /// Whether the handshake has come to its good end. There may be output to send.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// What has come after the handshake, once: the first bytes of what follows it.
    pub fn leftover(&mut self) -> BytesMut {
        self.leftover.split()
    }

    fn hear(&mut self, kind: u16, message: &[u8]) -> Result<Step, HelloError> {
        let name = message::known(kind).map_or("unknown", |(name, _)| name);
        let wrong = |rule| HelloError::Rule { message: name, rule };
        let state = std::mem::replace(&mut self.state, State::Done);
        match (state, kind) {
            (_, REFUSED) => {
                let error = message::read_refused(message, VERSIONS, self.own.secret).map_err(wrong)?;
                // Its last word is not answered.
                self.over(State::Failed(error.clone()));
                Err(error)
            }
            (State::Hello, HELLO) => self.hello(message, wrong),
            (State::Challenge, CHALLENGE) => self.challenge(message, wrong),
            (State::Proof(peer), PROOF) => {
                let fields = message::sealed(message).map_err(wrong)?;
                fields.end().map_err(wrong)?;
                self.check_seal(message)?;
                self.state = State::Rails;
                Ok(Step::MakeRails { peer })
            }
            (State::Welcome(peer), WELCOME) => {
                let mut fields = message::sealed(message).map_err(wrong)?;
                let addresses = message::read_addresses(&mut fields).map_err(wrong)?;
                fields.end().map_err(wrong)?;
                self.check_seal(message)?;
                self.over(State::Done);
                Ok(Step::Connect { peer, addresses })
            }
            _ => Err(HelloError::Order { message: name }),
        }
    }

    fn hello(&mut self, message: &[u8], wrong: impl Fn(Rule) -> HelloError) -> Result<Step, HelloError> {
        let mut fields = message::fields(message);
        let versions = message::read_versions(&mut fields).map_err(&wrong)?;
        let version = VERSIONS.agree(versions);
        let version = version.ok_or(HelloError::Version { own: VERSIONS, peer: versions })?;
        let peer = message::read_party(&mut fields).map_err(&wrong)?;
        // Who speaks a later version, too, may say more here.
        if versions.max <= VERSIONS.max {
            fields.end().map_err(&wrong)?;
        }
        self.check_secrets(&peer)?;
        self.said.extend_from_slice(message);
        self.say_sealed(CHALLENGE, |own, into| {
            into.put_u16_le(version);
            message::write_party(own, into);
        });
        self.state = State::Proof(peer.facts);
        Ok(Step::More)
    }

    fn challenge(&mut self, message: &[u8], wrong: impl Fn(Rule) -> HelloError) -> Result<Step, HelloError> {
        let version = message::fields(message).u16().map_err(&wrong)?;
        let chosen = Versions { min: version, max: version };
        VERSIONS.agree(chosen).ok_or(HelloError::Version { own: VERSIONS, peer: chosen })?;
        let mut fields = message::sealed(message).map_err(&wrong)?;
        fields.u16().map_err(&wrong)?;
        let peer = message::read_party(&mut fields).map_err(&wrong)?;
        fields.end().map_err(&wrong)?;
        self.check_secrets(&peer)?;
        self.check_seal(message)?;
        self.say_sealed(PROOF, |_, _| {});
        self.state = State::Welcome(peer.facts);
        Ok(Step::More)
    }

    fn check_secrets(&self, peer: &Party) -> Result<(), HelloError> {
        let here = self.own.secret;
        if here == peer.secret { Ok(()) } else { Err(HelloError::OneSecret { here }) }
    }

    /// Checks the seal at a message's end. The message is said then.
    fn check_seal(&mut self, message: &[u8]) -> Result<(), HelloError> {
        let (front, seal) = message.split_at(message.len().saturating_sub(SEAL));
        if !same(seal, &self.seal.seal(&[DOMAIN, &self.said, front])) {
            return Err(HelloError::WrongSecret);
        }
        self.said.extend_from_slice(message);
        Ok(())
    }

    fn say_sealed(&mut self, kind: u16, fields: impl FnOnce(&Party, &mut BytesMut)) {
        let mut message = message::write(kind, |into| {
            fields(&self.own, into);
            into.put_bytes(0, SEAL);
        });
        let length = message.len().saturating_sub(SEAL);
        let (front, seal) = message.split_at_mut(length);
        seal.copy_from_slice(&self.seal.seal(&[DOMAIN, &self.said, front]));
        self.say(&message);
    }

    fn say(&mut self, message: &[u8]) {
        self.said.extend_from_slice(message);
        self.output.extend_from_slice(message);
    }

    fn fail(&mut self, error: HelloError) -> HelloError {
        if !matches!(self.state, State::Failed(_)) {
            let told = message::refusal(&error, VERSIONS).unwrap_or_default();
            self.output.extend_from_slice(&told);
            self.over(State::Failed(error.clone()));
        }
        error
    }

    fn over(&mut self, state: State) {
        self.state = state;
        self.said = BytesMut::new();
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), HelloError> {
        if !bytes.is_empty() && self.leftover.len() >= LONGEST_HANDSHAKE {
            return Err(HelloError::Misuse("the handshake is over, and what follows it is not taken"));
        }
        self.leftover.extend_from_slice(bytes);
        Ok(())
    }
}

impl fmt::Debug for Handshake {
    /// Without nonces, seals and addresses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state: &dyn fmt::Debug = match &self.state {
            State::Hello => &"waits for a hello",
            State::Challenge => &"waits for a challenge",
            State::Proof(_) => &"waits for a proof",
            State::Rails => &"waits for rails of this end",
            State::Welcome(_) => &"waits for a welcome",
            State::Done => &"done",
            State::Failed(error) => error,
        };
        f.debug_struct("Handshake")
            .field("own", &self.own.facts)
            .field("secret", &self.own.secret)
            .field("state", state)
            .finish_non_exhaustive()
    }
}

/// Takes as long for seals that differ early as for others, so that nobody can find one byte by byte.
fn same(one: &[u8], other: &[u8; SEAL]) -> bool {
    let differ = one.iter().zip(other).fold(0, |differ, (one, other)| black_box(differ | (one ^ other)));
    differ == 0 && one.len() == SEAL
}
