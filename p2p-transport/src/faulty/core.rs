//! What lies behind `Faulty`. It is a type of its own because two traits with methods of the same names are
//! implemented for it, and callers should not see both at once.

use std::num::NonZeroU32;

use super::damage::{Damage, Dice, Strikes};
use super::held::{Queue, Way};
use crate::{
    Accepted, ConnId, Error, ErrorKind, Event, Events, Id, Limits, Next, Now, OneSidedLimits, OneSidedOp, Op,
    Slab, Stop, Token, Transport,
};

/// Operations passed on at once.
const BATCH: usize = 16;
/// Events taken from inside at once.
const TAKEN: usize = 64;

/// A connection as the caller sees it.
#[derive(Debug)]
pub(super) struct Conn {
    /// Inside; `None` once it has ended there, or never was.
    pub(super) inner: Option<ConnId>,
    pub(super) limits: Option<Limits>,
    pub(super) one_sided: Option<OneSidedLimits>,
    /// Whether the caller knows that it is connected.
    pub(super) connected: bool,
    /// Whether the caller knows that it is lost.
    pub(super) lost: bool,
    /// Whether it was closed from here: nothing is taken any more, whatever room there is.
    pub(super) closing: bool,
    pub(super) why: Option<Error>,
    /// Accepted and not yet reported, by direction.
    pub(super) in_flight: [u32; 3],
    /// Completions after which it is closed.
    pub(super) lives: Option<u32>,
}

/// An operation inside; its position and generation are the token there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    conn: ConnId,
    pub(super) token: Token,
    pub(super) way: Way,
    serial: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct WorkId(u32, NonZeroU32);

impl Id for WorkId {
    fn of(index: u32, generation: NonZeroU32) -> Self {
        Self(index, generation)
    }
    fn index(self) -> usize {
        self.0 as usize
    }
    fn generation(self) -> NonZeroU32 {
        self.1
    }
}

impl WorkId {
    fn token(self) -> Token {
        Token(u64::from(self.1.get()) << 32 | u64::from(self.0))
    }

    pub(super) fn from_token(token: Token) -> Option<Self> {
        let generation = NonZeroU32::new((token.0 >> 32) as u32)?;
        Some(Self(token.0 as u32, generation))
    }
}

/// An operation of either kind, which can be passed on under another name.
pub(super) trait Rename: Copy {
    fn name(&self) -> Token;
    fn way(&self) -> Way;
    fn renamed(&self, token: Token) -> Self;
}

impl Rename for Op<'_> {
    fn name(&self) -> Token {
        self.token()
    }
    fn way(&self) -> Way {
        match self {
            Op::Send { .. } => Way::Send,
            Op::Recv { .. } => Way::Recv,
        }
    }
    fn renamed(&self, token: Token) -> Self {
        match *self {
            Op::Send { from, .. } => Op::Send { token, from },
            Op::Recv { into, .. } => Op::Recv { token, into },
        }
    }
}

impl Rename for OneSidedOp {
    fn name(&self) -> Token {
        self.token()
    }
    fn way(&self) -> Way {
        Way::OneSided
    }
    fn renamed(&self, token: Token) -> Self {
        match *self {
            Self::Write { from, to, notify, .. } => Self::Write { token, from, to, notify },
            Self::Read { from, into, .. } => Self::Read { token, from, into },
        }
    }
}

#[derive(Debug)]
pub(super) struct Core<T> {
    pub(super) inner: T,
    pub(super) damage: Damage,
    pub(super) dice: Dice,
    pub(super) strikes: Strikes,
    pub(super) conns: Slab<ConnId, Conn>,
    /// Why connections ended whose ids are stale.
    pub(super) ended: Vec<(ConnId, Error)>,
    pub(super) queue: Queue,
    /// By the position of the connection inside.
    pub(super) outer: Vec<Option<ConnId>>,
    pub(super) works: Slab<WorkId, Work>,
    submitted: u64,
    pub(super) polls: u64,
    many: Events,
    single: Events,
}

impl<T: Transport> Core<T> {
    pub(super) fn new(inner: T, damage: Damage) -> Self {
        Self {
            inner,
            damage,
            dice: Dice::new(damage.seed),
            strikes: Strikes::default(),
            conns: Slab::new(),
            ended: Vec::new(),
            queue: Queue::new(),
            outer: Vec::new(),
            works: Slab::new(),
            submitted: 0,
            polls: 0,
            many: Events::with_capacity(TAKEN),
            single: Events::with_capacity(1),
        }
    }

    pub(super) fn add(&mut self, inner: Option<ConnId>) -> ConnId {
        let lives = self.dice.strikes(self.damage.kill).then(|| self.dice.one_to(self.damage.kill_after));
        let id = self.conns.insert(Conn {
            inner,
            limits: None,
            one_sided: None,
            connected: false,
            lost: false,
            closing: false,
            why: None,
            in_flight: [0; 3],
            lives,
        });
        if let Some(inner) = inner {
            let needed = (inner.index() + 1).max(self.outer.len());
            self.outer.resize(needed, None);
            self.outer[inner.index()] = Some(id);
        }
        id
    }

