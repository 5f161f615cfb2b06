//! Masks and transforms: what of an input neither policy nor approver nor tool may see raw, as typed data.
//!
//! ```json
//! {"masks": {"card": {"steps": [{"tools": ["payments.*"], "at": ["/card/number"], "with": "last4"}]}},
//!  "transforms": {"shorten-body": {"steps": [{"at": ["/body"], "with": {"constant": ""}}]}}}
//! ```
//!
//! A mask is always applied, while the input is read: nothing behind the reader ever has the raw value. A transform is
//! applied when a policy asks for it by `@transform`. Applying either a second time changes nothing. What is left still
//! passes the tool's schema; a replacement that does not is a failure, which drops the field and says so
//! (`mask-failed:<name>`). If the tool cannot do without the field, the question is denied, on record and without it
//! (`gateway:mask-failed`); where that can be known before, a check of the bundle refuses the mask ([`Masks::misfits`]).
//! A place must be sure: all elements of an array (`*`) and none by its number, nothing below a value that is left open.
//! Absent: when a transform is asked for (`decide`). Read next: `input`.

use std::collections::{BTreeMap, BTreeSet};

use countersign_gateway_model::Name;
use serde::{Deserialize, Serialize};

use crate::data::DataError;
use crate::json::Json;
use crate::locate::{Pointer, ToolPattern, all_tools};
use crate::shape::{InputError, Reach, Shape, Slot};

/// How many masks and transforms a bundle may have, each.
const MAX_RULES: usize = 64;
/// How long their names may be: facts are named after them.
const MAX_NAME: usize = 100;
/// A text shorter than this is starred whole: its last four characters would be most of it.
const LAST4_FROM: usize = 8;

/// `masks.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Masks {
    /// Always applied, in the order of their names.
    #[serde(default)]
    pub masks: BTreeMap<Name, Rewrite>,
    /// Applied when a policy asks, in the manifest's order.
    #[serde(default)]
    pub transforms: BTreeMap<Name, Rewrite>,
}

/// What one mask or transform does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// One line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// In this order.
    pub steps: Vec<Step>,
}

/// Some values of some tools, and what takes their place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Of which tools. Absent: of all.
    #[serde(default = "all_tools")]
    pub tools: Vec<ToolPattern>,
    /// Which values.
    pub at: Vec<Pointer>,
    /// What takes their place.
    pub with: With,
}

/// What takes the place of a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum With {
    /// Nothing: the field, or the element, is left out.
    Drop,
    /// Stars, as many as the text has characters.
    Stars,
    /// Stars and the last four characters; stars alone for a short text.
    Last4,
    /// Always the same value.
    Constant(serde_json::Value),
}

impl With {
    /// `None` where it does not fit the value.
    fn of(&self, value: &Json) -> Option<Json> {
        match (self, value) {
            (Self::Constant(constant), _) => Some(Json::from_serde(constant)),
            // Null says that there is nothing to hide.
            (Self::Stars | Self::Last4, Json::Null) => Some(Json::Null),
            (Self::Stars, Json::Text(text)) => Some(Json::text("*".repeat(text.chars().count()))),
            (Self::Last4, Json::Text(text)) => {
                let count = text.chars().count();
                let kept = if count < LAST4_FROM { 0 } else { 4 };
                let stars = std::iter::repeat_n('*', count - kept);
                Some(Json::text(stars.chain(text.chars().skip(count - kept)).collect::<String>()))
            }
            (Self::Stars | Self::Last4 | Self::Drop, _) => None,
        }
    }
}

impl With {
    /// Whether it may take the place of a value there.
    fn fits(&self, slot: &Slot<'_>) -> bool {
        match (self, slot.listed()) {
            (Self::Drop, _) => true,
            (Self::Constant(constant), _) => slot.takes(&Json::from_serde(constant)),
            (Self::Stars | Self::Last4, Some(listed)) => {
                listed.iter().all(|value| self.of(value).is_some_and(|new| slot.takes(&new)))
            }
            (Self::Stars | Self::Last4, None) => slot.may_be_text(),
        }
    }
}

