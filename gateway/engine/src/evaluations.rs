//! Evaluations for enforcement points: what policy says to somebody else's request. Never a permit.
//!
//! The asking credential must hold `evaluateFor` on the subject. Nothing is ever `satisfied` in such a question, and what
//! the caller says of itself reaches policy as claims only; the instance that it names counts if the subject acts in it.
//! Each evaluation is an entry before it is an answer, unless a ledgered setting says less; calls that ask at the same
//! moment share one append. Absent: the wire format (`http`).
//!
//! Read next: `own` (the organization's stream), `settings` (what is recorded).

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;
use tokio::sync::oneshot;

use countersign_gateway_model::{
    Decision, Duration, InstanceId, Name, PolicyDigests, Principal, PrincipalKind, Pseudonym, State, Timestamp,
};
use countersign_ledger_entry::body::Evaluation;
use countersign_ledger_entry::payload::{self, Salt};
use countersign_ledger_entry::{Draft, Receipt};
use countersign_ledger_log::AppendError;
use countersign_policy_decide::{EntityKind, EntityRef, Operation, Question, input};

use crate::asking::{Answered, ask, chain, entity_of, question};
use crate::beside::Beside;
use crate::changes::names::is_reserved;
use crate::error::EngineError;
use crate::mint::MintExt as _;
use crate::org::Org;
use crate::own::draft_of;
use crate::recording::{OverQuota, Waiting, lock};
use crate::stream::Held;
use crate::{Engine, Snapshot};

/// Most evaluations of one call, and most entries of one append.
pub const MAX_EVALUATIONS: usize = 64;

/// Most bytes that the evaluations of one append leave beside their entries.
const MAX_APPEND: usize = 1024 * 1024;

/// Most claims of one evaluation.
const MAX_CLAIMS: usize = 64;

/// How long calls over quota are counted before they become an entry.
const QUOTA_SPAN: Duration = Duration::from_secs(60);

/// Who an evaluation is about: a principal of the caller's organization, by sort and id.
pub type EvaluationSubject = (PrincipalKind, Name);

/// What the subject would do.
#[derive(Clone, Debug)]
pub enum EvaluationTarget {
    /// Call a tool of the catalogue with this input (JSON text, read strictly by the tool's schema).
    Tool {
        /// The tool.
        tool: Name,
        /// Its input.
        input: Vec<u8>,
    },
    /// One of the base schema's own operations.
    Operation {
        /// Which.
        operation: Operation,
        /// The sort of what it is done to.
        kind: EntityKind,
        /// Its id.
        id: Name,
    },
}

/// One evaluation that is asked for. What has no name here (`None`) is nothing that policy knows, hence denied.
#[derive(Clone, Debug)]
pub struct EvaluationRequest {
    /// Who.
    pub subject: Option<EvaluationSubject>,
    /// What.
    pub target: Option<EvaluationTarget>,
    /// The instance in which a tool would be called, as the caller names it. What names none in which the subject acts is
    /// denied.
    pub instance: Option<String>,
    /// What the caller says of itself, `key=value`.
    pub claims: BTreeSet<String>,
    /// The request as it came, as JSON: what the record keeps of it.
    pub asked: serde_json::Value,
}

/// When a call with several evaluations ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Semantic {
    /// After the last.
    #[default]
    ExecuteAll,
    /// After the first that is not allowed.
    DenyOnFirstDeny,
    /// After the first that is allowed.
    PermitOnFirstPermit,
}

/// What became of one evaluation.
#[derive(Clone, Debug)]
pub struct EvaluationAnswer {
    /// What policy says.
    pub decision: Decision,
    /// Words for the enforcement point; none where it is allowed.
    pub reason: Option<String>,
    /// The proof that it is on record, where it is recorded.
    pub receipt: Option<Receipt>,
}

/// One evaluation, decided.
struct Decided {
    answer: EvaluationAnswer,
    operation: Name,
    subject: Pseudonym,
    answered: Answered,
    evidence: Vec<u8>,
}

impl Engine {
    /// Says what policy would say to each request, and puts it on record first.
    ///
    /// # Errors
    /// [`EngineError::Refused`] if the caller may not ask about a subject; then nothing is answered.
    pub async fn evaluate(
        &self,
        who: Arc<Principal>,
        requests: Vec<EvaluationRequest>,
        semantic: Semantic,
    ) -> Result<Vec<EvaluationAnswer>, EngineError> {
        let this = self.clone();
        Self::whole(async move { this.evaluate_all(&who, &requests, semantic).await }).await
    }

