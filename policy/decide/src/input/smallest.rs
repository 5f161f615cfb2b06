//! The smallest input that passes a tool's schema: for asking what may be done with a tool before there is an input.
//!
//! Absent: what is likely. An answer about it is one about this input and no other.

use super::{Kind, Shape};
use crate::json::Json;

/// Longest text and longest array that are made up.
const MOST: u64 = 1024;

impl Shape {
    /// Required properties alone, each as small as its schema lets it be.
    pub fn smallest(&self) -> Json {
        let required = self.fields.iter().filter(|(_, field)| field.required);
        Json::object(
            required
                .map(|(name, field)| (name.clone(), if field.nullable { Json::Null } else { field.kind.smallest() })),
        )
    }
}

impl Kind {
    fn smallest(&self) -> Json {
        let among = |values: &[Json]| values.iter().find(|value| self.takes(value)).cloned();
        let within = |min: &Option<f64>, max: &Option<f64>| match (min, max) {
            (Some(min), _) if *min > 0.0 => *min,
            (_, Some(max)) if *max < 0.0 => *max,
            _ => 0.0,
        };
        match self {
            Self::Bool => Json::Bool(false),
            Self::Long { among: Some(values), .. } | Self::Text { among: Some(values), .. } => {
                among(values).unwrap_or(Json::Null)
            }
            Self::Long { min, max, .. } => {
                let least = within(min, max);
                Json::Number(if least > 0.0 { least.ceil() } else { least.floor() })
            }
            Self::Number { min, max } => Json::Number(within(min, max)),
            Self::Text { min, .. } => Json::text("a".repeat(bounded(*min))),
            Self::Array { items, min, .. } => Json::Array(vec![items.smallest(); bounded(*min)]),
            Self::Record(shape) => shape.smallest(),
            // Anything passes, and policy sees nothing of it.
            Self::Opaque(_) => Json::Null,
        }
    }

    /// Whether a listed value is one of the type.
    fn takes(&self, value: &Json) -> bool {
        self.convert(value, "", &mut std::collections::BTreeSet::new()).is_ok()
    }
}

fn bounded(min: Option<u64>) -> usize {
    usize::try_from(min.unwrap_or(0).min(MOST)).unwrap_or(0)
}
