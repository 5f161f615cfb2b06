//! The smallest input that passes a tool's schema: for asking what may be done with a tool before there is an input.
//!
//! Absent: what is likely, and texts that a pattern asks for: such an input does not pass. An answer about it is one about
//! this input and no other.

use super::{Kind, Shape, Span};
use crate::json::Json;

/// Longest text and longest array that are made up.
const MOST: u64 = 1024;

/// How many values and characters are made up for one tool: arrays of arrays multiply.
const LARGE: usize = 64 << 10;

impl Shape {
    /// Required properties alone, each as small as its schema lets it be; none if even that is large.
    pub fn smallest(&self) -> Option<Json> {
        self.within(&mut { LARGE })
    }

    fn within(&self, left: &mut usize) -> Option<Json> {
        let required = self.fields.iter().filter(|(_, field)| field.required);
        let mut members = Vec::new();
        for (name, field) in required {
            *left = left.checked_sub(1 + name.len())?;
            members.push((name.clone(), if field.nullable { Json::Null } else { field.kind.within(left)? }));
        }
        Some(Json::object(members))
    }
}

impl Kind {
    fn within(&self, left: &mut usize) -> Option<Json> {
        let among = |values: &[Json]| values.iter().find(|value| self.takes(value)).cloned();
        *left = left.checked_sub(1)?;
        Some(match self {
            Self::Bool => Json::Bool(false),
            Self::Long { among: Some(values), .. } | Self::Text { among: Some(values), .. } => {
                among(values).unwrap_or(Json::Null)
            }
            Self::Long { span, .. } => Json::Number(span.nearest(1.0)),
            Self::Number { span } => Json::Number(span.nearest(0.5)),
            Self::Text { min, .. } => {
                let length = bounded(*min);
                *left = left.checked_sub(length)?;
                Json::text("a".repeat(length))
            }
            Self::Array { items, min, .. } => {
                Json::Array((0..bounded(*min)).map(|_| items.within(left)).collect::<Option<Vec<_>>>()?)
            }
            Self::Record(shape) => shape.within(left)?,
            // Anything passes, and policy sees nothing of it.
            Self::Opaque(_) => Json::Null,
        })
    }

    /// Whether a listed value is one of the type.
    fn takes(&self, value: &Json) -> bool {
        self.convert(value, "", &mut std::collections::BTreeSet::new()).is_ok()
    }
}

impl Span {
    /// A number within, nearest to zero by steps of this size.
    fn nearest(&self, step: f64) -> f64 {
        let up = [self.min, self.above.map(|above| above + step)].into_iter().flatten().fold(0.0, f64::max);
        if up > 0.0 {
            return (up / step).ceil() * step;
        }
        let down = [self.max, self.below.map(|below| below - step)].into_iter().flatten().fold(0.0, f64::min);
        (down / step).floor() * step
    }
}

fn bounded(min: Option<u64>) -> usize {
    usize::try_from(min.unwrap_or(0).min(MOST)).unwrap_or(0)
}
