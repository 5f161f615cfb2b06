//! What is asked of each entry, in order: canonical bytes; its log, stream and time; the links of its stream and append;
//! who signed; whether the state machine allows it; what no policy and no operator may do. And what is counted of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use countersign_gateway_model::{
    Assurance, Decision as Answer, Digest, GatewayId, Name, Outcome, PolicyDigests, PrincipalKind, Pseudonym, State,
    Timestamp,
};
use countersign_ledger_entry::body::{
    AuthorityMode, Body, Cause, Decision, DecisionKind, Effect, Lift, Permit, Recovery, Step,
};
use countersign_ledger_entry::entry::UnknownEntry;
use countersign_ledger_entry::{Entry, EntryError, Header, SEMANTICS, StreamKind, TrustedLog};
use countersign_ledger_merkle::{Hash, leaf_hash};

use crate::keys::Keys;
use crate::person_keys::PersonKeys;
use crate::reviews::Reviews;
use crate::streams::{Links, StreamsFold};
use crate::terms::GrantTerms;
use crate::{
    Code, Counts, Facts, Payloads, PolicySeen, Population, Problem, Recovered, TimeRange, VerifyError, Witnesses,
};

/// A claimed time may lie this far behind the latest one before it in the log, in milliseconds.
const CLOCK_MARGIN: u64 = 5_000;

