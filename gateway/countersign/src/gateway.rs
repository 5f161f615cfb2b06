//! The assembly: one gateway over one data folder, from the folder's lock to the HTTP router.
//!
//! Order matters and is the same at every start: folder, keys, journal, log, policy, runner, engine, accounts, adoption
//! of runs. Nothing is served before all of it stands. Absent: sockets (`serve`), the terminal (`cli`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration as Span;

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use countersign_gateway_engine::{Engine, EngineOptions, Parts};
use countersign_gateway_http::{
    AppState, Info, Lifecycle, Limits, Metrics, Phase, WorkspaceError, WorkspaceFile, Workspaces,
};
use countersign_gateway_identity::{Identity, IdentityConfig, Purpose, RateLimiter, RateQuota, TokenKeys};
use countersign_gateway_model::{Clock, Digest, Duration, Name, OrgId, Principal};
use countersign_ledger_log::{Journal as _, Logs, LogsConfig, NewLog};
use countersign_ledger_sql::{SqlJournal, SqlOptions};
use countersign_policy_store::Store;
use countersign_runners_contract::entry::body::{AuthorityMode, Durability, SignatureMode};
use countersign_runners_contract::entry::key;
use countersign_runners_contract::{LogTrust, NoSecrets, Runner, SingleTrust};
use countersign_runners_process::workspace::Trees;
use countersign_runners_process::{GatewayEndpoint, Level, ProcessConfig, ProcessRunner, RunUser};

use crate::accounts::Vault;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::folder::DataFolder;
use crate::keys::{FileRing, Keys};
use crate::mint::{self, SystemMint};
use crate::policies::{LocalPolicies, root_document};

/// Roles of the first person, who must be able to do everything until there are others.
pub(crate) const FIRST_ROLES: [&str; 7] =
    ["ADMIN", "APPROVER", "AUDITOR", "OPERATOR", "POLICY_ADMIN", "SECURITY", "STOP"];

/// Exit code of a process whose ledger may not be signed any more.
const FATAL: i32 = 70;

/// How often ended revocations and enrolments are cleared away.
const SWEEP: Span = Span::from_mins(1);

/// How a gateway is opened, besides its configuration.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// A demonstration: marked in genesis, in a folder of its own kind.
    pub demo: bool,
    /// Where it will listen: what sandboxes may reach.
    pub address: SocketAddr,
}

/// The one-time token that makes the first person.
#[derive(Debug)]
pub(crate) struct FirstToken {
    /// What to hand over.
    pub token: String,
    /// Until when.
    pub expires: countersign_gateway_model::Timestamp,
}

