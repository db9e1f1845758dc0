//! What the server knows about a kind of object, and the list of all kinds.

use jiff::Timestamp;
use serde_json::Value;

use crate::{Conversion, ErrorList, GroupResource, Object, Shard};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Cluster,
    Namespaced,
}

/// What stands behind `/<name>/` of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// `status`: writes through it change `.status` only, writes of the object itself never do.
    Status,
    /// `scale`, as `autoscaling/v1` `Scale`. The paths are those of the number wanted, of the number there is and of
    /// the label selector (a `LabelSelector` in the object).
    Scale,
    /// `pods/log`
    Log,
    /// `pods/exec`
    Exec,
    /// `pods/attach`
    Attach,
    /// `pods/portforward`
    PortForward,
    /// `pods/proxy`, `services/proxy`, `nodes/proxy`: HTTP to what runs there.
    Proxy,
    /// `pods/binding`
    Binding,
    /// `pods/eviction`
    Eviction,
    /// `pods/ephemeralcontainers`
    EphemeralContainers,
    /// `namespaces/finalize`
    Finalize,
}

impl Subresource {
    pub fn name(self) -> &'static str {
        match self {
            Subresource::Status => "status",
            Subresource::Scale => "scale",
            Subresource::Log => "log",
            Subresource::Exec => "exec",
            Subresource::Attach => "attach",
            Subresource::PortForward => "portforward",
            Subresource::Proxy => "proxy",
            Subresource::Binding => "binding",
            Subresource::Eviction => "eviction",
            Subresource::EphemeralContainers => "ephemeralcontainers",
            Subresource::Finalize => "finalize",
        }
    }
}

/// The type of a table's column, as in `metav1.TableColumnDefinition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    String,
    Integer,
    /// An instant: shown as an age.
    Date,
}

/// One column of `kubectl get`.
#[derive(Clone, Copy)]
pub struct Column {
    pub name: &'static str,
    pub kind: ColumnType,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
    pub description: &'static str,
    /// The cell. `now` is there for ages, which are written as Kubernetes does (`5m3s`, `2d`).
    pub cell: fn(&Object, now: Timestamp) -> Value,
}

