//! Uploaded workspaces, kept in the tree store of the caller's organization, where its runner finds them.
//!
//! Absent: what a tree is (`runners/process`), and what paths may be in it (`gateway/http`).

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use countersign_gateway_http::{WorkspaceError, WorkspaceFile, Workspaces};
use countersign_gateway_model::{Digest, OrgId, Principal};
use countersign_runners_process::workspace::{Caps, Trees};

use crate::organizations::Place;
use crate::runners::OrgRunners;

/// Tree stores by organization.
pub(crate) struct OrgTrees {
    stores: BTreeMap<OrgId, Trees>,
    staging: PathBuf,
}

impl OrgTrees {
    /// The stores of the runners, or stores of their own where no runner is configured.
    pub(crate) fn open(data: &Path, places: &[Place], runners: Option<&OrgRunners>) -> Result<Self> {
        let staging = data.join("staging");
        // What a former process was laying out when it ended is of no use to anybody.
        if staging.exists() {
            fs::remove_dir_all(&staging).with_context(|| format!("`{}` cannot be cleared", staging.display()))?;
        }
        crate::keys::private_folder(&staging)?;
        let mut stores = BTreeMap::new();
        for place in places {
            let trees = match runners.and_then(|runners| runners.of(place.org)) {
                Some(runner) => runner.workspaces().clone(),
                None => Trees::open(&place.runner().join("trees"), Caps::default())?,
            };
            stores.insert(place.org, trees);
        }
        Ok(Self { stores, staging })
    }

    fn of(&self, who: &Principal) -> Result<Trees, WorkspaceError> {
        let none = || WorkspaceError::Unavailable(format!("`{}` has no tree store", who.org).into());
        self.stores.get(&who.org).cloned().ok_or_else(none)
    }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> WorkspaceError {
    WorkspaceError::Unavailable(Box::new(error))
}

fn write(path: &Path, file: &WorkspaceFile) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(&file.bytes)
}

fn lay_out(folder: &Path, files: &[WorkspaceFile]) -> Result<(), WorkspaceError> {
    for file in files {
        let path = folder.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .map_err(|e| WorkspaceError::Invalid(format!("`{}` cannot lie there: {e}", file.path)))?;
        }
        write(&path, file).map_err(|e| WorkspaceError::Invalid(format!("`{}` cannot be laid out: {e}", file.path)))?;
        let mode = if file.executable { 0o700 } else { 0o600 };
        fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(unavailable)?;
    }
    Ok(())
}

#[async_trait]
impl Workspaces for OrgTrees {
    async fn put(&self, who: &Principal, files: Vec<WorkspaceFile>) -> Result<Digest, WorkspaceError> {
        let (trees, staging) = (self.of(who)?, self.staging.clone());
        let work = move || {
            let folder = tempfile::Builder::new().prefix("tree-").tempdir_in(&staging).map_err(unavailable)?;
            lay_out(folder.path(), &files)?;
            let snapshot = trees.snapshot(folder.path()).map_err(unavailable)?;
            match snapshot.refused.first() {
                Some(refused) => Err(WorkspaceError::Invalid(format!("`{}` cannot be kept", refused.path))),
                None => Ok(snapshot.digest),
            }
        };
        tokio::task::spawn_blocking(work).await.map_err(unavailable)?
    }

    async fn renew(&self, who: &Principal, tree: Digest) -> Result<bool, WorkspaceError> {
        let trees = self.of(who)?;
        let work = move || trees.renew_if_kept(tree).map_err(unavailable);
        tokio::task::spawn_blocking(work).await.map_err(unavailable)?
    }
}
