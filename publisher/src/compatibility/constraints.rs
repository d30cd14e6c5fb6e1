//! The constraints of one place that stand for themselves: bounds, patterns, formats. Each is compared alone.

use serde_json::{Value, json};

use super::conjunction::Conjunction;

/// A constraint that leaves less room than before.
#[derive(Debug)]
pub(super) struct Tightened {
    /// The keyword.
    pub(super) keyword: &'static str,
    /// What it was; null where there was none.
    pub(super) from: Value,
    /// What it is now.
    pub(super) to: Value,
}

/// Bounds from below: more is tighter.
const LEAST: [&str; 4] = ["minLength", "minItems", "minProperties", "minContains"];
/// Bounds from above: less is tighter.
const MOST: [&str; 4] = ["maxLength", "maxItems", "maxProperties", "maxContains"];
/// Constraints of which only the old ones are known to be met.
const TEXTS: [&str; 4] = ["contentEncoding", "contentMediaType", "format", "pattern"];

/// The constraints that were added or tightened.
pub(super) fn tightened(base: &Conjunction<'_>, new: &Conjunction<'_>) -> Vec<Tightened> {
    let mut found = Vec::new();
    for keyword in LEAST {
        let (from, to) = (extreme(base, keyword, f64::max), extreme(new, keyword, f64::max));
        if to.is_some_and(|to| to > from.unwrap_or(0.0)) {
            found.push(Tightened { keyword, from: number(from), to: number(to) });
        }
    }
    for keyword in MOST {
        let (from, to) = (extreme(base, keyword, f64::min), extreme(new, keyword, f64::min));
        if to.is_some_and(|to| from.is_none_or(|from| to < from)) {
            found.push(Tightened { keyword, from: number(from), to: number(to) });
        }
    }
    for (side, keywords) in [(1.0, ["minimum", "exclusiveMinimum"]), (-1.0, ["maximum", "exclusiveMaximum"])] {
        let (from, to) = (bound(base, side, keywords), bound(new, side, keywords));
        let Some(to) = to.filter(|to| from.is_none_or(|from| to.is_tighter(from))) else { continue };
        let keyword = keywords[usize::from(to.exclusive)];
        found.push(Tightened { keyword, from: number(from.map(|from| from.value * side)), to: whole(to.value * side) });
    }
    for keyword in TEXTS {
        let texts = |side: &Conjunction<'_>| side.values(keyword).map(|(_, value)| value.clone()).collect::<Vec<_>>();
        let from = texts(base);
        if let Some(to) = texts(new).into_iter().find(|text| !from.contains(text)) {
            found.push(Tightened { keyword, from: from.into_iter().next().unwrap_or_default(), to });
        }
    }
    if is_unique(new) && !is_unique(base) {
        found.push(Tightened { keyword: "uniqueItems", from: Value::Null, to: Value::Bool(true) });
    }
    let steps =
        |side: &Conjunction<'_>| side.values("multipleOf").filter_map(|(_, value)| value.as_f64()).collect::<Vec<_>>();
    let from = steps(base);
    if let Some(to) = steps(new).into_iter().find(|to| !from.iter().any(|from| is_multiple(*from, *to))) {
        found.push(Tightened { keyword: "multipleOf", from: number(from.first().copied()), to: whole(to) });
    }
    found
}

fn is_unique(side: &Conjunction<'_>) -> bool {
    side.values("uniqueItems").any(|(_, value)| value == &Value::Bool(true))
}

/// Whether every multiple of the one is a multiple of the other.
fn is_multiple(one: f64, of: f64) -> bool {
    let times = one / of;
    times.is_finite() && (times - times.round()).abs() < 1e-9 && times.round() >= 1.0
}

/// The tightest of a keyword's values.
fn extreme(side: &Conjunction<'_>, keyword: &str, tighter: fn(f64, f64) -> f64) -> Option<f64> {
    side.values(keyword).filter_map(|(_, value)| value.as_f64()).reduce(tighter)
}

/// A bound of numbers, turned so that more is tighter.
#[derive(Debug, Clone, Copy)]
struct Bound {
    value: f64,
    exclusive: bool,
}

impl Bound {
    fn is_tighter(self, than: Self) -> bool {
        self.value > than.value || (self.value.total_cmp(&than.value).is_eq() && self.exclusive && !than.exclusive)
    }
}

/// The tightest bound. In draft 4 the exclusive keyword is a boolean beside the plain one.
fn bound(side: &Conjunction<'_>, direction: f64, [plain, exclusive]: [&str; 2]) -> Option<Bound> {
    let plain = side.values(plain).filter_map(|(node, value)| {
        let excluded = node.value.get(exclusive) == Some(&Value::Bool(true));
        Some(Bound { value: value.as_f64()? * direction, exclusive: excluded })
    });
    let exclusive = side
        .values(exclusive)
        .filter_map(|(_, value)| Some(Bound { value: value.as_f64()? * direction, exclusive: true }));
    plain.chain(exclusive).reduce(|one, other| if other.is_tighter(one) { other } else { one })
}

/// A number as it would be written: whole where it is whole.
fn number(value: Option<f64>) -> Value {
    value.map_or(Value::Null, whole)
}

fn whole(value: f64) -> Value {
    // Exactly representable: nothing is lost.
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and far from the limits of both types")]
    if value.fract() == 0.0 && value.abs() < 9e15 { json!(value as i64) } else { json!(value) }
}