/// A kind of object. Built-in kinds are [`BuiltIn`]s; a custom resource definition is another implementor, at run time.
///
/// The methods are called in this order on a write: `on_create` or `on_update` (what a client cannot set is reset),
/// `default`, then `validate` and, with an old object, `validate_update`. All are pure.
pub trait Kind: Send + Sync {
    /// The API group; empty for the core group.
    fn group(&self) -> &str;
    /// `v1`
    fn version(&self) -> &str;
    /// `Pod`
    fn kind(&self) -> &str;
    /// `pods`
    fn plural(&self) -> &str;
    /// `pod`
    fn singular(&self) -> &str;
    fn short_names(&self) -> &[&str];
    /// `all` for what `kubectl get all` lists.
    fn categories(&self) -> &[&str];
    fn scope(&self) -> Scope;
    fn subresources(&self) -> &[Subresource];
    /// The name of the type in the table of types: `core/v1.Pod`.
    fn schema_type(&self) -> &str;
    /// Without the leading Name, which the server adds unless a column of that name is among them (events have theirs
    /// at the end); the last one usually is Age.
    fn columns(&self) -> &[Column];
    /// The fields, besides `metadata.name` and `metadata.namespace`, that field selectors may name: `spec.nodeName`.
    fn selectable_fields(&self) -> &[&str];
    /// The value of a selectable field, empty where absent.
    fn field<'a>(&self, object: &'a Object, path: &str) -> std::borrow::Cow<'a, str>;
    /// Whether `metadata.generation` counts changes of everything but metadata and status.
    fn has_generation(&self) -> bool;
    /// Whether the status that a client creates an object with stays: agents register nodes so.
    fn keeps_status_on_create(&self) -> bool {
        false
    }
    /// Kind-specific resets before a create is defaulted. `.status` is gone by then where there is a status subresource,
    /// unless the kind keeps it.
    fn on_create(&self, object: &mut Object);
    /// Kind-specific resets before an update is defaulted. `.status` is the old one by then.
    fn on_update(&self, new: &mut Object, old: &Object);
    fn default(&self, object: &mut Object);
    /// Everything but metadata, which is validated for all kinds alike (but for [`Kind::validate_name`]).
    fn validate(&self, object: &Object, errors: &mut ErrorList);
    /// What may be there, but not from the beginning.
    fn validate_create(&self, object: &Object, errors: &mut ErrorList);
    /// Immutable fields and allowed transitions.
    fn validate_update(&self, new: &Object, old: &Object, errors: &mut ErrorList);
    /// What the writer of an object should hear of though it is taken, in Kubernetes' words; of an update, what is new.
    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String>;
    /// In place of `validate_update` where the write came by a subresource, which may change other things.
    fn validate_subresource(
        &self,
        subresource: Subresource,
        new: &Object,
        old: &Object,
        errors: &mut ErrorList,
    );
    /// `None`, or why the name is refused. Most kinds want a DNS-1123 subdomain.
    fn validate_name(&self, name: &str) -> Option<String>;
    /// The grace period that a DELETE without one gets; `None` for kinds that go at once.
    fn deletion_grace_seconds(&self, object: &Object) -> Option<i64>;
    /// The part of the resource's changes that an object's event belongs to.
    fn shard(&self, object: &Object) -> Shard;
    /// Whether events on the broker carry metadata only (Secrets: broker permissions are not RBAC).
    fn publishes_metadata_only(&self) -> bool;
    /// What every answer about this kind in this version warns of.
    fn deprecation(&self) -> Option<&str> {
        None
    }
    /// For a kind that is served and stored as another; `None` for one that is stored itself.
    fn conversion(&self) -> Option<&'static Conversion> {
        None
    }

    fn is_namespaced(&self) -> bool {
        self.scope() == Scope::Namespaced
    }

    fn has(&self, subresource: Subresource) -> bool {
        self.subresources().contains(&subresource)
    }

    fn resource(&self) -> GroupResource {
        GroupResource::new(self.group(), self.plural())
    }

    /// `apps/v1`, and `v1` in the core group.
    fn api_version(&self) -> String {
        if self.group().is_empty() {
            self.version().to_owned()
        } else {
            format!("{}/{}", self.group(), self.version())
        }
    }
}

/// A kind that is compiled in: data and a few pure functions. Each lives in its own file under [`crate::kinds`].
#[derive(Clone, Copy)]
pub struct BuiltIn {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub scope: Scope,
    pub subresources: &'static [Subresource],
    pub schema_type: &'static str,
    pub columns: &'static [Column],
    pub selectable_fields: &'static [&'static str],
    /// `None`: the string that stands at the path.
    pub field: Option<fn(&Object, &str) -> Option<String>>,
    pub has_generation: bool,
    pub keeps_status_on_create: bool,
    pub on_create: fn(&mut Object),
    pub on_update: fn(&mut Object, &Object),
    pub default: fn(&mut Object),
    pub validate: fn(&Object, &mut ErrorList),
    pub validate_create: fn(&Object, &mut ErrorList),
    pub validate_update: fn(&Object, &Object, &mut ErrorList),
    pub warnings: fn(&Object, Option<&Object>) -> Vec<String>,
    /// `None`: by a subresource the same may change as without.
    pub validate_subresource: Option<fn(Subresource, &Object, &Object, &mut ErrorList)>,
    pub validate_name: fn(&str) -> Option<String>,
    pub deletion_grace_seconds: fn(&Object) -> Option<i64>,
    pub shard: fn(&Object) -> Shard,
    pub publishes_metadata_only: bool,
    pub deprecation: Option<&'static str>,
    pub conversion: Option<&'static Conversion>,
}

