//! Work on the folder of a gateway that is down: the commands that the root keys, or the operator, stand for. Internal.
//!
//! The gateway is opened without a listener, and closed whatever came of it. Absent: what is done (`recover`,
//! `organization`, `policy::lowering`).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, Result};
use countersign_gateway_model::OrgId;

use super::Global;
use crate::config::Config;
use crate::folder::{Mark, read_mark};
use crate::gateway::{Gateway, Options};
use crate::organizations::{self, PlaceError};

/// A data folder that is there, and is not open yet.
pub(super) struct Stopped {
    config: Config,
    mark: Mark,
}

impl Stopped {
    /// The folder that the flag, or else the configuration, names.
    pub(super) fn at(data_dir: Option<&Path>, global: &Global) -> Result<Self> {
        let flags: Vec<_> = data_dir.iter().map(|d| ("data.dir", d.display().to_string(), "--data-dir")).collect();
        let mut config = global.load(&flags)?.config;
        let mark = read_mark(&config.data.dir.join("countersign.json")).with_context(|| {
            format!("`{}` is no data folder: `countersign up` makes one", config.data.dir.display())
        })?;
        // Nothing is run here, and nothing is proved.
        config.runner.process = false;
        config.policy.solver = None;
        Ok(Self { config, mark })
    }

    /// Opens it, with one more organization where `begin` names one, lets `work` have it, and closes it.
    pub(super) async fn work<T>(
        self,
        begin: Option<String>,
        work: impl AsyncFnOnce(&Gateway) -> Result<T>,
    ) -> Result<T> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = Options { demo: self.mark.demo, address, begin, offline: true };
        let gateway = Gateway::open(&self.config, &options).await?;
        let done = Box::pin(work(&gateway)).await;
        gateway.close().await?;
        done
    }
}

/// The organization of that name; else `default`.
pub(super) fn organization(gateway: &Gateway, name: Option<&str>) -> Result<OrgId> {
    let name = name.unwrap_or(organizations::DEFAULT);
    let found = gateway.organizations.iter().find(|made| made.place.name.as_str() == name);
    Ok(found.ok_or_else(|| PlaceError::Unknown(name.to_owned()))?.place.org)
}