    async fn evaluate_all(
        &self,
        who: &Principal,
        requests: &[EvaluationRequest],
        semantic: Semantic,
    ) -> Result<Vec<EvaluationAnswer>, EngineError> {
        if !(1..=MAX_EVALUATIONS).contains(&requests.len()) {
            return Err(EngineError::invalid("evaluations", "ask for 1 to 64 at a time"));
        }
        if requests.iter().any(|request| request.claims.len() > MAX_CLAIMS) {
            return Err(EngineError::invalid("context", "give at most 64 members"));
        }
        let org = self.org(who.org)?;
        let snapshot = self.counted_snapshot(&org).await?;
        let now = self.now();
        self.may_evaluate(&org, &snapshot, who, requests, now).await?;
        let mut decided = Vec::with_capacity(requests.len());
        for request in requests {
            let one = self.evaluate_one(&org, &snapshot, who, request, now).await?;
            let ends = match (semantic, one.answer.decision) {
                (Semantic::ExecuteAll, _) => false,
                (Semantic::DenyOnFirstDeny, decision) => decision != Decision::Allow,
                (Semantic::PermitOnFirstPermit, decision) => decision == Decision::Allow,
            };
            decided.push(one);
            if ends {
                break;
            }
        }
        self.record_evaluations(&org, &snapshot, who, decided).await
    }

    /// Asks whether the caller may ask about each subject; about somebody unknown it asks for the organization.
    async fn may_evaluate(
        &self,
        org: &Org,
        snapshot: &Snapshot,
        who: &Principal,
        requests: &[EvaluationRequest],
        now: Timestamp,
    ) -> Result<(), EngineError> {
        let mut subjects = BTreeSet::new();
        for request in requests {
            let known = request.subject.as_ref().map(|(kind, id)| EntityRef::new(org.id, (*kind).into(), id.clone()));
            let known = known.filter(|entity| org.entities.get(entity).is_some());
            subjects.insert(known.unwrap_or_else(|| EntityRef::organization(org.id)));
        }
        for subject in subjects {
            let asked = question(who, Operation::EvaluateFor, subject.clone(), now);
            if !ask(snapshot, org.facts(), chain(who, asked.clone())).allowed() {
                let details = json!({ "operation": "evaluateFor", "subject": subject.id.as_str() });
                self.authorize_question(org, who, asked, &details).await?;
            }
        }
        Ok(())
    }

    async fn evaluate_one(
        &self,
        org: &Org,
        snapshot: &Snapshot,
        who: &Principal,
        request: &EvaluationRequest,
        now: Timestamp,
    ) -> Result<Decided, EngineError> {
        let subject = request.subject.as_ref().and_then(|(kind, id)| org.known_by_id(*kind, id));
        let subject = subject.map(|(pseudonym, _)| pseudonym);
        let mut questions = Vec::new();
        let mut operation = Operation::EvaluateFor;
        let mut reason = None;
        // Held until policy has answered: it stays as it is, and policy is told of it.
        let mut inside = None;
        match (&request.subject, &request.target) {
            (None, _) => reason = Some("the subject is not known".to_owned()),
            (_, None) => reason = Some("there is no such action on such a resource".to_owned()),
            (Some((kind, id)), Some(target)) => {
                let asked = EntityRef::new(org.id, (*kind).into(), id.clone());
                match self.evaluated_question(org, snapshot, asked, target, now) {
                    Ok(mut question) => {
                        operation = question.operation;
                        question.claims.clone_from(&request.claims);
                        let named = request.instance.as_deref().filter(|_| question.is_tool());
                        match self.inside(org, subject, named).await? {
                            Ok(held) => {
                                if let Some(fold) = held.as_ref().map(Held::fold).transpose()? {
                                    question.instance = Some(Self::instance_entity(org, fold.id())?);
                                    question.denials = u64::from(fold.denials());
                                }
                                inside = held;
                                questions.push(question);
                            }
                            Err(text) => reason = Some(text.to_owned()),
                        }
                    }
                    Err(text) => reason = Some(text),
                }
            }
        }
        let answered = ask(snapshot, org.facts(), questions);
        drop(inside);
        if reason.is_none() && !answered.allowed() {
            reason = Some(match answered.verdict.decision {
                Decision::NeedsApproval => "a person would have to approve it".to_owned(),
                _ if answered.wants_transforms() => "policy asks for a change of the input first".to_owned(),
                _ => answered.agent_message(),
            });
        }
        let evidence = serde_json::to_vec(&json!({
            "asked_by": entity_of(who).to_string(),
            "evaluation": request.asked,
        }))
        .map_err(EngineError::damaged)?;
        Ok(Decided {
            answer: EvaluationAnswer { decision: answered.verdict.decision, reason, receipt: None },
            operation: Name::new(operation.as_str()).map_err(EngineError::damaged)?,
            // Nobody of the organization has it: the request itself says who was meant.
            subject: subject.unwrap_or(Pseudonym::SYSTEM),
            answered,
            evidence,
        })
    }