/// One gateway.
pub(crate) struct Gateway {
    /// Its folder, held.
    pub folder: DataFolder,
    /// Everything that happens.
    pub engine: Engine,
    /// Who exists.
    pub identity: Identity,
    /// What runs, where it is configured.
    pub runner: Option<ProcessRunner>,
    /// Root key of the log, in text form.
    pub root_vkey: String,
    /// Runs that a former process left and that are followed again.
    pub adopted: usize,
    state: AppState,
    lifecycle: Arc<Lifecycle>,
    logs: Logs,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Opens everything, and finishes a first start that was cut off.
    pub(crate) async fn open(config: &Config, options: &Options) -> Result<Self> {
        let folder = DataFolder::open(&config.data.dir, &config.ledger.origin, options.demo)?;
        let mark = folder.mark.clone();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let origin = key::origin(&mark.origin, mark.log).context("the log's origin line")?;

        let mut sql = SqlOptions::new(folder.ledger());
        sql.reserve = config.data.reserve_bytes;
        crate::keys::private_folder(&folder.ledger())?;
        let journal = Arc::new(SqlJournal::open(sql).await.context("the ledger cannot be opened")?);
        let begun = journal.log_of(mark.org).await.context("the ledger cannot be read")?.is_some();
        let keys = Arc::new(Keys::open(&folder.keys(), mark.log, &origin, !begun)?);

        let mut logs_config =
            LogsConfig::new(&mark.origin, mark.gateway, Arc::clone(&clock), Arc::new(mint::ledger_entropy));
        logs_config.anchor.clone_from(&config.ledger.anchor);
        logs_config.queue_entries = config.ledger.queue_entries;
        logs_config.reserve = config.data.reserve_bytes;
        logs_config.on_fatal = Arc::new(|reason| {
            // What was acknowledged is durable. What was not may or may not be: only a new start, which reads the disk
            // again, may sign anything.
            tracing::error!(reason, "the ledger has stopped; this process ends");
            eprintln!("countersign: the ledger has stopped: {reason}; start again");
            std::process::exit(FATAL);
        });
        let ring = Arc::new(FileRing::of(Arc::clone(&keys)));
        let logs = Logs::open(journal, logs_config, ring).await.context("the ledger cannot be opened")?;

        crate::keys::private_folder(&folder.policy())?;
        let store = Arc::new(Store::new(folder.policy()));
        let bundle_key = keys.bundle_key()?;
        let document = root_document(mark.org, &bundle_key)?;
        let policies = Arc::new(LocalPolicies::new(Arc::clone(&store), bundle_key, Arc::clone(&clock), mark.org)?);
        if !begun {
            let digest = document.root.digest().context("the root document")?;
            store.create(document).await.context("the policy store cannot be begun")?;
            // Keys and root document are durable: a crash here leaves a first start that the next one finishes.
            let root_signer = keys.root_signer();
            let new = NewLog {
                org: mark.org,
                log: mark.log,
                root_keys: vec![root_signer.verifying_key()],
                root_signer,
                root_threshold: 1,
                root_document: digest,
                signatures: SignatureMode::PerEntry,
                durability: Durability::Journal,
                authority: AuthorityMode::Solo,
                demo: options.demo,
            };
            logs.create(new).await.context("the log cannot be begun")?;
        }
        let log = logs.log(mark.org).await.context("the log does not verify; nothing is signed")?;
        if log.is_demo() != options.demo {
            bail!(
                "genesis and `countersign.json` of `{}` disagree on whether this is a demo: restore the folder",
                folder.path.display()
            );
        }
        policies.open(&log).await?;

        let trust = SingleTrust {
            org: mark.org,
            log: LogTrust { root: keys.root_vkey().clone(), genesis: genesis_of(&log).await? },
        };
        let runner = if config.runner.process {
            Some(open_runner(config, &folder, options.address, trust, Arc::clone(&clock)).await?)
        } else {
            None
        };
        let level = runner.as_ref().map(|runner| runner.level().number());
        let mut runners: HashMap<String, Arc<dyn Runner>> = HashMap::new();
        if let Some(runner) = &runner {
            runners.insert("process".to_owned(), Arc::new(runner.clone()));
        }

        let engine = Engine::new(Parts {
            logs: logs.clone(),
            policies: Arc::<LocalPolicies>::clone(&policies),
            runners,
            clock: Arc::clone(&clock),
            mint: Arc::new(SystemMint),
            options: EngineOptions {
                permit_ttl: Duration::from_secs(config.policy.permit_ttl_s),
                run_deadline: Duration::from_secs(config.runner.deadline_s),
                ..EngineOptions::default()
            },
        });
        engine.open_org(mark.org, level).await.context("the log cannot be booted")?;
        if !policies.has_bundle(mark.org) {
            let (entries, prepared) = policies.first(mark.org).await?;
            for entry in entries {
                engine.commit_system(mark.org, entry).await.context("the default policy cannot be recorded")?;
            }
            // Durable: a crash here leaves an activation that the next start carries out.
            policies.commit(prepared).await;
        }

        let vault = Vault::open(engine.clone(), &[mark.org]).await.context("the accounts cannot be read")?;
        let identity = open_identity(config, &keys, vault, options.demo, clock.now()).await?;
        let adopted = engine.adopt().await.context("runs of before cannot be adopted")?;
        tokio::spawn(engine.clone().run_timers());

        let root_vkey = keys.root_vkey().to_string();
        write_public(&folder, &root_vkey)?;
        let lifecycle = Arc::new(Lifecycle::default());
        let state = AppState::new(countersign_gateway_http::Parts {
            engine: engine.clone(),
            identity: identity.clone(),
            rate: RateLimiter::new(RateQuota {
                per_second: at_least_one(config.limits.requests_per_second),
                burst: at_least_one(config.limits.burst),
            }),
            workspaces: workspaces(runner.as_ref(), &folder)?,
            limits: Limits {
                body_bytes: config.limits.body_bytes,
                upload_bytes: config.limits.workspace_bytes,
                ..Limits::default()
            },
            info: Info {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                organization: mark.org,
                root_keys: vec![root_vkey.clone()],
                demo: options.demo,
                open_metrics: options.address.ip().is_loopback(),
            },
            metrics: Metrics::new(&engine, &identity.authenticator),
            lifecycle: Arc::clone(&lifecycle),
        });
        sweep_accounts(identity.clone(), clock);
        Ok(Self { folder, engine, identity, runner, root_vkey, adopted, state, lifecycle, logs })
    }

    /// The organization.
    pub(crate) fn org(&self) -> OrgId {
        self.folder.mark.org
    }

