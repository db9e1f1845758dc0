//! What the server makes of a write, for the simulation of a whole cluster, which has no server: the pure half of the
//! pipeline, from an intent to the object that is committed.

use jiff::Timestamp;
use warren_api::{Fence, Kind, Object, Status, Subresource};

use crate::fence;
use crate::prepare::{self, DeleteOptions, Outcome, Scene};

/// An intent's place and time.
#[doc(hidden)]
pub struct Intent<'a> {
    pub kind: &'static dyn Kind,
    pub namespace: &'a str,
    pub subresource: Option<Subresource>,
    pub now: Timestamp,
    pub manager: &'a str,
}

/// What is to be committed.
#[doc(hidden)]
pub enum Prepared {
    Unchanged,
    Store(Object),
    Remove(Object),
}

#[doc(hidden)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// Whether a write of this fence may be committed, as the Lease stands.
#[doc(hidden)]
pub fn holds(fence: &Fence, lease: Option<&[u8]>) -> bool {
    lease.is_some_and(|lease| fence::holds(fence, lease))
}

impl Intent<'_> {
    fn scene<'a>(&'a self, uid: &'a str) -> Scene<'a> {
        Scene {
            kind: self.kind,
            served: self.kind,
            namespace: self.namespace,
            subresource: self.subresource,
            now: self.now,
            uid,
            suffix: "",
            manager: self.manager,
            applied: false,
        }
    }

    pub fn create(&self, object: Object, uid: &str) -> Result<Object, Status> {
        prepare::create(&self.scene(uid), object, &mut |_, _| Ok(()))
    }

    /// `new` is the whole object as it shall be.
    pub fn update(&self, old: &Object, new: Object) -> Result<Prepared, Status> {
        let scene = self.scene("");
        prepare::update(&scene, old, new, &mut |_, _| Ok(())).map(Prepared::from)
    }

    pub fn delete(
        &self,
        old: &Object,
        uid: Option<&str>,
        resource_version: Option<&str>,
        grace_seconds: Option<i64>,
        propagation: Option<Propagation>,
    ) -> Result<Prepared, Status> {
        let options = DeleteOptions {
            grace_seconds,
            uid: uid.map(str::to_owned),
            resource_version: resource_version.map(str::to_owned),
            propagation: propagation.map(|propagation| match propagation {
                Propagation::Background => prepare::Propagation::Background,
                Propagation::Foreground => prepare::Propagation::Foreground,
                Propagation::Orphan => prepare::Propagation::Orphan,
            }),
            dry_run: false,
        };
        prepare::delete(&self.scene(""), old, &options).map(Prepared::from)
    }
}

impl From<Outcome> for Prepared {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Unchanged => Prepared::Unchanged,
            Outcome::Store(object) => Prepared::Store(object),
            Outcome::Remove(object) => Prepared::Remove(object),
        }
    }
}
