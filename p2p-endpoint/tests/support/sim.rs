//! A random workload of whole endpoints in a random world, whose every byte and event is checked.
//!
//! What is sent comes from memory whose bytes never change, and what is received goes to a place of its own, between
//! guards. So it can be said of each transfer that was done which bytes lie there now, and of everything else that
//! nothing changed. In the end the faults are switched off and all links are closed, and everything must come to its
//! end within a bound of virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

use p2p_endpoint::engine::{Engine, Event, LinkId, OpToken, Options, Part, Request};
use p2p_endpoint::exports::{Access, Item};
use p2p_endpoint::registry::MrId;
use p2p_memory::SharedHost;
use p2p_proto::id::TransferId;
use p2p_proto::peer::Outcome;
use p2p_transport::{Next, Now};
use p2p_transport_mock::{NicModel, Random, Script, SendDone, Settings, World};

use super::pattern;

/// How long, in virtual time, everything may take once no fault strikes any more: a link notices a silent peer
/// within seconds.
const BOUND: Duration = Duration::from_secs(60);
/// As many steps are more than any such end takes, also where a control stream carries single bytes.
const STEPS: u64 = 4_000_000;
const SOURCE: usize = 300_000;
const TARGET: usize = 600_000;
const GUARD: usize = 64;
const POISON: u8 = 0xa5;

/// How a run went.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    pub(crate) transfers: u64,
    pub(crate) done: u64,
    pub(crate) bytes: u64,
    pub(crate) trace: u64,
    pub(crate) findings: Vec<String>,
}

/// An endpoint, its memory, and what it waits for.
struct Person {
    engine: Engine,
    source: SharedHost,
    source_mr: MrId,
    targets: Vec<Target>,
    links: Vec<(LinkId, usize)>,
    ops: BTreeMap<u64, Op>,
    notified: u64,
}

/// Memory that is received into, place after place.
struct Target {
    memory: SharedHost,
    mr: Option<MrId>,
    used: usize,
    /// Where something may lie that nobody knows.
    touched: Vec<(usize, usize)>,
}

/// A transfer that has not ended: where its bytes come from and go to, as far as this end knows.
#[derive(Debug)]
struct Op {
    len: u64,
    /// What has to be there when it is done; `None` where this end does not know.
    lands: Option<Lands>,
    /// It reads into memory of this end, which is the caller's again when it has ended.
    reads: bool,
    /// To ask what it waits for.
    of: Option<(LinkId, TransferId)>,
}

/// Bytes of a source that go to a target.
#[derive(Clone, Copy, Debug)]
struct Lands {
    len: usize,
    /// Person and offset of the source.
    from: (usize, usize),
    /// Person, target and offset.
    to: (usize, usize, usize),
}

/// First byte of a notification that follows a write, before the write's token.
const AFTER: u8 = 9;

pub(crate) struct Sim {
    world: World,
    random: Random,
    people: Vec<Person>,
    next: u64,
    /// Writes after which a notification was sent that has not come, by token: what has to be there when it comes.
    told: BTreeMap<u64, Lands>,
    findings: Vec<String>,
    ran: Ran,
}

/// Runs one seed. A panic is a finding as well, so that its seed is known.
pub(crate) fn run(seed: u64) -> Ran {
    std::panic::catch_unwind(|| run_unguarded(seed)).unwrap_or_else(|why| {
        let text = why.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| why.downcast_ref::<&str>().copied()).unwrap_or("without words");
        Ran { findings: vec![format!("it panicked: {text}")], ..Ran::default() }
    })
}

fn run_unguarded(seed: u64) -> Ran {
    let mut sim = Sim::new(seed);
    sim.connect_all();
    let pace = [5, 60, 400][sim.random.index(3)];
    for _ in 0..sim.random.between(30, 150) {
        sim.act();
        for _ in 0..sim.random.below(pace) {
            sim.world.step();
        }
        sim.poll();
        if !sim.findings.is_empty() {
            break;
        }
    }
    sim.world.calm();
    if sim.findings.is_empty() {
        // A send waits for a receive, and a receive for a send; nothing else may wait for ever.
        sim.go_on("writes and reads", STEPS, Sim::one_sided_are_over);
        sim.close_all();
        sim.go_on("links and memory", STEPS, Sim::is_over);
        sim.judge();
    }
    sim.findings.extend(sim.world.findings());
    sim.ran.trace = sim.world.trace();
    sim.ran.findings = std::mem::take(&mut sim.findings);
    sim.ran
}

