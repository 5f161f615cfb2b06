//! The assembly: one gateway over one data folder, from the folder's lock to the HTTP router.
//!
//! Order matters and is the same at every start: folder, organizations, keys, journal, logs, policies, runners, engine,
//! accounts, adoption of runs. Nothing is served before all of it stands. Absent: sockets (`serve`), the terminal (`cli`).
//! Read next: `organizations`, `installation`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration as Span;

use anyhow::{Context as _, Result};
use countersign_gateway_engine::{Engine, EngineOptions, Parts};
use countersign_gateway_http::{AppState, Info, Lifecycle, Limits, Metrics, Phase};
use countersign_gateway_identity::{Identity, IdentityConfig, Purpose, RateLimiter, RateQuota, TokenKeys};
use countersign_gateway_model::{Clock, Duration, Name, OrgId};
use countersign_ledger_log::{Journal as _, LogHandle, Logs, LogsConfig, NewLog};
use countersign_ledger_sql::{SqlJournal, SqlOptions};
use countersign_policy_store::Store;
use countersign_runners_contract::entry::body::{AuthorityMode, Durability, SignatureMode};
use countersign_runners_contract::entry::key;
use countersign_runners_contract::{LogTrust, Runner, SingleTrust};
use countersign_runners_process::{GatewayEndpoint, Level, ProcessConfig, ProcessRunner, RunUser};

use crate::accounts::Vault;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::folder::{DataFolder, FolderError, Mark};
use crate::installation;
use crate::keys::{FileRing, Keys};
use crate::mint::{self, SystemMint};
use crate::organizations::{self, Place};
use crate::policies::{LocalPolicies, root_document};
use crate::proving::Proofs;
use crate::runners::OrgRunners;
use crate::secrets::OrgSecrets;
use crate::trees::OrgTrees;

/// Roles of the first person, who must be able to do everything until there are others.
pub(crate) const FIRST_ROLES: [&str; 7] =
    ["ADMIN", "APPROVER", "AUDITOR", "OPERATOR", "POLICY_ADMIN", "SECURITY", "STOP"];

/// Exit code of a process whose ledger may not be signed any more.
const FATAL: i32 = 70;

/// How long the last answers of such a process have to leave it. Nothing is signed in that time.
const LAST_ANSWERS: Span = Span::from_millis(500);

/// How often ended revocations and enrolments are cleared away.
const SWEEP: Span = Span::from_mins(1);

/// How often workspaces that nothing names are looked for.
const WORKSPACE_SWEEP: Span = Span::from_hours(6);

/// How a gateway is opened, besides its configuration.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// A demonstration: marked in genesis, in a folder of its own kind.
    pub demo: bool,
    /// Where it will listen: what sandboxes may reach.
    pub address: SocketAddr,
    /// An organization to begin.
    pub begin: Option<String>,
    /// For one command, and not to serve: no timer puts anything on record meanwhile.
    pub offline: bool,
}

/// The one-time token that makes the first person of an organization.
#[derive(Debug)]
pub(crate) struct FirstToken {
    /// Whose.
    pub place: Place,
    /// What to hand over.
    pub token: String,
    /// Until when.
    pub expires: countersign_gateway_model::Timestamp,
}

/// One organization that is served.
#[derive(Debug)]
pub(crate) struct Organization {
    /// Who it is and where it lies.
    pub place: Place,
    /// Root key of its log, in text form.
    pub root_vkey: String,
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
    pub runners: Option<OrgRunners>,
    /// Everybody who is served: `default`, then the others by name.
    pub organizations: Vec<Organization>,
    /// Runs that a former process left and that are followed again.
    pub adopted: usize,
    /// Policies in force.
    pub policies: Arc<LocalPolicies>,
    state: AppState,
    lifecycle: Arc<Lifecycle>,
    logs: Logs,
    timers: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// A log on its way up: where its keys lie, and whether it was there before this start.
struct Held {
    place: Place,
    keys: Arc<Keys>,
    begun: bool,
}

impl Held {
    async fn open(place: Place, mark: &Mark, journal: &SqlJournal) -> Result<Self> {
        let origin = key::origin(&mark.origin, place.log).context("the log's origin line")?;
        let begun = journal.log_of(place.org).await.context("the ledger cannot be read")?.is_some();
        let keys = Arc::new(Keys::open(&place.keys(), place.log, &origin, !begun)?);
        Ok(Self { place, keys, begun })
    }

