//! Sets of indexes as Jobs write them: `1,3-5,7`.

use std::collections::BTreeSet;
use std::fmt;

/// More than a Job may have (100,000), so that a broken text costs nothing.
const MOST: u32 = 1_000_000;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Indexes(BTreeSet<u32>);

impl Indexes {
    /// What cannot be read is left out.
    pub fn parse(text: &str) -> Self {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?))
        };
        let ranges = text.split(',').filter_map(range).filter(|(_, last)| *last < MOST);
        Self(ranges.flat_map(|(first, last)| first..=last).collect())
    }

    pub fn insert(&mut self, index: u32) {
        self.0.insert(index);
    }

    pub fn contains(&self, index: u32) -> bool {
        self.0.contains(&index)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Two neighbours are written `1,2`, more as a range.
impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for index in &self.0 {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == *index => *last = *index,
                _ => ranges.push((*index, *index)),
            }
        }
        let text = ranges.iter().map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        });
        f.write_str(&text.collect::<Vec<_>>().join(","))
    }
}
