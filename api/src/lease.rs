//! What processes say on their Leases, in annotations.

use std::fmt;
use std::str::FromStr;

use crate::Revision;

/// On the Lease of an election: the `<name>` of the leader's queue `controllers.<name>.leader`, empty where there is no
/// broker.
pub const LEADER_QUEUE: &str = "warren.dev/leader-queue";
/// On a node's Lease: the list with which all that runs there agrees, a [`Listed`].
pub const LISTED: &str = "warren.dev/listed";

/// Where a list stands, as text `epoch:revision`. Revisions of different incarnations of the database cannot be compared:
/// where one was lost and its backup restored, the newer one's may be the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    pub epoch: u64,
    pub revision: Revision,
}

impl Listed {
    /// Whether it is of the same incarnation, and not older.
    pub fn covers(self, other: Self) -> bool {
        self.epoch == other.epoch && self.revision >= other.revision
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.revision)
    }
}

impl FromStr for Listed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, revision) = text.split_once(':').ok_or("must be epoch:revision")?;
        let number = |part: &str| part.parse().map_err(|_| "must be two numbers, epoch:revision");
        Ok(Self { epoch: number(epoch)?, revision: Revision(number(revision)?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_it_writes_and_nothing_else() {
        let listed = Listed { epoch: 1_763_766_330, revision: Revision(1_000_000_007) };
        assert_eq!(listed.to_string(), "1763766330:1000000007");
        assert_eq!(listed.to_string().parse(), Ok(listed));
        // The second is what nodes said before they knew of epochs.
        for bad in ["", "1000000007", "1:", ":1", "1:2:3", "1:-2", "a:1", "18446744073709551616:1"]
        {
            assert!(bad.parse::<Listed>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_revisions_of_one_incarnation_are_compared() {
        let at = |epoch, revision| Listed { epoch, revision: Revision(revision) };
        for (one, other, covers) in [
            (at(7, 5), at(7, 5), true),
            (at(7, 6), at(7, 5), true),
            (at(7, 4), at(7, 5), false),
            (at(6, 9), at(7, 5), false),
            // Clocks go backwards: a greater epoch is not a newer one.
            (at(8, 9), at(7, 5), false),
        ] {
            assert_eq!(one.covers(other), covers, "{one} {other}");
        }
    }
}
