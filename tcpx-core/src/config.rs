//! The settings of a process, read once from its environment.
//!
//! Every variable is one row of [`VARIABLES`]; the row's type parses the text, so that a value outside
//! its range cannot be held. [`Config::from_environment`] reads all of them, collects every problem and
//! never stops at the first. Variables of Google's plugin are read with that plugin's own effective
//! defaults, because the preflight judges what the plugin is going to do.
//!
//! An empty value counts as unset. This module never writes the environment.

#![forbid(unsafe_code)]

mod bindings;
mod cores;
mod environment;
mod error;
mod interfaces;
mod log;
mod map;
mod number;
mod reader;
#[cfg(test)]
mod tests;
mod value;

use std::path::PathBuf;

use tcpx_sys::log::{Level, Subsystems};

pub use bindings::{Binding, Bindings, CpuRange};
pub use cores::{Affinity, core_list};
pub use environment::{Environment, FixedEnvironment, ProcessEnvironment};
pub use error::{ConfigError, Problem, Warning};
pub use interfaces::{DeviceChoice, DeviceSelector, InterfaceFilter, NicNames};
pub use log::LogFile;
pub use map::GpuNicMap;
pub use number::{
    Channels, ChunkBytes, GpuIndex, MessageBytes, Number, PluginInteger, Port, PortBase, WindowSize,
};
pub use value::{
    AbsolutePath, AddressFamily, ControlAddress, Scheduler, SharedSecret, SlownessChecks, TransportName,
    UnpackMode, Value,
};

use reader::Reader;

/// A value and who set it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Setting<T> {
    /// The effective value.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

impl<T> Setting<T> {
    /// Whether the user set the variable.
    pub const fn is_from_user(&self) -> bool {
        matches!(self.origin, Origin::User(_))
    }
}

/// Who set a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// The user, through the variable of this name.
    User(&'static str),
    /// Nobody; the default applies.
    Default,
}

/// One row of the table of variables.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Name of the environment variable.
    pub name: &'static str,
    /// Other names for the same setting.
    pub aliases: &'static [&'static str],
    /// Text that the effective default is parsed from; empty when there is none.
    pub default: &'static str,
    /// What it does, in one line.
    pub meaning: &'static str,
    range: fn() -> String,
}

impl Variable {
    /// Values that are allowed, in words.
    pub fn range(&self) -> String {
        (self.range)()
    }
}

/// The table of variables as a Markdown table: name, default, range, meaning.
pub fn documentation() -> String {
    let mut text = String::from("| variable | default | range | meaning |\n|---|---|---|---|\n");
    for variable in VARIABLES {
        let names: Vec<_> = std::iter::once(&variable.name).chain(variable.aliases).collect();
        let names: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
        let default = if variable.default.is_empty() { "unset" } else { variable.default };
        let row = [names.join(", "), default.to_owned(), variable.range(), variable.meaning.to_owned()];
        let row = row.map(|cell| cell.replace('|', "\\|"));
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    text
}

impl Config {
    /// Reads the environment of the process.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every bad value found.
    pub fn from_process() -> Result<Self, ConfigError> {
        Self::from_environment(&ProcessEnvironment)
    }

    /// Reads every variable of [`VARIABLES`] from `environment`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with every bad value found.
    pub fn from_environment(environment: &dyn Environment) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(environment);
        let config = Self::read(&mut reader);
        if let Some(config) = &config {
            reader.extend(config.contradictions());
        }
        let warnings = reader.unknown_variables(VARIABLES);
        match (config, reader.into_problems()) {
            (Some(config), problems) if problems.is_empty() => Ok(Self { warnings, ..config }),
            (_, problems) => Err(ConfigError { problems }),
        }
    }

    /// What is odd but not wrong: variables that look like ours and are unknown.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Rules between two variables.
    fn contradictions(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let room = u64::from(u16::MAX - self.oob_port.value.get());
        if self.port_retries.value.get() > room {
            problems.push(Problem::BadValue {
                variable: "UCCL_TCPX_PORT_RETRIES",
                value: self.port_retries.value.get().to_string().into(),
                range: format!("0 to {room}, because UCCL_TCPX_OOB_PORT is {}", self.oob_port.value.get()),
                default: "16",
            });
        }
        let (heartbeat, timeout) =
            (self.heartbeat_seconds.value.get(), self.peer_timeout_seconds.value.get());
        if heartbeat >= timeout {
            problems.push(Problem::BadValue {
                variable: "UCCL_P2P_HEARTBEAT_SECONDS",
                value: heartbeat.to_string().into(),
                range: format!("1 to {}, because UCCL_P2P_PEER_TIMEOUT_SECONDS is {timeout}", timeout - 1),
                default: "1",
            });
        }
        problems
    }
}

