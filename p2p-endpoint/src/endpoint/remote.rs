//! Peers by what they tell of themselves: metadata, and links that are shared by all who ask for the same peer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use p2p_transport::{Error, ErrorKind};

use super::{Endpoint, LinkId};
use crate::metadata::{Metadata, Told, reachable_at};

/// What is known of a peer that was added.
#[derive(Clone, Copy, Debug)]
pub(super) enum Remote {
    /// Somebody connects to it.
    Connecting,
    /// The link to it, which may be over.
    Linked(LinkId),
}

impl Remote {
    pub(super) fn is(&self, link: LinkId) -> bool {
        matches!(self, Self::Linked(known) if *known == link)
    }
}

impl Endpoint {
    /// What to hand to others so that they connect to this endpoint: its real addresses and port, never loopback where
    /// the host has another address.
    ///
    /// # Errors
    ///
    /// [`Device`](ErrorKind::Device) if it does not listen any more, or no address of this host is known.
    pub fn metadata(&self) -> Result<Metadata, Error> {
        let (facts, door, host) =
            self.shared().look(|engine| (engine.facts().clone(), engine.door(), engine.host().to_vec()));
        let addresses = door.map(|door| reachable_at(door, || host)).unwrap_or_default();
        if addresses.is_empty() {
            let text =
                "no address is known at which peers could reach this endpoint: name one in UCCL_TCPX_CTRL_IP";
            return Err(Error::new(ErrorKind::Device, "metadata", text));
        }
        Ok(Metadata { endpoint: facts.endpoint, device: facts.device, name: facts.name, addresses })
    }

    /// Connects to the endpoint that told this, at the first of its addresses that leads to it.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), with what each address said; also if somebody else listens there by now.
    pub fn connect_to(&self, told: &Told, timeout: Duration) -> Result<LinkId, Error> {
        let begin = Instant::now();
        let addresses = told.addresses();
        let mut said = Vec::new();
        for (tried, &address) in addresses.iter().enumerate() {
            // An address that swallows what is sent to it leaves time for those behind it.
            let rest = timeout.saturating_sub(begin.elapsed());
            let share = rest / (addresses.len() - tried) as u32;
            match self.connect(address, share).and_then(|link| self.is_who(link, told, address)) {
                Ok(link) => return Ok(link),
                // Not what the next address would meet as well.
                Err(error) if addresses.len() == 1 || is_own(&error) => return Err(error),
                Err(error) => said.push(error.text().to_owned()),
            }
        }
        let text = format!("none of {} addresses leads to the peer: {}", addresses.len(), said.join("; "));
        Err(Error::new(ErrorKind::Conn, "connect", text))
    }

    /// The link, if it leads to whoever told this.
    fn is_who(&self, link: LinkId, told: &Told, address: SocketAddr) -> Result<LinkId, Error> {
        let Told::Own(metadata) = told else { return Ok(link) };
        let peer =
            self.shared().look(|engine| engine.peer(link).map(|peer| (peer.endpoint, peer.name.clone())));
        match peer {
            Some((endpoint, _)) if endpoint == metadata.endpoint => Ok(link),
            Some((_, name)) => {
                // It may have ended meanwhile.
                let _ = self.close(link);
                let text = format!(
                    "{name} listens at {address}, and not {}, whose metadata this is: it has gone, or was started \
                     again; get its metadata anew",
                    metadata.name
                );
                Err(Error::new(ErrorKind::Conn, "connect", text))
            }
            None => Err(Error::new(ErrorKind::Conn, "connect", "the link ended at this moment")),
        }
    }

    /// The link to the endpoint whose metadata these bytes are, in [our form](Metadata) or one of UCCL's: the one that was
    /// made for the same bytes before, while it is up, and a new one otherwise. Several threads that ask at once get the
    /// same.
    ///
    /// # Errors
    ///
    /// [`Misuse`](ErrorKind::Misuse) for bytes that are no metadata; otherwise as [`connect_to`](Self::connect_to).
    pub fn add_remote(&self, metadata: &[u8], timeout: Duration) -> Result<LinkId, Error> {
        let told = Told::from_bytes(metadata)
            .map_err(|error| Error::misuse("add_remote", error.to_string()).with_source(error))?;
        let begin = Instant::now();
        let found = self.shared().wait(timeout, || match self.claim(metadata) {
            Claim::Busy => None,
            other @ (Claim::Known(_) | Claim::Free) => Some(other),
        });
        match found {
            Some(Claim::Known(link)) => Ok(link),
            Some(Claim::Free) => {
                let connects = Connects { endpoint: self, metadata, link: None };
                let link = self.connect_to(&told, timeout.saturating_sub(begin.elapsed()));
                connects.end(link)
            }
            Some(Claim::Busy) | None => {
                let text = "another thread connects to this peer, and had no success within the time";
                Err(Error::new(ErrorKind::Conn, "add_remote", text))
            }
        }
    }

    /// Ends a link that [`add_remote`](Self::add_remote) made; adding the same peer again makes a new one. False if it made
    /// none that is known by this id.
    pub fn remove_remote(&self, link: LinkId) -> bool {
        let mut reports = self.shared().reports();
        let before = reports.remotes.len();
        reports.remotes.retain(|_, remote| !remote.is(link));
        let was_known = reports.remotes.len() < before;
        drop(reports);
        if was_known {
            // It may have ended before.
            let _ = self.close(link);
        }
        was_known
    }

    fn claim(&self, metadata: &[u8]) -> Claim {
        let known = self.shared().reports().remotes.get(metadata).copied();
        match known {
            Some(Remote::Connecting) => return Claim::Busy,
            Some(Remote::Linked(link)) if self.is_up(link) => return Claim::Known(link),
            Some(Remote::Linked(_)) | None => {}
        }
        // Somebody else may have been faster meanwhile.
        let mut reports = self.shared().reports();
        let stale = |remote: &Remote| match (remote, known) {
            (Remote::Linked(now), Some(Remote::Linked(then))) => *now == then,
            _ => false,
        };
        if reports.remotes.get(metadata).is_some_and(|remote| !stale(remote)) {
            return Claim::Busy;
        }
        reports.remotes.insert(metadata.to_vec(), Remote::Connecting);
        Claim::Free
    }
}

/// Whether it is this end that cannot connect, wherever to.
fn is_own(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Exhausted | ErrorKind::Device)
}

enum Claim {
    Known(LinkId),
    /// The caller connects now.
    Free,
    Busy,
}

/// Somebody connects; whoever waits for that is told, however it ends.
struct Connects<'a> {
    endpoint: &'a Endpoint,
    metadata: &'a [u8],
    link: Option<LinkId>,
}

impl Connects<'_> {
    fn end(mut self, link: Result<LinkId, Error>) -> Result<LinkId, Error> {
        self.link = link.as_ref().ok().copied();
        link
    }
}

impl Drop for Connects<'_> {
    fn drop(&mut self) {
        let shared = self.endpoint.shared();
        let mut reports = shared.reports();
        match self.link {
            Some(link) => reports.remotes.insert(self.metadata.to_vec(), Remote::Linked(link)),
            None => reports.remotes.remove(self.metadata),
        };
        drop(reports);
        // Its end may have been reported before it was known here.
        if let Some(link) = self.link.filter(|link| !self.endpoint.is_up(*link)) {
            shared.reports().remotes.retain(|_, remote| !remote.is(link));
        }
        shared.wake_all();
    }
}
