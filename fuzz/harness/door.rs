//! The target `endpoint_door`: a whole endpoint in a simulated world, at whose door strangers say what they like, and with
//! a peer that is let in and then breaks every rule it can. Somebody good still connects and moves bytes, and nothing of
//! the endpoint's memory changes but what was opened.
//!
//! The first byte chooses the world. What follows is a program of what the others do.

use std::time::Duration;

use bytes::BytesMut;
use p2p_endpoint::engine::{Engine, Event, LinkId, OpToken, Options, Part, Request};
use p2p_endpoint::exports::{Access, Item};
use p2p_endpoint::secret::Secret;
use p2p_memory::SharedHost;
use p2p_proto::hello::{Facts, Handshake, NoSecret, RailFacts, Step};
use p2p_proto::id::{EndpointId, Epoch};
use p2p_proto::peer::Outcome;
use p2p_proto::wire::encode;
use p2p_transport::{
    Address, ConnId, Control, Event as TransportEvent, Events, Next, Rail, Received, RegionId, Slice,
    StreamId, Token, Transport,
};
use p2p_transport_mock::{MockControl, MockTransport, NicModel, Random, Settings, World};

use super::frames::Evil;
use super::program::Program;

/// Bytes that are opened to the evil peer; as many before and behind it are not.
const OPEN: u64 = 16 << 10;
/// Bytes that the good peer writes and reads.
const GOOD: usize = 20_000;
const GUARD: u8 = 0x5a;
/// Acts of one input at most.
const ACTS: usize = 400;
const STRANGERS: usize = 6;
/// The life of the evil peer.
const EVIL: u64 = 6;
/// How long, in virtual time, the good peer may have to wait, and links may take to end.
const BOUND: Duration = Duration::from_secs(30);

/// A run of the target.
pub(crate) fn run(input: &[u8]) {
    let mut program = Program(input);
    let mut town = Town::new(program.byte());
    for _ in 0..ACTS {
        if program.is_over() {
            break;
        }
        town.act(&mut program);
    }
    town.judge();
}

/// Everybody.
struct Town {
    world: World,
    victim: Engine,
    good: Engine,
    /// What the good peer did: its links, and operations that are done.
    links: Vec<LinkId>,
    over: Vec<LinkId>,
    done: u64,
    began: u64,
    /// The part in the middle is open to the evil peer.
    guarded: SharedHost,
    /// Open to the good one.
    shared: SharedHost,
    source: SharedHost,
    source_part: Part,
    shared_item: Item,
    /// What the endpoint itself moves with whoever is linked to it: of its own memory, and of the evil peer's.
    own_part: Part,
    evils_item: Item,
    strangers: Vec<StreamId>,
    evil: EvilPeer,
}

