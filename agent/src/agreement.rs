//! When what runs here is what a list of the API said: what was not in it has ended. Pure.
//!
//! After a restore the server gives no pod that it has from the backup to a node before all nodes have come so far, since
//! one of them may run it: the lease says it ([`warren_api::LISTED`]).

use std::collections::HashSet;
use std::sync::Arc;

use warren_api::Listed;

#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Agreement {
    /// A list that was read and kept; what runs was not looked at since.
    listed: Option<Listed>,
    /// What still has to end.
    going: Option<(Listed, HashSet<Arc<str>>)>,
    agreed: Option<Listed>,
}

impl Agreement {
    /// All that this list wants is told and on disk.
    pub fn listed(&mut self, at: Listed) {
        self.listed = Some(at);
    }

    /// All that runs is known; `ending` are the pods that the API does not want here.
    pub fn looked(&mut self, ending: impl Iterator<Item = Arc<str>>) -> Option<Listed> {
        if let Some(at) = self.listed.take() {
            self.going = Some((at, ending.collect()));
        }
        self.settle()
    }

    /// Nothing is left of a pod, or it is wanted again.
    pub fn gone(&mut self, uid: &str) -> Option<Listed> {
        if let Some((_, going)) = &mut self.going {
            going.remove(uid);
        }
        self.settle()
    }

    fn settle(&mut self) -> Option<Listed> {
        if let Some((at, _)) = self.going.take_if(|(_, going)| going.is_empty()) {
            // A list of another database says nothing of what that one was; the newest that was read counts.
            self.agreed = self.agreed.filter(|agreed| agreed.covers(at)).or(Some(at));
        }
        self.agreed
    }
}

#[cfg(test)]
mod tests {
    use warren_api::Revision;

    use super::*;

    enum Step {
        /// Epoch and revision.
        Listed(u64, u64),
        Looked(&'static [&'static str]),
        Gone(&'static str),
    }

    #[test]
    fn a_node_agrees_when_what_was_not_listed_has_ended() {
        use Step::{Gone, Listed, Looked};
        for (what, steps, agreed) in [
            ("nothing was listed", vec![Looked(&[])], None),
            ("what runs is not known yet", vec![Listed(1, 5)], None),
            ("nothing else runs", vec![Listed(1, 5), Looked(&[])], Some((1, 5))),
            ("two have to end", vec![Listed(1, 5), Looked(&["a", "b"]), Gone("a")], None),
            (
                "they have",
                vec![Listed(1, 5), Looked(&["a", "b"]), Gone("a"), Gone("b")],
                Some((1, 5)),
            ),
            (
                "what ends later is no matter",
                vec![Listed(1, 5), Looked(&["a"]), Looked(&["b"]), Gone("a")],
                Some((1, 5)),
            ),
            (
                "a newer list counts",
                vec![Listed(1, 5), Looked(&["a"]), Listed(1, 9), Looked(&["a"]), Gone("a")],
                Some((1, 9)),
            ),
            (
                "an older one takes nothing back",
                vec![Listed(1, 9), Looked(&[]), Listed(1, 5), Looked(&[])],
                Some((1, 9)),
            ),
            (
                "a database that was restored may be behind the one before it",
                vec![Listed(1, 9), Looked(&[]), Listed(2, 5), Looked(&[])],
                Some((2, 5)),
            ),
            (
                "it is agreed with when what it does not know has ended",
                vec![Listed(1, 9), Looked(&[]), Listed(2, 5), Looked(&["a"])],
                Some((1, 9)),
            ),
        ] {
            let mut agreement = Agreement::default();
            let mut at = None;
            for step in steps {
                at = match step {
                    Listed(epoch, revision) => {
                        agreement.listed(super::Listed { epoch, revision: Revision(revision) });
                        at
                    }
                    Looked(ending) => agreement.looked(ending.iter().map(|uid| (*uid).into())),
                    Gone(uid) => agreement.gone(uid),
                };
            }
            assert_eq!(at.map(|at| (at.epoch, at.revision.0)), agreed, "{what}");
        }
    }
}