impl Masks {
    /// Reads `masks.json`, strictly.
    pub fn parse(bytes: &[u8]) -> Result<Self, DataError> {
        let masks: Self = crate::data::read(bytes)?;
        for (what, rules) in [("masks", &masks.masks), ("transforms", &masks.transforms)] {
            let bad = |name: &str, member: &str, problem: &str| Err(DataError::rule(what, name, member, problem));
            if rules.len() > MAX_RULES {
                return bad("", "", "there are more than 64; put steps together");
            }
            for (name, rule) in rules {
                if name.as_str().len() > MAX_NAME {
                    return bad(name.as_str(), "", "the name is longer than 100 bytes; shorten it");
                }
                let empty = |step: &Step| step.at.is_empty() || step.tools.is_empty();
                if rule.steps.is_empty() {
                    return bad(name.as_str(), "/steps", "it has no step; remove it or write one");
                }
                if let Some(number) = rule.steps.iter().position(empty) {
                    let problem = "a step names no place, or no tools; remove it, or name one";
                    return bad(name.as_str(), &format!("/steps/{number}"), problem);
                }
                if masks.masks.contains_key(name) && masks.transforms.contains_key(name) {
                    return bad(name.as_str(), "", "a mask and a transform have this name; rename one");
                }
            }
        }
        Ok(masks)
    }

    /// Steps that could only ever refuse: what takes the place of a value fits no value there, and the tool cannot do
    /// without one of the fields that would be dropped instead. What is found only in a value (a pattern) is not seen.
    pub fn misfits<'t>(&self, tools: &(impl Iterator<Item = (&'t Name, &'t Shape)> + Clone)) -> Vec<Misfit> {
        let mut found = Vec::new();
        for (what, rules) in [("masks", &self.masks), ("transforms", &self.transforms)] {
            for (name, rule) in rules {
                for (number, step) in rule.steps.iter().enumerate() {
                    let mut meant =
                        tools.clone().filter(|(tool, _)| step.tools.iter().any(|t| t.admits(tool.as_str())));
                    found.extend(meant.find_map(|(tool, shape)| {
                        let (at, problem) = step.misfit(tool, shape)?;
                        Some(Misfit { at: pointer_to(what, name, number, at), rule: name.clone(), problem })
                    }));
                }
            }
        }
        found
    }

    /// A place where a raw value could stay: every tool it is meant for lacks it, or one of them has it where a mask
    /// cannot be sure. Gives the rule, where in `masks.json` as a JSON pointer, and what is wrong.
    pub(crate) fn misplaced<'t>(
        &self,
        tools: &(impl Iterator<Item = (&'t Name, &'t Shape)> + Clone),
    ) -> Option<(&Name, String, String)> {
        let of = |what: &'static str| move |(name, rule)| (what, name, rule);
        let all = self.masks.iter().map(of("masks")).chain(self.transforms.iter().map(of("transforms")));
        all.into_iter().find_map(|(what, name, rule): (_, &Name, &Rewrite)| {
            let places = rule.steps.iter().enumerate().flat_map(|(number, step)| {
                step.at.iter().enumerate().map(move |(at, pointer)| (number, step, at, pointer))
            });
            places.into_iter().find_map(|(number, step, at, pointer)| {
                let meant = tools.clone().filter(|(tool, _)| step.tools.iter().any(|t| t.admits(tool.as_str())));
                let (reach, tool) = meant.map(|(tool, shape)| (shape.reach(pointer.steps()), tool)).max()?;
                let problem = match reach {
                    Reach::Sure => return None,
                    Reach::Nothing => {
                        format!("no tool that it is meant for has `{pointer}`; correct the pointer or the tools")
                    }
                    Reach::OneElement => format!(
                        "`{pointer}` names one element of an array of `{tool}` by its number; name all of them by `*`"
                    ),
                    Reach::BelowOpaque => format!(
                        "`{pointer}` leads below what the schema of `{tool}` leaves open, where nothing has a certain \
                         place; name the whole value, or declare its members"
                    ),
                };
                Some((name, pointer_to(what, name, number, at), problem))
            })
        })
    }
}

/// One pointer of one step, as a JSON pointer into `masks.json`.
fn pointer_to(what: &str, name: &Name, step: usize, pointer: usize) -> String {
    format!("/{what}/{}/steps/{step}/at/{pointer}", name.as_str().replace('/', "~1"))
}

