//! The channels between the two ends: some from the client to the server, and one back for
//! acknowledgements and small answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_memory::SharedHost;
use tcpx_core::config::{Config, DeviceSelector};
use tcpx_core::{
    Accept, Channel, ChannelId, ChannelSet, Completion, Connect, Connecting, Event, Handle, Listening,
    Outcome, Plugin, Post, PostError, RecvComm, RegistrationId, SendComm, Slice, Source,
};

use super::Options;
use crate::failure::{Doing, Failure};

/// How long nothing may move before a pass is given up.
pub(super) const SILENCE: Duration = Duration::from_secs(20);
/// Bytes of a message on the back channel: a count for each channel.
pub(super) const BACK_BYTES: usize = 8 * MOST_CHANNELS;
/// Messages under way on the back channel at most.
pub(super) const BACK_SLOTS: u64 = 8;
/// Channels of a run at most.
pub(super) const MOST_CHANNELS: usize = 16;
/// One slot on its own cache lines.
const BACK_STRIDE: usize = 256;
const POLL: Duration = Duration::from_micros(200);

/// The plugin and the devices to use, in turn.
#[derive(Debug)]
pub(super) struct Net {
    plugin: Arc<Plugin>,
    devices: Vec<usize>,
}

/// Everything open.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) set: ChannelSet,
    /// Channels from the client to the server, with the region's registration on each.
    pub(super) data: Vec<(ChannelId, RegistrationId)>,
    pub(super) back: ChannelId,
    back_registration: RegistrationId,
    back_memory: SharedHost,
    /// Messages posted on the back channel so far.
    back_posted: u64,
    /// Filled by rounds; kept, so that no pass allocates.
    events: Vec<(ChannelId, Event)>,
}

impl Net {
    pub(super) fn open(options: &Options, config: &Config) -> Result<Self, Failure> {
        let chosen = &config.plugin_path;
        let file = options.plugin.clone().or_else(|| chosen.is_from_user().then(|| chosen.value.clone()));
        let source = file.map_or_else(|| Source::Static(tcpx_soft::plugin()), Source::File);
        let plugin = Plugin::open(source, config).map_err(|error| Failure::new(error.to_string()))?;
        let devices = match &config.device.value {
            Some(choice) => {
                choice.selectors().iter().map(|one| find(&plugin, one)).collect::<Result<_, _>>()?
            }
            None => vec![0],
        };
        if plugin.devices().is_empty() {
            return Err(Failure::new(format!(
                "net plugin {} found no NIC; the soft plugin takes addresses from TCPX_SOFT_ADDRESSES",
                plugin.name()
            )));
        }
        Ok(Self { plugin, devices })
    }

    /// The plugin, its version and its NICs in a line.
    pub(super) fn describe(&self) -> String {
        let names: Vec<&str> =
            self.devices.iter().map(|device| self.plugin.devices()[*device].name).collect();
        format!("{} {} on {}", self.plugin.name(), self.plugin.version(), names.join(", "))
    }

    pub(super) fn max_slices(&self) -> usize {
        self.plugin.max_slices()
    }

    /// Longest message that every chosen device carries.
    pub(super) fn max_message(&self) -> usize {
        self.devices.iter().map(|device| self.plugin.devices()[*device].max_message).min().unwrap_or(0)
    }

    pub(super) fn listen(&self, count: usize) -> Result<(Vec<Vec<u8>>, Vec<Listening>), Failure> {
        let deadline = Instant::now() + self.plugin.connect_timeout();
        let mut handles = Vec::with_capacity(count);
        let mut listening = Vec::with_capacity(count);
        for index in 0..count {
            let device = self.devices[index % self.devices.len()];
            let (handle, one) = self.plugin.listen(device, deadline).doing("listening")?;
            handles.push(handle.as_bytes().to_vec());
            listening.push(one);
        }
        Ok((handles, listening))
    }

    pub(super) fn connect(&self, handles: &[Vec<u8>]) -> Result<Vec<Connecting>, Failure> {
        let deadline = Instant::now() + self.plugin.connect_timeout();
        let connect = |(index, bytes): (usize, &Vec<u8>)| {
            let bytes: [u8; Handle::BYTES] = bytes.as_slice().try_into().map_err(|_| {
                Failure::peer(format!("the other end sent a handle of {} bytes", bytes.len()))
            })?;
            let device = self.devices[index % self.devices.len()];
            self.plugin.connect(device, &Handle::new(bytes), deadline).doing("connecting")
        };
        handles.iter().enumerate().map(connect).collect()
    }