impl Town {
    fn new(flags: u8) -> Self {
        let mut settings = if flags & 1 == 0 { Settings::plugin() } else { Settings::rdma() };
        settings.max_message = 8 << 10;
        settings.control_buffer = if flags & 2 == 0 { 64 << 10 } else { 300 };
        let secret = if flags & 4 == 0 { Secret::none } else { || Secret::new(b"of the good ones") };
        let world = World::new(flags.into(), settings);
        let nics = [NicModel::FAST; 2];
        let engine = |number: u64| {
            let node = world.add_node(&nics);
            let mut options = Options::new(format!("node{number}"));
            options.secret = secret();
            options.connect_timeout = Duration::from_secs(2);
            options.most_links = 8;
            let mut random = Random::new(number);
            let random = Box::new(move || random.next());
            Engine::new(Box::new(node.transport()), Box::new(node.control()), options, random)
                .expect("a node has NICs and addresses")
        };
        let (mut victim, mut good) = (engine(1), engine(2));
        let memory = |length: usize, value| {
            let memory = SharedHost::new(length).expect("memory");
            memory.fill(0, length, value).expect("in bounds");
            memory
        };
        let (guarded, shared) = (memory(3 * OPEN as usize, GUARD), memory(GOOD, 0));
        let own = memory(OPEN as usize, 1);
        let source = memory(GOOD, 0);
        let bytes: Vec<u8> = (0..GOOD).map(|at| ((at * 7) >> 3) as u8).collect();
        source.copy_in(0, &bytes).expect("in bounds");
        let mut reg = |memory: &SharedHost| victim.reg(Box::new(memory.clone())).expect("no fault");
        let (guarded_mr, shared_mr) = (reg(&guarded), reg(&shared));
        let own_part = Part { mr: reg(&own), offset: 0, len: OPEN };
        let mut open =
            |mr, offset, len| victim.advertise(Part { mr, offset, len }, Access::Both).expect("registered");
        let (evil_item, shared_item) = (open(guarded_mr, OPEN, OPEN), open(shared_mr, 0, GOOD as u64));
        let mr = good.reg(Box::new(source.clone())).expect("no fault");
        let source_part = Part { mr, offset: 0, len: GOOD as u64 };
        let node = world.add_node(&nics);
        let evil = EvilPeer::new(node.control(), node.transport(), evil_item);
        let evils_item = of_life(evil_item, EVIL);
        let (links, over, strangers) = (Vec::new(), Vec::new(), Vec::new());
        let (done, began) = (0, 0);
        Self {
            world,
            victim,
            good,
            links,
            over,
            done,
            began,
            guarded,
            shared,
            source,
            source_part,
            shared_item,
            own_part,
            evils_item,
            strangers,
            evil,
        }
    }

    fn act(&mut self, program: &mut Program<'_>) {
        match program.below(16) {
            0 if self.strangers.len() < STRANGERS => {
                let door = self.victim.door().expect("it listens");
                self.strangers.extend(self.evil.control.connect(door));
                self.pass(10);
            }
            0..=2 => {
                let (which, count) = (usize::from(program.byte()), usize::from(program.byte()));
                let bytes = program.bytes(count);
                if let Some(stream) = self.strangers.get(which % STRANGERS).copied() {
                    self.evil.control.send(stream, bytes);
                }
                self.pass(3);
            }
            3 => {
                let which = usize::from(program.below(STRANGERS as u8));
                if which < self.strangers.len() {
                    self.evil.control.close(self.strangers.remove(which));
                }
            }
            4 => self.pass(program.byte().into()),
            5 => {
                let door = self.victim.door().expect("it listens");
                self.evil.begin(door);
                self.pass(60);
            }
            6..=11 => {
                self.evil.say_a_frame(program);
                self.pass(program.below(4).into());
            }
            12 => {
                let count = usize::from(program.byte());
                self.evil.say(program.bytes(count));
                self.pass(2);
            }
            13 | 14 => {
                self.evil.post(program);
                self.pass(4);
            }
            _ => match program.below(8) {
                0 => self.evil.end(),
                1 => self.evil.close_a_rail(program.below(2)),
                2 => self.good_connects(),
                3 => self.victim_answers(program),
                _ => self.good_writes(),
            },
        }
    }

    /// The endpoint itself begins something with whoever is linked to it.
    fn victim_answers(&mut self, program: &mut Program<'_>) {
        let counters = self.victim.counters();
        let Some(link) = counters.by_link.first().map(|link| link.link) else { return };
        let items = [self.evils_item];
        let request = match program.below(4) {
            0 => Request::Send,
            1 => Request::Recv,
            2 => Request::Write { into: &items, counter: None },
            _ => Request::Read { from: &items },
        };
        // The link may be the good peer's, which has given out no such item, or full.
        let _ = self.victim.start(link, OpToken(1), &[self.own_part], request);
        let _ = self.victim.notify(link, None, vec![1; 3000].into());
    }

    fn good_connects(&mut self) {
        if self.began < 4 && self.links.len() < 2 {
            let door = self.victim.door().expect("it listens");
            self.good.connect(door).expect("there is room");
            self.pass(200);
        }
    }

    fn good_writes(&mut self) {
        let Some(link) = self.links.last().copied() else { return };
        if self.began < 4 {
            self.began += 1;
            let write = Request::Write { into: &[self.shared_item], counter: None };
            self.good.start(link, OpToken(self.began), &[self.source_part], write).expect("it is up");
        }
    }