impl Step {
    /// Which of its pointers leads to a value that it can neither replace nor leave out, and why.
    fn misfit(&self, tool: &Name, shape: &Shape) -> Option<(usize, String)> {
        let sure = |pointer: &&Pointer| shape.reach(pointer.steps()) == Reach::Sure;
        // A step that fails drops all its fields.
        let needed = self.at.iter().filter(sure).find(|at| shape.slots(at.steps()).iter().any(|slot| slot.required))?;
        let (number, pointer) = self.at.iter().enumerate().find(|(_, pointer)| match self.with {
            With::Drop => *pointer == needed,
            _ => sure(pointer) && shape.slots(pointer.steps()).iter().any(|slot| !self.with.fits(slot)),
        })?;
        let problem = if self.with == With::Drop {
            format!("`{tool}` requires `{pointer}`, so that each of its calls would be refused")
        } else {
            format!(
                "`{tool}` does not take at `{pointer}` what stands there then, and requires `{needed}`, so that its calls would be refused"
            )
        };
        Some((number, problem))
    }
}

/// A step of a mask or a transform that could only ever refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The mask or transform.
    pub rule: Name,
    /// The place of the pointer in `masks.json`: a JSON pointer.
    pub at: String,
    /// What is wrong.
    pub problem: String,
}

/// The steps of all masks, or of some transforms, that concern one tool.
pub(crate) fn steps_for<'m>(tool: &str, rules: impl IntoIterator<Item = (&'m Name, &'m Rewrite)>) -> Vec<(Name, Step)> {
    let concerns = |step: &&Step| step.tools.iter().any(|pattern| pattern.admits(tool));
    rules
        .into_iter()
        .flat_map(|(name, rule)| rule.steps.iter().filter(concerns).map(|step| (name.clone(), step.clone())))
        .collect()
}

/// An input without any of the fields that masks would change, and the fact that says why: `mask-failed:<name>` alone,
/// where a field that was only dropped has `masked:<name>` too.
pub(crate) fn dropped(steps: &[(Name, Step)], failed: &str, input: &mut Json) -> BTreeSet<Name> {
    for pointer in steps.iter().flat_map(|(_, step)| &step.at) {
        pointer.replace(input, &mut |_| None);
    }
    Name::new(&format!("mask-failed:{failed}")).into_iter().collect()
}

/// The mask that failed where the tool cannot do without the field, by the facts of the input.
pub(crate) fn failed(facts: &BTreeSet<Name>) -> Option<&str> {
    let names = facts.iter().filter_map(|fact| fact.as_str().strip_prefix("mask-failed:"));
    names.into_iter().find(|name| !facts.iter().any(|fact| fact.as_str().strip_prefix("masked:") == Some(*name)))
}

/// Whether a fact is one of those that say what masks did.
pub(crate) fn is_fact(name: &Name) -> bool {
    ["masked:", "mask-failed:"].iter().any(|kind| name.as_str().starts_with(kind))
}

/// The fact that a mask or a transform took effect, or failed to.
fn fact(kind: &str, name: &Name) -> Option<Name> {
    Name::new(&format!("{kind}:{name}")).ok()
}

/// Applies steps to an input that passes the shape; what is left passes it, too. Gives the facts.
pub(crate) fn apply(steps: &[(Name, Step)], shape: &Shape, input: &mut Json) -> Result<BTreeSet<Name>, InputError> {
    let mut facts = BTreeSet::new();
    for (name, step) in steps {
        let before = input.clone();
        let (mut count, mut misfit) = (0, false);
        for pointer in &step.at {
            count += pointer.replace(input, &mut |value| {
                let new = step.with.of(value);
                misfit |= new.is_none() && step.with != With::Drop;
                new
            });
        }
        if count == 0 {
            continue;
        }
        if misfit || shape.check(input).is_err() {
            // The field goes rather than pass raw, and the record stays.
            *input = before;
            for pointer in &step.at {
                pointer.replace(input, &mut |_| None);
            }
            if shape.check(input).is_err() {
                return Err(InputError::Unmaskable { mask: name.to_string() });
            }
            if step.with != With::Drop {
                facts.extend(fact("mask-failed", name));
            }
        }
        facts.extend(fact("masked", name));
    }
    Ok(facts)
}
