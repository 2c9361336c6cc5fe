//! A man in the middle of an exchange stream: it passes frames on, keeps them back, adds others, and cuts.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use p2p_transport::Address;

/// Kinds of frames.
pub(crate) const HELLO: u8 = 1;
pub(crate) const WELCOME: u8 = 2;
pub(crate) const HANDLES: u8 = 3;
pub(crate) const READY: u8 = 4;
pub(crate) const CLOSING: u8 = 5;
pub(crate) const RECEIVED: u8 = 6;
pub(crate) const REFUSED: u8 = 7;

/// A frame as the wire has it.
pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = (1 + body.len() as u32).to_le_bytes().to_vec();
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// One end closes and has sent so many messages on each channel.
pub(crate) fn closing(sent: &[u64]) -> Vec<u8> {
    let mut body = (sent.len() as u16).to_le_bytes().to_vec();
    sent.iter().for_each(|count| body.extend(count.to_le_bytes()));
    frame(CLOSING, &body)
}

pub(crate) fn refused(why: &str) -> Vec<u8> {
    frame(REFUSED, &[&(why.len() as u16).to_le_bytes(), why.as_bytes()].concat())
}

/// What happens to a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    Pass,
    /// This frame and all that follow it wait for [`Relay::release`].
    Hold,
    /// It is lost, and the stream goes on.
    Swallow,
    /// It is lost, and the stream with it.
    Cut,
}

/// Whether the connecting end said it, its kind.
type Judge = dyn Fn(bool, u8) -> Fate + Send + Sync;

#[derive(Default)]
struct State {
    /// The streams to the connecting and to the accepting end.
    ends: Option<[TcpStream; 2]>,
    /// Kinds of the frames that were seen, and whether the connecting end said them.
    seen: Vec<(bool, u8)>,
    /// What is held of the connecting and of the accepting end; `None` if nothing ever was.
    held: [Option<Vec<u8>>; 2],
}

/// See the module documentation.
#[derive(Clone)]
pub(crate) struct Relay(Arc<Mutex<State>>);

impl Relay {
    /// Stands before the exchange port that `address` leads to; returns the address that leads here.
    pub(crate) fn before(
        address: &Address,
        judge: impl Fn(bool, u8) -> Fate + Send + Sync + 'static,
    ) -> (Self, Address) {
        let port = u16::from_le_bytes(*address.as_bytes().last_chunk().expect("a port"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let here = listener.local_addr().expect("bound").port();
        let place = [&[1, 4, 127, 0, 0, 1][..], &here.to_le_bytes()].concat();
        let crafted = Address::new(&[&address.as_bytes()[..22], &place].concat()).expect("short");
        let relay = Self(Arc::new(Mutex::new(State::default())));
        let (own, judge): (_, Arc<Judge>) = (relay.clone(), Arc::new(judge));
        thread::spawn(move || {
            let (connecting, _) = listener.accept().expect("it comes");
            let accepting = TcpStream::connect(("127.0.0.1", port)).expect("it listens everywhere");
            let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
            own.0.lock().expect("no panic").ends = Some([copy(&connecting), copy(&accepting)]);
            let (other, same_judge) = (own.clone(), judge.clone());
            thread::spawn(move || other.pump(accepting, false, &*same_judge));
            own.pump(connecting, true, &*judge);
        });
        (relay, crafted)
    }

    /// Passes on what comes from one end, frame by frame, until that end is over; then the other one is, too.
    fn pump(&self, mut from: TcpStream, of_connecting: bool, judge: &Judge) {
        loop {
            let mut length = [0; 4];
            if from.read_exact(&mut length).is_err() {
                break;
            }
            let mut body = vec![0; u32::from_le_bytes(length) as usize];
            if from.read_exact(&mut body).is_err() {
                break;
            }
            let mut state = self.0.lock().expect("no panic");
            state.seen.push((of_connecting, body[0]));
            let held = &mut state.held[usize::from(!of_connecting)];
            let fate = if held.is_some() { Fate::Hold } else { judge(of_connecting, body[0]) };
            match fate {
                Fate::Pass => {
                    let ends = state.ends.as_mut().expect("set before");
                    // Who is gone hears nothing more.
                    let _ = ends[usize::from(of_connecting)].write_all(&[&length[..], &body].concat());
                }
                Fate::Hold => held.get_or_insert_default().extend([&length[..], &body].concat()),
                Fate::Swallow => {}
                Fate::Cut => break,
            }
        }
        self.cut();
    }

    /// Whether a frame of this kind was seen, from the connecting or the accepting end.
    pub(crate) fn saw(&self, of_connecting: bool, kind: u8) -> bool {
        self.0.lock().expect("no panic").seen.contains(&(of_connecting, kind))
    }

    /// Says to the accepting end, at once, what the connecting one has said and was held.
    pub(crate) fn release(&self) {
        let held = self.0.lock().expect("no panic").held[0].take().expect("something was held");
        self.say_to_accepting(&held);
    }

    /// Says something to the accepting end that the connecting one has not said.
    pub(crate) fn say_to_accepting(&self, bytes: &[u8]) {
        let mut stream = self.accepting();
        // It may have ended the stream already.
        let _ = stream.write_all(bytes);
    }

    /// The stream to the accepting end.
    pub(crate) fn accepting(&self) -> TcpStream {
        let state = self.0.lock().expect("no panic");
        state.ends.as_ref().expect("connected")[1].try_clone().expect("a descriptor")
    }

    /// Ends the streams to both ends, as a kernel does whose process died.
    pub(crate) fn cut(&self) {
        for stream in self.0.lock().expect("no panic").ends.iter().flatten() {
            // Ended already is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