    /// Begins the log where it was not there.
    async fn begin(&self, logs: &Logs, store: &Store, demo: bool) -> Result<()> {
        if self.begun {
            return Ok(());
        }
        let document = root_document(self.place.org, &self.keys.bundle_key()?)?;
        let digest = document.root.digest().context("the root document")?;
        store.create(document).await.context("the policy store cannot be begun")?;
        // Keys and root document are durable: a crash here leaves a first start that the next one finishes.
        let root_signer = self.keys.root_signer();
        let new = NewLog {
            org: self.place.org,
            log: self.place.log,
            root_keys: vec![root_signer.verifying_key()],
            root_signer,
            root_threshold: 1,
            root_document: digest,
            signatures: SignatureMode::PerEntry,
            durability: Durability::Journal,
            authority: AuthorityMode::Solo,
            demo,
        };
        logs.create(new).await.with_context(|| format!("the log of `{}` cannot be begun", self.place.name))?;
        Ok(())
    }

    /// The log, verified.
    async fn log(&self, logs: &Logs, demo: bool) -> Result<LogHandle> {
        let name = &self.place.name;
        let log = logs.log(self.place.org).await;
        let log = log.with_context(|| format!("the log of `{name}` does not verify; nothing is signed"))?;
        if log.is_demo() != demo {
            return Err(FolderError::Genesis(name.to_string()).into());
        }
        Ok(log)
    }

    fn organization(&self) -> Organization {
        Organization { place: self.place.clone(), root_vkey: self.keys.root_vkey().to_string() }
    }
}

/// The ledger with all of its logs: the installation's and each organization's.
struct Ledger {
    logs: Logs,
    installation: Held,
    organizations: Vec<Held>,
}

impl Ledger {
    async fn open(config: &Config, folder: &DataFolder, places: Vec<Place>, clock: Arc<dyn Clock>) -> Result<Self> {
        let mark = &folder.mark;
        let mut sql = SqlOptions::new(folder.ledger());
        sql.reserve = config.data.reserve_bytes;
        crate::keys::private_folder(&folder.ledger())?;
        let journal = Arc::new(SqlJournal::open(sql).await.context("the ledger cannot be opened")?);
        let place = organizations::installation(&folder.path, mark)?;
        let installation = Held::open(place, mark, &journal).await?;
        let mut organizations = Vec::with_capacity(places.len());
        for place in places {
            organizations.push(Held::open(place, mark, &journal).await?);
        }

        let mut logs_config = LogsConfig::new(&mark.origin, mark.gateway, clock, Arc::new(mint::ledger_entropy));
        logs_config.anchor.clone_from(&config.ledger.anchor);
        logs_config.queue_entries = config.ledger.queue_entries;
        logs_config.reserve = config.data.reserve_bytes;
        logs_config.on_fatal = Arc::new(|reason| {
            // What was acknowledged is durable. What was not may or may not be: only a new start, which reads the disk
            // again, may sign anything.
            tracing::error!(reason, "the ledger has stopped; this process ends");
            eprintln!("countersign: the ledger has stopped: {reason}; start again");
            // Everybody who waited has an answer by now. This is the ledger's own thread: the others write them meanwhile.
            std::thread::sleep(LAST_ANSWERS);
            std::process::exit(FATAL);
        });
        let held = organizations.iter().chain([&installation]);
        let ring = Arc::new(FileRing::of(held.map(|held| Arc::clone(&held.keys))));
        let logs = Logs::open(journal, logs_config, ring).await.context("the ledger cannot be opened")?;
        Ok(Self { logs, installation, organizations })
    }

