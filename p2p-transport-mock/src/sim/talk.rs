//! Control traffic of a simulated workload.

use p2p_transport::{Control, ControlEvent, DoorId, Now, Received, StreamId};

use crate::random::mix;
use crate::{MockControl, Random};

/// Bytes that name a stream's direction at its beginning.
const HEADER: usize = 8;

/// One process's control streams.
#[derive(Debug)]
pub(super) struct Talker {
    pub(super) control: MockControl,
    pub(super) door: DoorId,
    pub(super) talks: Vec<Talk>,
}

/// One end of a stream.
#[derive(Debug)]
pub(super) struct Talk {
    id: StreamId,
    /// What this end sends begins with it; known to whoever accepted when it has arrived.
    uid: Option<u64>,
    hears: Vec<u8>,
    pub(super) sent: u64,
    pub(super) heard: u64,
    connector: bool,
    pub(super) open: bool,
    pub(super) ended: bool,
    pub(super) broken: bool,
    pub(super) closed: bool,
}

const fn byte(uid: u64, connector: bool, at: u64) -> u8 {
    if at < HEADER as u64 { (uid >> (8 * at)) as u8 } else { mix(uid ^ at ^ (connector as u64) << 63) as u8 }
}

impl Talk {
    const fn new(id: StreamId, uid: Option<u64>) -> Self {
        let connector = uid.is_some();
        let (sent, heard, open) = (0, 0, false);
        Self {
            id,
            uid,
            hears: Vec::new(),
            sent,
            heard,
            connector,
            open,
            ended: false,
            broken: false,
            closed: false,
        }
    }

    pub(super) const fn key(&self) -> Option<(u64, bool)> {
        match self.uid {
            Some(uid) => Some((uid, self.connector)),
            None => None,
        }
    }
}

impl Talker {
    pub(super) fn begin(&mut self, to: std::net::SocketAddr, uid: u64) {
        if let Ok(id) = self.control.connect(to) {
            self.talks.push(Talk::new(id, Some(uid)));
        }
    }

    /// Says something on some stream, or ends it.
    pub(super) fn act(&mut self, random: &mut Random) {
        let count = self.talks.len();
        let Some(talk) = self.talks.get_mut(random.index(count)).filter(|talk| talk.open && !talk.closed)
        else {
            return;
        };
        let Some(uid) = talk.uid else { return };
        if random.one_in(20) && talk.sent > 0 {
            talk.closed = true;
            self.control.close(talk.id);
            return;
        }
        let length = random.between(1, 300);
        let bytes: Vec<u8> =
            (talk.sent..talk.sent + length).map(|at| byte(uid, talk.connector, at)).collect();
        talk.sent += self.control.send(talk.id, &bytes) as u64;
    }

    /// Takes what there is; what is wrong with it.
    pub(super) fn poll(&mut self, now: Now, random: &mut Random, findings: &mut Vec<String>) {
        let mut events = Vec::new();
        let room = random.between(1, 8) as usize;
        let _ = self.control.poll(now, room, &mut |event| events.push(event));
        for event in events {
            match event {
                ControlEvent::Knocked(door) => {
                    while let Some(id) = self.control.accept(door) {
                        let mut talk = Talk::new(id, None);
                        talk.open = true;
                        self.talks.push(talk);
                    }
                }
                ControlEvent::Opened(id) => self.of(id, |talk| talk.open = true, findings),
                ControlEvent::Broken(id) => {
                    if self.control.why(id).is_none() {
                        findings.push("a control stream broke for no reason".to_owned());
                    }
                    self.of(id, |talk| talk.broken = true, findings);
                }
                ControlEvent::Readable(id) => self.hear(id, random, findings),
                ControlEvent::Writable(_) => {}
                _ => findings.push(format!("{event:?} is unknown here")),
            }
        }
    }

    fn of(&mut self, id: StreamId, what: impl FnOnce(&mut Talk), findings: &mut Vec<String>) {
        match self.talks.iter_mut().find(|talk| talk.id == id && !talk.closed) {
            Some(talk) => what(talk),
            None => findings.push(format!("an event of {id:?}, which is not open")),
        }
    }

    fn hear(&mut self, id: StreamId, random: &mut Random, findings: &mut Vec<String>) {
        let Some(talk) = self.talks.iter_mut().find(|talk| talk.id == id && !talk.closed) else { return };
        let mut into = [0; 64];
        loop {
            let room = random.between(1, 64) as usize;
            match self.control.receive(id, &mut into[..room]) {
                Received::Bytes(count) => talk.take(&into[..count], findings),
                Received::Nothing => return,
                Received::Ended => {
                    talk.ended = true;
                    return;
                }
            }
        }
    }
}

impl Talk {
    fn take(&mut self, bytes: &[u8], findings: &mut Vec<String>) {
        for &heard in bytes {
            if self.hears.len() < HEADER {
                self.hears.push(heard);
            }
            let header = self.hears.first_chunk::<HEADER>().map(|bytes| u64::from_le_bytes(*bytes));
            let ((None, Some(uid)) | (Some(uid), _)) = (self.uid, header) else {
                self.heard += 1;
                continue;
            };
            self.uid = Some(uid);
            let expected = byte(uid, !self.connector, self.heard);
            if heard != expected {
                findings.push(format!("control byte {} is {heard}, not {expected}", self.heard));
                return;
            }
            self.heard += 1;
        }
    }
}
