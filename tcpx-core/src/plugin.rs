//! The plugin: found, checked, initialised once per process, and asked for its devices.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tcpx_sys::{Code, Version};

use crate::api::comm::Place;
use crate::api::{
    Calls, TableCalls, listening::Listener, max_message_of, process, table_name, traced_if_asked,
};
use crate::config::Config;
use crate::device::Device;
use crate::error::{Call, Error, Misuse};
use crate::establish::{Connecting, Handle, Listening};
use crate::gate::Gate;
use crate::preflight::{self, Nature};
use crate::{log, verdict};

/// Where a plugin comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A shared library. It is trusted with the whole process, like any library linked to the program.
    File(PathBuf),
    /// A table that is linked in, such as the soft plugin's.
    Static(tcpx_sys::Plugin),
}

/// A plugin that is initialised. It stays loaded, and initialised, until the process ends.
pub struct Plugin {
    loaded: Arc<Loaded>,
    accept_retry: bool,
    connect_timeout: Duration,
    send_window: usize,
    recv_window: usize,
}

/// What is done once per process and table.
struct Loaded {
    /// Address of the table, by which it is found again.
    table: usize,
    calls: Arc<dyn Calls>,
    gate: Arc<Gate>,
    name: String,
    version: Version,
    nature: Nature,
    checks_length: bool,
    devices: Vec<Device>,
}

/// A table that was initialised, and how that ended. A second `init` of the same table is never made.
enum Initialised {
    Well(Arc<Loaded>),
    Badly { table: usize, failed: FailedInit },
}

/// How an `init` failed; kept, because a later open has no other answer.
#[derive(Clone)]
struct FailedInit {
    code: Code,
    said: Option<String>,
    nature: Nature,
}

static INITIALISED: Mutex<Vec<Initialised>> = Mutex::new(Vec::new());

impl Plugin {
    /// Loads a plugin, checks settings and machine for everything known to crash or hang it, sets the safe
    /// values that the user left unset, and initialises it.
    ///
    /// A plugin is initialised once per process: opening it again gives the same plugin with the windows
    /// and deadlines of `config`; its log and environment stay as the first one set them.
    ///
    /// Call it at the start of the process: where the plugin needs variables that are unset they are set
    /// here, which no other C code may read or write meanwhile. A broken pipe is ignored from here on unless
    /// the program handles `SIGPIPE` itself.
    ///
    /// # Errors
    ///
    /// [`Error::Preflight`] names each variable or file and its mend; [`Error::Load`],
    /// [`Error::MissingEntry`], [`Error::Init`] and [`Error::Devices`] name the plugin.
    pub fn open(source: Source, config: &Config) -> Result<Arc<Self>, Error> {
        Self::open_below(source, config, Path::new("/"))
    }

    /// As [`open`](Self::open), with the folder under which `proc` and `sys` are found.
    pub(crate) fn open_below(source: Source, config: &Config, root: &Path) -> Result<Arc<Self>, Error> {
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        let (plugin, path) = match source {
            Source::File(path) => {
                preflight::check_file(&path, root).refused()?;
                (process::load(&path)?, Some(path))
            }
            Source::Static(plugin) => (plugin, None),
        };
        let mut initialised = INITIALISED.lock().unwrap_or_else(PoisonError::into_inner);
        let table = address_of(&plugin.table);
        let known = initialised.iter().find(|known| known.table() == table);
        let loaded = match known {
            Some(Initialised::Well(loaded)) => loaded.clone(),
            Some(Initialised::Badly { failed, .. }) => {
                return Err(failed.clone().into_error(plugin_name(&plugin)));
            }
            None => {
                let loaded = Loaded::start(plugin, path.as_deref(), config, root, &mut initialised)?;
                let loaded = Arc::new(loaded);
                initialised.push(Initialised::Well(loaded.clone()));
                loaded
            }
        };
        Ok(Arc::new(Self::with(loaded, config)))
    }