    /// Begins what is new, compares everything with what the installation has on record, and opens the policies.
    async fn begin(&self, store: &Store, policies: &LocalPolicies, demo: bool) -> Result<LogHandle> {
        self.installation.begin(&self.logs, store, demo).await?;
        let installation = self.installation.log(&self.logs, demo).await?;
        let on_record = installation::recorded(&installation).await?;
        let mut here = installation::Recorded::new();
        // Before anything new is begun: an installation that misses somebody takes nobody else in.
        for held in self.organizations.iter().filter(|held| held.begun) {
            let log = held.log(&self.logs, demo).await?;
            here.insert(held.place.org, installation::genesis_hash(&genesis_of(&log).await?));
        }
        installation::compare(&on_record, &here)?;
        for held in &self.organizations {
            held.begin(&self.logs, store, demo).await?;
            policies.open(&held.log(&self.logs, demo).await?, held.keys.bundle_key()?).await?;
        }
        Ok(installation)
    }

    /// Boots the installation's log, and puts those on record there who are not yet.
    async fn record(&self, log: &LogHandle, clock: &dyn Clock, level: Option<u8>) -> Result<()> {
        self.logs.boot(log.org(), level).await.context("the installation's log cannot be booted")?;
        let on_record = installation::recorded(log).await?;
        for held in self.organizations.iter().filter(|held| !on_record.contains_key(&held.place.org)) {
            let genesis = genesis_of(&self.logs.log(held.place.org).await?).await?;
            // A crash before this leaves an organization that the next start puts on record.
            installation::record(log, clock, held.place.org, installation::genesis_hash(&genesis)).await?;
        }
        Ok(())
    }
}

impl Gateway {
    /// Opens everything, and finishes a first start that was cut off.
    pub(crate) async fn open(config: &Config, options: &Options) -> Result<Self> {
        let folder = DataFolder::open(&config.data.dir, &config.ledger.origin, options.demo)?;
        if let Some(name) = &options.begin {
            organizations::create(&folder, name)?;
        }
        let places = organizations::all(&folder.path, &folder.mark)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let ledger = Ledger::open(config, &folder, places.clone(), Arc::clone(&clock)).await?;

        crate::keys::private_folder(&folder.policy())?;
        let proofs = Proofs::at(config.policy.solver.as_deref(), Span::from_secs(config.policy.solver_s.max(1)))?;
        let store = Arc::new(Store::new(folder.policy()).with_prover(proofs.prover()));
        let nobody = ledger.installation.place.org;
        let policies = Arc::new(LocalPolicies::new(Arc::clone(&store), Arc::clone(&clock), nobody)?);
        let installation = ledger.begin(&store, &policies, options.demo).await?;

        let runners = if config.runner.process {
            Some(open_runners(config, &ledger, options.address, &clock).await?)
        } else {
            None
        };
        let level = runners.as_ref().map(|runners| runners.first().level().number());
        ledger.record(&installation, &*clock, level).await?;
        let engine = engine(config, &ledger.logs, Arc::clone(&policies), runners.as_ref(), &clock);
        for held in &ledger.organizations {
            open_organization(&engine, &policies, held.place.org, level).await?;
        }

        let orgs: Vec<OrgId> = places.iter().map(|place| place.org).collect();
        let vault = Vault::open(engine.clone(), &orgs).await.context("the accounts cannot be read")?;
        let token_seed = crate::keys::token_seed(&folder.path.join("keys"))?;
        let identity = open_identity(config, &token_seed, vault, options.demo, clock.now()).await?;
        let adopted = engine.adopt().await.context("runs of before cannot be adopted")?;
        let timers = if options.offline { tokio::spawn(async {}) } else { tokio::spawn(engine.clone().run_timers()) };

        let organizations: Vec<Organization> = ledger.organizations.iter().map(Held::organization).collect();
        for organization in organizations.iter().chain([&ledger.installation.organization()]) {
            write_public(&organization.place.root_vkey(), &organization.root_vkey)?;
        }
        let lifecycle = Arc::new(Lifecycle::default());
        let metrics = Metrics::new(&engine, &identity.authenticator);
        if let Some(runners) = &runners {
            metrics.register(|registry| registry.register_collector(Box::new(runners.clone())));
        }
        let state = AppState::new(countersign_gateway_http::Parts {
            engine: engine.clone(),
            identity: identity.clone(),
            rate: RateLimiter::new(RateQuota {
                per_second: at_least_one(config.limits.requests_per_second),
                burst: at_least_one(config.limits.burst),
            }),
            workspaces: Arc::new(OrgTrees::open(&folder.path, &places, runners.as_ref())?),
            limits: Limits {
                body_bytes: config.limits.body_bytes,
                upload_bytes: config.limits.workspace_bytes,
                ..Limits::default()
            },
            info: Info {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                organization: folder.mark.org,
                // Anybody may read it: how many other organizations there are is nobody's business.
                root_keys: organizations.iter().take(1).map(|first| first.root_vkey.clone()).collect(),
                demo: options.demo,
                open_metrics: options.address.ip().is_loopback(),
            },
            metrics,
            lifecycle: Arc::clone(&lifecycle),
        });
        sweep_accounts(identity.clone(), clock);
        if let (Some(runners), Some(kept)) = (&runners, kept_for(&config.runner)) {
            sweep_workspaces(engine.clone(), runners.clone(), orgs, kept);
        }
        let logs = ledger.logs;
        Ok(Self { folder, engine, identity, runners, organizations, adopted, policies, state, lifecycle, logs, timers })
    }

