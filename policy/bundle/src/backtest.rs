//! A backtest: what a candidate would have said to the questions that were really asked.
//!
//! A fold over stored questions, one at a time, each with the blobs that its verdict was computed from. Nothing is
//! guessed: a question whose facts were erased, whose tool has another definition, or that lacks a counter which the
//! candidate reads, is counted as not computable, with the reason. Parts of a log may be folded on their own and merged,
//! with the same result. Absent: where questions are stored, threads (the caller's), what a difference means in words
//! (`diff`). Read next: `backtest::report`, then `backtest::html`.

mod html;
mod report;

use std::collections::HashMap;
use std::sync::Arc;

use countersign_gateway_model::{Digest, Name, OrgId, Verdict};
use countersign_policy_decide::{
    Answer, EntityVersion, PolicySnapshot, Question, QuestionError, Slice, combine, decide_chain, ground,
};
use serde::Deserialize;
use serde_json::value::RawValue;

pub use report::{BacktestReport, Counts, Example, Group, Limits, NotComputable, Said, Shift};

use crate::finding::words;

/// How many entity versions one generation of the cache holds; there are two.
const MAX_CACHED: usize = 100_000;

/// One verdict of the past, and what it was computed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredQuestion {
    /// The entry that it stands in.
    pub index: u64,
    /// The canonical questions: of the acting principal, then of each on whose behalf it acted.
    pub questions: Vec<Vec<u8>>,
    /// The entity versions that the slices held.
    pub entities: Vec<Digest>,
    /// What was said.
    pub verdict: Verdict,
    /// What determined it.
    pub determining: Vec<Name>,
}

#[derive(Deserialize)]
struct Payload<'a> {
    entities: Vec<Digest>,
    #[serde(borrow)]
    questions: Vec<&'a RawValue>,
}

impl StoredQuestion {
    /// From the content of an entry's question payload, and the verdict of that entry.
    pub fn from_payload(
        index: u64,
        content: &[u8],
        verdict: Verdict,
        determining: Vec<Name>,
    ) -> Result<Self, serde_json::Error> {
        let Payload { entities, questions } = serde_json::from_slice(content)?;
        let questions = questions.into_iter().map(|question| question.get().as_bytes().to_vec()).collect();
        Ok(Self { index, questions, entities, verdict, determining })
    }
}

/// Where questions of the past come from: a log, an evidence pack, a part of either.
pub trait StoredQuestions {
    /// Why it cannot go on.
    type Error;

    /// The next one in the order of the log; none at the end.
    fn next(&mut self) -> Result<Option<StoredQuestion>, Self::Error>;

    /// The bytes of an entity version; none if they were erased.
    fn entity(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, Self::Error>;
}

/// Folds a whole source. `progress` is told how many questions are done, after each.
pub fn backtest<S: StoredQuestions>(
    candidate: &Arc<PolicySnapshot>,
    source: &mut S,
    limits: Limits,
    progress: &mut dyn FnMut(u64),
) -> Result<BacktestReport, S::Error> {
    let mut backtest = Backtest::new(Arc::clone(candidate), limits);
    while let Some(stored) = source.next()? {
        backtest.ask(&stored, |digest| source.entity(digest))?;
        progress(backtest.report.asked);
    }
    Ok(backtest.finish())
}

/// The fold itself, for a caller that has questions at hand one by one.
#[derive(Debug)]
pub struct Backtest {
    candidate: Arc<PolicySnapshot>,
    versions: Versions,
    report: BacktestReport,
}

impl Backtest {
    /// Begins.
    pub fn new(candidate: Arc<PolicySnapshot>, limits: Limits) -> Self {
        let report = BacktestReport::new(candidate.digests().bundle, limits);
        Self { versions: Versions::new(candidate.org()), candidate, report }
    }

    /// Asks the candidate one question of the past. `entity` gives the bytes of an entity version that was not met yet.
    pub fn ask<E>(
        &mut self,
        stored: &StoredQuestion,
        entity: impl FnMut(&Digest) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), E> {
        let versions = match self.versions.of(&stored.entities, entity)? {
            Ok(versions) => versions,
            Err(why) => {
                self.report.not_computable(stored, &why);
                return Ok(());
            }
        };
        match self.answers(stored, &versions) {
            Ok((answers, first)) => {
                let (verdict, determining) = combine(&answers);
                let mut by: Vec<Name> = determining.into_iter().flatten().collect();
                by.sort();
                by.dedup();
                let reasons = answers.iter().flat_map(|a| &a.reasons).filter(|r| !r.text.is_empty());
                let reasons = reasons.map(|r| r.text.clone()).collect();
                self.report.note(
                    stored,
                    &first,
                    &Said { decision: verdict.decision, rules: verdict.rules, by },
                    reasons,
                );
            }
            Err(why) => self.report.not_computable(stored, &why),
        }
        Ok(())
    }

