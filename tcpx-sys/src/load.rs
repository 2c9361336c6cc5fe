//! Loading a plugin from a shared library.

use core::mem::MaybeUninit;
use std::ffi::CStr;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::extension::{self, ExtensionV1};
use crate::table::{NetV7, NetV8, NetV9, NetV10, NetV11, Table, Version};

/// A plugin's tables. The library behind them stays loaded until the process ends, because plugin
/// threads may outlive every comm.
#[derive(Clone, Copy, Debug)]
pub struct Plugin {
    /// The table that was found.
    pub table: Table,
    /// The extension table, if the plugin has one.
    pub extension: Option<&'static ExtensionV1>,
}

/// Why a plugin could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// `dlopen` refused the file.
    #[error("cannot load net plugin {}: {reason}{}", path.display(), mend(reason))]
    Open {
        /// The file.
        path: PathBuf,
        /// What `dlopen` said.
        reason: String,
    },
    /// The library exports none of the wanted tables.
    #[error("{} is no usable net plugin: it exports none of {}", path.display(), tried.join(", "))]
    NoTable {
        /// The file.
        path: PathBuf,
        /// Symbols looked up, in order.
        tried: Vec<String>,
    },
}

/// Loads the first of the `wanted` tables that the library at `path` exports.
///
/// Each table is cast to the struct of its own version and to no other.
///
/// # Errors
///
/// [`LoadError::Open`] with what the dynamic linker said, [`LoadError::NoTable`] with the symbols tried.
///
/// # Safety
///
/// Loading runs the library's constructors, and a symbol named `ncclNetPlugin_vN` is trusted to be a
/// table of that version: `path` must name a net plugin the caller trusts with the process.
pub unsafe fn load(path: &Path, wanted: &[Version]) -> Result<Plugin, LoadError> {
    let open_error = |error: libloading::Error| {
        let reason = reason_of(&error);
        // The linker names the file as well, which is said once.
        let reason = reason.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&reason).to_owned();
        LoadError::Open { path: path.to_path_buf(), reason }
    };
    // SAFETY: the caller vouches for the library's constructors.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(open_error)?;
    // A plugin's threads and tables live as long as the process.
    let library: &'static Library = Box::leak(Box::new(library));
    for &version in wanted {
        if let Some(table) = table(library, version) {
            let extension = find::<ExtensionV1>(library, extension::SYMBOL).filter(|e| is_whole(e));
            return Ok(Plugin { table, extension });
        }
    }
    let tried = wanted.iter().map(|v| v.symbol().to_string_lossy().into_owned()).collect();
    Err(LoadError::NoTable { path: path.to_path_buf(), tried })
}

fn is_whole(extension: &ExtensionV1) -> bool {
    extension.size >= size_of::<ExtensionV1>()
}

fn table(library: &'static Library, version: Version) -> Option<Table> {
    let symbol = version.symbol();
    match version {
        Version::V7 => find::<NetV7>(library, symbol).map(Table::V7),
        Version::V8 => find::<NetV8>(library, symbol).map(Table::V8),
        Version::V9 => find::<NetV9>(library, symbol).map(Table::V9),
        Version::V10 => find::<NetV10>(library, symbol).map(Table::V10),
        Version::V11 => find::<NetV11>(library, symbol).map(Table::V11),
    }
}

/// Address of the data symbol `symbol`, as a table of type `T`.
fn find<T>(library: &'static Library, symbol: &CStr) -> Option<&'static T> {
    // SAFETY: the symbol is only taken as an address here; `MaybeUninit` promises nothing about it.
    let found = unsafe { library.get::<*const MaybeUninit<T>>(symbol.to_bytes_with_nul()) }.ok()?;
    let table: *const T = found.into_raw().cast_const().cast();
    if table.is_null() || !table.is_aligned() {
        return None;
    }
    // SAFETY: not null and aligned (checked); the name says which version's layout lies there (the
    // caller of `load` vouches for the library), and the library is never unloaded.
    Some(unsafe { &*table })
}

fn reason_of(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

/// What to do about the commonest reasons.
fn mend(reason: &str) -> &'static str {
    if reason.contains("failed to map segment") {
        "; the file probably lies on a file system mounted noexec: copy it to one that is not"
    } else if reason.contains("libcuda") {
        "; this plugin needs the NVIDIA driver, which this machine does not have"
    } else {
        ""
    }
}