fn settings(random: &mut Random) -> Settings {
    let mut settings = if random.one_in(2) { Settings::plugin() } else { Settings::rdma() };
    settings.max_message = [70_000, 1 << 20][random.index(2)];
    settings.max_slices = [1, 2, 16][random.index(3)];
    settings.checks_length = !random.one_in(4);
    settings.send_done = if random.one_in(2) { SendDone::Sent } else { SendDone::Acknowledged };
    settings.segment = [9_000, 64 << 10][random.index(2)];
    settings.control_buffer = [1_000, 64 << 10][random.index(2)];
    settings
}

fn nic(random: &mut Random) -> NicModel {
    NicModel {
        bytes_per_second: [1_000_000_000, 5_000_000_000, 25_000_000_000][random.index(3)],
        latency: Duration::from_nanos(random.between(0, 20_000)),
    }
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0xe4d);
        let world = World::new(seed, settings(&mut random));
        let script = Script::swarm(&mut random, 30, Duration::from_millis(2));
        let mut people = Vec::new();
        for number in 0..random.between(2, 3) {
            let nics: Vec<NicModel> = (0..random.between(1, 4)).map(|_| nic(&mut random)).collect();
            let node = world.add_node(&nics);
            let mut secrets = Random::new(seed.wrapping_mul(31).wrapping_add(number));
            let random = Box::new(move || secrets.next());
            let options = Options::new(format!("node{number}"));
            let engine = Engine::new(Box::new(node.transport()), Box::new(node.control()), options, random);
            let mut engine = engine.expect("a node has NICs and addresses");
            let source = SharedHost::new(SOURCE).expect("memory");
            let bytes: Vec<u8> = (0..SOURCE).map(|at| pattern(at, number as u8)).collect();
            source.copy_in(0, &bytes).expect("in bounds");
            let source_mr = engine.reg(Box::new(source.clone())).expect("no fault yet");
            let (targets, links, ops) = (Vec::new(), Vec::new(), BTreeMap::new());
            people.push(Person { engine, source, source_mr, targets, links, ops, notified: 0 });
        }
        world.script(script);
        let told = BTreeMap::new();
        Self { world, random, people, next: 1, told, findings: Vec::new(), ran: Ran::default() }
    }

    fn find(&mut self, text: String) {
        self.findings.push(text);
    }

    /// A link from each to the next, and now and then time for them to come up.
    fn connect_all(&mut self) {
        for who in 0..self.people.len() {
            let next = (who + 1) % self.people.len();
            if let Some(door) = self.people[next].engine.door() {
                // A node that begins again at this moment has no door.
                let _ = self.people[who].engine.connect(door);
            }
        }
        if !self.random.one_in(4) {
            self.go_on("links", 600, |sim| sim.people.iter().all(|person| person.links.len() > 1));
        }
    }

    fn act(&mut self) {
        let who = self.random.index(self.people.len());
        match self.random.below(16) {
            0 | 1 => {
                let other = self.random.index(self.people.len());
                if let Some(door) = self.people[other].engine.door() {
                    // What is refused at once is nobody's link.
                    let _ = self.people[who].engine.connect(door);
                }
            }
            2 => self.close_one(who),
            3 => self.take_back_one(who),
            4 | 5 => {
                if let Some((link, _)) = self.some_link(who) {
                    let length = [0, 8, 40_000][self.random.index(3)];
                    // A link that is over, or full, takes none.
                    let _ = self.people[who].engine.notify(link, None, vec![7; length].into());
                }
            }
            6..=9 => self.one_sided(who, true),
            10..=12 => self.one_sided(who, false),
            13 => self.two_sided(who, true),
            _ => self.two_sided(who, false),
        }
    }

    fn some_link(&mut self, who: usize) -> Option<(LinkId, usize)> {
        let count = self.people[who].links.len();
        if count == 0 { None } else { Some(self.people[who].links[self.random.index(count)]) }
    }

    fn close_one(&mut self, who: usize) {
        if let Some((link, _)) = self.some_link(who)
            && self.random.one_in(3)
        {
            // It may have ended meanwhile.
            let _ = self.people[who].engine.close(link);
        }
    }

    fn take_back_one(&mut self, who: usize) {
        let count = self.people[who].targets.len();
        if count > 0 {
            let which = self.random.index(count);
            if let Some(mr) = self.people[who].targets[which].mr.take() {
                self.people[who].engine.dereg(mr).expect("it was registered");
            }
        }
    }

    /// Some bytes of a source: offset and length.
    fn source_range(&mut self) -> (usize, usize) {
        let len = [1, 100, 5_000, 66_000, 250_000][self.random.index(5)];
        let len = self.random.between(1, len) as usize;
        (self.random.below((SOURCE - len) as u64 + 1) as usize, len)
    }

    /// A place of so many bytes that nobody has used; `None` if the memory cannot be registered.
    fn place(&mut self, who: usize, len: usize) -> Option<(usize, usize)> {
        let person = &mut self.people[who];
        let fits = |target: &Target| target.mr.is_some() && target.used + len + 2 * GUARD <= TARGET;
        let which = match person.targets.iter().position(fits) {
            Some(which) => which,
            None => {
                let memory = SharedHost::new(TARGET).expect("memory");
                memory.fill(0, TARGET, POISON).expect("in bounds");
                let mr = person.engine.reg(Box::new(memory.clone())).ok()?;
                person.targets.push(Target { memory, mr: Some(mr), used: 0, touched: Vec::new() });
                person.targets.len() - 1
            }
        };
        let target = &mut person.targets[which];
        let offset = target.used + GUARD;
        target.used = offset + len;
        target.touched.push((offset, len));
        Some((which, offset))
    }

    /// Cuts a range into a few.
    fn cut(&mut self, mr: MrId, offset: usize, len: usize) -> Vec<Part> {
        let mut parts = Vec::new();
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let whole = self.random.one_in(2);
            let piece = if whole { end - at } else { self.random.between(1, (end - at) as u64) as usize };
            parts.push(Part { mr, offset: at as u64, len: piece as u64 });
            at += piece;
        }
        parts
    }

    fn items(&mut self, who: usize, parts: &[Part]) -> Vec<Item> {
        let advertise =
            |part: &Part| self.people[who].engine.advertise(*part, Access::Both).expect("registered");
        parts.iter().map(advertise).collect()
    }

    fn one_sided(&mut self, who: usize, write: bool) {
        let Some((link, other)) = self.some_link(who) else { return };
        let (from, to) = if write { (who, other) } else { (other, who) };
        let (source, len) = self.source_range();
        let Some((target, offset)) = self.place(to, len) else { return };
        let Some(to_mr) = self.people[to].targets[target].mr else { return };
        let sources = {
            let mr = self.people[from].source_mr;
            self.cut(mr, source, len)
        };
        let targets = self.cut(to_mr, offset, len);
        let (parts, items) = match write {
            true => (sources, self.items(other, &targets)),
            false => (targets, self.items(other, &sources)),
        };
        let request = match write {
            true => Request::Write { into: &items, counter: None },
            false => Request::Read { from: &items },
        };
        let lands = Lands { len, from: (from, source), to: (to, target, offset) };
        let op = Op { len: len as u64, lands: Some(lands), reads: !write, of: None };
        let Some((token, transfer)) = self.start(who, link, &parts, request, op) else { return };
        if write && self.random.one_in(3) {
            let text: Vec<u8> = [AFTER].into_iter().chain(token.to_le_bytes()).collect();
            // A link that is full takes none.
            if self.people[who].engine.notify(link, Some(transfer), text.into()).is_ok() {
                self.told.insert(token, lands);
            }
        }
    }

    fn two_sided(&mut self, who: usize, send: bool) {
        let Some((link, _)) = self.some_link(who) else { return };
        if send {
            let (source, len) = self.source_range();
            let parts = {
                let mr = self.people[who].source_mr;
                self.cut(mr, source, len)
            };
            let op = Op { len: len as u64, lands: None, reads: false, of: None };
            self.start(who, link, &parts, Request::Send, op);
        } else {
            let len = 260_000;
            let Some((target, offset)) = self.place(who, len) else { return };
            let Some(mr) = self.people[who].targets[target].mr else { return };
            let parts = self.cut(mr, offset, len);
            let op = Op { len: len as u64, lands: None, reads: false, of: None };
            self.start(who, link, &parts, Request::Recv, op);
        }
    }

    /// Its token and number, unless the link takes none.
    fn start(
        &mut self,
        who: usize,
        link: LinkId,
        parts: &[Part],
        request: Request<'_>,
        op: Op,
    ) -> Option<(u64, TransferId)> {
        let token = self.next;
        self.next += 1;
        let transfer = self.people[who].engine.start(link, OpToken(token), parts, request).ok()?;
        let op = Op { of: Some((link, transfer)), ..op };
        self.people[who].ops.insert(token, op);
        self.ran.transfers += 1;
        Some((token, transfer))
    }

    /// One round of everybody; true if somebody wants another at once.
    fn poll(&mut self) -> bool {
        let mut again = false;
        for who in 0..self.people.len() {
            let now = self.world.now();
            again |= self.people[who].engine.poll(now) == Next::Again;
            while let Some(event) = self.people[who].engine.next_event() {
                self.take(who, event);
            }
        }
        again
    }

    fn take(&mut self, who: usize, event: Event) {
        match event {
            Event::Connected(link) | Event::Accepted(link) => {
                let endpoint = self.people[who].engine.peer(link).map(|peer| peer.endpoint);
                let is = |person: &Person| Some(person.engine.facts().endpoint) == endpoint;
                match self.people.iter().position(is) {
                    Some(other) => self.people[who].links.push((link, other)),
                    None => self.find(format!("{link:?} leads to nobody")),
                }
            }
            Event::Closed(link) => {
                self.people[who].links.retain(|(one, _)| *one != link);
                let why = self.people[who].engine.why(link).map_or_else(String::new, ToString::to_string);
                // Whatever is lost, nobody here says what may not be said.
                if why.contains("broke the protocol") {
                    self.find(format!("a link of {who} ended: {why}"));
                }
            }
            Event::Ended { token, outcome, .. } => self.ended(who, token.0, outcome),
            Event::Notified { bytes, .. } => {
                self.people[who].notified += 1;
                self.notified(who, &bytes);
            }
            Event::Counted { .. } => self.find("nobody counts".to_owned()),
            _ => self.find("an event that nobody knows".to_owned()),
        }
    }

    fn ended(&mut self, who: usize, token: u64, outcome: Outcome) {
        let Some(op) = self.people[who].ops.remove(&token) else {
            self.find(format!("operation {token} of {who} ended twice, or never began: {outcome:?}"));
            return;
        };
        let Outcome::Done { bytes } = outcome else {
            self.free(who, &op);
            return;
        };
        self.ran.done += 1;
        self.ran.bytes += bytes;
        if bytes > op.len || op.lands.is_some() && bytes != op.len {
            self.find(format!("{bytes} bytes are done of {op:?}"));
        }
        if let Some(at) = op.lands.and_then(|lands| self.wrong_byte(&lands)) {
            self.find(format!("byte {at} of {op:?} is wrong although it is done"));
        }
    }

    /// The first byte that is not what was sent.
    fn wrong_byte(&self, lands: &Lands) -> Option<usize> {
        let Lands { len, from: (from, source), to: (to, target, offset) } = *lands;
        let mut found = vec![0; len];
        self.people[to].targets[target].memory.copy_out(offset, &mut found).expect("in bounds");
        found.iter().zip(source..).position(|(byte, at)| *byte != pattern(at, from as u8))
    }

    /// One that follows a write comes once, to whom was written, and after the write.
    fn notified(&mut self, who: usize, bytes: &[u8]) {
        let token = bytes.strip_prefix(&[AFTER]).and_then(|token| token.try_into().ok());
        let Some(token) = token.map(u64::from_le_bytes) else {
            if bytes.iter().any(|byte| *byte != 7) {
                self.find("a notification has other bytes than were sent".to_owned());
            }
            return;
        };
        match self.told.remove(&token) {
            Some(lands) if lands.to.0 == who => {
                if let Some(at) = self.wrong_byte(&lands) {
                    self.find(format!(
                        "{who} is notified of write {token}, and byte {at} of it is not there"
                    ));
                }
            }
            other => self.find(format!("{who} is notified of write {token}, which is not so: {other:?}")),
        }
    }

    /// The memory of a read that failed is the caller's again: nobody writes there any more.
    fn free(&mut self, who: usize, op: &Op) {
        let Some((_, target, offset)) = op.lands.filter(|_| op.reads).map(|lands| lands.to) else { return };
        let target = &mut self.people[who].targets[target];
        target.memory.fill(offset, op.len as usize, POISON).expect("in bounds");
        target.touched.retain(|(at, _)| *at != offset);
    }

    /// Goes on until `done`, or for so many steps.
    fn go_on(&mut self, what: &str, steps: u64, done: fn(&Self) -> bool) {
        let end = self.world.now().after(BOUND);
        for step in 0.. {
            while self.poll() {}
            if !self.findings.is_empty() || done(self) {
                return;
            }
            if step == steps || self.world.now() > end {
                if steps == STEPS {
                    let text = format!(
                        "liveness: {what} did not come to an end after {step} steps, at {:?}: {}",
                        self.world.now(),
                        self.open()
                    );
                    self.find(text);
                }
                return;
            }
            if !self.world.step() {
                let Now(now) = self.world.now();
                self.world.advance(Now(now + Duration::from_millis(20)));
            }
        }
    }

    /// What has not ended, and what that waits for.
    fn open(&self) -> String {
        let mut text = String::new();
        for (who, person) in self.people.iter().enumerate() {
            text += &format!("\n{who}: {:?}", person.engine);
            for (token, op) in &person.ops {
                let waits = op.of.and_then(|(link, transfer)| person.engine.waits_for(link, transfer));
                let waits = waits.map_or_else(|| "nothing".to_owned(), |waits| waits.to_string());
                text += &format!("\n  {token}: {op:?} waits: {waits}");
            }
        }
        text
    }

    fn close_all(&mut self) {
        for person in &mut self.people {
            person.engine.close_all();
            let mrs = person.targets.iter_mut().filter_map(|target| target.mr.take());
            for mr in mrs.chain([person.source_mr]) {
                person.engine.dereg(mr).expect("it was registered");
            }
        }
    }

    fn one_sided_are_over(&self) -> bool {
        self.people.iter().all(|person| person.ops.values().all(|op| op.lands.is_none()))
    }

    fn is_over(&self) -> bool {
        self.people.iter().all(|person| {
            let free = person.targets.iter().all(|target| target.memory.owners() == 1);
            person.engine.is_empty() && person.ops.is_empty() && free && person.source.owners() == 1
        })
    }

    /// Nothing was changed outside of the places of transfers, nor in any source.
    fn judge(&mut self) {
        for who in 0..self.people.len() {
            let person = &self.people[who];
            let mut bytes = vec![0; SOURCE];
            person.source.copy_out(0, &mut bytes).expect("in bounds");
            let changed = bytes.iter().enumerate().find(|(at, byte)| **byte != pattern(*at, who as u8));
            if let Some((at, _)) = changed {
                self.findings.push(format!("byte {at} of a source of {who} was changed"));
            }
            for target in &person.targets {
                let mut bytes = vec![0; TARGET];
                target.memory.copy_out(0, &mut bytes).expect("in bounds");
                for (offset, len) in &target.touched {
                    bytes[*offset..offset + len].fill(POISON);
                }
                if let Some(at) = bytes.iter().position(|byte| *byte != POISON) {
                    self.findings
                        .push(format!("byte {at} of a target of {who} was changed by nobody's transfer"));
                }
            }
        }
    }
}