    /// What came out.
    pub fn finish(self) -> BacktestReport {
        self.report
    }

    /// What the candidate says to a whole chain, its transforms applied, and the first of the questions.
    fn answers(
        &self,
        stored: &StoredQuestion,
        versions: &[Arc<EntityVersion>],
    ) -> Result<(Vec<Answer>, Question), NotComputable> {
        let questions = stored.questions.iter().map(|bytes| self.question(bytes)).collect::<Result<Vec<_>, _>>()?;
        let slices: Vec<Slice> =
            questions.iter().map(|question| Slice::from_versions(&self.candidate, question, versions)).collect();
        let Some(first) = questions.first().cloned() else {
            return Err(NotComputable::Unreadable { why: "it holds no question".to_owned() });
        };
        let transformed = questions.iter().filter_map(|q| q.input.as_ref()).any(|input| !input.applied().is_empty());
        let answers = decide_chain(&self.candidate, &slices, questions).answers;
        let again = |ids: &[Name]| ids.iter().any(|id| id.as_str() == ground::TRANSFORM_AGAIN);
        // The input before its transforms is not kept, so what the candidate would have made of it is not known.
        if transformed && !again(&stored.determining) && answers.iter().any(|answer| again(&answer.determining)) {
            return Err(NotComputable::Transformed);
        }
        let invalid = |ids: &[Name]| ids.iter().any(|id| id.as_str() == ground::INVALID);
        match answers.iter().find(|answer| invalid(&answer.determining)) {
            Some(answer) if !invalid(&stored.determining) => {
                let why = answer.reasons.first().map(|reason| reason.text.clone()).unwrap_or_default();
                Err(NotComputable::Unreadable { why })
            }
            _ => Ok((answers, first)),
        }
    }

    fn question(&self, bytes: &[u8]) -> Result<Question, NotComputable> {
        let question = Question::parse(bytes, &self.candidate).map_err(|error| match error {
            QuestionError::ToolVersion { tool } | QuestionError::Input { tool, .. } => {
                NotComputable::AnotherTool { tool }
            }
            QuestionError::Shape(at) if at == "input" => {
                NotComputable::UnknownTool { tool: tool_of(bytes).unwrap_or_default() }
            }
            other => NotComputable::Unreadable { why: words(&other) },
        })?;
        match self.candidate.counters().keys().find(|counter| !question.counters.contains_key(*counter)) {
            Some(counter) => Err(NotComputable::NoCounter { counter: counter.clone() }),
            None => Ok(question),
        }
    }
}

/// The tool of a stored question, where it is one.
fn tool_of(question: &[u8]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(question).ok()?;
    Some(json.get("resource")?.as_str()?.strip_prefix("Tool::")?.to_owned())
}

/// Entity versions by digest, made once for as long as they are used: the same few stand in thousands of questions.
#[derive(Debug)]
struct Versions {
    org: OrgId,
    young: HashMap<Digest, Option<Arc<EntityVersion>>>,
    /// Half of the cache: what was not used while the other half filled is let go.
    old: HashMap<Digest, Option<Arc<EntityVersion>>>,
}

impl Versions {
    fn new(org: OrgId) -> Self {
        Self { org, young: HashMap::new(), old: HashMap::new() }
    }

    /// The versions of these digests, or why one of them is not there.
    fn of<E>(
        &mut self,
        digests: &[Digest],
        mut read: impl FnMut(&Digest) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Result<Vec<Arc<EntityVersion>>, NotComputable>, E> {
        let mut found = Vec::with_capacity(digests.len());
        for digest in digests {
            let version = match (self.young.get(digest), self.old.remove(digest)) {
                (Some(known), _) => known.clone(),
                (None, Some(known)) => self.keep(*digest, known),
                (None, None) => match read(digest)?.map(|blob| self.parse(digest, &blob)) {
                    // What was erased once is not asked for again.
                    None => self.keep(*digest, None),
                    Some(Ok(version)) => self.keep(*digest, Some(version)),
                    Some(Err(why)) => return Ok(Err(NotComputable::Unreadable { why })),
                },
            };
            match version {
                Some(version) => found.push(version),
                None => return Ok(Err(NotComputable::Erased)),
            }
        }
        Ok(Ok(found))
    }

    fn parse(&self, digest: &Digest, blob: &[u8]) -> Result<Arc<EntityVersion>, String> {
        let version = EntityVersion::from_blob(self.org, blob).map_err(|error| words(&error))?;
        if version.digest() == *digest { Ok(version) } else { Err(format!("entity version `{digest}` is damaged")) }
    }

    fn keep(&mut self, digest: Digest, version: Option<Arc<EntityVersion>>) -> Option<Arc<EntityVersion>> {
        if self.young.len() >= MAX_CACHED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, version.clone());
        version
    }
}

#[cfg(test)]
mod tests;
