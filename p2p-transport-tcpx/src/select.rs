//! Which net plugin to use: an explicit choice, and never a quiet other one.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2p_transport::{Error, ErrorKind as Kind};
use tcpx_core::config::{Config, TransportName};
use tcpx_core::preflight::Nature;
use tcpx_core::{Plugin, Source};

/// Where Google's installer and the images of its partners put the plugin.
const USUAL_PLACES: [&str; 4] = [
    "/usr/local/tcpx/lib64/libnccl-net-tcpx.so",
    "/usr/local/tcpx/lib64/libnccl-net.so",
    "/var/lib/tcpx/lib64/libnccl-net-tcpx.so",
    "/var/lib/tcpx/lib64/libnccl-net.so",
];

/// Which net plugin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Choice {
    /// This file, whatever plugin it holds, or an error.
    File(PathBuf),
    /// The soft plugin, which is built in.
    Soft,
    /// The plugin at one of its usual places; the soft plugin if there is no file at any of them. A file that is
    /// there and does not load or start is an error.
    Auto,
}

impl Choice {
    /// The choice that a process's variables ask for.
    ///
    /// `UCCL_P2P_TRANSPORT=tcp` is the soft plugin; `tcpx` the file of `UCCL_TCPX_PLUGIN_PATH`, or the plugin at
    /// one of its usual places, whether it is there or not; `auto`, or unset, is the file if that variable is
    /// set, and else [`Auto`](Self::Auto).
    pub fn of(config: &Config) -> Self {
        Self::of_below(config, Path::new("/"))
    }

    /// As [`of`](Self::of), with the folder that stands for `/`. The paths in the choice are without it.
    pub fn of_below(config: &Config, root: &Path) -> Self {
        let path = &config.plugin_path;
        match config.transport.value {
            TransportName::Tcp => Self::Soft,
            TransportName::Auto if !path.is_from_user() => Self::Auto,
            TransportName::Tcpx if !path.is_from_user() => {
                let found = first_below(root, &usual_places());
                Self::File(found.unwrap_or_else(|| path.value.clone()))
            }
            TransportName::Auto | TransportName::Tcpx => Self::File(path.value.clone()),
        }
    }

    /// The file it leads to, with the folder that stands for `/`, which is not part of the answer; `None` is the
    /// soft plugin.
    pub fn file_below(&self, root: &Path) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(path.clone()),
            Self::Soft => None,
            Self::Auto => first_below(root, &usual_places()),
        }
    }

    /// Opens the plugin, and refuses it if `UCCL_P2P_REQUIRE` asks for another one.
    ///
    /// # Errors
    ///
    /// [`Device`](Kind::Device) with the core's own words, which name the file or variable and the mend;
    /// [`Unsupported`](Kind::Unsupported) if something else is required.
    pub fn open(&self, config: &Config) -> Result<Arc<Plugin>, Error> {
        self.open_among(config, &usual_places())
    }

    fn open_among(&self, config: &Config, places: &[PathBuf]) -> Result<Arc<Plugin>, Error> {
        let file = match self {
            Self::File(path) => Some(path.clone()),
            Self::Soft => None,
            Self::Auto => first_below(Path::new("/"), places),
        };
        let required = config.require.value.unwrap_or(TransportName::Auto);
        if file.is_none() && required == TransportName::Tcpx {
            let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
            return Err(refused(&format!(
                "UCCL_P2P_REQUIRE=tcpx, and {}: install Google's plugin, name its file in UCCL_TCPX_PLUGIN_PATH, \
                 or allow plain TCP by unsetting UCCL_P2P_REQUIRE",
                match self {
                    Self::Soft => "plain TCP was chosen (UCCL_P2P_TRANSPORT=tcp)".to_owned(),
                    Self::File(_) | Self::Auto => format!("there is no plugin at {}", places.join(", ")),
                }
            )));
        }
        if file.is_none() && *self == Self::Auto {
            let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
            tracing::warn!(
                "plain TCP is used (the soft plugin), because there is no plugin at {}; UCCL_P2P_TRANSPORT=tcp says \
                 that this is meant, UCCL_P2P_REQUIRE=tcpx refuses it",
                places.join(", ")
            );
        }
        let source = match &file {
            Some(path) => Source::File(path.clone()),
            None => Source::Static(tcpx_soft::plugin()),
        };
        let plugin = Plugin::open(source, config)
            .map_err(|error| Error::new(Kind::Device, "open", error.to_string()).with_source(error))?;
        let fits = match required {
            TransportName::Auto => true,
            TransportName::Tcpx => plugin.nature() == Nature::Tcpx,
            TransportName::Tcp => plugin.nature() == Nature::Soft,
        };
        if !fits {
            return Err(refused(&format!(
                "UCCL_P2P_REQUIRE={}, and the plugin found is {}{}: correct UCCL_P2P_TRANSPORT or \
                 UCCL_TCPX_PLUGIN_PATH, or unset UCCL_P2P_REQUIRE",
                required.name(),
                plugin.name(),
                file.map(|path| format!(" of {}", path.display())).unwrap_or_default(),
            )));
        }
        Ok(plugin)
    }
}

