//! Checks on settings, nearly all of them without a look at the machine.

#![forbid(unsafe_code)]

use std::path::Path;

use super::file::below;
use super::{Check, Findings, Subject};
use crate::config::{AddressFamily, Config, Scheduler, Setting};

/// Data sockets that a comm of the plugin can have.
const MAX_SOCKETS: u64 = 8;
/// The only flow steering strategy that the plugin accepts: rules set by rxdm.
const FLOW_STEERING_BY_RXDM: u64 = 3;
/// Pause at the end of accept in Google's own profile, in microseconds; the plugin's default is 5 s.
const FLOW_STEERING_WAIT_MICROS: u64 = 50_000;
/// Largest message that a scatter list of the plugin can describe, in bytes.
const MAX_MESSAGE: u64 = tcpx_sys::device::UNPACK_MAX_MESSAGE as u64;

pub(super) fn check(config: &Config, root: &Path, findings: &mut Findings) {
    check_chunks(config, findings);
    check_sockets(config, findings);
    check_switches(config, findings);
    check_telemetry(config, root, findings);
    if !config.flow_steering_wait_micros.is_from_user() {
        findings.assign(
            "NCCL_GPUDIRECTTCPX_PROGRAM_FLOW_STEERING_WAIT_MICROS",
            FLOW_STEERING_WAIT_MICROS.to_string(),
            "the plugin's default pauses each accept for 5 s",
        );
    } else if config.flow_steering_wait_micros.value.get() == 0 {
        findings.note(
            Subject::Variable("NCCL_GPUDIRECTTCPX_PROGRAM_FLOW_STEERING_WAIT_MICROS"),
            "the plugin takes 0 for its default and pauses each accept for 5 s; 50000 is usual",
        );
    }
}

/// How much travels at a time.
fn check_chunks(config: &Config, findings: &mut Findings) {
    let message = config.chunk_bytes.value.get();
    if message > MAX_MESSAGE {
        findings.refuse(
            Check::MessageTooLarge,
            Subject::Variable("UCCL_TCPX_CHUNK_BYTES"),
            format!(
                "{message} bytes need more pages than the plugin can list for a message, and it ends \
                 the process"
            ),
            format!("set it to {MAX_MESSAGE} at most; 524288 is usual"),
        );
    }
    let plugin_chunk = &config.dynamic_chunk_size;
    if !plugin_chunk.is_from_user() {
        findings.assign(
            "NCCL_DYNAMIC_CHUNK_SIZE",
            message.to_string(),
            "unset, the plugin sends chunks of 0 bytes and no transfer finishes; the size of our messages \
             keeps each in one chunk",
        );
    } else if plugin_chunk.value.get() == 0 {
        findings.refuse(
            Check::PluginChunkZero,
            Subject::Variable("NCCL_DYNAMIC_CHUNK_SIZE"),
            "0 makes the plugin send chunks of 0 bytes, and no transfer ever finishes",
            format!("unset it, or set it to {message}"),
        );
    } else if message > plugin_chunk.value.get() {
        findings.refuse(
            Check::MessageAbovePluginChunk,
            Subject::Variable("NCCL_DYNAMIC_CHUNK_SIZE"),
            format!(
                "{} bytes are less than a message of {message}; a message in several chunks leaks bounce \
                 pages until receives stall",
                plugin_chunk.value.get()
            ),
            format!("unset it, set it to {message} or more, or lower UCCL_TCPX_CHUNK_BYTES"),
        );
    }
    check_buffer(config, findings);
}

/// NCCL's own sizes, which the field saw matter.
fn check_buffer(config: &Config, findings: &mut Findings) {
    let message = config.chunk_bytes.value.get();
    let window = u64::from(config.max_recv_inflight.value.get()) * message;
    if let Some(buffer) = config.buffer_size.value
        && buffer.get() < window
    {
        findings.refuse(
            Check::BufferTooSmall,
            Subject::Variable("NCCL_BUFFSIZE"),
            format!(
                "{} bytes are less than the receive window of {window} (UCCL_TCPX_MAX_RECV_INFLIGHT x \
                 UCCL_TCPX_CHUNK_BYTES); receives timed out in the field",
                buffer.get()
            ),
            format!("unset it, or set it to {window} or more"),
        );
    }
    if let Some(chunk) = config.p2p_net_chunk_size.value
        && chunk.get() != message
    {
        findings.note(
            Subject::Variable("NCCL_P2P_NET_CHUNKSIZE"),
            format!(
                "{} differs from UCCL_TCPX_CHUNK_BYTES={message}; the field kept them equal",
                chunk.get()
            ),
        );
    }
    if config.scheduler.value == Scheduler::Katy {
        findings.note(
            Subject::Variable("NCCL_GPUDIRECTTCPX_SCHED_ALG"),
            "KATY may put two chunks of a message on one socket; it is safe only because each message is \
             one chunk",
        );
    }
}

