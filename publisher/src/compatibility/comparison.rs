//! The comparison of two bundles' schemas, place by place.
//!
//! Places wait in a queue, and each pair of schemas is compared once: so cycles of references end, and no depth of a
//! hostile schema is followed by recursion. Only alternatives are tried in depth, and that depth is bounded.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::rc::Rc;

use serde_json::{Value, json};

use super::conjunction::{Conjunction, ValueSet, all_types, allows, type_of};
use super::constraints::tightened;
use super::{BreakingChange, Change};
use crate::contracts_document::SchemaText;
use crate::contracts_document::schema_index::{SchemaIndex, SchemaNode};
use crate::contracts_document::subschemas::{Place, Step};

/// Most pairs of schemas that are compared.
const PAIRS: usize = 1_000_000;
/// Most changes that are reported.
const CHANGES: usize = 10_000;
/// Most characters of a change's path.
const PATH_CHARACTERS: usize = 1_000;
/// How deep alternatives inside alternatives are tried.
const ATTEMPTS_DEEP: usize = 8;
/// Alternatives that one is tried against.
const ALTERNATIVES: usize = 200;
/// Positions of a list that are compared one by one.
const POSITIONS: usize = 1_000;

type Schemas = BTreeMap<String, SchemaText>;
type Pair = (Vec<*const Value>, Vec<*const Value>);

/// Every breaking change of the schemas that both bundles have.
pub(super) fn compare(base: &Schemas, new: &Schemas) -> Vec<BreakingChange> {
    let (base_index, new_index) = (SchemaIndex::new(base), SchemaIndex::new(new));
    let mut comparison = Comparison {
        base: &base_index,
        new: &new_index,
        compared: HashSet::new(),
        journal: Vec::new(),
        pairs: 0,
        exhausted: false,
    };
    let mut queue = VecDeque::new();
    let mut definitions = VecDeque::new();
    for name in base.keys() {
        let (Some(from), Some(to)) = (base_index.root(name), new_index.root(name)) else { continue };
        let place = |place| Position { schema: name, place };
        queue.push_back((place(Place::default()), vec![from], vec![to]));
        // Definitions are compared where they stand, before references lead to them from elsewhere.
        for keyword in ["$defs", "definitions"] {
            let by_name = from.value.get(keyword).and_then(Value::as_object);
            for (definition, from_value) in by_name.into_iter().flatten() {
                if let Some(to_value) = to.value.get(keyword).and_then(|definitions| definitions.get(definition)) {
                    let (from, to) = (base_index.child(from, from_value), new_index.child(to, to_value));
                    definitions.push_back((place(Place::default().key(keyword).key(definition)), vec![from], vec![to]));
                }
            }
        }
    }
    queue.append(&mut definitions);
    let mut changes = comparison.run(queue, 0);
    if changes.len() > CHANGES || comparison.exhausted {
        changes.truncate(CHANGES);
        let schema = base.keys().next().cloned().unwrap_or_default();
        changes.push(change(&Position { schema: &schema, place: Place::default() }, Change::NotCompared));
    }
    changes
}

/// Where in which schema.
#[derive(Clone)]
struct Position<'a> {
    schema: &'a str,
    place: Place<'a>,
}

impl<'a> Position<'a> {
    fn key(&self, key: &'a str) -> Self {
        Self { schema: self.schema, place: self.place.key(key) }
    }

    fn index(&self, index: usize) -> Self {
        Self { schema: self.schema, place: self.place.then(Step::Index(index)) }
    }
}

fn change(position: &Position<'_>, change: Change) -> BreakingChange {
    let path: String = position.place.to_string().chars().take(PATH_CHARACTERS).collect();
    BreakingChange { schema: position.schema.to_owned(), path, change, from: Value::Null, to: Value::Null }
}

fn change_of(position: &Position<'_>, kind: Change, from: Value, to: Value) -> BreakingChange {
    BreakingChange { from, to, ..change(position, kind) }
}

type Waiting<'a> = VecDeque<(Position<'a>, Vec<SchemaNode<'a>>, Vec<SchemaNode<'a>>)>;

struct Comparison<'a> {
    base: &'a SchemaIndex<'a>,
    new: &'a SchemaIndex<'a>,
    compared: HashSet<Rc<Pair>>,
    /// The same in order, to take back what an attempt has added.
    journal: Vec<Rc<Pair>>,
    pairs: usize,
    exhausted: bool,
}

impl<'a> Comparison<'a> {
    /// Compares everything that waits, and what comes up on the way.
    fn run(&mut self, mut queue: Waiting<'a>, depth: usize) -> Vec<BreakingChange> {
        let mut changes = Vec::new();
        while let Some((position, from, to)) = queue.pop_front() {
            let (from, to) = (Conjunction::new(self.base, from), Conjunction::new(self.new, to));
            let pair = Rc::new((from.key(), to.key()));
            if !self.compared.insert(Rc::clone(&pair)) {
                continue;
            }
            self.journal.push(pair);
            self.pairs += 1;
            if self.pairs > PAIRS || changes.len() > CHANGES {
                self.exhausted = true;
                break;
            }
            if from.too_many || to.too_many {
                changes.push(change(&position, Change::NotCompared));
            }
            self.compare(&position, &from, &to, &mut queue, &mut changes, depth);
        }
        changes
    }