    /// Everything that is served.
    pub(crate) fn router(&self) -> axum::Router {
        countersign_gateway_http::router(self.state.clone())
    }

    /// Tells those who ask whether this gateway takes work.
    pub(crate) fn set(&self, phase: Phase) {
        self.lifecycle.set(phase);
    }

    /// The token that makes the first person, where there is nobody yet. It is also written to a file of its own.
    pub(crate) async fn first_token(&self) -> Result<Option<FirstToken>> {
        let path = self.folder.enrolment();
        if !self.identity.directory.is_empty(self.org()).await? {
            // The token was used, or somebody was made otherwise: what is left of it opens nothing.
            let _ = std::fs::remove_file(&path);
            return Ok(None);
        }
        let roles = FIRST_ROLES.into_iter().map(Name::new).collect::<Result<Vec<_>, _>>()?;
        let purpose = Purpose::Person { roles, teams: Vec::new(), groups: Vec::new() };
        let made = self.identity.enrolments.mint(self.org(), purpose, None, self.engine.now()).await?;
        let token = made.token.expose().to_owned();
        crate::keys::write_private(&path, format!("{token}\n").as_bytes())?;
        Ok(Some(FirstToken { token, expires: made.expires }))
    }

    /// Ends: what is queued is committed, the journal closed. Runs go on under their shims.
    pub(crate) async fn close(self) -> Result<()> {
        self.engine.end();
        self.logs.shutdown().await.context("the ledger did not close in good order; what was acknowledged is durable")
    }
}

fn at_least_one(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN)
}

async fn genesis_of(log: &countersign_ledger_log::LogHandle) -> Result<Arc<[u8]>> {
    let first = log.entries(0..1).await.context("genesis cannot be read")?;
    first.into_iter().next().map(|entry| entry.leaf.into()).context("the log has no genesis entry")
}

async fn open_identity(
    config: &Config,
    keys: &Keys,
    vault: Vault,
    demo: bool,
    now: countersign_gateway_model::Timestamp,
) -> Result<Identity> {
    let issuer = config.identity.issuer.clone();
    let mut identity = IdentityConfig::new(issuer.clone(), issuer);
    identity.machine_life = Duration::from_secs(config.identity.token_ttl_s);
    identity.person_life = Duration::from_secs(config.identity.token_ttl_s);
    identity.decide_life = Duration::from_secs(config.identity.decide_ttl_s);
    identity.demo = demo;
    let token_keys = Arc::new(TokenKeys::new(keys.token_seed(), &[])?);
    let entropy = Arc::new(mint::identity_entropy);
    Identity::open(identity, Arc::new(vault), entropy, token_keys, Vec::new(), now)
        .await
        .context("accounts and tokens cannot be opened")
}

async fn open_runner(
    config: &Config,
    folder: &DataFolder,
    address: SocketAddr,
    trust: SingleTrust,
    clock: Arc<dyn Clock>,
) -> Result<ProcessRunner> {
    let mut process = ProcessConfig::new(folder.runner(), Name::new("process")?);
    process.minimum = config.runner.min_level.and_then(level);
    process.user = RunUser { uid: config.runner.uid, gid: config.runner.uid };
    process.gateway = Some(GatewayEndpoint::Tcp(reachable(address)));
    let open = move || ProcessRunner::open(process, Arc::new(trust), Arc::new(NoSecrets), clock);
    tokio::task::spawn_blocking(open).await.context("the runner")?.context("the process runner cannot be opened")
}

/// A level by its number.
pub(crate) fn level(number: u8) -> Option<Level> {
    Level::STRONGEST_FIRST.into_iter().find(|level| level.number() == number)
}

/// The address at which this machine itself reaches a listener.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn write_public(folder: &DataFolder, vkey: &str) -> Result<()> {
    let path = folder.root_vkey();
    let text = format!("{vkey}\n");
    if std::fs::read_to_string(&path).is_ok_and(|held| held == text) {
        return Ok(());
    }
    std::fs::write(&path, text).with_context(|| format!("`{}` cannot be written", path.display()))?;
    Ok(())
}

/// Clears away what has ended, until the process ends.
fn sweep_accounts(identity: Identity, clock: Arc<dyn Clock>) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            if let Err(error) = identity.sweep(clock.now()).await {
                tracing::warn!(error = %crate::words(&error), "ended credentials are not cleared away");
            }
        }
    });
}

/// Keeps uploaded trees where the process runner finds them.
struct RunnerTrees {
    trees: Trees,
    staging: std::path::PathBuf,
}