    /// The client's side of a link.
    pub(super) fn sending(
        &self,
        (sends, receives): (Vec<SendComm>, Vec<RecvComm>),
        region: &SharedHost,
    ) -> Result<Link, Failure> {
        let data = sends.into_iter().map(|comm| Channel::sending(comm, self.plugin.send_window()));
        let back =
            receives.into_iter().map(|comm| Channel::receiving(comm, self.plugin.recv_window())).next();
        let mut link = Link::new(&self.plugin, data, back, region)?;
        while link.back_posted < BACK_SLOTS {
            link.post_back(BACK_BYTES)?;
        }
        Ok(link)
    }

    /// The server's side of a link.
    pub(super) fn receiving(
        &self,
        (sends, receives): (Vec<SendComm>, Vec<RecvComm>),
        region: &SharedHost,
    ) -> Result<Link, Failure> {
        let data = receives.into_iter().map(|comm| Channel::receiving(comm, self.plugin.recv_window()));
        let back = sends.into_iter().map(|comm| Channel::sending(comm, self.plugin.send_window())).next();
        Link::new(&self.plugin, data, back, region)
    }
}

fn find(plugin: &Plugin, selector: &DeviceSelector) -> Result<usize, Failure> {
    let device = plugin.devices().iter().find(|device| match selector {
        DeviceSelector::Index(index) => device.index == *index,
        DeviceSelector::Name(name) => device.name == name,
    });
    device.map(|device| device.index).ok_or_else(|| {
        let names: Vec<&str> = plugin.devices().iter().map(|device| device.name).collect();
        Failure::new(format!("UCCL_TCPX_DEV names {selector:?}; the plugin has {}", names.join(", ")))
    })
}

/// Polls all listeners and connects of one end until each has a comm or its deadline passes.
pub(super) fn establish(
    listening: Vec<Listening>,
    connecting: Vec<Connecting>,
) -> Result<(Vec<SendComm>, Vec<RecvComm>), Failure> {
    let mut accepts: Vec<Option<Accept>> =
        listening.into_iter().map(|one| Some(Accept::Pending(one))).collect();
    let mut connects: Vec<Option<Connect>> =
        connecting.into_iter().map(|one| Some(Connect::Pending(one))).collect();
    loop {
        let now = Instant::now();
        let mut pending = 0;
        for one in &mut accepts {
            *one = match one.take() {
                Some(Accept::Pending(listening)) => Some(listening.poll(now)),
                over => over,
            };
            pending += usize::from(matches!(one, Some(Accept::Pending(_))));
        }
        for one in &mut connects {
            *one = match one.take() {
                Some(Connect::Pending(connecting)) => Some(connecting.poll(now)),
                over => over,
            };
            pending += usize::from(matches!(one, Some(Connect::Pending(_))));
        }
        if pending == 0 {
            break;
        }
        std::thread::sleep(POLL);
    }
    let mut comms = (Vec::new(), Vec::new());
    for connect in connects.into_iter().flatten() {
        match connect {
            Connect::Ready(comm) => comms.0.push(comm),
            Connect::Failed(error) => return Err(error).doing("connecting"),
            Connect::Pending(_) => {}
        }
    }
    for accept in accepts.into_iter().flatten() {
        match accept {
            Accept::Ready(comm) => comms.1.push(comm),
            Accept::Failed(error) => return Err(error).doing("accepting"),
            Accept::Pending(_) => {}
        }
    }
    Ok(comms)
}