    fn with(loaded: Arc<Loaded>, config: &Config) -> Self {
        Self {
            loaded,
            accept_retry: config.accept_retry.value,
            connect_timeout: Duration::from_secs(config.connect_timeout_seconds.value.get()),
            send_window: config.max_send_inflight.value.get().into(),
            recv_window: config.max_recv_inflight.value.get().into(),
        }
    }

    /// The name in its table.
    pub fn name(&self) -> &str {
        &self.loaded.name
    }

    /// The version of its table.
    pub fn version(&self) -> Version {
        self.loaded.version
    }

    /// What it is, as far as the preflight cares.
    pub fn nature(&self) -> Nature {
        self.loaded.nature
    }

    /// Its devices, as it reports them.
    pub fn devices(&self) -> &[Device] {
        &self.loaded.devices
    }

    /// Slices one message may have: 1, unless the plugin has the extension.
    pub fn max_slices(&self) -> usize {
        self.loaded.calls.max_slices()
    }

    /// Whether a receive into host memory learns its length, and a message that is too long is refused. The soft
    /// plugin does, unless it is as strict as Google's, which does not.
    pub fn checks_length(&self) -> bool {
        self.loaded.checks_length
    }

    /// Bytes that can be registered at once.
    pub fn max_registration(&self) -> usize {
        self.loaded.calls.max_registration()
    }

    /// Sends in flight per comm, as configured.
    pub const fn send_window(&self) -> usize {
        self.send_window
    }

    /// Receives posted and not yet released per comm, as configured.
    pub const fn recv_window(&self) -> usize {
        self.recv_window
    }

    /// How long a connect or accept may take, as configured.
    pub const fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Listens on a device for one connection, until `deadline`.
    ///
    /// # Errors
    ///
    /// [`Misuse::NoDevice`], [`Error::Establish`], or [`Error::SetupBusy`] where the first `connect` of the
    /// process blocks until the deadline.
    pub fn listen(self: &Arc<Self>, device: usize, deadline: Instant) -> Result<(Handle, Listening), Error> {
        let found = self.device(device)?;
        let Loaded { calls, gate, nature, .. } = &*self.loaded;
        let closes_any_time = *nature == Nature::Soft;
        let pass = gate.lock(Call::Listen, found.name, Some(deadline))?;
        let opened = Listener::open(calls.clone(), device as i32, closes_any_time);
        drop(pass);
        let (handle, listener) = opened.map_err(|code| Error::Establish {
            call: Call::Listen,
            device: found.name,
            code,
            hint: "",
        })?;
        gate.was_set_up();
        Ok((Handle::new(handle), Listening::new(listener, self.clone(), device, deadline)))
    }

    /// Connects a device to a peer's listener, until `deadline`. Nothing is sent before the first poll.
    ///
    /// # Errors
    ///
    /// [`Misuse::NoDevice`].
    pub fn connect(
        self: &Arc<Self>,
        device: usize,
        handle: &Handle,
        deadline: Instant,
    ) -> Result<Connecting, Error> {
        self.device(device)?;
        Ok(Connecting::new(self.clone(), device, *handle, deadline))
    }

    fn device(&self, index: usize) -> Result<&Device, Misuse> {
        let devices = self.devices();
        devices.get(index).ok_or(Misuse::NoDevice { index, count: devices.len() })
    }

    pub(crate) fn place(&self, device: &Device) -> Place {
        device.place(self.version(), self.nature() == Nature::Soft)
    }

    pub(crate) fn calls(&self) -> &Arc<dyn Calls> {
        &self.loaded.calls
    }

    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.loaded.gate
    }

    pub(crate) const fn accept_retry(&self) -> bool {
        self.accept_retry
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.loaded.name)
            .field("version", &self.loaded.version)
            .field("devices", &self.loaded.devices.len())
            .finish_non_exhaustive()
    }
}

