//! Which NICs a GPU may use, and which NIC each channel lies on.
//!
//! A [`Tree`] is what sysfs says about the GPUs and NICs of a machine; a [`NicMap`] is made from it by
//! rules alone, so the same tree and [`Policy`] always give the same map. Nothing asks for it by itself:
//! `Plugin::listen` and `Plugin::connect` take whatever device they are given, so a caller that wants these
//! rules, the refusal of foreign roots among them, chooses its device through the map. Closeness is the class of the
//! nearest common ancestor ([`Class`]), found by comparing whole path components and never text
//! prefixes. This module reads files under one root folder and opens no device.
//!
//! For each GPU, the first of these that says something wins:
//! 1. the user's map (`UCCL_TCPX_GPU_NIC_MAP`);
//! 2. the fixed map of a recognised machine (A3-high: GPUs 0 and 1 on eth1, 2 and 3 on eth2, 4 and 5 on
//!    eth3, 6 and 7 on eth4);
//! 3. the NICs of the closest class, and among these those with the fastest link.
//!
//! The control NIC carries no data, and `UCCL_TCPX_DEV` narrows 2 and 3. A plugin that delivers
//! scattered pages may only pair a GPU with NICs under the same PCIe root, because it ends the process
//! otherwise; NICs named in `UCCL_TCPX_ALLOW_FOREIGN_NICS` are exempt.

#![forbid(unsafe_code)]

mod map;
mod pci;
mod profile;
mod tree;

pub use map::{Assigned, MapError, MapSource, NicMap, Policy};
pub use pci::{BadAddress, Class, PciAddress, PciPath};
pub use tree::{Gpu, Nic, NicRole, ReadError, Tree};