/// Everything that is carried from entry to entry.
pub(crate) struct Walk<'a> {
    log: &'a TrustedLog,
    keys: Keys<'a>,
    links: Links,
    folds: StreamsFold,
    latest: Timestamp,
    /// Of the entry before.
    semantics: u16,
    counts: Counts,
    authority: BTreeMap<&'static str, u64>,
    authority_changes: Vec<u64>,
    /// Of the entry before.
    mode: AuthorityMode,
    /// What follows from genesis and from the entries that set it.
    set_mode: AuthorityMode,
    policies: Vec<PolicySeen>,
    policies_seen: HashSet<PolicyDigests>,
    gateways: HashSet<GatewayId>,
    boots: u64,
    sandbox_levels: BTreeSet<u8>,
    /// Payloads named, with their lengths.
    payloads: HashMap<Digest, u32>,
    erased: HashSet<Digest>,
    erasures: u64,
    /// By counter, the version that the last reservation read, over all streams.
    versions: BTreeMap<Name, u64>,
    /// Who was made known as a person.
    persons: HashSet<Pseudonym>,
    /// The recoveries whose reviews are open.
    recovery: Vec<Recovered>,
    recoveries: u64,
    reviews: Reviews,
    person_keys: PersonKeys,
    pub(crate) terms: GrantTerms,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(log: &'a TrustedLog) -> Self {
        Self {
            log,
            keys: Keys::new(log),
            links: Links::default(),
            folds: StreamsFold::default(),
            latest: Timestamp(0),
            semantics: 0,
            counts: Counts::default(),
            authority: BTreeMap::new(),
            authority_changes: Vec::new(),
            mode: log.genesis_header().authority,
            set_mode: log.genesis_header().authority,
            policies: Vec::new(),
            policies_seen: HashSet::new(),
            gateways: HashSet::new(),
            boots: 0,
            sandbox_levels: BTreeSet::new(),
            payloads: HashMap::new(),
            erased: HashSet::new(),
            erasures: 0,
            versions: BTreeMap::new(),
            persons: HashSet::new(),
            recovery: Vec::new(),
            recoveries: 0,
            reviews: Reviews::default(),
            person_keys: PersonKeys::default(),
            terms: GrantTerms::default(),
        }
    }

    /// The next entry of the log. The first is the genesis that `log` was made from.
    pub(crate) fn entry(&mut self, index: u64, leaf: &[u8]) -> Result<(), VerifyError> {
        let hash = leaf_hash(leaf);
        match Entry::parse(leaf) {
            Ok(entry) => {
                self.admit(index, &entry, leaf, hash)?;
                if entry.header.semantics <= SEMANTICS {
                    self.judge(index, &entry.header, hash)
                } else {
                    self.later(entry.header.body.kind().number(), &entry.header);
                    Ok(())
                }
            }
            Err(source @ (EntryError::UnknownKind(_) | EntryError::Body { .. })) => {
                let wrong = |source| VerifyError::Entry { index, source };
                let entry = UnknownEntry::parse(leaf).map_err(wrong)?;
                // Under the rules that we know, there is no such entry.
                if entry.header.semantics <= SEMANTICS {
                    return Err(wrong(source));
                }
                self.keep(index, &entry.header, hash)?;
                self.keys.check_unknown(&entry, leaf).map_err(|problem| VerifyError::Signer { index, problem })?;
                self.later(entry.header.body.kind, &entry.header);
                Ok(())
            }
            Err(source) => Err(VerifyError::Entry { index, source }),
        }
    }

    /// What holds under every semantics version: place, links, signature.
    fn admit(&mut self, index: u64, entry: &Entry, leaf: &[u8], hash: Hash) -> Result<(), VerifyError> {
        let header = &entry.header;
        self.keep(index, header, hash)?;
        // The genesis was checked when trust was taken from it.
        if index == 0 {
            return Ok(());
        }
        if matches!(header.body, Body::Genesis(_)) {
            let problem = "a log has one genesis, its first entry".to_owned();
            return Err(VerifyError::Broken { index, problem });
        }
        self.keys.check(index, entry, leaf).map_err(|problem| VerifyError::Signer { index, problem })
    }

    fn judge(&mut self, index: u64, header: &Header, hash: Hash) -> Result<(), VerifyError> {
        self.authority_mode(header).map_err(|problem| VerifyError::Authority { index, problem })?;
        if let Body::Permit(permit) = &header.body {
            self.reservations(permit).map_err(|problem| VerifyError::Rule { index, problem })?;
        }
        if let Body::Decision(decision) = &header.body {
            self.decision(header, decision)
                .map_err(|problem| VerifyError::Rule { index, problem: problem.to_owned() })?;
        }
        if let Body::Lift(lift) = &header.body {
            self.lift(header, lift).map_err(|problem| VerifyError::Rule { index, problem: problem.to_owned() })?;
        }
        if let Body::Policy(step) | Body::Catalogue(step) = &header.body
            && step.step == Step::Invariants
            && header.semantics < 2
        {
            let problem = "semantics version 1 knows no step of invariants".to_owned();
            return Err(VerifyError::Rule { index, problem });
        }
        self.folds.apply(index, header, hash)?;
        let origin = self.log.origin();
        self.person_keys.entry(index, origin, header).map_err(|problem| VerifyError::PersonKey { index, problem })?;
        match &header.body {
            Body::Principal(known) if known.kind == PrincipalKind::Person => {
                self.persons.insert(known.principal);
            }
            Body::Recovery(recovery) => self.recovery(index, header, recovery),
            Body::Lift(lift) => {
                let instance = self.folds.instance(header.stream.id);
                let concerned = instance.map(|i| (i.chain().to_vec(), i.concerned(lift.item))).unwrap_or_default();
                self.reviews
                    .lifted(index, header, lift, concerned)
                    .map_err(|problem| VerifyError::Rule { index, problem: problem.to_owned() })?;
            }
            Body::Review(review) => self
                .reviews
                .reviewed(header, review, &self.persons)
                .map_err(|problem| VerifyError::Rule { index, problem: problem.to_owned() })?,
            _ => {}
        }
        self.counts.unenforced_against += u64::from(self.passed_in_shadow(header));
        self.terms.note(index, header);
        self.count(header);
        Ok(())
    }

    /// Whether an append ends here that began, or completed, an instance in shadow although policy's word was not yes. A
    /// firm no or rule ends it otherwise: with a gate or a refusal.
    fn passed_in_shadow(&self, header: &Header) -> bool {
        let ends = header.append.index.saturating_add(1) == header.append.length;
        let moved = match &header.body {
            Body::Created(_) => true,
            Body::Edge(edge) => {
                matches!(edge.cause, Cause::Start | Cause::Complete) && edge.to != State::WaitingForHuman
            }
            _ => false,
        };
        let shadow = || self.folds.instance(header.stream.id).is_some_and(|instance| !instance.created().enforced);
        ends && moved && header.verdict.is_some() && !is_allowed(header) && shadow()
    }

    /// What every entry must fit, whatever it says.
    fn keep<B>(&mut self, index: u64, header: &Header<B>, hash: Hash) -> Result<(), VerifyError> {
        self.version(header.semantics)
            .and_then(|()| self.place(header))
            .and_then(|()| self.links.follow(header, hash))
            .and_then(|()| self.name_payloads(header))
            .map_err(|problem| VerifyError::Broken { index, problem })?;
        if header.authority != self.mode {
            self.authority_changes.push(index);
            self.mode = header.authority;
        }
        *self.authority.entry(header.authority.as_str()).or_default() += 1;
        if let Some(digests) = header.policy
            && self.policies_seen.insert(digests)
        {
            self.policies.push(PolicySeen { bundle: digests.bundle.to_string(), from: index });
        }
        Ok(())
    }

    /// The mode is no word of the gateway's own: it is genesis's until an entry sets another, which states it already.
    fn authority_mode(&mut self, header: &Header) -> Result<(), String> {
        if let Body::Settings(set) = &header.body
            && set.setting.as_str() == AuthorityMode::SETTING
        {
            self.set_mode = AuthorityMode::of(set).ok_or("it sets an authority mode that there is not")?;
        }
        if header.authority == self.set_mode {
            return Ok(());
        }
        let (said, follows) = (header.authority.as_str(), self.set_mode.as_str());
        Err(format!("it states `{said}`, and `{follows}` follows from genesis and the entries that set the mode"))
    }

    /// A log goes from version to version and never back.
    fn version(&mut self, semantics: u16) -> Result<(), String> {
        if semantics == 0 {
            return Err("there is no semantics version 0".to_owned());
        }
        if semantics < self.semantics {
            let before = self.semantics;
            return Err(format!("it is of semantics version {semantics}, an entry before it of version {before}"));
        }
        self.semantics = semantics;
        Ok(())
    }

    fn place<B>(&mut self, header: &Header<B>) -> Result<(), String> {
        if header.origin != self.log.origin() {
            return Err(format!("it is of another log, `{}`", header.origin));
        }
        let id = header.stream.id.as_bytes();
        let at_home = match header.stream.kind {
            StreamKind::Instance => true,
            StreamKind::Organization => id == self.log.org().as_bytes(),
            StreamKind::Log => id == self.log.id().as_bytes(),
        };
        if !at_home {
            return Err("its stream is that of another organization or log".to_owned());
        }
        if header.claimed.0.saturating_add(CLOCK_MARGIN) < self.latest.0 {
            return Err("its claimed time is more than 5 s behind an entry before it".to_owned());
        }
        self.latest = self.latest.max(header.claimed);
        Ok(())
    }

    fn name_payloads<B>(&mut self, header: &Header<B>) -> Result<(), String> {
        for named in &header.payloads {
            if *self.payloads.entry(named.digest).or_insert(named.length) != named.length {
                return Err("it names a payload with another length than an entry before it".to_owned());
            }
        }
        Ok(())
    }

    /// What no policy and no operator may do. The state machine refuses some of it too; here it stands by itself.
    fn decision(&self, header: &Header, decision: &Decision) -> Result<(), &'static str> {
        let system = header.actor == Pseudonym::SYSTEM || decision.person == Pseudonym::SYSTEM;
        if system && decision.kind != DecisionKind::Reject {
            return Err("SYSTEM may reject, never approve");
        }
        if !system && decision.assurance == Assurance::Demo && !self.log.genesis().demo {
            return Err("a demonstration's stand-in decided in a log that is none");
        }
        Ok(())
    }

    /// As for a decision: a rule is lifted by a human being.
    fn lift(&self, header: &Header, lift: &Lift) -> Result<(), &'static str> {
        if header.actor == Pseudonym::SYSTEM || lift.person == Pseudonym::SYSTEM {
            return Err("SYSTEM may reject, never lift a rule");
        }
        if lift.assurance == Assurance::Demo && !self.log.genesis().demo {
            return Err("a demonstration's stand-in lifted a rule in a log that is none");
        }
        Ok(())
    }

    /// Whoever takes from a counter has seen what everyone before took: no two read the same version of it.
    fn reservations(&mut self, permit: &Permit) -> Result<(), String> {
        for reservation in &permit.reservations {
            let before = self.versions.insert(reservation.counter.clone(), reservation.version);
            if before.is_some_and(|before| reservation.version <= before) {
                return Err(format!("it takes from counter `{}` as if nobody had before it", reservation.counter));
            }
        }
        Ok(())
    }

    /// A recovery owes a review of that very recovery, by a person in their own name whom policy let: anything else closes
    /// nothing.
    fn recovery(&mut self, index: u64, header: &Header, recovery: &Recovery) {
        let bundle = recovery.bundle.to_string();
        if !recovery.reviewed {
            self.recoveries += 1;
            self.recovery.push(Recovered { bundle, from: index });
            return;
        }
        let allowed = header.verdict.as_ref().is_some_and(|verdict| verdict.decision == Answer::Allow);
        if allowed && header.on_behalf_of.is_empty() && self.persons.contains(&header.actor) {
            // The oldest of that bundle: another that is open stays so.
            if let Some(at) = self.recovery.iter().position(|open| open.bundle == bundle) {
                self.recovery.remove(at);
            }
        }
    }

    fn later<B>(&mut self, kind: u16, header: &Header<B>) {
        self.folds.unknown(header);
        *self.counts.later.entry(kind).or_default() += 1;
    }

    fn count(&mut self, header: &Header) {
        let counts = &mut self.counts;
        *counts.kinds.entry(header.body.kind().as_str()).or_default() += 1;
        match &header.body {
            Body::Permit(permit) if !permit.enforced => {
                counts.unenforced_permits += 1;
                counts.unenforced_against += u64::from(!is_allowed(header));
            }
            Body::Created(created) if !created.enforced => counts.shadow_instances += 1,
            Body::Refusal(_) => counts.refused += 1,
            Body::Decision(decision) => {
                *match (decision.effect, decision.kind) {
                    (Effect::Resolving, DecisionKind::Approve) => &mut counts.approved,
                    (Effect::Resolving, DecisionKind::Override) => &mut counts.overridden,
                    (Effect::Resolving, DecisionKind::Reject) if header.actor == Pseudonym::SYSTEM => {
                        &mut counts.system_rejected
                    }
                    (Effect::Resolving, DecisionKind::Reject) => &mut counts.rejected,
                    _ => &mut counts.other_decisions,
                } += 1;
            }
            Body::Outcome(outcome) => {
                *counts.outcomes.entry(outcome.outcome.as_str()).or_default() += 1;
                counts.superseding += u64::from(outcome.supersedes);
            }
            Body::Sweep(_) => *counts.outcomes.entry(Outcome::Unknown.as_str()).or_default() += 1,
            Body::Conflict(_) => counts.conflicts += 1,
            // An objection stands on every edge of the row; the last one ends the instance.
            Body::Edge(edge) if edge.objection && edge.to == State::Terminated => counts.objections += 1,
            Body::Freeze(_) => counts.freezes += 1,
            Body::TaskGrant(grant) if grant.revoked => counts.grants.revoked += 1,
            Body::TaskGrant(grant) if grant.approvers.is_empty() => counts.grants.asked += 1,
            Body::TaskGrant(_) => counts.grants.given += 1,
            Body::TaskGrantUse(_) => counts.grants.used += 1,
            Body::Boot(boot) => {
                self.boots += 1;
                self.gateways.insert(boot.gateway);
                self.sandbox_levels.extend(boot.sandbox_level);
            }
            Body::Erasure(erasure) => {
                self.erasures += 1;
                self.erased.extend(&erasure.payloads);
            }
            _ => {}
        }
    }

    /// After the last entry.
    pub(crate) fn finish(&self, size: u64) -> Result<(), VerifyError> {
        self.links.finish().map_err(|problem| VerifyError::Broken { index: size.saturating_sub(1), problem })
    }

    /// The length of a payload that an entry names.
    pub(crate) fn named(&self, digest: &Digest) -> Option<u32> {
        self.payloads.get(digest).copied()
    }

    /// Whether an erasure entry names the payload.
    pub(crate) fn is_erased(&self, digest: &Digest) -> bool {
        self.erased.contains(digest)
    }

    /// What could not be judged.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let later = |(kind, count): (&u16, &u64)| Problem {
            code: Code::LaterVersion,
            entry: None,
            detail: format!(
                "{count} entries of kind {kind} are of a later version, whose meaning is not known here: use a later verifier"
            ),
        };
        let mut out: Vec<Problem> = self.counts.later.iter().map(later).collect();
        if let [first, rest @ ..] = self.keys.unfollowed() {
            let detail = format!(
                "the log or root key changes at entry {first} and {} times more, which this version cannot follow",
                rest.len()
            );
            out.push(Problem { code: Code::KeyChange, entry: Some(*first), detail });
        }
        out
    }

    /// All but what only the checkpoint and the parts can say.
    pub(crate) fn into_facts(mut self) -> Facts {
        let log = self.log;
        self.counts.asserted = self.person_keys.signed;
        self.counts.unchecked_signatures = self.person_keys.unchecked;
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let erased = self.payloads.keys().filter(|digest| self.erased.contains(*digest)).count();
        Facts {
            origin: log.origin().to_owned(),
            organization: log.org().to_string(),
            population: Population { from: 0, to: 0, complete: false },
            root: String::new(),
            signatures: log.signatures().as_str(),
            durability: log.durability().as_str(),
            demo: log.genesis().demo,
            authority: self.authority,
            authority_changes: self.authority_changes,
            policies: self.policies,
            claimed: TimeRange { first: log.genesis_header().claimed.to_string(), latest: self.latest.to_string() },
            gateways: count(self.gateways.len()),
            boots: self.boots,
            sandbox_levels: self.sandbox_levels.into_iter().collect(),
            counts: self.counts,
            streams: self.folds.summary(),
            payloads: Payloads {
                named: count(self.payloads.len()),
                erased: count(erased),
                erasures: self.erasures,
                ..Payloads::default()
            },
            witnesses: Witnesses::default(),
            known: None,
            open_recoveries: self.recovery,
            recoveries: self.recoveries,
            lifts: self.reviews.summary(self.latest),
            person_keys: self.person_keys.into_seen(),
        }
    }
}

fn is_allowed(header: &Header) -> bool {
    header.verdict.as_ref().is_some_and(|verdict| verdict.decision == Answer::Allow)
}