    /// So many steps of the world, in which everybody does what they can.
    fn pass(&mut self, steps: usize) {
        for _ in 0..steps {
            self.poll();
            if !self.world.step() {
                let now = self.world.now();
                self.world.advance(now.after(Duration::from_millis(20)));
            }
        }
        self.poll();
    }

    fn poll(&mut self) {
        for _ in 0..100 {
            let now = self.world.now();
            let mut again = self.victim.poll(now) == Next::Again;
            while self.victim.next_event().is_some() {}
            again |= self.good.poll(now) == Next::Again;
            while let Some(event) = self.good.next_event() {
                match event {
                    Event::Connected(link) => self.links.push(link),
                    Event::Closed(link) => self.over.push(link),
                    Event::Ended { outcome, .. } => {
                        assert_eq!(outcome, Outcome::Done { bytes: GOOD as u64 }, "of the good peer");
                        self.done += 1;
                    }
                    Event::Accepted(_) | Event::Notified { .. } | Event::Counted { .. } | _ => {}
                }
            }
            self.evil.poll(&self.world);
            if !again {
                return;
            }
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = self.world.now().after(BOUND);
        while !done(self) {
            assert!(self.world.now() < end, "{what} takes longer than {BOUND:?}: {:?}", self.victim);
            self.pass(1);
        }
    }

    fn judge(mut self) {
        let before = self.links.len();
        self.until("what the good peer has begun", |town| town.done == town.began);
        let door = self.victim.door().expect("it listens");
        self.good.connect(door).expect("there is room");
        self.until("a link of the good peer", |town| town.links.len() > before);
        (self.began, self.done) = (0, 0);
        self.good_writes();
        self.until("a write of the good peer", |town| town.done == 1);
        assert!(self.over.is_empty(), "a link of the good peer was lost: {:?}", self.good.why(self.over[0]));
        let contents = |memory: &SharedHost| {
            let mut bytes = vec![0; memory.len()];
            memory.copy_out(0, &mut bytes).expect("in bounds");
            bytes
        };
        assert!(contents(&self.shared) == contents(&self.source), "what the good peer wrote");
        self.victim.close_all();
        self.good.close_all();
        self.until("the end of all links", |town| town.victim.is_empty() && town.good.is_empty());
        let guarded = contents(&self.guarded);
        let (front, rest) = guarded.split_at(OPEN as usize);
        let untouched = |bytes: &[u8]| bytes == vec![GUARD; OPEN as usize];
        assert!(
            untouched(front) && untouched(&rest[OPEN as usize..]),
            "memory that was not opened has changed"
        );
    }
}

/// The item as somebody of this life would have made it.
fn of_life(item: Item, epoch: u64) -> Item {
    let mut bytes = item.to_bytes();
    bytes[48..56].copy_from_slice(&epoch.to_le_bytes());
    let checksum = bytes[16..60]
        .iter()
        .fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    bytes[60..].copy_from_slice(&checksum.to_le_bytes());
    Item::from_bytes(&bytes).expect("its checksum is right")
}

/// Somebody who says hello as they should, and nothing afterwards.
struct EvilPeer {
    control: MockControl,
    transport: MockTransport,
    events: Events,
    rails: Vec<Rail>,
    memory: RegionId,
    evil: Evil,
    stream: Option<StreamId>,
    handshake: Option<Handshake>,
    conns: Vec<(ConnId, bool)>,
    said: BytesMut,
    is_up: bool,
}

impl EvilPeer {
    fn new(control: MockControl, mut transport: MockTransport, item: Item) -> Self {
        let rails = transport.rails(None).expect("it has NICs");
        let memory = SharedHost::new(128 << 10).expect("memory");
        let memory = transport.register(rails[0].nic, Box::new(memory)).expect("no fault");
        let evil = Evil::new(item.range().key, 4);
        let (stream, handshake, conns, said) = (None, None, Vec::new(), BytesMut::new());
        let events = Events::with_capacity(64);
        Self { control, transport, events, rails, memory, evil, stream, handshake, conns, said, is_up: false }
    }

