//! What may strike, how often it did, and the dice.

/// What [`Faulty`](crate::Faulty) does, and how often: each rate `n` strikes one time in `n` on average, 1 is
/// always, and 0 is never.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Damage {
    /// Where the dice start. The same seed over the same calls strikes the same.
    pub seed: u64,
    /// Completions that are held back.
    pub hold: u32,
    /// Polls for which one is held back, at most.
    pub hold_polls: u32,
    /// Completions that are overtaken by a later one, where no order is promised between the two.
    pub reorder: u32,
    /// Connections with smaller windows than the backend has.
    pub narrow: u32,
    /// Polls that pass one event through, whatever the room.
    pub starve: u32,
    /// Registrations that are refused as [`Exhausted`](crate::ErrorKind::Exhausted).
    pub refuse_register: u32,
    /// Calls of `connect` whose connection ends up `Closed`. The listener at the peer is not told.
    pub refuse_connect: u32,
    /// Connections that are closed after some completion.
    pub kill: u32,
    /// Completions after which one is closed, at most.
    pub kill_after: u32,
    /// Operations that are answered with `Busy` although they would fit, while another of the same direction
    /// is in flight. The only one that bends a law: of 13, `exactly` becomes `at most`.
    pub short: u32,
}

impl Damage {
    /// Nothing strikes.
    pub const fn none(seed: u64) -> Self {
        Self {
            seed,
            hold: 0,
            hold_polls: 0,
            reorder: 0,
            narrow: 0,
            starve: 0,
            refuse_register: 0,
            refuse_connect: 0,
            kill: 0,
            kill_after: 0,
            short: 0,
        }
    }

    /// Whatever changes neither the outcome of an operation nor that of a control call: all laws hold, and
    /// whoever relies on more than they say is found out.
    pub const fn legal(seed: u64) -> Self {
        Self { hold: 3, hold_polls: 8, reorder: 2, narrow: 2, starve: 3, ..Self::none(seed) }
    }

    /// Everything at once: upper layers have to cope with refusals and lost connections as well.
    pub const fn all(seed: u64) -> Self {
        Self { refuse_register: 8, refuse_connect: 8, kill: 4, kill_after: 50, short: 4, ..Self::legal(seed) }
    }
}

/// How often each kind struck.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Strikes {
    /// [`Damage::hold`].
    pub held: u64,
    /// [`Damage::reorder`]: completions that overtook another.
    pub reordered: u64,
    /// [`Damage::narrow`]: connections that got smaller windows.
    pub narrowed: u64,
    /// [`Damage::starve`].
    pub starved: u64,
    /// [`Damage::refuse_register`].
    pub refused_registrations: u64,
    /// [`Damage::refuse_connect`].
    pub refused_connections: u64,
    /// [`Damage::kill`].
    pub killed: u64,
    /// [`Damage::short`].
    pub shortened: u64,
}

/// A small generator (splitmix64): nothing here needs a good one.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One time in `rate`. A rate of 0 does not roll.
    pub(super) const fn strikes(&mut self, rate: u32) -> bool {
        rate != 0 && self.next().is_multiple_of(rate as u64)
    }

    /// From 1 to `most`; 1 if that is 0.
    pub(super) const fn one_to(&mut self, most: u32) -> u32 {
        if most == 0 { 1 } else { (self.next() % most as u64) as u32 + 1 }
    }
}