fn workspaces(runner: Option<&ProcessRunner>, folder: &DataFolder) -> Result<Arc<dyn Workspaces>> {
    let staging = folder.path.join("staging");
    // What a former process was laying out when it ended is of no use to anybody.
    if staging.exists() {
        std::fs::remove_dir_all(&staging).with_context(|| format!("`{}` cannot be cleared", staging.display()))?;
    }
    crate::keys::private_folder(&staging)?;
    let trees = match runner {
        Some(runner) => runner.workspaces().clone(),
        None => Trees::open(&folder.runner().join("trees"), countersign_runners_process::workspace::Caps::default())?,
    };
    Ok(Arc::new(RunnerTrees { trees, staging }))
}

#[async_trait]
impl Workspaces for RunnerTrees {
    async fn put(&self, _: &Principal, files: Vec<WorkspaceFile>) -> Result<Digest, WorkspaceError> {
        let (trees, staging) = (self.trees.clone(), self.staging.clone());
        let unavailable = |e: std::io::Error| WorkspaceError::Unavailable(Box::new(e));
        let work = move || {
            let folder = tempfile::Builder::new().prefix("tree-").tempdir_in(&staging).map_err(unavailable)?;
            for file in files {
                let path = folder.path().join(&file.path);
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent)
                        .map_err(|e| WorkspaceError::Invalid(format!("`{}` cannot lie there: {e}", file.path)))?;
                }
                std::fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .open(&path)
                    .and_then(|mut out| std::io::Write::write_all(&mut out, &file.bytes))
                    .map_err(|e| WorkspaceError::Invalid(format!("`{}` cannot be laid out: {e}", file.path)))?;
                let mode = if file.executable { 0o700 } else { 0o600 };
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(unavailable)?;
            }
            let snapshot = trees.snapshot(folder.path()).map_err(|e| WorkspaceError::Unavailable(Box::new(e)))?;
            match snapshot.refused.first() {
                Some(refused) => Err(WorkspaceError::Invalid(format!("`{}` cannot be kept", refused.path))),
                None => Ok(snapshot.digest),
            }
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| WorkspaceError::Unavailable(Box::new(e)))?
    }
}

#[cfg(test)]
mod tests {
    use countersign_gateway_engine::EntryQuery;
    use countersign_gateway_identity::{NewAgent, NewLogin, PrincipalChange, Secret, Subject};
    use countersign_gateway_model::Scope;

    use super::*;

    const PASSWORD: &str = "correct horse battery staple 9";

    fn config(folder: &std::path::Path) -> Config {
        let mut config = Config::default();
        config.data.dir = folder.join("data");
        config.data.reserve_bytes = 1 << 20;
        // Tests are no program that branches into stages.
        config.runner.process = false;
        config
    }