impl Loaded {
    fn start(
        plugin: tcpx_sys::Plugin,
        path: Option<&Path>,
        config: &Config,
        root: &Path,
        initialised: &mut Vec<Initialised>,
    ) -> Result<Self, Error> {
        let (name, version) = (plugin_name(&plugin), plugin.table.version());
        let table = address_of(&plugin.table);
        let nature = Nature::of(&name, path, plugin.extension.is_some());
        if process::ignore_broken_pipes() {
            tracing::debug!("SIGPIPE is ignored from here on, because a net plugin raises it");
        }
        let findings = preflight::check(config, nature, root);
        for note in &findings.notes {
            tracing::warn!("{note}");
        }
        process::apply(&findings)?;
        let calls = TableCalls::new(plugin).map_err(|missing| Error::MissingEntry {
            plugin: name.clone(),
            version,
            entry: missing.0,
        })?;
        let calls = traced_if_asked(Arc::new(calls));
        log::install(config);
        let (code, said) = log::keeping_warning(|| calls.init());
        if !code.is_success() {
            let failed = FailedInit { code, said, nature };
            initialised.push(Initialised::Badly { table, failed: failed.clone() });
            return Err(failed.into_error(name));
        }
        let devices = devices(&*calls, &name, version)?;
        let strict = std::env::var("TCPX_SOFT_STRICT").is_ok_and(|value| value.trim() == "1");
        let checks_length = nature == Nature::Soft && !strict;
        Ok(Self { table, calls, gate: Arc::default(), name, version, nature, checks_length, devices })
    }
}

impl Initialised {
    fn table(&self) -> usize {
        match self {
            Self::Well(loaded) => loaded.table,
            &Self::Badly { table, .. } => table,
        }
    }
}

impl FailedInit {
    fn into_error(self, plugin: String) -> Error {
        let Self { code, said, nature } = self;
        Error::Init { plugin, code, said, hint: verdict::init_hint(code, nature) }
    }
}

fn plugin_name(plugin: &tcpx_sys::Plugin) -> String {
    table_name(&plugin.table).unwrap_or_else(|| "without a name".to_owned())
}

fn address_of(table: &tcpx_sys::Table) -> usize {
    use tcpx_sys::Table;
    match *table {
        Table::V7(t) => std::ptr::from_ref(t).addr(),
        Table::V8(t) => std::ptr::from_ref(t).addr(),
        Table::V9(t) => std::ptr::from_ref(t).addr(),
        Table::V10(t) => std::ptr::from_ref(t).addr(),
        Table::V11(t) => std::ptr::from_ref(t).addr(),
    }
}

/// Asks for every device and its properties.
fn devices(calls: &dyn Calls, plugin: &str, version: Version) -> Result<Vec<Device>, Error> {
    let error = |call, index, code| Error::Devices { plugin: plugin.to_owned(), call, index, code };
    let (code, count) = calls.devices();
    let count = usize::try_from(count).ok().filter(|_| code.is_success());
    let count = count.ok_or_else(|| error(Call::Devices, None, code))?;
    (0..count)
        .map(|index| {
            let (code, reported) = calls.properties(index as i32);
            let reported = reported.ok_or_else(|| error(Call::GetProperties, Some(index), code))?;
            Ok(Device::new(index, reported, max_message_of(version)))
        })
        .collect()
}

#[cfg(test)]
impl Plugin {
    /// A plugin with these calls, and devices as they report them.
    pub(crate) fn of(calls: Arc<dyn Calls>, config: &Config) -> Result<Arc<Self>, Error> {
        let version = Version::V11;
        let devices = devices(&*calls, "mock", version)?;
        let (gate, name, nature) = (Arc::default(), "mock".to_owned(), Nature::Other);
        let checks_length = false;
        let loaded = Loaded { table: 0, calls, gate, name, version, nature, checks_length, devices };
        Ok(Arc::new(Self::with(Arc::new(loaded), config)))
    }
}
