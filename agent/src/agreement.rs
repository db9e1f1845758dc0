//! When what runs here is what a list of the API said: what was not in it has ended. Pure.
//!
//! After a restore the server gives no pod that it has from the backup to a node before all nodes have come so far, since
//! one of them may run it: the lease says it ([`warren_broker::heads::LISTED`]).

use std::collections::HashSet;
use std::sync::Arc;

use warren_api::Revision;

#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Agreement {
    /// A list that was read and kept; what runs was not looked at since.
    listed: Option<Revision>,
    /// What still has to end.
    going: Option<(Revision, HashSet<Arc<str>>)>,
    agreed: Revision,
}

impl Agreement {
    /// All that a list as of this revision wants is told and on disk.
    pub fn listed(&mut self, at: Revision) {
        self.listed = Some(at);
    }

    /// All that runs is known; `ending` are the pods that the API does not want here.
    pub fn looked(&mut self, ending: impl Iterator<Item = Arc<str>>) -> Revision {
        if let Some(at) = self.listed.take() {
            self.going = Some((at, ending.collect()));
        }
        self.settle()
    }

    /// Nothing is left of a pod, or it is wanted again.
    pub fn gone(&mut self, uid: &str) -> Revision {
        if let Some((_, going)) = &mut self.going {
            going.remove(uid);
        }
        self.settle()
    }

    fn settle(&mut self) -> Revision {
        if let Some((at, _)) = self.going.take_if(|(_, going)| going.is_empty()) {
            self.agreed = self.agreed.max(at);
        }
        self.agreed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Step {
        Listed(u64),
        Looked(&'static [&'static str]),
        Gone(&'static str),
    }

    #[test]
    fn a_node_agrees_when_what_was_not_listed_has_ended() {
        use Step::{Gone, Listed, Looked};
        for (what, steps, agreed) in [
            ("nothing was listed", vec![Looked(&[])], 0),
            ("what runs is not known yet", vec![Listed(5)], 0),
            ("nothing else runs", vec![Listed(5), Looked(&[])], 5),
            ("two have to end", vec![Listed(5), Looked(&["a", "b"]), Gone("a")], 0),
            ("they have", vec![Listed(5), Looked(&["a", "b"]), Gone("a"), Gone("b")], 5),
            (
                "what ends later is no matter",
                vec![Listed(5), Looked(&["a"]), Looked(&["b"]), Gone("a")],
                5,
            ),
            (
                "a newer list counts",
                vec![Listed(5), Looked(&["a"]), Listed(9), Looked(&["a"]), Gone("a")],
                9,
            ),
            (
                "an older one takes nothing back",
                vec![Listed(9), Looked(&[]), Listed(5), Looked(&[])],
                9,
            ),
        ] {
            let mut agreement = Agreement::default();
            let mut at = Revision(0);
            for step in steps {
                at = match step {
                    Listed(revision) => {
                        agreement.listed(Revision(revision));
                        at
                    }
                    Looked(ending) => agreement.looked(ending.iter().map(|uid| (*uid).into())),
                    Gone(uid) => agreement.gone(uid),
                };
            }
            assert_eq!(at, Revision(agreed), "{what}");
        }
    }
}
