//! The user's own map of GPUs to NICs: `0,1:eth1;2,3:eth2,eth3;*:eth4`.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use super::interfaces::nic_names;
use super::{GpuIndex, Value};

/// NICs of each GPU.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GpuNicMap {
    named: BTreeMap<GpuIndex, Vec<String>>,
    others: Option<Vec<String>>,
}

impl GpuNicMap {
    /// NICs of `gpu`, in the order given; `None` when the map says nothing about it.
    pub fn nics(&self, gpu: GpuIndex) -> Option<&[String]> {
        self.named.get(&gpu).or(self.others.as_ref()).map(Vec::as_slice)
    }

    /// GPUs that the map names.
    pub fn gpus(&self) -> impl Iterator<Item = GpuIndex> + '_ {
        self.named.keys().copied()
    }

    /// Every NIC that the map names, with repetitions.
    pub fn all_nics(&self) -> impl Iterator<Item = &str> + '_ {
        self.named.values().chain(&self.others).flatten().map(String::as_str)
    }
}

impl Value for GpuNicMap {
    fn parse(text: &OsStr) -> Option<Self> {
        let mut map = Self::default();
        for group in text.to_str()?.split(';').map(str::trim).filter(|group| !group.is_empty()) {
            let (gpus, nics) = group.split_once(':')?;
            let nics = nic_names(nics)?;
            if gpus.trim() == "*" {
                if map.others.replace(nics).is_some() {
                    return None;
                }
                continue;
            }
            for gpu in gpus.split(',') {
                let gpu = GpuIndex::parse(OsStr::new(gpu.trim()))?;
                if map.named.insert(gpu, nics.clone()).is_some() {
                    return None;
                }
            }
        }
        (!map.named.is_empty() || map.others.is_some()).then_some(map)
    }

    fn range() -> String {
        "groups of GPU indices (or * for all others) and NIC names, each GPU once, such as \
         0,1:eth1;2,3:eth2,eth3"
            .to_owned()
    }
}
