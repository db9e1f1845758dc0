//! What the cluster's state allows and adds, after defaults and before validation.
//!
//! Whatever is decided here on the strength of another object becomes an expectation of the same commit, so that it
//! still holds when the write does.

use warren_api::{FieldError, GroupResource, Kind, Object, ObjectKey, Status, Subresource};
use warren_store::{Expected, Write};

use crate::api::Api;
use crate::authn::User;
use crate::commit;
use crate::prepare::{self, Scene};

mod node;
mod pod;
mod service;

pub(crate) use node::{deletes, given_uid};
pub use pod::DefaultTolerations;
pub(crate) use service::release;
pub use service::{AddressRange, PortRange};

pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

/// One attempt's admission: what it found that the commit must check, and what it adds to the commit.
pub(crate) struct Admission<'a> {
    pub api: &'a Api,
    pub user: &'a User,
    pub expects: Vec<(ObjectKey, Expected)>,
    pub writes: Vec<Write>,
}

impl<'a> Admission<'a> {
    pub(crate) fn new(api: &'a Api, user: &'a User) -> Self {
        Self { api, user, expects: Vec::new(), writes: Vec::new() }
    }

    pub(crate) fn admit(
        &mut self,
        scene: &Scene<'_>,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let kind = scene.kind;
        if old.is_none() && kind.is_namespaced() {
            self.namespace(scene, object)?;
        }
        node::writes(self.user, kind, object, old)?;
        match (kind.group(), kind.kind()) {
            ("", "Pod") if old.is_none() => {
                let accounts = GroupResource::new("", "serviceaccounts");
                let has =
                    |name: &str| self.api.cache.get(&accounts, scene.namespace, name).is_some();
                pod::on_create(object, scene.namespace, self.api.settings.tolerations, &has)?;
            }
            ("", "Pod") => pod::on_update(object, old),
            ("", "Service") if scene.subresource != Some(Subresource::Status) => {
                service::allocate(self, object, old)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The namespace must be there and not be going. Who stores pods that run already, or hands in a command, gets it
    /// created in the same commit.
    fn namespace(&mut self, scene: &Scene<'_>, object: &Object) -> Result<(), Status> {
        let namespaces = GroupResource::new("", "namespaces");
        let key = ObjectKey::new(namespaces.clone(), "", scene.namespace);
        let Some(entry) = self.api.cache.get(&namespaces, "", scene.namespace) else {
            let mirror = self.user.as_node().is_some() && object.annotation(MIRROR).is_some();
            if !mirror && !self.user.is_broker() {
                return Err(Status::not_found(&namespaces, scene.namespace));
            }
            let Some(kind) = self.api.registry.by_group_resource(&namespaces) else {
                return Err(Status::not_found(&namespaces, scene.namespace));
            };
            let mut namespace = Object::default();
            codec_identity(kind, &mut namespace);
            namespace.set_at(&["metadata", "name"], scene.namespace);
            namespace
                .set_at(&["metadata", "labels", "kubernetes.io/metadata.name"], scene.namespace);
            let uid = uuid::Uuid::new_v4().to_string();
            let scene =
                Scene { kind, served: kind, namespace: "", subresource: None, uid: &uid, ..*scene };
            let namespace = prepare::create(&scene, namespace, &mut |_, _| Ok(()))?;
            self.expects.push((key.clone(), Expected::Absent));
            self.writes.push(commit::write(self.api, kind, key, None, &namespace, false));
            return Ok(());
        };
        if entry.change.is_terminating() {
            let resource = scene.kind.resource();
            let why = format!(
                "unable to create new content in namespace {} because it is being terminated",
                scene.namespace
            );
            let mut status = Status::forbidden(&resource, object.name(), &why);
            if let Some(details) = &mut status.details {
                details.causes.push(FieldError {
                    kind: warren_api::Cause::NamespaceTerminating,
                    field: "metadata.namespace".to_owned(),
                    message: format!("namespace {} is being terminated", scene.namespace),
                });
            }
            return Err(status);
        }
        self.expects.push((key, Expected::Revision(entry.revision())));
        Ok(())
    }
}

fn codec_identity(kind: &dyn Kind, object: &mut Object) {
    object.set_at(&["apiVersion"], kind.api_version());
    object.set_at(&["kind"], kind.kind());
}

/// Whether a namespace's stored bytes say that it is going. Cheap: creates ask this of the same few objects.
trait Terminating {
    fn is_terminating(&self) -> bool;
}

impl Terminating for warren_store::Change {
    fn is_terminating(&self) -> bool {
        #[derive(serde::Deserialize)]
        struct Namespace<'a> {
            #[serde(borrow)]
            metadata: Metadata<'a>,
        }
        #[derive(serde::Deserialize)]
        struct Metadata<'a> {
            #[serde(rename = "deletionTimestamp", borrow)]
            deletion_timestamp: Option<&'a serde_json::value::RawValue>,
        }
        serde_json::from_slice::<Namespace<'_>>(&self.body)
            .is_ok_and(|namespace| namespace.metadata.deletion_timestamp.is_some())
    }
}