    /// The organization `default`.
    pub(crate) fn org(&self) -> OrgId {
        self.folder.mark.org
    }

    /// Root key of the log of `default`, in text form.
    pub(crate) fn root_vkey(&self) -> &str {
        self.organizations.first().map_or("", |first| first.root_vkey.as_str())
    }

    /// The process runner of `default`, where it is configured.
    pub(crate) fn runner(&self) -> Option<&ProcessRunner> {
        self.runners.as_ref().map(OrgRunners::first)
    }

    /// Everything that is served.
    pub(crate) fn router(&self) -> axum::Router {
        countersign_gateway_http::router(self.state.clone())
    }

    /// Tells those who ask whether this gateway takes work.
    pub(crate) fn set(&self, phase: Phase) {
        self.lifecycle.set(phase);
    }

    /// The tokens that make first persons, where there is nobody yet.
    pub(crate) async fn first_tokens(&self) -> Result<Vec<FirstToken>> {
        let mut tokens = Vec::new();
        for Organization { place, .. } in &self.organizations {
            tokens.extend(self.first_token(place).await?);
        }
        Ok(tokens)
    }

    /// The token that makes the first person of an organization, if nobody is there. It is also in a file of its own.
    pub(crate) async fn first_token(&self, place: &Place) -> Result<Option<FirstToken>> {
        let path = place.enrolment();
        if !self.identity.directory.is_empty(place.org).await? {
            // The token was used, or somebody was made otherwise: what is left of it opens nothing.
            let _ = std::fs::remove_file(&path);
            return Ok(None);
        }
        let roles = FIRST_ROLES.into_iter().map(Name::new).collect::<Result<Vec<_>, _>>()?;
        let purpose = Purpose::Person { roles, teams: Vec::new(), groups: Vec::new() };
        let made = self.identity.enrolments.mint(place.org, purpose, None, self.engine.now()).await?;
        let token = made.token.expose().to_owned();
        crate::keys::write_private(&path, format!("{token}\n").as_bytes())?;
        Ok(Some(FirstToken { place: place.clone(), token, expires: made.expires }))
    }

