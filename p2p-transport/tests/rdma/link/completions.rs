//! What the work completions of a connection mean.

use p2p_transport::{Error, ErrorKind, Event, OpFault, Outcome};

use super::{BOUNCE, Kind, Link, Memories, NOTE, RECVS};
use crate::verbs::{Errno, Fabric, SgeList, Status, Verbs, Wc};
use crate::wire::{Advert, Imm};

impl Link {
    /// What a work completion means. At most one event comes of it.
    pub(crate) fn completed(&mut self, verbs: &mut dyn Verbs, memories: &Memories, wc: &Wc) {
        self.posted -= 1;
        if wc.status != Status::Success {
            self.failed(verbs, wc);
            return;
        }
        let place = wc.id as u32;
        let done = match wc.id & !0xffff_ffff {
            NOTE => {
                let side = self.pairs[self.pairs.len() - 1];
                self.ready.push_back(Event::Notified { conn: self.id, value: wc.imm.unwrap_or_default() });
                let again = verbs.post_recv(side, NOTE, SgeList::default());
                self.posted += u32::from(again.is_ok());
                again
            }
            BOUNCE => self.arrived(verbs, memories, place as usize, wc),
            _ => {
                let fabric = self.fabric;
                let slot = self.slot(place as u16);
                slot.open -= 1;
                if fabric == Fabric::Rc && slot.kind == Kind::Recv {
                    slot.len = wc.len;
                }
                self.settle(place as u16);
                Ok(())
            }
        };
        self.check("poll", done, verbs);
    }

    fn arrived(
        &mut self,
        verbs: &mut dyn Verbs,
        memories: &Memories,
        index: usize,
        wc: &Wc,
    ) -> Result<(), Errno> {
        if let Some(bits) = wc.imm {
            let imm = Imm::of(bits);
            let known = self.slots.get(usize::from(imm.slot)).and_then(Option::as_ref);
            if known.is_none_or(|slot| slot.kind != Kind::Recv) {
                return Err(Errno(71));
            }
            let slot = self.slot(imm.slot);
            if slot.arrived == 0 {
                slot.len = 0;
            }
            slot.arrived += 1;
            slot.len += wc.len;
            slot.missing = Some(i32::from(imm.writes) - slot.arrived);
            slot.fault = imm.too_long.then_some(OpFault::Truncated);
            self.settle(imm.slot);
        } else if let Some((host, _)) = &self.bounce {
            let mut bytes = [0; Advert::BYTES];
            host.copy_out(index * Advert::BYTES, &mut bytes).map_err(|_| Errno(22))?;
            let advert = Advert::decode(&bytes).ok_or(Errno(71))?;
            if self.adverts.len() == usize::from(RECVS) {
                return Err(Errno(71));
            }
            self.adverts.push(advert);
            self.write_waiting(verbs, memories)?;
        }
        self.post_bounce(verbs, index)
    }

    fn failed(&mut self, verbs: &mut dyn Verbs, wc: &Wc) {
        if wc.id < NOTE {
            let slot = self.slot(wc.id as u16);
            slot.open -= 1;
            slot.lost = true;
            if wc.status == Status::LocalLength {
                slot.fault = Some(OpFault::Truncated);
                slot.lost = false;
            }
            let one_sided = slot.kind == Kind::OneSided;
            if wc.status == Status::RemoteAccess && one_sided {
                slot.fault = Some(OpFault::Remote);
                slot.lost = false;
            }
            self.settle(wc.id as u16);
        }
        // Also where it was only flushed: then the queue pair has failed without anything of ours in flight.
        let text = format!("a work request ended {:?}", wc.status);
        self.lose(verbs, Error::new(ErrorKind::Conn, "poll", text));
    }

    /// Ends an operation of which nothing is open any more.
    pub(super) fn settle(&mut self, place: u16) {
        let srd = self.fabric == Fabric::Srd;
        let slot = self.slot(place);
        let waits = srd && slot.kind == Kind::Recv && slot.missing != Some(0) && !slot.lost;
        if slot.open == 0 && !waits {
            self.finish(place, None);
        }
    }

    pub(super) fn finish(&mut self, place: u16, outcome: Option<Outcome>) {
        let slot = *self.slot(place);
        let natural = match (slot.fault, slot.lost) {
            (Some(fault), _) => Outcome::Failed(fault),
            (None, true) => Outcome::ConnLost,
            (None, false) => Outcome::Done { len: slot.len },
        };
        let outcome = outcome.unwrap_or(natural);
        self.ready.push_back(Event::Completed { conn: self.id, token: slot.token, outcome });
        // The place stays taken until the event is delivered.
        self.done.push_back(place);
    }
}