impl Kind for BuiltIn {
    fn group(&self) -> &str {
        self.group
    }
    fn version(&self) -> &str {
        self.version
    }
    fn kind(&self) -> &str {
        self.kind
    }
    fn plural(&self) -> &str {
        self.plural
    }
    fn singular(&self) -> &str {
        self.singular
    }
    fn short_names(&self) -> &[&str] {
        self.short_names
    }
    fn categories(&self) -> &[&str] {
        self.categories
    }
    fn scope(&self) -> Scope {
        self.scope
    }
    fn subresources(&self) -> &[Subresource] {
        self.subresources
    }
    fn schema_type(&self) -> &str {
        self.schema_type
    }
    fn columns(&self) -> &[Column] {
        self.columns
    }
    fn selectable_fields(&self) -> &[&str] {
        self.selectable_fields
    }
    fn field<'a>(&self, object: &'a Object, path: &str) -> std::borrow::Cow<'a, str> {
        if let Some(value) = self.field.and_then(|field| field(object, path)) {
            return value.into();
        }
        let mut steps = path.split('.');
        let first = steps.next().and_then(|step| object.0.get(step));
        let value = steps.fold(first, |value, step| value?.as_object()?.get(step));
        value.and_then(Value::as_str).unwrap_or_default().into()
    }
    fn has_generation(&self) -> bool {
        self.has_generation
    }
    fn keeps_status_on_create(&self) -> bool {
        self.keeps_status_on_create
    }
    fn on_create(&self, object: &mut Object) {
        (self.on_create)(object);
    }
    fn on_update(&self, new: &mut Object, old: &Object) {
        (self.on_update)(new, old);
    }
    fn default(&self, object: &mut Object) {
        (self.default)(object);
    }
    fn validate(&self, object: &Object, errors: &mut ErrorList) {
        (self.validate)(object, errors);
    }
    fn validate_update(&self, new: &Object, old: &Object, errors: &mut ErrorList) {
        (self.validate_update)(new, old, errors);
    }
    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        (self.warnings)(new, old)
    }
    fn validate_create(&self, object: &Object, errors: &mut ErrorList) {
        (self.validate_create)(object, errors);
    }
    fn validate_subresource(
        &self,
        subresource: Subresource,
        new: &Object,
        old: &Object,
        errors: &mut ErrorList,
    ) {
        match self.validate_subresource {
            Some(validate) => validate(subresource, new, old, errors),
            None => self.validate_update(new, old, errors),
        }
    }
    fn validate_name(&self, name: &str) -> Option<String> {
        (self.validate_name)(name)
    }
    fn deletion_grace_seconds(&self, object: &Object) -> Option<i64> {
        (self.deletion_grace_seconds)(object)
    }
    fn shard(&self, object: &Object) -> Shard {
        (self.shard)(object)
    }
    fn publishes_metadata_only(&self) -> bool {
        self.publishes_metadata_only
    }
    fn deprecation(&self) -> Option<&str> {
        self.deprecation
    }
    fn conversion(&self) -> Option<&'static Conversion> {
        self.conversion
    }
}

/// The kinds that a server serves.
#[derive(Clone, Copy)]
pub struct Registry {
    kinds: &'static [&'static BuiltIn],
}

impl Registry {
    /// All built-in kinds.
    pub fn builtin() -> Self {
        Self { kinds: crate::kinds::ALL }
    }

    pub fn iter(&self) -> impl Iterator<Item = &'static dyn Kind> + use<> {
        self.kinds.iter().map(|kind| *kind as &'static dyn Kind)
    }

    /// By the names in a request's path.
    pub fn by_resource(
        &self,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Option<&'static dyn Kind> {
        self.iter().find(|k| k.plural() == plural && k.group() == group && k.version() == version)
    }

    /// By what stands in a manifest.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&'static dyn Kind> {
        self.iter().find(|k| k.kind() == kind && k.api_version() == api_version)
    }

    /// In whichever version; storage and events name resources so.
    pub fn by_group_resource(&self, resource: &GroupResource) -> Option<&'static dyn Kind> {
        self.iter().find(|k| k.plural() == &*resource.resource && k.group() == &*resource.group)
    }
}