fn refused(text: &str) -> Error {
    Error::new(Kind::Unsupported, "open", text)
}

/// Where Google's plugin is looked for, in this order, when no variable names a file.
pub fn usual_places() -> [PathBuf; 4] {
    USUAL_PLACES.map(PathBuf::from)
}

/// The first place where there is anything below `root`. Only "no such file" means that there is nothing: what may
/// not be looked at, or leads nowhere, is there.
fn first_below(root: &Path, places: &[PathBuf]) -> Option<PathBuf> {
    let is_there = |place: &&PathBuf| {
        let place = place.strip_prefix("/").unwrap_or(place);
        !matches!(fs::symlink_metadata(root.join(place)), Err(error) if error.kind() == ErrorKind::NotFound)
    };
    places.iter().find(is_there).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcpx_core::config::FixedEnvironment;

    fn config(variables: &[(&str, &str)]) -> Config {
        let environment: FixedEnvironment = variables.iter().copied().collect();
        Config::from_environment(&environment).expect("good values")
    }

    fn choice(variables: &[(&str, &str)]) -> Choice {
        Choice::of(&config(variables))
    }

    #[test]
    fn variables_choose() {
        let file = |path: &str| Choice::File(path.into());
        let path = ("UCCL_TCPX_PLUGIN_PATH", "/some/plugin.so");
        assert_eq!(choice(&[]), Choice::Auto);
        assert_eq!(choice(&[("UCCL_P2P_TRANSPORT", "auto")]), Choice::Auto);
        assert_eq!(choice(&[path]), file("/some/plugin.so"));
        assert_eq!(choice(&[path, ("UCCL_P2P_TRANSPORT", "auto")]), file("/some/plugin.so"));
        assert_eq!(choice(&[path, ("UCCL_P2P_TRANSPORT", "tcpx")]), file("/some/plugin.so"));
        assert_eq!(choice(&[path, ("UCCL_P2P_TRANSPORT", "tcp")]), Choice::Soft);
        assert_eq!(choice(&[("UCCL_P2P_TRANSPORT", "tcpx")]), file(USUAL_PLACES[0]));
    }

    #[test]
    fn another_root_is_looked_into_and_not_named() {
        let root = tempfile::tempdir().expect("a folder");
        let soft = |choice: Choice| choice.file_below(root.path());
        assert_eq!(soft(Choice::Auto), None);
        let second = root.path().join(USUAL_PLACES[1].trim_start_matches('/'));
        fs::create_dir_all(second.parent().expect("a folder")).expect("made");
        fs::write(second, "a plugin").expect("written");
        assert_eq!(soft(Choice::Auto), Some(USUAL_PLACES[1].into()));
        let forced = config(&[("UCCL_P2P_TRANSPORT", "tcpx")]);
        assert_eq!(Choice::of_below(&forced, root.path()), Choice::File(USUAL_PLACES[1].into()));
        assert_eq!(soft(Choice::Soft), None);
    }

    #[test]
    fn what_is_not_built_in_is_refused_in_one_line() {
        for other in ["rdma", "nccl", "efa", "cxi"] {
            let environment: FixedEnvironment = [("UCCL_P2P_TRANSPORT", other)].into_iter().collect();
            let text = Config::from_environment(&environment).expect_err("refused").to_string();
            for part in [other, "UCCL_P2P_TRANSPORT", "tcpx", "nothing else is built in"] {
                assert!(text.contains(part), "{part} in {text}");
            }
            assert_eq!(text.trim().lines().count(), 1, "{text}");
        }
    }

    #[test]
    fn auto_is_soft_only_where_there_is_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("none.so");
        let plugin = Choice::Auto.open_among(&config(&[]), std::slice::from_ref(&missing));
        assert_eq!(plugin.expect("the soft plugin").nature(), Nature::Soft);

        let broken = folder.path().join("broken.so");
        fs::write(&broken, "no library").expect("written");
        let error = Choice::Auto.open_among(&config(&[]), &[missing.clone(), broken.clone()]);
        let error = error.expect_err("a file that does not load");
        assert_eq!(error.kind(), Kind::Device);
        assert!(error.to_string().contains("broken.so"), "{error}");

        let dangling = folder.path().join("dangling.so");
        std::os::unix::fs::symlink(&missing, &dangling).expect("linked");
        assert!(Choice::Auto.open_among(&config(&[]), &[dangling]).is_err(), "a link that leads nowhere");
    }

    #[test]
    fn what_is_required_is_had_or_refused() {
        let tcpx = config(&[("UCCL_P2P_REQUIRE", "tcpx")]);
        for choice in [Choice::Soft, Choice::Auto] {
            let error = choice.open_among(&tcpx, &["/no/such/plugin.so".into()]).expect_err("plain TCP");
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.to_string().contains("UCCL_P2P_REQUIRE=tcpx"), "{error}");
        }
        let tcp = config(&[("UCCL_P2P_REQUIRE", "tcp")]);
        assert!(Choice::Soft.open_among(&tcp, &[]).is_ok());
    }
}