    /// Ends: what is queued is committed, the journal closed. Runs go on under their shims.
    pub(crate) async fn close(self) -> Result<()> {
        self.engine.end();
        // What the timers still have to put on record comes before the end of the ledger.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), self.timers).await;
        self.logs.shutdown().await.context("the ledger did not close in good order; what was acknowledged is durable")
    }
}

fn at_least_one(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN)
}

/// The bytes of a log's first entry.
pub(crate) async fn genesis_of(log: &LogHandle) -> Result<Vec<u8>> {
    let first = log.entries(0..1).await.context("genesis cannot be read")?;
    first.into_iter().next().map(|entry| entry.leaf).context("the log has no genesis entry")
}

fn engine(
    config: &Config,
    logs: &Logs,
    policies: Arc<LocalPolicies>,
    runners: Option<&OrgRunners>,
    clock: &Arc<dyn Clock>,
) -> Engine {
    let mut by_kind: HashMap<String, Arc<dyn Runner>> = HashMap::new();
    if let Some(runners) = runners {
        by_kind.insert("process".to_owned(), Arc::new(runners.clone()));
    }
    Engine::new(Parts {
        logs: logs.clone(),
        policies,
        runners: by_kind,
        clock: Arc::clone(clock),
        mint: Arc::new(SystemMint),
        options: EngineOptions {
            permit_ttl: Duration::from_secs(config.policy.permit_ttl_s),
            run_deadline: Duration::from_secs(config.runner.deadline_s),
            ..EngineOptions::default()
        },
    })
}

/// Opens an organization in the engine; at its first start its policy becomes the default bundle.
async fn open_organization(engine: &Engine, policies: &LocalPolicies, org: OrgId, level: Option<u8>) -> Result<()> {
    engine.open_org(org, level).await.context("the log cannot be booted")?;
    policies.record_roots(engine, org).await.context("a root document cannot be put on record")?;
    if policies.has_bundle(org) {
        return Ok(());
    }
    let (entries, prepared) = policies.first(org).await?;
    for entry in entries {
        engine.commit_system(org, entry).await.context("the default policy cannot be recorded")?;
    }
    // Durable: a crash here leaves an activation that the next start carries out.
    policies.commit(prepared).await;
    Ok(())
}

async fn open_identity(
    config: &Config,
    token_seed: &[u8; 32],
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
    let token_keys = Arc::new(TokenKeys::new(token_seed, &[])?);
    let entropy = Arc::new(mint::identity_entropy);
    Identity::open(identity, Arc::new(vault), entropy, token_keys, Vec::new(), now)
        .await
        .context("accounts and tokens cannot be opened")
}

