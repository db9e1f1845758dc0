//! Which objects a list or a watch is about.

use warren_api::selector::{FieldSelector, LabelSelector};
use warren_api::{Kind, Status};

use crate::cache::{Entry, Index, Scope};
use crate::request::{Query, ResourceRequest};

/// Namespace, label and field selectors of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Selection {
    namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// `kind` is the one that is served; the selection is about what is stored.
    pub(crate) fn of(
        kind: &'static dyn Kind,
        request: &ResourceRequest,
        query: &Query,
    ) -> Result<Self, Status> {
        let labels = LabelSelector::parse(query.get("labelSelector"))
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let fields = FieldSelector::parse(query.get("fieldSelector"), kind)
            .map_err(|error| Status::bad_request(error.to_string()))?;
        let fields = fields.with_paths(|path| kind.stored_path(path));
        Ok(Self { namespace: request.namespace.clone(), labels, fields })
    }

    /// The smallest part of the cache that holds everything selected.
    pub(crate) fn scope(&self, kind: &dyn Kind) -> Scope<'_> {
        if let Some(name) = self.fields.exact("metadata.name") {
            return Scope::Name(&self.namespace, name);
        }
        if kind.kind() == "Pod"
            && let Some(node) = self.fields.exact("spec.nodeName").filter(|node| !node.is_empty())
        {
            return Scope::Node(node, &self.namespace);
        }
        match self.namespace.as_str() {
            "" => Scope::All,
            namespace => Scope::Namespace(namespace),
        }
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    pub(crate) fn matches(&self, kind: &dyn Kind, entry: &Entry) -> bool {
        (self.namespace.is_empty() || *entry.change.key.namespace == *self.namespace)
            && (self.is_plain() || self.matches_index(entry.index(kind)))
    }

    fn matches_index(&self, index: &Index) -> bool {
        let label = |key: &str| index.labels.get(key).map(String::as_str);
        let field =
            |path: &str| index.fields.iter().find(|(p, _)| p == path).map_or("", |(_, v)| v);
        self.labels.requirements().iter().all(|r| r.matches(label(&r.key)))
            && self.fields.terms().iter().all(|t| (field(&t.path) == t.value) == t.is_equal)
    }
}