    async fn open(folder: &std::path::Path) -> Result<Gateway> {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        Gateway::open(&config(folder), &Options { demo: false, address }).await
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    async fn enrol(gateway: &Gateway) -> Arc<Principal> {
        let token = gateway.first_token().await.unwrap().unwrap();
        let login =
            NewLogin { id: name("ada"), display_name: "Ada".to_owned(), password: Secret::new(PASSWORD), person: None };
        let secret = Secret::new(token.token);
        gateway.identity.enrolments.enrol_person(&secret, login.clone(), gateway.engine.now()).await.unwrap();
        let again = gateway.identity.enrolments.enrol_person(&secret, login, gateway.engine.now()).await;
        assert_eq!(again.unwrap_err().code(), "enrolment-used");
        login_as_ada(gateway).await
    }

    async fn login_as_ada(gateway: &Gateway) -> Arc<Principal> {
        let now = gateway.engine.now();
        let password = Secret::new(PASSWORD);
        let grant = gateway.identity.tokens.login(gateway.org(), "ada", &password, "act", now).await.unwrap();
        assert_eq!(grant.scopes, [Scope::Act]);
        gateway.identity.authenticator.session_of_token(grant.token.expose(), now).await.unwrap().principal.clone()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_second_start_continues_the_same_log_with_the_same_people() {
        let dir = tempfile::tempdir().unwrap();
        let gateway = open(dir.path()).await.unwrap();
        let (org, vkey) = (gateway.org(), gateway.root_vkey.clone());
        assert!(gateway.folder.fresh);
        let ada = enrol(&gateway).await;
        assert!(gateway.first_token().await.unwrap().is_none(), "there is somebody now");
        assert!(!gateway.folder.enrolment().exists());
        let busy = open(dir.path()).await.unwrap_err();
        assert!(busy.to_string().contains("in use by another process"), "{busy}");
        let policy = gateway.engine.policy(&ada).unwrap();
        assert_eq!((policy.version, policy.signed_by.as_str()), (1, "local"));
        let size = gateway.engine.log_of(org).unwrap().checkpoint().checkpoint().size;
        gateway.close().await.unwrap();

        let gateway = open(dir.path()).await.unwrap();
        assert_eq!((gateway.org(), &gateway.root_vkey), (org, &vkey));
        assert!(!gateway.folder.fresh);
        let after = gateway.engine.log_of(org).unwrap().checkpoint().checkpoint().size;
        assert_eq!(after, size + 1, "one boot entry and nothing else");
        let again = login_as_ada(&gateway).await;
        assert_eq!(again.pseudonym, ada.pseudonym);
        assert_eq!(gateway.engine.policy(&again).unwrap().digests, policy.digests);
        gateway.close().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_change_of_an_account_is_one_entry_that_survives() {
        let dir = tempfile::tempdir().unwrap();
        let gateway = open(dir.path()).await.unwrap();
        let ada = enrol(&gateway).await;
        let (org, now, by) = (gateway.org(), gateway.engine.now(), Subject::person(name("ada")));
        let agent = NewAgent {
            id: name("fixer"),
            display_name: "Fixer".to_owned(),
            owner: name("ada"),
            teams: vec![name("core")],
            autonomy: 2,
            scopes: vec![name("repo:read")],
        };
        let directory = &gateway.identity.directory;
        directory.create_agent(org, agent.clone(), by.clone(), now).await.unwrap();
        let twice = directory.create_agent(org, agent, by.clone(), now).await.unwrap_err();
        assert_eq!(twice.code(), "account-exists");
        directory.create_service_account(org, Subject::agent(name("fixer")), by, None, now).await.unwrap();
        let change = PrincipalChange { disabled: Some(true), ..PrincipalChange::default() };
        directory.change_agent(org, &name("fixer"), change).await.unwrap();

        let query = EntryQuery { instance: None, from: 0, limit: 200 };
        let entries = gateway.engine.entries(&ada, query).await.unwrap().items;
        let changes: Vec<(String, bool)> = entries
            .iter()
            .filter(|entry| entry.kind == "principal")
            .map(|entry| (entry.body.to_string(), entry.actor_name.as_deref() == Some("system")))
            .collect();
        // Enrolment issued, person, agent, credential, agent blocked: nothing for the one that was refused.
        assert_eq!(changes.len(), 5, "{changes:?}");
        for ((body, _), word) in changes.iter().zip(["issued", "created", "created", "issued", "deactivated"]) {
            assert!(body.to_lowercase().contains(word), "{word}: {body}");
        }
        gateway.close().await.unwrap();

        let gateway = open(dir.path()).await.unwrap();
        let agent = gateway.identity.directory.agent(org, &name("fixer")).await.unwrap().unwrap();
        assert_eq!((agent.autonomy, agent.disabled), (2, true));
        gateway.close().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn policies_of_the_past_are_built_again_from_the_ledger_alone() {
        use countersign_policy_store::default_draft;

        let dir = tempfile::tempdir().unwrap();
        let gateway = open(dir.path()).await.unwrap();
        let ada = enrol(&gateway).await;
        let first = gateway.engine.policy(&ada).unwrap().digests;
        let mut files: std::collections::BTreeMap<String, String> =
            default_draft().unwrap().files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect();
        let policies = files.get_mut("policies.cedar").unwrap();
        policies.push_str("\n// A word more.\n");
        let format = crate::policies::DraftFiles::FORMAT.to_owned();
        let bytes = serde_json::to_vec(&crate::policies::DraftFiles { format, files }).unwrap();
        let confirmed = {
            let candidate = gateway.engine.check_policy(&ada, bytes.clone()).await.unwrap();
            candidate.diff_digest
        };
        let unconfirmed = gateway.engine.activate_policy(Arc::clone(&ada), bytes.clone(), None).await.err().unwrap();
        assert_eq!(unconfirmed.code(), "diff-unconfirmed");
        let (candidate, _) = gateway.engine.activate_policy(Arc::clone(&ada), bytes, Some(confirmed)).await.unwrap();
        assert_eq!(candidate.version, 2);
        gateway.close().await.unwrap();

        let gateway = open(dir.path()).await.unwrap();
        let ada = login_as_ada(&gateway).await;
        let now = gateway.engine.policy(&ada).unwrap();
        assert_eq!((now.version, now.digests.bundle), (2, candidate.digest));
        let policies = Arc::clone(gateway.engine.policies());
        let org = gateway.org();
        let past = tokio::task::spawn_blocking(move || policies.past(org, &first)).await.unwrap().unwrap();
        assert_eq!(past.digests(), first);
        gateway.close().await.unwrap();
    }
}
