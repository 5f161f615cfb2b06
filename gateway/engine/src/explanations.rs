//! Why policy said what it said: for a verdict on record, and for a question that nobody has asked yet.
//!
//! Whoever asks needs `queryPolicy`, and `readVerdict` for what is on record. Agents get neither: what stands in the way
//! of one would teach it how to get round. Nothing is committed. Read next: `replay`, and `explain` of policy/decide.

use std::sync::Arc;

use countersign_gateway_model::{Decision, InstanceId, Name, Principal, PrincipalKind, Scope, Verdict};
use countersign_ledger_entry::body::Created;
use countersign_policy_decide::detectors::Found;
use countersign_policy_decide::json::Json;
use countersign_policy_decide::{
    EntityKind, EntityRef, EntityVersion, Explained, Explanation, Operation, Question, Slice, WouldBe, decide_chain,
    explain, scope_name,
};

use crate::asking::StoredEvidence;
use crate::error::EngineError;
use crate::org::Org;
use crate::permits::in_shadow;
use crate::stream::{Held, four_eyes};
use crate::{Engine, Snapshot};

/// Most what-if questions of one call.
pub const MAX_SUPPOSED: usize = 100;

/// One question with what every policy that fits it came to.
#[derive(Clone, Debug)]
pub struct QuestionExplained {
    /// Whom it is asked about: `Agent::fixer`.
    pub asked: String,
    /// What is asked.
    pub operation: &'static str,
    /// What it is done to.
    pub resource: String,
    /// What policy says.
    pub verdict: Verdict,
    /// The policies that determine it.
    pub determining: Vec<Name>,
    /// What policy would say with the policies in shadow in force, where one of them holds or errs. Never the answer.
    pub would_be: Option<WouldBe>,
    /// Forbids that hold first, then permits, the nearest to holding first.
    pub policies: Vec<Explained>,
    /// What detectors found in the input.
    pub found: Vec<Found>,
    /// Whether it is held to: a no that is not firm stops nothing where the workflow is in shadow, and a yes there permits
    /// what policy does not stand behind.
    pub enforced: bool,
    /// All of it in words.
    pub text: String,
}

impl Engine {
    /// Explains the verdict of an entry, from its stored inputs and the policy that was in force.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] for an entry without a verdict of its own, and where its inputs were erased.
    pub async fn explain(&self, who: &Principal, index: u64) -> Result<Vec<QuestionExplained>, EngineError> {
        let org = self.org(who.org)?;
        self.may_audit(&org, who, "entry")?;
        self.may_query(&org, who)?;
        let Some(behind) = self.behind(&org, index).await? else { return Err(EngineError::NotFound("verdict")) };
        let mut out = Vec::new();
        for content in &behind.evidence {
            let content = content.as_deref().ok_or(EngineError::NotFound("question: it was erased"))?;
            let stored = StoredEvidence::read(content).map_err(EngineError::damaged)?;
            let mut blobs = Vec::with_capacity(stored.entities.len());
            for digest in &stored.entities {
                let blob = org.log.blob(digest).await.map_err(EngineError::ledger)?;
                blobs.push(blob.ok_or(EngineError::NotFound("question: it was erased"))?);
            }
            let versions = blobs.iter().map(|blob| EntityVersion::from_blob(org.id, blob));
            let versions = versions.collect::<Result<Vec<_>, _>>().map_err(EngineError::damaged)?;
            for question in &stored.questions {
                let question = Question::parse(question.get().as_bytes(), &behind.snapshot);
                let question = question.map_err(EngineError::damaged)?;
                let slice = Slice::from_versions(&behind.snapshot, &question, &versions);
                let created = self.created_behind(&org, &question).await?;
                let shadow = is_in_shadow(&behind.snapshot, &question, created.as_ref());
                out.push(told_in_words(explain(&behind.snapshot, &slice, &question), &question, shadow));
            }
        }
        Ok(out)
    }

