//! Which schema a reference means, among the schemas of one bundle and nowhere else.
//!
//! A reference is resolved against the `$id` it stands under, then, where it is relative, against the names of the
//! bundle's files, as if they lay in one directory. Nothing is fetched.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use jsonschema::{Draft, Uri, uri};
use serde_json::Value;
use thiserror::Error;

use super::SchemaText;
use super::subschemas::{Place, Step, is_schema, subschemas};

/// Where the files of a bundle lie, as far as references are concerned.
const DIRECTORY: &str = "bundle:///schemas/";
/// Longest name of a schema, in bytes: what lies inside it repeats it.
const NAME_BYTES: usize = 2_048;
/// Vocabularies of the dialects, beside the meta-schemas themselves.
const VOCABULARIES: [&str; 2] =
    ["https://json-schema.org/draft/2020-12/meta/", "https://json-schema.org/draft/2019-09/meta/"];
const VOCABULARY_NAMES: [&str; 9] = [
    "applicator",
    "content",
    "core",
    "format",
    "format-annotation",
    "format-assertion",
    "meta-data",
    "unevaluated",
    "validation",
];

/// Why a reference means nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ReferenceError {
    /// It is no URI reference.
    #[error("`{0}` is not a reference")]
    Malformed(String),
    /// It points out of the bundle.
    #[error("`{0}` is not in the bundle, and nothing is fetched")]
    NotInBundle(String),
    /// There is nothing at its JSON Pointer.
    #[error("`{0}` points to nothing in `{1}`")]
    Nowhere(String, String),
    /// No schema carries its anchor.
    #[error("`{0}` names an anchor that `{1}` does not have")]
    NoAnchor(String, String),
    /// What it points to is no schema.
    #[error("`{0}` points into `{1}` at something that is not a schema")]
    NoSchema(String, String),
}

/// A schema somewhere in the bundle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SchemaNode<'a> {
    /// The schema.
    pub(crate) value: &'a Value,
    /// The resource that references in it start from.
    resource: usize,
}

/// What a reference means.
#[derive(Debug)]
pub(crate) enum Meaning<'a> {
    /// A schema of the bundle.
    Schema {
        /// The schema.
        node: SchemaNode<'a>,
        /// The file it is in.
        document: &'a str,
        /// Where in the file.
        place: Place<'a>,
    },
    /// A meta-schema of a known dialect, which every validator has.
    Dialect,
}

/// A reference as it was found.
#[derive(Debug)]
pub(crate) struct FoundReference<'a> {
    /// The file it is in.
    pub(crate) document: &'a str,
    /// Where in the file, the keyword included.
    pub(crate) place: Place<'a>,
    /// `$ref`, `$dynamicRef` or `$recursiveRef`.
    pub(crate) keyword: &'static str,
    /// The reference.
    pub(crate) text: &'a str,
    resource: usize,
}

/// A fault that was met on the way.
#[derive(Debug)]
pub(crate) struct IndexFault<'a> {
    /// The file it is in.
    pub(crate) document: &'a str,
    /// Where in the file.
    pub(crate) place: Place<'a>,
    /// What is wrong.
    pub(crate) message: String,
}

#[derive(Debug)]
struct Resource<'a> {
    document: &'a str,
    place: Place<'a>,
    root: &'a Value,
    base: Uri<String>,
    draft: Draft,
    anchors: HashMap<&'a str, (Place<'a>, &'a Value)>,
}

/// All schemas of a bundle with their names.
#[derive(Debug, Default)]
pub(crate) struct SchemaIndex<'a> {
    resources: Vec<Resource<'a>>,
    by_uri: HashMap<String, usize>,
    roots: BTreeMap<&'a str, usize>,
    /// The resource of each schema that was walked, by its address.
    walked: HashMap<*const Value, usize>,
    references: Vec<FoundReference<'a>>,
    faults: Vec<IndexFault<'a>>,
}

impl<'a> SchemaIndex<'a> {
    /// Walks all schemas, those included that only a reference makes one. Takes time in proportion to their text.
    pub(crate) fn new(schemas: &'a BTreeMap<String, SchemaText>) -> Self {
        let mut index = Self::default();
        for (name, schema) in schemas {
            let Ok(base) = uri::from_str(&file_uri(name)) else { continue };
            let root = index.add_resource(name, Place::default(), &schema.value, base, Draft::default());
            index.roots.insert(name, root);
            index.walk(root, Place::default(), &schema.value);
        }
        // References may point where no keyword does.
        let mut next = 0;
        while let Some(reference) = index.references.get(next) {
            next += 1;
            if let Ok(Meaning::Schema { node, place, .. }) = index.meaning_of(reference)
                && !index.walked.contains_key(&std::ptr::from_ref(node.value))
            {
                index.walk(node.resource, place, node.value);
            }
        }
        index
    }