/// Sockets and workers of a comm.
fn check_sockets(config: &Config, findings: &mut Findings) {
    let (per_thread, threads) = (config.sockets_per_thread.value.get(), config.socket_threads.value.get());
    if threads > MAX_SOCKETS {
        findings.refuse(
            Check::SocketThreads,
            Subject::Variable("NCCL_SOCKET_NTHREADS"),
            format!("{threads} workers leave each without a socket, and no connection comes about"),
            "set it to 1 to 8",
        );
    } else if per_thread * threads > MAX_SOCKETS {
        let used = MAX_SOCKETS / threads * threads;
        findings.note(
            Subject::Variable("NCCL_NSOCKS_PERTHREAD"),
            format!(
                "{per_thread} sockets for each of {threads} workers are more than the {MAX_SOCKETS} a comm \
                 can have; the plugin uses {used}"
            ),
        );
    }
    if config.connection_retry.value.get() == 0 {
        findings.refuse(
            Check::ConnectionRetryZero,
            Subject::Variable("NCCL_GPUDIRECTTCPX_CONNECTION_RETRY"),
            "0 attempts let every connect and accept fail",
            "unset it, or set it to 3",
        );
    }
    if config.recv_sync.value {
        findings.note(
            Subject::Variable("NCCL_GPUDIRECTTCPX_RECV_SYNC"),
            "1 at one end only hangs (sender) or fills the control socket (receiver) without an error: set \
             it at every peer or at none",
        );
    }
    if config.socket_family.value == Some(AddressFamily::V6) {
        findings.refuse(
            Check::AddressFamily,
            Subject::Variable("NCCL_GPUDIRECTTCPX_SOCKET_FAMILY"),
            "flow rules hold IPv4 addresses only, so data over IPv6 misses the GPU's queue and the plugin \
             ends the process",
            "unset it, or set it to AF_INET",
        );
    }
}

/// Switches of which one position does not work.
fn check_switches(config: &Config, findings: &mut Findings) {
    if config.inline_threshold.value.get() != 0 {
        findings.refuse(
            Check::InlineThreshold,
            Subject::Variable("NCCL_INLINE_THRESHOLD"),
            "above 0 the CPU reads and writes GPU addresses: the process crashes or data is lost",
            "unset it, or set it to 0",
        );
    }
    if config.flow_steering_strategy.value.get() != FLOW_STEERING_BY_RXDM {
        findings.refuse(
            Check::FlowSteering,
            Subject::Variable("NCCL_GPUDIRECTTCPX_FLOW_STEERING_STRATEGY"),
            "the plugin starts with strategy 3 only",
            "unset it, or set it to 3",
        );
    }
    let mut on = |setting: &Setting<bool>, check, variable, consequence: &str| {
        if !setting.value {
            findings.refuse(check, Subject::Variable(variable), consequence, "unset it, or set it to 1");
        }
    };
    on(
        &config.socket_enable,
        Check::SocketDisabled,
        "NCCL_GPUDIRECTTCPX_SOCKET_ENABLE",
        "0 switches the plugin off, and it refuses to start",
    );
    on(
        &config.use_dma_buf,
        Check::DmaBufDisabled,
        "NCCL_USE_DMA_BUF",
        "with 0 no GPU memory can be registered",
    );
    on(
        &config.cuda_use_primary_ctx,
        Check::PrivateContext,
        "NCCL_GPUDIRECTTCPX_CUDA_USE_PRIMARY_CTX",
        "with 0 the plugin makes a CUDA context of its own, in which our memory is unknown",
    );
}

/// Where statistics are written: the plugin puts a slash before the path and lists that folder.
fn check_telemetry(config: &Config, root: &Path, findings: &mut Findings) {
    if !config.telemetry_export.value {
        return;
    }
    match &config.telemetry_path.value {
        None => findings.refuse(
            Check::TelemetryPath,
            Subject::Variable("NCCL_GPUDIRECTTCPX_TELEMETRY_EXPORT_STATS_TO_FILE"),
            "without a folder the plugin writes to a null address and crashes",
            "set NCCL_GPUDIRECTTCPX_TELEMETRY_EXPORTER_PATH to a folder, or unset it",
        ),
        Some(path) => {
            let folder = Path::new("/").join(path);
            if !below(root, &folder).is_dir() {
                findings.refuse(
                    Check::TelemetryPath,
                    Subject::Variable("NCCL_GPUDIRECTTCPX_TELEMETRY_EXPORTER_PATH"),
                    format!("folder {} does not exist, and the plugin ends the process", folder.display()),
                    "make the folder, or unset NCCL_GPUDIRECTTCPX_TELEMETRY_EXPORT_STATS_TO_FILE",
                );
            }
        }
    }
}