    /// Explains what policy would say now to a question, written as in a bundle's tests: what it would say to a proposal.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] if it is no question.
    pub async fn what_if(&self, who: &Principal, question: &[u8]) -> Result<QuestionExplained, EngineError> {
        let org = self.org(who.org)?;
        self.may_query(&org, who)?;
        self.supposed(&org, question).await
    }

    /// The same for many questions, each answered by itself.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] if there are none, or more than [`MAX_SUPPOSED`].
    pub async fn what_if_each(
        &self,
        who: &Principal,
        questions: &[&[u8]],
    ) -> Result<Vec<Result<QuestionExplained, EngineError>>, EngineError> {
        let org = self.org(who.org)?;
        self.may_query(&org, who)?;
        if !(1..=MAX_SUPPOSED).contains(&questions.len()) {
            return Err(EngineError::invalid("questions", format!("give 1 to {MAX_SUPPOSED}")));
        }
        let mut answers = Vec::with_capacity(questions.len());
        for question in questions {
            answers.push(self.supposed(&org, question).await);
        }
        Ok(answers)
    }

    async fn supposed(&self, org: &Arc<Org>, question: &[u8]) -> Result<QuestionExplained, EngineError> {
        let snapshot = self.counted_snapshot(org).await?;
        let invalid = |error: &dyn std::error::Error| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            EngineError::invalid("question", format!("{error}{cause}"))
        };
        let json = Json::parse(question).map_err(|error| invalid(&error))?;
        let json = without_unknown_input(json, &snapshot);
        let mut question = Question::proposed(&json, &snapshot).map_err(|error| invalid(&error))?;
        if question.org != org.id {
            return Err(EngineError::NotFound("organization"));
        }
        if let Some(tool) = snapshot.tool(question.resource.id.as_str()).filter(|_| question.is_tool()) {
            let asked = if tool.tool.runner.is_some() { Operation::Dispatch } else { Operation::CallTool };
            if question.operation != asked {
                let problem = format!("`{}` of this tool is never asked: ask `{asked}`", question.operation);
                return Err(EngineError::invalid("question", problem));
            }
        }
        // What policy is told of an instance and its gate lasts as long as they are in memory. Held until it has answered.
        let held = self.told(org, &mut question, &json).await?;
        let created = held.as_ref().and_then(|held| held.fold().ok()).map(|fold| fold.created().clone());
        self.usual(org, &mut question, &json);
        for (counter, value) in org.counting.reading(&snapshot, question.now, None).counters() {
            question.counters.entry(counter).or_insert(value);
        }
        let slices = org.entities.slices(&snapshot, std::slice::from_ref(&question));
        let mut decided = decide_chain(&snapshot, &slices, vec![question]);
        let question = decided.questions.pop().ok_or_else(|| EngineError::damaged("a question without an answer"))?;
        let shadow = is_in_shadow(&snapshot, &question, created.as_ref());
        let slice = org.entities.slice(&snapshot, &question);
        let mut explanation = explain(&snapshot, &slice, &question);
        if let Some(answer) = decided.answers.pop() {
            explanation.answer = answer;
        }
        drop(held);
        Ok(told_in_words(explanation, &question, shadow))
    }

    /// What the instance of a question on record was made with.
    async fn created_behind(&self, org: &Arc<Org>, question: &Question) -> Result<Option<Created>, EngineError> {
        let Some(id) = instance_of(org, question) else { return Ok(None) };
        match self.hold(org, id).await {
            Ok(held) => Ok(Some(held.fold()?.created().clone())),
            Err(EngineError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the instance that a question names known to policy, with its open gate, and takes from it what a proposal
    /// takes from it.
    async fn told(&self, org: &Org, question: &mut Question, json: &Json) -> Result<Option<Held>, EngineError> {
        let Some(id) = instance_of(org, question) else { return Ok(None) };
        let held = match self.hold(org, id).await {
            Ok(held) => held,
            // Policy says so itself, of what it is not told of.
            Err(EngineError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let fold = held.fold()?;
        if let Some(gate) = fold.gate() {
            self.describe_gate_now(org, &held, gate.gate)?;
        }
        if question.is_tool() && json.get("denials").is_none() {
            question.denials = u64::from(fold.denials());
        }
        Ok(Some(held))
    }

    /// Fills in what a proposal gets from its credential and from the organization, where the question is silent.
    fn usual(&self, org: &Org, question: &mut Question, json: &Json) {
        let person = question.asked.kind == EntityKind::Person;
        if json.get("now").is_none() {
            question.now = self.now();
        }
        if json.get("scopes").is_none() {
            question.scopes.insert(scope_name(Scope::Act));
            if person && question.operation.decides() {
                question.scopes.insert(scope_name(Scope::Decide));
            }
        }
        if json.get("assurance").is_none() && person {
            question.assurance = org.assurance_of(&question.asked.id);
        }
        if json.get("four_eyes").is_none() {
            question.four_eyes = four_eyes(org);
        }
    }

    pub(crate) fn may_query(&self, org: &Org, who: &Principal) -> Result<(), EngineError> {
        if who.kind == PrincipalKind::Agent || !who.on_behalf_of.is_empty() {
            return Err(EngineError::NotFound("explanation"));
        }
        self.may_read(org, who, Operation::QueryPolicy, EntityRef::organization(org.id), "explanation")
    }
}

/// An input for a tool that is not listed is typed by nothing: policy is asked without it, as of a proposal.
fn without_unknown_input(json: Json, snapshot: &Snapshot) -> Json {
    let text = |key: &str| json.get(key).and_then(Json::as_text).unwrap_or_default();
    let tool = text("resource").strip_prefix("Tool::").unwrap_or_default();
    let calls = [Operation::CallTool.as_str(), Operation::Dispatch.as_str()].contains(&text("op"));
    match &json {
        Json::Object(members) if calls && snapshot.tool(tool).is_none() => {
            Json::object(members.iter().filter(|(key, _)| key != "input" && key != "tool_version").cloned())
        }
        _ => json,
    }
}

/// The instance that a question is about.
fn instance_of(org: &Org, question: &Question) -> Option<InstanceId> {
    let named = question.instance.as_ref().into_iter().chain(std::iter::once(&question.resource));
    let mut instance = named.filter(|entity| entity.kind == EntityKind::Instance && entity.org == org.id);
    instance.find_map(|entity| entity.id.as_str().parse().ok())
}

/// Whether a question is about work in a workflow that is in shadow: what is started, done and completed there. `created`
/// is what its instance was made with, where there is one.
fn is_in_shadow(snapshot: &Snapshot, question: &Question, created: Option<&Created>) -> bool {
    match question.operation {
        Operation::Start if created.is_none() => {
            let workflow = Some(&question.resource).filter(|resource| resource.kind == EntityKind::Workflow);
            workflow.is_some_and(|workflow| snapshot.workflow_in_shadow(&workflow.id, question.now))
        }
        Operation::Start | Operation::CallTool | Operation::Dispatch | Operation::Complete => {
            created.is_some_and(|created| in_shadow(snapshot, created, question.now))
        }
        _ => false,
    }
}

fn told_in_words(explanation: Explanation, question: &Question, shadow: bool) -> QuestionExplained {
    let answer = &explanation.answer;
    let firm = answer.verdict.error || answer.verdict.decision != Decision::Allow && answer.firm;
    // An evaluation is answered with what policy says: a shadow permits nothing there.
    let enforced = !shadow || firm || question.unreserved;
    let told = match (shadow, firm) {
        (false, _) => "",
        (true, true) => "\nenforced although the workflow is in shadow: this no is firm",
        (true, false) if enforced => {
            "\nan evaluation is answered with this; what is proposed is not held to it, as the workflow is in shadow"
        }
        (true, false) => "\nnot enforced: the workflow is in shadow, so this is on record and stops nothing",
    };
    QuestionExplained {
        asked: question.asked.to_string(),
        operation: question.operation.as_str(),
        resource: question.resource.to_string(),
        verdict: explanation.answer.verdict.clone(),
        determining: explanation.answer.determining.clone(),
        enforced,
        text: format!("{explanation}{told}"),
        would_be: explanation.answer.would_be,
        policies: explanation.policies,
        found: explanation.found,
    }
}