async fn open_runners(
    config: &Config,
    ledger: &Ledger,
    address: SocketAddr,
    clock: &Arc<dyn Clock>,
) -> Result<OrgRunners> {
    crate::secrets::refuse_defaults(&config.secrets)?;
    let mut opened = Vec::with_capacity(ledger.organizations.len());
    for held in &ledger.organizations {
        let log = ledger.logs.log(held.place.org).await?;
        let trust = SingleTrust {
            org: held.place.org,
            log: LogTrust { root: held.keys.root_vkey().clone(), genesis: genesis_of(&log).await?.into() },
        };
        let mut process = ProcessConfig::new(held.place.runner(), Name::new("process")?);
        process.minimum = config.runner.min_level.and_then(level);
        process.user = RunUser { uid: config.runner.uid, gid: config.runner.uid };
        process.refuse_unenforced = config.runner.refuse_unenforced;
        process.gateway = Some(GatewayEndpoint::Tcp(reachable(address)));
        let clock = Arc::clone(clock);
        let secrets = OrgSecrets::of(&config.secrets, held.place.org, opened.is_empty());
        let open = move || ProcessRunner::open(process, Arc::new(trust), Arc::new(secrets), clock);
        let runner = tokio::task::spawn_blocking(open).await.context("the runner")?;
        opened.push((held.place.org, runner.context("the process runner cannot be opened")?));
    }
    let mut opened = opened.into_iter();
    let first = opened.next().context("there is no organization to run anything for")?;
    Ok(OrgRunners::new(first, opened))
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

fn write_public(path: &Path, vkey: &str) -> Result<()> {
    let text = format!("{vkey}\n");
    if std::fs::read_to_string(path).is_ok_and(|held| held == text) {
        return Ok(());
    }
    std::fs::write(path, text).with_context(|| format!("`{}` cannot be written", path.display()))
}

/// How long a workspace is kept that nothing names any more; none: for ever.
fn kept_for(runner: &crate::config::Runner) -> Option<Duration> {
    (runner.keep_workspaces_days > 0).then(|| Duration::from_secs(runner.keep_workspaces_days.saturating_mul(86_400)))
}

/// Removes workspaces that nothing has named for so long, until the process ends.
fn sweep_workspaces(engine: Engine, runners: OrgRunners, orgs: Vec<OrgId>, kept: Duration) {
    tokio::spawn(async move {
        loop {
            for org in &orgs {
                if let Some(runner) = runners.of(*org)
                    && let Err(error) = prune(&engine, runner, *org, kept).await
                {
                    tracing::warn!(error = %format!("{error:#}"), %org, "old workspaces are not removed");
                }
            }
            tokio::time::sleep(WORKSPACE_SWEEP).await;
        }
    });
}

async fn prune(engine: &Engine, runner: &ProcessRunner, org: OrgId, kept: Duration) -> Result<()> {
    let live = engine.live_workspaces(org).await?;
    // What is named today begins its time anew, so that it does not end with the instance.
    let (trees, named) = (runner.workspaces().clone(), live.clone());
    let renew = move || named.iter().try_for_each(|tree| trees.renew_if_kept(*tree).map(drop));
    tokio::task::spawn_blocking(renew).await??;
    runner.prune(live, kept).await?;
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

#[cfg(test)]
mod tests {
    use countersign_gateway_engine::EntryQuery;
    use countersign_gateway_identity::{NewAgent, NewLogin, PrincipalChange, Secret, Subject};
    use countersign_gateway_model::{Principal, Scope};

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
        Gateway::open(&config(folder), &Options { demo: false, address, begin: None, offline: false }).await
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    async fn enrol(gateway: &Gateway) -> Arc<Principal> {
        let token = gateway.first_tokens().await.unwrap().remove(0);
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
        let grant = gateway.identity.tokens.login(gateway.org(), "ada", (&password, None), "act", now).await.unwrap();
        assert_eq!(grant.scopes, [Scope::Act]);
        gateway.identity.authenticator.session_of_token(grant.token.expose(), now).await.unwrap().principal.clone()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_second_start_continues_the_same_log_with_the_same_people() {
        let dir = tempfile::tempdir().unwrap();
        let gateway = open(dir.path()).await.unwrap();
        let (org, vkey) = (gateway.org(), gateway.root_vkey().to_owned());
        assert!(gateway.folder.fresh);
        let ada = enrol(&gateway).await;
        assert!(gateway.first_tokens().await.unwrap().is_empty(), "there is somebody now");
        assert!(!gateway.organizations.first().unwrap().place.enrolment().exists());
        let busy = open(dir.path()).await.unwrap_err();
        assert!(busy.to_string().contains("in use by another process"), "{busy}");
        let policy = gateway.engine.policy(&ada).unwrap();
        assert_eq!((policy.version, policy.signed_by.as_str()), (1, "local"));
        let size = gateway.engine.log_of(org).unwrap().checkpoint().checkpoint().size;
        gateway.close().await.unwrap();

        let gateway = open(dir.path()).await.unwrap();
        assert_eq!((gateway.org(), gateway.root_vkey()), (org, vkey.as_str()));
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