/// Makes the configuration and [`VARIABLES`] from one table: field, type, default, names, meaning.
macro_rules! settings {
    ($($field:ident: $kind:ty = $default:literal, $name:literal $(| $alias:literal)*, $meaning:literal;)*) => {
        /// The settings of a process. Each field is documented by its row of [`VARIABLES`].
        #[derive(Clone, Debug)]
        #[non_exhaustive]
        pub struct Config {
            $(
                #[doc = concat!("`", $name, "`: ", $meaning, ".")]
                pub $field: Setting<$kind>,
            )*
            warnings: Vec<Warning>,
        }

        /// Every variable that is read, ours first, then those of the net plugin, then NCCL's log.
        pub static VARIABLES: &[Variable] = &[$(Variable {
            name: $name,
            aliases: &[$($alias),*],
            default: $default,
            meaning: $meaning,
            range: <$kind as Value>::range,
        }),*];

        impl Config {
            /// Reads every row, also after the first bad one; `None` if any row was bad.
            fn read(reader: &mut Reader<'_>) -> Option<Self> {
                $(let $field = reader.setting::<$kind>(&[$name $(, $alias)*], $default);)*
                Some(Self { $($field: $field?,)* warnings: Vec::new() })
            }
        }
    };
}

settings! {
    transport: TransportName = "auto", "UCCL_P2P_TRANSPORT",
        "data plane to use";
    require: Option<TransportName> = "", "UCCL_P2P_REQUIRE",
        "data plane without which nothing starts; tcpx: refuse plain TCP";
    peer_timeout_seconds: Number<2, 600> = "5", "UCCL_P2P_PEER_TIMEOUT_SECONDS",
        "time after which a peer that does not answer is dead, and that closing a connection may take";
    heartbeat_seconds: Number<1, 300> = "1", "UCCL_P2P_HEARTBEAT_SECONDS",
        "time without a word after which an endpoint asks its peer for a sign of life; less than UCCL_P2P_PEER_TIMEOUT_SECONDS";
    stall_seconds: Number<0, 86_400> = "10", "UCCL_P2P_STALL_SECONDS",
        "time after which a transfer of an endpoint that waits for one and the same thing is logged as a stall, with what it waits for; 0: never";
    affinity: Affinity = "auto", "UCCL_P2P_AFFINITY",
        "cores of an endpoint's progress thread; auto: those of the NUMA node of its NICs, where all of them lie at one and it has cores that the plugin's workers are not bound to; off: wherever the system puts it";
    secret: Option<SharedSecret> = "", "UCCL_P2P_SECRET",
        "what all endpoints of a job must know to speak with each other, best 32 random bytes as text; it is never printed, and data is not encrypted; unset: whoever reaches an endpoint may speak";
    silence_seconds: Option<Number<1, 86_400>> = "", "UCCL_P2P_SILENCE_SECONDS",
        "time after which a connection is given up when operations are under way and none ends; unset: never, because a receive may wait for a peer that has nothing to send";
    plugin_path: PathBuf = "/usr/local/tcpx/lib64/libnccl-net-tcpx.so", "UCCL_TCPX_PLUGIN_PATH",
        "file of the net plugin to load";
    device: Option<DeviceChoice> = "", "UCCL_TCPX_DEV",
        "NICs to use, by index in the plugin's list or by name; unset: the caller's choice, which is by topology for one that asks topology::NicMap";
    local_device: GpuIndex = "0", "UCCL_TCPX_LOCAL_DEVICE" | "UCCL_TCPX_DEVICE_IDX",
        "GPU of this endpoint, counted in PCI address order";
    oob_port: Port = "28900", "UCCL_TCPX_OOB_PORT" | "UCCL_TCPX_CTRL_PORT",
        "port at which an endpoint listens for peers; where nobody sets it, the system chooses one, which travels in the metadata";
    port_retries: Number<0, 1024> = "16", "UCCL_TCPX_PORT_RETRIES",
        "following ports to try when that port is taken";
    control_ip: ControlAddress = "auto", "UCCL_TCPX_CTRL_IP",
        "address given to peers for the control and exchange connections; auto: those of the control NIC, of the data NIC, and of the others, in this order";
    bootstrap_port_base: PortBase = "20000", "UCCL_TCPX_BOOTSTRAP_PORT_BASE",
        "bootstrap port of GPU 0; GPU n uses this plus n";
    connect_timeout_seconds: Number<1, 3600> = "30", "UCCL_TCPX_CONNECT_TIMEOUT_SECONDS",
        "time a connect or accept may take; a dead port alone takes the plugin 22 s";
    accept_retry: bool = "0", "UCCL_TCPX_ACCEPT_RETRY",
        "1: poll accept again after answer 2, which means not ready to the plugin shipped on A3-high and frees memory in the published one";
    chunk_bytes: ChunkBytes = "524288", "UCCL_TCPX_CHUNK_BYTES",
        "longest message with Google's plugin, in bytes; longer transfers are cut into such messages; the soft plugin's are up to 16 MiB, as transfers choose";
    max_send_inflight: WindowSize = "12", "UCCL_TCPX_MAX_SEND_INFLIGHT",
        "sends in flight per comm";
    max_recv_inflight: WindowSize = "16", "UCCL_TCPX_MAX_RECV_INFLIGHT",
        "receives posted and not yet released per comm";
    num_channels: Channels = "1", "UCCL_TCPX_NUM_CHANNELS",
        "channels of the connections to one peer, spread over the NICs of the GPU";
    gpu_nic_map: Option<GpuNicMap> = "", "UCCL_TCPX_GPU_NIC_MAP",
        "NICs of each GPU instead of those chosen by topology, such as 0,1:eth1;2,3:eth2,eth3, with * for every GPU not named";
    foreign_nics: NicNames = "", "UCCL_TCPX_ALLOW_FOREIGN_NICS",
        "NICs that GPUs under another PCIe root may use although the plugin delivers scattered pages, which normally ends the process";
    unpack: UnpackMode = "kernel", "UCCL_TCPX_UNPACK_IMPL",
        "how received pages are put in place; checked here, used by layers above";
    use_staging: bool = "0", "UCCL_TCPX_USE_STAGING",
        "1: copy through pinned host memory; checked here, used by layers above";
    debug: bool = "0", "UCCL_TCPX_DEBUG",
        "1: log what this library does";
    launch_debug: bool = "0", "UCCL_TCPX_LAUNCH_DEBUG",
        "1: log each unpack launch; checked here, used by layers above";
    perf_size: MessageBytes = "4194304", "UCCL_TCPX_PERF_SIZE",
        "bytes of one benchmark message; checked here, used by layers above";
    perf_iters: Number<1, 1_000_000> = "10", "UCCL_TCPX_PERF_ITERS",
        "rounds of the benchmark; checked here, used by layers above";

    socket_enable: bool = "1", "NCCL_GPUDIRECTTCPX_SOCKET_ENABLE",
        "0: the plugin refuses to start";
    dynamic_chunk_size: PluginInteger<0, 2_147_483_646> = "0", "NCCL_DYNAMIC_CHUNK_SIZE",
        "bytes the plugin puts on one socket at a time; set to UCCL_TCPX_CHUNK_BYTES before the plugin starts when unset";
    sockets_per_thread: PluginInteger<1, 8> = "1", "NCCL_NSOCKS_PERTHREAD",
        "data sockets per worker of a comm";
    socket_threads: PluginInteger<1, 16> = "1", "NCCL_SOCKET_NTHREADS",
        "workers per comm; above 8 the plugin makes no socket";
    inline_threshold: PluginInteger<0, 2048> = "0", "NCCL_INLINE_THRESHOLD",
        "messages up to this many bytes travel on the control socket; breaks GPU memory unless 0";
    min_zcopy_size: PluginInteger<0, 2_147_483_646> = "0", "NCCL_MIN_ZCOPY_SIZE",
        "host messages from this many bytes on are sent without a copy; 0: never";
    thread_spin: bool = "0", "NCCL_THREAD_SPIN_ENABLE",
        "1: workers never sleep";
    use_dma_buf: bool = "1", "NCCL_USE_DMA_BUF",
        "0: GPU memory cannot be registered";
    recv_sync: bool = "0", "NCCL_GPUDIRECTTCPX_RECV_SYNC",
        "1: a send waits for the peer's receive; must be the same at both ends";
    force_ack: bool = "0", "NCCL_GPUDIRECTTCPX_FORCE_ACK",
        "1: acknowledge at once after each receive";
    connection_retry: PluginInteger<0, 2_147_483_646> = "3", "NCCL_GPUDIRECTTCPX_CONNECTION_RETRY",
        "attempts per socket; 0 fails always";
    spin_wait_connect: bool = "1", "NCCL_GPUDIRECTTCPX_SPINWAIT_CONNECT",
        "1: isend and irecv wait for the connection";
    flow_steering_wait_micros: PluginInteger<0, 60_000_000> = "5000000", "NCCL_GPUDIRECTTCPX_PROGRAM_FLOW_STEERING_WAIT_MICROS",
        "pause at the end of accept, 0 meaning 5 s; set to 50000 before the plugin starts when unset";
    flow_steering_strategy: PluginInteger<0, 3> = "3", "NCCL_GPUDIRECTTCPX_FLOW_STEERING_STRATEGY",
        "only 3 works";
    tx_completion_nanosleep: PluginInteger<0, 2_147_483_646> = "0", "NCCL_GPUDIRECTTCPX_TX_COMPLETION_NANOSLEEP",
        "pause of a worker that waits for send completions";
    timeout_threshold_ns: PluginInteger<100_000, 9_223_372_036_854_775_806> = "10000000000", "NCCL_GPUDIRECTTCPX_TIMEOUT_THRESHOLD_NS",
        "silence after which slowness is logged";
    timeout_frequency_ns: PluginInteger<100_000, 9_223_372_036_854_775_806> = "30000000000", "NCCL_GPUDIRECTTCPX_TIMEOUT_FREQUENCY_NS",
        "time between two such lines";
    slowness_switch: SlownessChecks = "ALL", "NCCL_GPUDIRECTTCPX_SLOWNESS_SWITCH",
        "which slowness is looked for";
    slowness_report: SlownessChecks = "ALL", "NCCL_GPUDIRECTTCPX_SLOWNESS_REPORT",
        "which slowness is logged";
    cuda_use_primary_ctx: bool = "1", "NCCL_GPUDIRECTTCPX_CUDA_USE_PRIMARY_CTX",
        "0: the plugin makes its own CUDA context, to which our memory does not belong";
    reg_internal_api: bool = "0", "NCCL_GPUDIRECTTCPX_REG_DMABUF_USE_INTERNAL_API",
        "1: register through /proc/driver/nvp2p_dma_buf";
    import_gpu_pci_client: bool = "1", "NCCL_TCPX_RXMEM_IMPORT_USE_GPU_PCI_CLIENT",
        "how the receive pool is imported";
    import_skip_odds: bool = "0", "NCCL_TCPX_RXMEM_IMPORT_SKIP_ODDS",
        "how the receive pool is imported";
    nic_receive_queues: PluginInteger<1, 4096> = "32", "NCCL_GPUDIRECTTCPX_NIC_N_RXQS",
        "receive queues of a NIC, for the plugin's books";
    report_lifecycle: bool = "0", "NCCL_GPUDIRECTTCPX_REPORT_LIFECYCLE",
        "1: register the process with rxdm";
    log_stats: bool = "0", "NCCL_GPUDIRECTTCPX_LOG_STATS_TO_STDOUT",
        "1: print statistics";
    telemetry_task_stats: bool = "0", "NCCL_GPUDIRECTTCPX_TELEMETRY_ENABLE_TASK_LEVEL_STATS",
        "1: record each task";
    telemetry_request_stats: bool = "0", "NCCL_GPUDIRECTTCPX_TELEMETRY_ENABLE_REQUEST_LEVEL_STATS",
        "1: record each request";
    telemetry_export: bool = "0", "NCCL_GPUDIRECTTCPX_TELEMETRY_EXPORT_STATS_TO_FILE",
        "1: write statistics to files; needs NCCL_GPUDIRECTTCPX_TELEMETRY_EXPORTER_PATH";
    telemetry_path: Option<PathBuf> = "", "NCCL_GPUDIRECTTCPX_TELEMETRY_EXPORTER_PATH",
        "folder of those files";
    telemetry_sampling: PluginInteger<1, 999_999> = "1", "NCCL_GPUDIRECTTCPX_TELEMETRY_SAMPLING_FACTOR",
        "every n-th event is recorded";
    telemetry_line_limit: PluginInteger<1, 256> = "256", "NCCL_GPUDIRECTTCPX_TELEMETRY_LOG_LINE_LIMIT",
        "characters of a line";
    telemetry_exporter_core: PluginInteger<0, 1023> = "171", "NCCL_GPUDIRECTTCPX_TELEMETRY_EXPORTER_CORE_INDEX",
        "core of the thread that writes";
    telemetry_cleaner_core: PluginInteger<0, 1023> = "172", "NCCL_GPUDIRECTTCPX_TELEMETRY_GARBAGE_COLLECTOR_INDEX",
        "core of the thread that removes old files";
    telemetry_file_life: PluginInteger<1, 2_147_483_646> = "1440", "NCCL_GPUDIRECTTCPX_TELEMETRY_FILE_LIFE",
        "minutes a file is kept";
    telemetry_remove_frequency: PluginInteger<1, 2_147_483_646> = "86400", "NCCL_GPUDIRECTTCPX_TELEMETRY_FILE_REMOVE_FREQUENCY",
        "seconds between two removals";
    socket_ifname: Option<InterfaceFilter> = "", "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME",
        "data NICs; unset: the plugin takes whatever is not docker or lo";
    socket_family: Option<AddressFamily> = "", "NCCL_GPUDIRECTTCPX_SOCKET_FAMILY",
        "address family of the data NICs";
    control_device: Option<InterfaceFilter> = "", "NCCL_GPUDIRECTTCPX_CTRL_DEV",
        "NIC of the control sockets, never used for data; unset: each NIC carries its own";
    unix_client_prefix: AbsolutePath = "/tmp", "NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX",
        "folder of the rxdm sockets; set to /run/tcpx before the plugin starts when unset and rxdm listens there";
    tx_bindings: Option<Bindings> = "", "NCCL_GPUDIRECTTCPX_TX_BINDINGS",
        "cores of the sending workers of each NIC";
    rx_bindings: Option<Bindings> = "", "NCCL_GPUDIRECTTCPX_RX_BINDINGS",
        "cores of the receiving workers of each NIC";
    pin_threads: bool = "0", "NCCL_GPUDIRECTTCPX_WORKER_PIN_THREADS",
        "1: pin each worker to few cores of its binding";
    pin_spray_count: PluginInteger<0, 1023> = "0", "NCCL_GPUDIRECTTCPX_WORKER_SPRAY_COUNT",
        "further cores of a pinned worker";
    pin_spray_stride: PluginInteger<0, 1023> = "0", "NCCL_GPUDIRECTTCPX_WORKER_SPRAY_STRIDE",
        "distance of those cores";
    scheduler: Scheduler = "RR", "NCCL_GPUDIRECTTCPX_SCHED_ALG",
        "how chunks are spread over sockets";
    buffer_size: Option<PluginInteger<1, 4_294_967_296>> = "", "NCCL_BUFFSIZE",
        "NCCL's buffer per channel; too small for the window it made receives time out in the field";
    p2p_net_chunk_size: Option<PluginInteger<1, 4_294_967_296>> = "", "NCCL_P2P_NET_CHUNKSIZE",
        "NCCL's own chunk, best the same as the others";

    nccl_debug: Option<Level> = "", "NCCL_DEBUG",
        "which lines of the plugin are logged";
    nccl_debug_subsys: Subsystems = "INIT,BOOTSTRAP,ENV", "NCCL_DEBUG_SUBSYS",
        "subsystems whose lines are logged; a leading ^ means all but these";
    nccl_debug_file: Option<LogFile> = "", "NCCL_DEBUG_FILE",
        "file for those lines, with %h for the host and %p for the process";
}
