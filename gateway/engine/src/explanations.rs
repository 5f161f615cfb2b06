//! Why policy said what it said: for a verdict on record, and for a question that nobody has asked yet.
//!
//! Whoever asks needs `queryPolicy`, and `readVerdict` for what is on record. Agents get neither: what stands in the way
//! of one would teach it how to get round. Nothing is committed. Read next: `replay`, and `explain` of policy/decide.

use countersign_gateway_model::{Name, Principal, PrincipalKind, Verdict};
use countersign_policy_decide::detectors::Found;
use countersign_policy_decide::json::Json;
use countersign_policy_decide::{EntityRef, EntityVersion, Explained, Operation, Question, Slice, explain};

use crate::asking::StoredEvidence;
use crate::error::EngineError;
use crate::org::Org;
use crate::{Engine, Snapshot};

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
    /// Forbids that hold first, then permits, the nearest to holding first.
    pub policies: Vec<Explained>,
    /// What detectors found in the input.
    pub found: Vec<Found>,
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
                out.push(explained(&behind.snapshot, &slice, &question));
            }
        }
        Ok(out)
    }

    /// Explains what policy would say now to a question, written as in a bundle's tests.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] if it is no question.
    pub fn what_if(&self, who: &Principal, question: &[u8]) -> Result<QuestionExplained, EngineError> {
        let org = self.org(who.org)?;
        self.may_query(&org, who)?;
        let snapshot = self.snapshot(org.id);
        let invalid = |error: &dyn std::error::Error| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            EngineError::invalid("question", format!("{error}{cause}"))
        };
        let json = Json::parse(question).map_err(|error| invalid(&error))?;
        let mut question = Question::from_json(&json, &snapshot).map_err(|error| invalid(&error))?;
        if question.org != org.id {
            return Err(EngineError::NotFound("organization"));
        }
        if json.get("now").is_none() {
            question.now = self.now();
        }
        let counters = org.counting.reading(&snapshot, question.now, None).counters();
        for (counter, value) in counters {
            question.counters.entry(counter).or_insert(value);
        }
        let slice = org.entities.slice(&snapshot, &question);
        Ok(explained(&snapshot, &slice, &question))
    }

    pub(crate) fn may_query(&self, org: &Org, who: &Principal) -> Result<(), EngineError> {
        if who.kind == PrincipalKind::Agent || !who.on_behalf_of.is_empty() {
            return Err(EngineError::NotFound("explanation"));
        }
        self.may_read(org, who, Operation::QueryPolicy, EntityRef::organization(org.id), "explanation")
    }
}

fn explained(snapshot: &Snapshot, slice: &Slice, question: &Question) -> QuestionExplained {
    let explanation = explain(snapshot, slice, question);
    QuestionExplained {
        asked: question.asked.to_string(),
        operation: question.operation.as_str(),
        resource: question.resource.to_string(),
        verdict: explanation.answer.verdict.clone(),
        determining: explanation.answer.determining.clone(),
        text: explanation.to_string(),
        policies: explanation.policies,
        found: explanation.found,
    }
}