    pub(super) fn refuse(&mut self) -> ConnId {
        self.strikes.refused_connections += 1;
        let id = self.add(None);
        if let Some(conn) = self.conns.get_mut(id) {
            conn.why =
                Some(Error::new(ErrorKind::Conn, "connect", "Faulty refused this connection: try again"));
        }
        self.enqueue(Event::Closed(id), None, false);
        id
    }

    /// Passes on what fits, in batches, under tokens of its own.
    pub(super) fn submit<O: Rename>(
        &mut self,
        id: ConnId,
        ops: &[O],
        mut pass: impl FnMut(&mut T, ConnId, &[O]) -> Accepted,
    ) -> Accepted {
        let mut taken = 0;
        for ops in ops.chunks(BATCH) {
            let Some(inner) = self.conns.get(id).filter(|conn| !conn.closing).and_then(|conn| conn.inner)
            else {
                return Accepted::prefix(taken, Stop::Closed);
            };
            let mut batch = [ops[0]; BATCH];
            let mut fits = 0;
            while let Some(op) = ops.get(fits).filter(|op| self.has_room(id, op.way())) {
                self.submitted += 1;
                let work = Work { conn: id, token: op.name(), way: op.way(), serial: self.submitted };
                batch[fits] = op.renamed(self.works.insert(work).token());
                self.count(id, op.way(), 1);
                fits += 1;
            }
            // An empty batch is passed on as well: a backend may say even so that the connection has ended.
            let accepted = pass(&mut self.inner, inner, &batch[..fits]);
            for op in &batch[accepted.count.min(fits)..fits] {
                self.count(id, op.way(), -1);
                WorkId::from_token(op.name()).and_then(|work| self.works.remove(work));
            }
            taken += accepted.count;
            if let Some(stop) = accepted.stopped {
                return Accepted::prefix(taken, stop);
            }
            if fits < ops.len() {
                return Accepted::prefix(taken, Stop::Busy);
            }
        }
        Accepted::all(taken)
    }

    fn has_room(&mut self, id: ConnId, way: Way) -> bool {
        let Some(conn) = self.conns.get(id).filter(|conn| conn.connected) else { return false };
        let in_flight = conn.in_flight[way as usize];
        let most = match way {
            Way::Send => conn.limits.map_or(0, |limits| limits.max_sends),
            Way::Recv => conn.limits.map_or(0, |limits| limits.max_recvs),
            Way::OneSided => conn.one_sided.map_or(0, |limits| limits.max_ops),
        };
        if in_flight >= u32::from(most) {
            return false;
        }
        let short = in_flight > 0 && self.dice.strikes(self.damage.short);
        self.strikes.shortened += u64::from(short);
        !short
    }

    pub(super) fn count(&mut self, id: ConnId, way: Way, change: i32) {
        if let Some(conn) = self.conns.get_mut(id) {
            let in_flight = &mut conn.in_flight[way as usize];
            *in_flight = in_flight.saturating_add_signed(change);
        }
    }

    pub(super) fn cancel(&mut self, id: ConnId, token: Token) -> bool {
        let Some(inner) = self.conns.get(id).and_then(|conn| conn.inner) else { return false };
        let mut below = u64::MAX;
        loop {
            let named = self.works.iter().filter(|(_, work)| work.conn == id && work.token == token);
            let newest = named.filter(|(_, work)| work.serial < below).max_by_key(|(_, work)| work.serial);
            let Some((newest, work)) = newest else { return false };
            below = work.serial;
            if self.inner.cancel(inner, newest.token()) {
                return true;
            }
        }
    }

    pub(super) fn poll(&mut self, now: Now, events: &mut Events) -> Next {
        self.polls += 1;
        let starved = self.dice.strikes(self.damage.starve);
        self.strikes.starved += u64::from(starved);
        let mut next = Next::Again;
        if self.queue.room() >= TAKEN {
            let empty = Events::with_capacity(0);
            let mut taken = std::mem::replace(if starved { &mut self.single } else { &mut self.many }, empty);
            next = self.inner.poll(now, &mut taken);
            if taken.room() == 0 {
                next = Next::Again;
            }
            for event in taken.drain() {
                self.take(event);
            }
            *(if starved { &mut self.single } else { &mut self.many }) = taken;
        }
        let mut room = if starved { events.room().min(1) } else { events.room() };
        while room > 0 {
            let Self { queue, dice, strikes, .. } = self;
            let Some(held) = queue.take(self.polls, self.damage.reorder, dice, strikes) else { break };
            // There is room: asked above.
            let _stored = events.push(held.event);
            room -= 1;
            if self.report(&held) {
                // Who was killed just now has something to say.
                next = Next::Again;
            }
        }
        if self.queue.is_empty() { next } else { Next::Again }
    }
}