    fn begin(&mut self, door: std::net::SocketAddr) {
        self.end();
        let rail = |_: &Rail| RailFacts { nic: "evil".to_owned(), megabits: 0, channels: 1 };
        let facts = Facts {
            endpoint: EndpointId([6; 16]),
            epoch: Epoch(EVIL),
            device: None,
            name: "evil".to_owned(),
            rails: self.rails.iter().map(rail).collect(),
        };
        self.handshake = Some(Handshake::connecting(facts, [9; 32], Box::new(NoSecret)));
        self.stream = self.control.connect(door).ok();
        self.evil = Evil::new(self.evil.key, 4);
    }

    fn end(&mut self) {
        for (conn, _) in self.conns.drain(..) {
            let _ = self.transport.close(conn);
        }
        if let Some(stream) = self.stream.take() {
            self.control.close(stream);
        }
        self.handshake = None;
        self.said.clear();
        self.is_up = false;
    }

    fn close_a_rail(&mut self, which: u8) {
        if let Some((conn, _)) = self.conns.get(usize::from(which)) {
            let _ = self.transport.close(*conn);
        }
    }

    fn say_a_frame(&mut self, program: &mut Program<'_>) {
        let frame = self.evil.frame(program);
        if self.is_up && self.said.len() < 1 << 20 {
            encode(&frame, &mut self.said);
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        if self.is_up {
            self.said.extend_from_slice(bytes);
        }
    }

    /// A message of any length, or a receive for one.
    fn post(&mut self, program: &mut Program<'_>) {
        let (rail, kind) = (usize::from(program.below(2)), program.below(3));
        let likely = [64, 300, 4096, 8 << 10][usize::from(program.below(4))];
        let len = program.number(likely);
        let slice = Slice { region: self.memory, offset: 0, len: len.clamp(1, 64 << 10) as u32 };
        // Its memory lies on one NIC only: on another one it is refused.
        let Some((conn, true)) = self.conns.get(rail).copied() else { return };
        let _ = match kind {
            0 => self.transport.recv(conn, Token(1), &[slice]),
            _ => self.transport.send(conn, Token(2), &[slice]),
        };
    }

    fn poll(&mut self, world: &World) {
        let now = world.now();
        let _ = self.transport.poll(now, &mut self.events);
        for event in self.events.drain() {
            if let TransportEvent::Connected(conn) = event {
                self.conns.iter_mut().filter(|(one, _)| *one == conn).for_each(|(_, up)| *up = true);
            }
        }
        let _ = self.control.poll(now, 64, &mut |_| {});
        let Some(stream) = self.stream else { return };
        let mut bytes = [0; 1024];
        let Received::Bytes(count) = self.control.receive(stream, &mut bytes) else {
            return self.speak(stream);
        };
        let Some(handshake) = &mut self.handshake else { return self.speak(stream) };
        if let Ok(Step::Connect { addresses, .. }) = handshake.receive(&bytes[..count]) {
            for (rail, address) in self.rails.iter().zip(addresses) {
                let address = Address::new(&address).expect("as the victim made it");
                self.conns.extend(self.transport.connect(*rail, &address).map(|conn| (conn, false)));
            }
        }
        self.speak(stream);
    }

    fn speak(&mut self, stream: StreamId) {
        if let Some(handshake) = &mut self.handshake {
            let sent = self.control.send(stream, handshake.output());
            handshake.sent(sent);
            let ready = !self.conns.is_empty() && self.conns.iter().all(|(_, up)| *up);
            if ready && handshake.output().is_empty() {
                self.handshake = None;
                self.is_up = true;
                // Its rails are up, and take messages of this many parts and this length.
                self.said.extend_from_slice(&(self.conns.len() as u16).to_le_bytes());
                for _ in &self.conns {
                    self.said.extend_from_slice(&2_u16.to_le_bytes());
                    self.said.extend_from_slice(&(8_u32 << 10).to_le_bytes());
                }
            }
        }
        if self.handshake.is_none() {
            let sent = self.control.send(stream, &self.said);
            let _ = self.said.split_to(sent);
        }
    }
}