    /// Every reference.
    pub(crate) fn references(&self) -> &[FoundReference<'a>] {
        &self.references
    }

    /// What was wrong on the way: names that are no URI, or are taken.
    pub(crate) fn faults(&self) -> &[IndexFault<'a>] {
        &self.faults
    }

    /// The schema of a file.
    pub(crate) fn root(&self, document: &str) -> Option<SchemaNode<'a>> {
        let resource = *self.roots.get(document)?;
        Some(SchemaNode { value: self.resources[resource].root, resource })
    }

    /// The schemas of all files.
    pub(crate) fn roots(&self) -> impl Iterator<Item = SchemaNode<'a>> {
        self.roots.values().map(|resource| SchemaNode { value: self.resources[*resource].root, resource: *resource })
    }

    /// A schema directly inside another one.
    pub(crate) fn child(&self, parent: SchemaNode<'a>, value: &'a Value) -> SchemaNode<'a> {
        let resource = self.walked.get(&std::ptr::from_ref(value)).copied().unwrap_or(parent.resource);
        SchemaNode { value, resource }
    }

    /// The dialect a schema is written in.
    pub(crate) fn draft(&self, node: SchemaNode<'a>) -> Draft {
        self.resources[node.resource].draft
    }

    /// What a reference in a schema means.
    pub(crate) fn resolve(&self, node: SchemaNode<'a>, reference: &str) -> Result<Meaning<'a>, ReferenceError> {
        self.resolve_from(node.resource, reference)
    }

    /// What a reference that was found means.
    pub(crate) fn meaning_of(&self, reference: &FoundReference<'a>) -> Result<Meaning<'a>, ReferenceError> {
        self.resolve_from(reference.resource, reference.text)
    }

    fn resolve_from(&self, resource: usize, reference: &str) -> Result<Meaning<'a>, ReferenceError> {
        let (address, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let resource = if address.is_empty() {
            resource
        } else {
            match self.resource_at(&self.resources[resource], address)? {
                Some(resource) => resource,
                None => return Ok(Meaning::Dialect),
            }
        };
        let Resource { document, place, root, anchors, .. } = &self.resources[resource];
        let fragment = percent_decoded(fragment).ok_or_else(|| ReferenceError::Malformed(reference.to_owned()))?;
        let names = || (reference.to_owned(), (*document).to_owned());
        let (place, value) = if fragment.is_empty() {
            (place.clone(), *root)
        } else if fragment.starts_with('/') {
            let nowhere = || {
                let (reference, document) = names();
                ReferenceError::Nowhere(reference, document)
            };
            (place.then(Step::Pointer(fragment.as_str().into())), root.pointer(&fragment).ok_or_else(nowhere)?)
        } else {
            let no_anchor = || {
                let (reference, document) = names();
                ReferenceError::NoAnchor(reference, document)
            };
            anchors.get(fragment.as_str()).cloned().ok_or_else(no_anchor)?
        };
        if !is_schema(value) {
            let (reference, document) = names();
            return Err(ReferenceError::NoSchema(reference, document));
        }
        let resource = self.walked.get(&std::ptr::from_ref(value)).copied().unwrap_or(resource);
        let node = SchemaNode { value, resource };
        Ok(Meaning::Schema { node, document, place })
    }

    /// The resource an address means; `None`: one of the dialects' own.
    fn resource_at(&self, from: &Resource<'a>, address: &str) -> Result<Option<usize>, ReferenceError> {
        let by_id = uri::resolve_against(&from.base.borrow(), address).ok();
        if let Some(resource) = by_id.as_ref().and_then(|uri| self.by_uri.get(uri.as_str())) {
            return Ok(Some(*resource));
        }
        let file = uri::from_str(&file_uri(from.document)).ok();
        let by_name = file.and_then(|file| uri::resolve_against(&file.borrow(), address).ok());
        if let Some(resource) = by_name.as_ref().and_then(|uri| self.by_uri.get(uri.as_str())) {
            return Ok(Some(*resource));
        }
        if by_id.iter().chain(&by_name).any(|uri| is_of_a_dialect(uri.as_str())) {
            return Ok(None);
        }
        if by_id.is_none() && by_name.is_none() {
            return Err(ReferenceError::Malformed(address.to_owned()));
        }
        Err(ReferenceError::NotInBundle(address.to_owned()))
    }

    fn add_resource(
        &mut self,
        document: &'a str,
        place: Place<'a>,
        root: &'a Value,
        base: Uri<String>,
        draft: Draft,
    ) -> usize {
        let resource = self.resources.len();
        self.by_uri.entry(base.as_str().to_owned()).or_insert(resource);
        let anchors = HashMap::new();
        self.resources.push(Resource { document, place, root, base, draft: draft.detect(root), anchors });
        resource
    }

    /// Walks a schema and everything inside it.
    fn walk(&mut self, resource: usize, place: Place<'a>, value: &'a Value) {
        let mut waiting = vec![(resource, place, value)];
        while let Some((resource, place, value)) = waiting.pop() {
            if !is_schema(value) || self.walked.contains_key(&std::ptr::from_ref(value)) {
                continue;
            }
            let resource = self.enter(resource, &place, value);
            self.walked.insert(value, resource);
            self.note_references(resource, &place, value);
            waiting.extend(subschemas(value, &place).into_iter().map(|(place, value)| (resource, place, value)));
        }
    }

    /// The resource of a schema that is entered: one of its own where it names itself. Notes its anchors.
    fn enter(&mut self, resource: usize, place: &Place<'a>, value: &'a Value) -> usize {
        let text = |keyword: &str| value.get(keyword).and_then(Value::as_str);
        let draft = self.resources[resource].draft.detect(value);
        let older = draft < Draft::Draft201909;
        let mut entered = resource;
        // Beside a reference, the older dialects do not see the name.
        let name = text(draft.id_keyword()).filter(|_| !older || value.get("$ref").is_none());
        if let Some(name) = name {
            let (address, anchor) = name.split_once('#').map_or((name, None), |(name, anchor)| (name, Some(anchor)));
            if !address.is_empty() {
                entered = self.name(resource, place, value, address);
            }
            if older && let Some(anchor) = anchor.filter(|anchor| !anchor.is_empty()) {
                self.note_anchor(entered, place, anchor, value);
            }
        }
        if !older {
            for anchor in [text("$anchor"), text("$dynamicAnchor")].into_iter().flatten() {
                self.note_anchor(entered, place, anchor, value);
            }
        }
        if draft == Draft::Unknown && value.get("$schema").is_some() {
            let message = "it names no dialect of JSON Schema from draft 4 to 2020-12".to_owned();
            self.fault(resource, place.key("$schema"), message);
        }
        entered
    }

    /// Gives a schema the name it has itself. Where that cannot be used, it stays part of what it is in.
    fn name(&mut self, resource: usize, place: &Place<'a>, value: &'a Value, address: &str) -> usize {
        let Resource { document, root, draft, ref base, .. } = self.resources[resource];
        let named = if address.len() > NAME_BYTES { None } else { uri::resolve_against(&base.borrow(), address).ok() };
        let place_of_name = place.key(draft.detect(value).id_keyword());
        let Some(named) = named.filter(|named| named.as_str().len() <= NAME_BYTES) else {
            self.fault(resource, place_of_name, format!("it is no URI of at most {NAME_BYTES} bytes"));
            return resource;
        };
        if let Some(other) = self.by_uri.get(named.as_str()).filter(|other| **other != resource) {
            let message = format!("`{}` has a schema of the same name", self.resources[*other].document);
            self.fault(resource, place_of_name, message);
            return resource;
        }
        if !std::ptr::eq(root, value) {
            return self.add_resource(document, place.clone(), value, named, draft);
        }
        // One resource under two names: the file's, and its own, which counts for what it refers to.
        self.by_uri.entry(named.as_str().to_owned()).or_insert(resource);
        self.resources[resource].base = named;
        resource
    }

    fn note_anchor(&mut self, resource: usize, place: &Place<'a>, anchor: &'a str, value: &'a Value) {
        let earlier = self.resources[resource].anchors.insert(anchor, (place.clone(), value));
        if earlier.is_some_and(|(_, other)| !std::ptr::eq(other, value)) {
            self.fault(resource, place.clone(), format!("anchor `{anchor}` is there more than once"));
        }
    }

    fn note_references(&mut self, resource: usize, place: &Place<'a>, value: &'a Value) {
        let document = self.resources[resource].document;
        for keyword in ["$ref", "$dynamicRef", "$recursiveRef"] {
            if let Some(text) = value.get(keyword).and_then(Value::as_str) {
                self.references.push(FoundReference { document, place: place.key(keyword), keyword, text, resource });
            }
        }
    }

    fn fault(&mut self, resource: usize, place: Place<'a>, message: String) {
        let document = self.resources[resource].document;
        self.faults.push(IndexFault { document, place, message });
    }
}

/// Where a file of the bundle lies.
fn file_uri(name: &str) -> String {
    let mut uri = DIRECTORY.to_owned();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri
}

/// Whether an address is a known dialect's meta-schema or one of its vocabularies.
fn is_of_a_dialect(address: &str) -> bool {
    let address = address.split_once('#').map_or(address, |(address, _)| address);
    Draft::from_schema_uri(address) != Draft::Unknown
        || VOCABULARIES
            .iter()
            .any(|prefix| address.strip_prefix(prefix).is_some_and(|name| VOCABULARY_NAMES.contains(&name)))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let value = digit(rest.next())? * 16 + digit(rest.next())?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