    fn compare(
        &mut self,
        position: &Position<'a>,
        from: &Conjunction<'a>,
        to: &Conjunction<'a>,
        queue: &mut Waiting<'a>,
        changes: &mut Vec<BreakingChange>,
        depth: usize,
    ) {
        if from.impossible {
            return;
        }
        if to.impossible {
            changes.push(change(position, Change::NothingAllowed));
            return;
        }
        types(position, from, to, changes);
        values(position, from, to, changes);
        for tightened in tightened(from, to) {
            let position = position.key(tightened.keyword);
            changes.push(change_of(&position, Change::ConstraintTightened, tightened.from, tightened.to));
        }
        conditions(position, from, to, changes);
        self.properties(position, from, to, queue, changes);
        self.items(position, from, to, queue);
        for keyword in ["propertyNames", "contains", "unevaluatedItems", "contentSchema"] {
            let to = to.children(self.new, keyword);
            if !to.is_empty() {
                queue.push_back((position.key(keyword), from.children(self.base, keyword), to));
            }
        }
        for keyword in ["anyOf", "oneOf"] {
            self.alternatives(&position.key(keyword), keyword, from, to, changes, depth);
        }
    }

    fn properties(
        &self,
        position: &Position<'a>,
        from: &Conjunction<'a>,
        to: &Conjunction<'a>,
        queue: &mut Waiting<'a>,
        changes: &mut Vec<BreakingChange>,
    ) {
        for keyword in ["properties", "patternProperties"] {
            let position = position.key(keyword);
            let mut remaining = to.children_by_name(self.new, keyword);
            for (name, from) in from.children_by_name(self.base, keyword) {
                let position = position.key(name);
                match remaining.remove(name) {
                    Some(to) => queue.push_back((position, from, to)),
                    // What was forbidden is not missed.
                    None if from.iter().any(|node| node.value == &Value::Bool(false)) => {}
                    None => changes.push(change(&position, Change::PropertyRemoved)),
                }
            }
        }
        for keyword in ["dependentSchemas", "dependencies"] {
            let mut known = from.children_by_name(self.base, keyword);
            for (name, to) in to.children_by_name(self.new, keyword) {
                queue.push_back((position.key(keyword).key(name), known.remove(name).unwrap_or_default(), to));
            }
        }
        for keyword in ["additionalProperties", "unevaluatedProperties"] {
            let (from, to) = (from.children(self.base, keyword), to.children(self.new, keyword));
            let closed = |nodes: &[SchemaNode<'_>]| nodes.iter().any(|node| node.value == &Value::Bool(false));
            let position = position.key(keyword);
            if closed(&to) && !closed(&from) {
                changes.push(change(&position, Change::AdditionalPropertiesClosed));
            } else if !to.is_empty() {
                queue.push_back((position, from, to));
            }
        }
        for name in to.required().difference(&from.required()) {
            changes.push(change_of(&position.key("required"), Change::PropertyRequired, Value::Null, json!(name)));
        }
        for keyword in ["dependentRequired", "dependencies"] {
            let known = required_with(from, keyword);
            for (name, needed) in required_with(to, keyword) {
                for needed in needed.iter().filter(|needed| !known.get(name).is_some_and(|old| old.contains(*needed))) {
                    let position = position.key(keyword).key(name);
                    changes.push(change_of(&position, Change::PropertyRequired, Value::Null, json!(needed)));
                }
            }
        }
    }

    fn items(&self, position: &Position<'a>, from: &Conjunction<'a>, to: &Conjunction<'a>, queue: &mut Waiting<'a>) {
        let positions = from.positions().max(to.positions()).min(POSITIONS);
        // As the older dialects write it, or as the newer ones do.
        let older = positions > 0 && to.values("prefixItems").next().is_none();
        let (each, rest) = if older { ("items", "additionalItems") } else { ("prefixItems", "items") };
        for index in 0..=positions {
            let schemas = to.items(self.new, index);
            if !schemas.is_empty() {
                let at = if index < positions { position.key(each).index(index) } else { position.key(rest) };
                queue.push_back((at, from.items(self.base, index), schemas));
            }
        }
    }

    /// Each old alternative, and where there was no choice what was there, must be let through by a new one.
    fn alternatives(
        &mut self,
        position: &Position<'a>,
        keyword: &str,
        from: &Conjunction<'a>,
        to: &Conjunction<'a>,
        changes: &mut Vec<BreakingChange>,
        depth: usize,
    ) {
        let mut known = from.groups(self.base, keyword).into_iter();
        for new in to.groups(self.new, keyword) {
            let Some(old) = known.next() else {
                let whole = from.nodes();
                if !new
                    .iter()
                    .take(ALTERNATIVES)
                    .any(|alternative| self.lets_through(position, &whole, *alternative, depth))
                {
                    let to = json!(format!("{} alternatives", new.len()));
                    changes.push(change_of(position, Change::ConstraintTightened, Value::Null, to));
                }
                continue;
            };
            let by_text: HashMap<String, usize> =
                new.iter().enumerate().map(|(index, node)| (node.value.to_string(), index)).collect();
            for (index, alternative) in old.into_iter().enumerate() {
                if self.exhausted {
                    return;
                }
                let same_place = new.get(index).copied();
                // The likely ones first: the same text, then the same place.
                let same_text = by_text.get(&alternative.value.to_string()).map(|index| new[*index]);
                let likely = same_text.into_iter().chain(same_place);
                let mut candidates = likely.chain(new.iter().copied()).take(ALTERNATIVES);
                if candidates.any(|candidate| self.lets_through(position, &[alternative], candidate, depth)) {
                    continue;
                }
                let position = position.index(index);
                let details = match same_place {
                    Some(candidate) if depth < ATTEMPTS_DEEP => {
                        self.attempt(&position, &[alternative], candidate, depth)
                    }
                    Some(_) | None => Vec::new(),
                };
                if details.is_empty() {
                    changes.push(change(&position, Change::AlternativeRemoved));
                } else {
                    changes.extend(details);
                }
            }
        }
    }

    /// Whether everything that the old schemas allow is allowed by a new one, as far as can be told.
    fn lets_through(
        &mut self,
        position: &Position<'a>,
        from: &[SchemaNode<'a>],
        to: SchemaNode<'a>,
        depth: usize,
    ) -> bool {
        if depth >= ATTEMPTS_DEEP || self.exhausted {
            return matches!(from, [single] if single.value == to.value);
        }
        let before = self.journal.len();
        let changes = self.attempt(position, from, to, depth);
        if !changes.is_empty() {
            // What was found out on the way holds only for this attempt.
            for pair in self.journal.drain(before..) {
                self.compared.remove(&pair);
            }
        }
        changes.is_empty()
    }

    fn attempt(
        &mut self,
        position: &Position<'a>,
        from: &[SchemaNode<'a>],
        to: SchemaNode<'a>,
        depth: usize,
    ) -> Vec<BreakingChange> {
        let queue = VecDeque::from([(position.clone(), from.to_vec(), vec![to])]);
        self.run(queue, depth + 1)
    }
}

fn types<'a>(position: &Position<'a>, from: &Conjunction<'a>, to: &Conjunction<'a>, changes: &mut Vec<BreakingChange>) {
    let Some(allowed) = to.types() else { return };
    let known = from.types();
    let possible: BTreeSet<&str> = match from.listed() {
        // Only what was listed could come.
        Some(listed) => {
            let types = listed.into_iter().map(type_of);
            types.filter(|name| known.as_ref().is_none_or(|known| allows(known, name))).collect()
        }
        None => known.clone().unwrap_or_else(all_types),
    };
    if possible.iter().any(|name| !allows(&allowed, name)) {
        let shown = |types: BTreeSet<&str>| match types.iter().next() {
            Some(single) if types.len() == 1 => json!(single),
            Some(_) | None => json!(types),
        };
        let from = known.map_or(Value::Null, shown);
        changes.push(change_of(&position.key("type"), Change::TypeNarrowed, from, shown(allowed)));
    }
}

fn values(position: &Position<'_>, from: &Conjunction<'_>, to: &Conjunction<'_>, changes: &mut Vec<BreakingChange>) {
    let Some(allowed) = to.listed() else { return };
    let keyword = if to.values("enum").next().is_some() { "enum" } else { "const" };
    let position = position.key(keyword);
    match from.listed() {
        None => changes.push(change_of(&position, Change::ValuesRestricted, Value::Null, json!(allowed))),
        Some(known) => {
            let allowed = ValueSet::new(&allowed);
            let removed = known.into_iter().filter(|value| !allowed.contains(value));
            let removed = removed.map(|value| change_of(&position, Change::ValueRemoved, value.clone(), Value::Null));
            changes.extend(removed);
        }
    }
}

/// `not` and `if`: what they let through cannot be compared, so any new one counts.
fn conditions(
    position: &Position<'_>,
    from: &Conjunction<'_>,
    to: &Conjunction<'_>,
    changes: &mut Vec<BreakingChange>,
) {
    for (keyword, whole) in [("not", &["not"][..]), ("if", &["if", "then", "else"])] {
        let known: Vec<_> = from.values(keyword).map(|(node, _)| node.value).collect();
        let is_known = |new: &Value| known.iter().any(|old| whole.iter().all(|part| old.get(part) == new.get(part)));
        if to.values(keyword).any(|(node, _)| !is_known(node.value)) {
            changes.push(change(&position.key(keyword), Change::ConditionChanged));
        }
    }
}

/// The properties that others bring with them.
fn required_with<'a>(side: &Conjunction<'a>, keyword: &str) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let mut required: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, value) in side.values(keyword).filter_map(|(_, value)| value.as_object()).flatten() {
        let needed = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        required.entry(name).or_default().extend(needed);
    }
    required
}