    /// The instance that is named for a subject, or in words why it calls nothing there. One that is not there, another
    /// organization's and one in which somebody else acts are one answer.
    async fn inside(
        &self,
        org: &Org,
        subject: Option<Pseudonym>,
        named: Option<&str>,
    ) -> Result<Result<Option<Held>, &'static str>, EngineError> {
        let Some(named) = named else { return Ok(Ok(None)) };
        let none = Ok(Err("the subject acts in no such instance"));
        let (Some(subject), Ok(id)) = (subject, named.parse::<InstanceId>()) else { return none };
        let held = match self.hold(org, id).await {
            Ok(held) => held,
            Err(EngineError::NotFound(_)) => return none,
            Err(error) => return Err(error),
        };
        let fold = held.fold()?;
        if fold.created().acting != subject || is_reserved(&fold.created().workflow) {
            return none;
        }
        // No proposal would pass here, whatever a bundle says of it.
        if fold.state() != State::Running {
            return Ok(Err("the instance is not running"));
        }
        if org.is_frozen(held.live.team.as_ref()) {
            return Ok(Err("work in the instance is frozen"));
        }
        Ok(Ok(Some(held)))
    }

    fn evaluated_question(
        &self,
        org: &Org,
        snapshot: &Snapshot,
        asked: EntityRef,
        target: &EvaluationTarget,
        now: Timestamp,
    ) -> Result<Question, String> {
        let mut question = match target {
            EvaluationTarget::Operation { operation, kind, id } => {
                Question::new(asked, *operation, EntityRef::new(org.id, *kind, id.clone()), now)
            }
            EvaluationTarget::Tool { tool, input } => {
                let Some(compiled) = snapshot.tool(tool.as_str()) else {
                    return Err(format!("no tool `{tool}` is in the catalogue"));
                };
                let typed = input::parse(compiled, input).map_err(|error| error.to_string())?;
                if !typed.masked().is_empty() {
                    // The enforcement point would carry out what came, not what policy was asked about.
                    return Err("policy masks a part of this input".to_owned());
                }
                let operation = if compiled.tool.runner.is_some() { Operation::Dispatch } else { Operation::CallTool };
                let resource = EntityRef::new(org.id, EntityKind::Tool, tool.clone());
                let mut question = Question::new(asked, operation, resource, now);
                question.input = Some(Arc::new(typed));
                question
            }
        };
        // It is no permit, so nothing is reserved by it: two that race may both be told yes.
        question.unreserved = true;
        question.scopes.insert("act");
        question.four_eyes = crate::stream::four_eyes(org);
        Ok(question)
    }

    /// Commits what is to be on record, then answers.
    async fn record_evaluations(
        &self,
        org: &Org,
        snapshot: &Snapshot,
        who: &Principal,
        decided: Vec<Decided>,
    ) -> Result<Vec<EvaluationAnswer>, EngineError> {
        let recording = org.recording();
        let mut beside = Beside::default();
        let (mut drafts, mut places) = (Vec::new(), Vec::new());
        for (place, one) in decided.iter().enumerate() {
            if recording.keeps(one.answer.decision) {
                drafts.push(evaluation_draft(who, one, &self.mint().salt(), &mut beside));
                places.push(place);
            }
        }
        let mut answers: Vec<EvaluationAnswer> = decided.into_iter().map(|one| one.answer).collect();
        if drafts.is_empty() {
            return Ok(answers);
        }
        if bytes_of(&beside) > MAX_APPEND {
            return Err(EngineError::invalid(
                "evaluations",
                "what they would leave on record is too much for one call",
            ));
        }
        let receipts = self.share_append(org, snapshot.digests(), drafts, beside).await?;
        for (place, receipt) in places.into_iter().zip(receipts) {
            if let Some(answer) = answers.get_mut(place) {
                answer.receipt = Some(receipt);
            }
        }
        Ok(answers)
    }

    /// Puts drafts into the organization's next append. Whoever gets the stream's turn commits for all who wait.
    async fn share_append(
        &self,
        org: &Org,
        policy: PolicyDigests,
        drafts: Vec<Draft>,
        beside: Beside,
    ) -> Result<Vec<Receipt>, EngineError> {
        let (done, mut answer) = oneshot::channel();
        lock(&org.evaluations.waiting).push_back(Waiting { policy, drafts, beside, done });
        loop {
            let turn = tokio::select! {
                biased;
                answer = &mut answer => return answer.map_err(EngineError::damaged)?,
                turn = org.own.lock() => turn,
            };
            let (mut taken, mut entries, mut bytes, mut policy) = (Vec::new(), 0, 0, None);
            {
                let mut waiting = lock(&org.evaluations.waiting);
                while let Some(next) = waiting.front() {
                    // One append names one policy.
                    let another = policy.is_some_and(|policy| policy != next.policy);
                    let more = bytes_of(&next.beside);
                    let full = entries + next.drafts.len() > MAX_EVALUATIONS || bytes + more > MAX_APPEND;
                    if another || (full && !taken.is_empty()) {
                        break;
                    }
                    bytes += more;
                    policy = Some(next.policy);
                    entries += next.drafts.len();
                    taken.extend(waiting.pop_front());
                }
            }
            let Some(policy) = policy else { continue };
            let (mut drafts, mut together, mut shares) = (Vec::with_capacity(entries), Beside::default(), Vec::new());
            for Waiting { drafts: mut mine, beside, done, .. } in taken {
                shares.push((mine.len(), done));
                drafts.append(&mut mine);
                together.payloads.extend(beside.payloads);
                together.blobs.extend(beside.blobs);
            }
            let appended = self.append_in_turn(org, &turn, drafts, together, (self.now(), policy)).await;
            match appended {
                Ok(appended) => {
                    let mut receipts = appended.entries.into_iter().map(|entry| entry.receipt);
                    for (count, done) in shares {
                        // One whose caller has gone away is on record all the same.
                        let _ = done.send(Ok(receipts.by_ref().take(count).collect()));
                    }
                }
                Err(error) => {
                    for (_, done) in shares {
                        let _ = done.send(Err(shared(&error)));
                    }
                }
            }
            drop(turn);
        }
    }

    /// Counts a call that was turned away because its caller is over quota; once a minute the count becomes an entry.
    pub fn over_quota(&self, who: &Principal) {
        let Ok(org) = self.org(who.org) else { return };
        let mut counts = lock(&org.evaluations.over_quota);
        let count = counts.entry(who.pseudonym).or_insert_with(|| OverQuota { since: self.now(), calls: 0 });
        count.calls = count.calls.saturating_add(1);
    }

    /// Commits counts of calls over quota that are a minute old, or all.
    pub(crate) async fn record_over_quota(&self, org: &Org, all: bool) -> Result<(), EngineError> {
        let now = self.now();
        let due: Vec<(Pseudonym, OverQuota)> = {
            let mut counts = lock(&org.evaluations.over_quota);
            let due: Vec<Pseudonym> = counts
                .iter()
                .filter(|(_, count)| all || count.since + QUOTA_SPAN <= now)
                .map(|(who, _)| *who)
                .collect();
            due.into_iter().filter_map(|who| Some((who, counts.remove(&who)?))).collect()
        };
        let mut failed = None;
        for (who, counted) in due {
            let evaluation = Evaluation {
                subject: who,
                operation: Name::new(Operation::EvaluateFor.as_str()).map_err(EngineError::damaged)?,
                question: None,
                calls: counted.calls,
                over_quota: true,
            };
            let policy = self.snapshot(org.id).digests();
            let draft = Draft::new(evaluation, who);
            if let Err(error) = self.append_own(org, vec![draft], Beside::default(), (now, policy)).await {
                // Counted on: what could not be put on record now is part of the next entry.
                let mut counts = lock(&org.evaluations.over_quota);
                let count = counts.entry(who).or_insert_with(|| OverQuota { since: counted.since, calls: 0 });
                count.since = count.since.min(counted.since);
                count.calls = count.calls.saturating_add(counted.calls);
                failed = Some(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Bytes that go beside entries.
fn bytes_of(beside: &Beside) -> usize {
    let payloads = beside.payloads.iter().map(|payload| payload.bytes.len());
    payloads.chain(beside.blobs.iter().map(|blob| blob.bytes.len())).sum()
}

/// The same failure for each of those who shared an append. What cannot be told again may have happened.
fn shared(error: &EngineError) -> EngineError {
    let EngineError::Append(error) = error else { return AppendError::Unknown.into() };
    let again = match error {
        AppendError::Busy { retry_after } => AppendError::Busy { retry_after: *retry_after },
        AppendError::ClockSkew { resign } => AppendError::ClockSkew { resign: *resign },
        AppendError::ClockBehind { now, newest } => AppendError::ClockBehind { now: *now, newest: *newest },
        AppendError::DiskFull => AppendError::DiskFull,
        AppendError::Malformed(what) => AppendError::Malformed(what),
        AppendError::Refusing(why) => AppendError::Refusing(why.clone()),
        _ => AppendError::Unknown,
    };
    again.into()
}

fn evaluation_draft(who: &Principal, one: &Decided, salt: &Salt, beside: &mut Beside) -> Draft {
    let (reference, _) = beside.add(one.answered.evidence(salt, &one.evidence));
    let evaluation = Evaluation {
        subject: one.subject,
        operation: one.operation.clone(),
        question: Some(payload::salted(payload::QUESTION, salt, &one.evidence)),
        calls: 1,
        over_quota: false,
    };
    draft_of(who, evaluation, &one.answered.asked(Some(reference)))
}