impl Link {
    fn new(
        plugin: &Arc<Plugin>,
        data: impl Iterator<Item = Result<Channel, tcpx_core::Error>>,
        back: Option<Result<Channel, tcpx_core::Error>>,
        region: &SharedHost,
    ) -> Result<Self, Failure> {
        let mut set = ChannelSet::new(plugin.clone()).doing("making a set of channels")?;
        let mut add = |channel: Result<Channel, tcpx_core::Error>, memory: &SharedHost| {
            let mut channel = channel.doing("making a channel")?.with_silence_limit(SILENCE);
            let registration = channel.register(Box::new(memory.clone()));
            let registration = registration.map_err(|refused| Failure::new(refused.to_string()))?;
            let id = set.insert(channel).doing("making a set of channels")?;
            Ok::<_, Failure>((id, registration))
        };
        let data = data.map(|channel| add(channel, region)).collect::<Result<Vec<_>, _>>()?;
        let back_memory = SharedHost::new(BACK_STRIDE * BACK_SLOTS as usize)
            .map_err(|error| Failure::new(error.to_string()))?;
        let back = back.ok_or_else(|| Failure::peer("the other end opened no channel back"))?;
        let (back, back_registration) = add(back, &back_memory)?;
        let events = Vec::with_capacity(64);
        Ok(Self { set, data, back, back_registration, back_memory, back_posted: 0, events })
    }

    /// What the plugin says about its sockets.
    pub(super) fn describe(&mut self) -> Option<String> {
        let (id, _) = *self.data.first()?;
        self.set.channel(id).ok()?.describe()
    }

    /// Posts a message on a channel, if there is room.
    pub(super) fn post(
        &mut self,
        id: ChannelId,
        token: u64,
        slices: &[Slice],
        now: Instant,
    ) -> Result<bool, Failure> {
        accepted(self.set.post(id, token, slices, now))
    }

    /// Posts the next message of `length` bytes on the back channel, if there is room.
    pub(super) fn post_back(&mut self, length: usize) -> Result<bool, Failure> {
        let offset = (self.back_posted % BACK_SLOTS) as usize * BACK_STRIDE;
        let slice = Slice { registration: self.back_registration, offset, length };
        let posted = accepted(self.set.post(self.back, self.back_posted, &[slice], Instant::now()))?;
        self.back_posted += u64::from(posted);
        Ok(posted)
    }

    /// Writes `bytes` where the next message of the back channel is sent from, and posts it, if there is room.
    pub(super) fn send_back(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        if self.set.channel(self.back).is_ok_and(|back| back.in_flight() + back.held() >= BACK_SLOTS as usize)
        {
            return Ok(false);
        }
        let offset = (self.back_posted % BACK_SLOTS) as usize * BACK_STRIDE;
        self.back_memory.copy_in(offset, bytes).map_err(|error| Failure::new(error.to_string()))?;
        self.post_back(bytes.len())
    }

    /// Reads what arrived as message `token` of the back channel.
    pub(super) fn read_back(&self, token: u64, bytes: &mut [u8]) -> Result<(), Failure> {
        let offset = (token % BACK_SLOTS) as usize * BACK_STRIDE;
        self.back_memory.copy_out(offset, bytes).map_err(|error| Failure::new(error.to_string()))
    }

    /// Sleeps until something ended and hands out what did. An error if nothing does for [`SILENCE`].
    pub(super) fn wait(
        &mut self,
        mut each: impl FnMut(&mut Self, ChannelId, Completion) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        let waited = self.set.wait(Instant::now() + SILENCE, |id, event| events.push((id, event)));
        let round = waited.doing("waiting for a transfer")?;
        if round.events == 0 && events.is_empty() {
            let text = format!(
                "nothing moved for {} s: the other end is stopped or its host is gone",
                SILENCE.as_secs()
            );
            return Err(Failure::peer(text));
        }
        for (id, event) in events.drain(..) {
            match event {
                Event::Completed(completion) => each(self, id, completion)?,
                Event::Failed(fault) => return Err(Failure::peer(fault.to_string())),
            }
        }
        self.events = events;
        Ok(())
    }
}

/// Checks how an operation ended.
pub(super) fn whole(completion: &Completion, size: usize) -> Result<(), Failure> {
    match completion.outcome {
        Outcome::Done { length } if length.is_none_or(|length| length == size) => Ok(()),
        Outcome::Done { length } => {
            Err(Failure::new(format!("WRONG DATA: {length:?} bytes arrived of a message of {size}")))
        }
        Outcome::Failed(fault) => Err(Failure::new(fault.to_string())),
    }
}

fn accepted(post: Result<Post, PostError>) -> Result<bool, Failure> {
    match post {
        Ok(post) => Ok(post == Post::Accepted),
        Err(PostError::Misuse(misuse)) => Err(Failure::new(misuse.to_string())),
        Err(PostError::Fault(fault)) => Err(Failure::peer(fault.to_string())),
    }
}
