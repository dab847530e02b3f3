//! A set of page numbers, one bit each.

/// Pages below a bound that are in the set. What it costs depends on the pages that are in it, not
/// on how many there could be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageSet {
    page_count: u64,
    words: Vec<u64>,
    /// Words that are not zero; those that became zero again, and some twice.
    used: Vec<usize>,
    count: u64,
}

impl PageSet {
    /// An empty set of pages below `page_count`.
    pub fn new(page_count: u64) -> Self {
        Self {
            page_count,
            words: vec![0; page_count.div_ceil(64) as usize],
            used: Vec::new(),
            count: 0,
        }
    }

    /// The same set with another bound; pages past it are gone.
    pub fn resize(&mut self, page_count: u64) {
        self.page_count = page_count;
        self.words.resize(page_count.div_ceil(64) as usize, 0);
        if let (Some(last), rest @ 1..) = (self.words.last_mut(), page_count % 64) {
            *last &= (1 << rest) - 1;
        }
        let words = &self.words;
        self.used.retain(|index| *index < words.len());
        let bits = self.words.iter().map(|word| u64::from(word.count_ones()));
        self.count = bits.sum();
    }

    /// Puts a page in; one past the bound is left out.
    pub fn insert(&mut self, page: u64) {
        self.set(page, true);
    }

    /// Puts a page in or takes it out; one past the bound is left out.
    pub fn set(&mut self, page: u64, member: bool) {
        if page >= self.page_count {
            return;
        }
        let index = (page / 64) as usize;
        let (word, bit) = (&mut self.words[index], 1 << (page % 64));
        if (*word & bit != 0) == member {
            return;
        }
        if member {
            if *word == 0 {
                self.used.push(index);
            }
            *word |= bit;
            self.count += 1;
        } else {
            // The word stays among the used ones, where an empty one does no harm.
            *word &= !bit;
            self.count -= 1;
        }
    }

    /// Whether a page is in the set.
    pub fn contains(&self, page: u64) -> bool {
        let word = self.words.get((page / 64) as usize);
        word.is_some_and(|word| word & 1 << (page % 64) != 0)
    }

    /// How many pages are in the set.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Takes all pages out, ascending.
    pub fn take(&mut self) -> impl Iterator<Item = u64> {
        self.count = 0;
        let mut used = std::mem::take(&mut self.used);
        used.sort_unstable();
        used.dedup();
        let words = &mut self.words;
        used.into_iter().flat_map(|index| {
            let mut rest = std::mem::take(&mut words[index]);
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| u64::from(rest.trailing_zeros()))?;
                rest &= rest - 1;
                Some(index as u64 * 64 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_out_once_in_rising_order() {
        let mut set = PageSet::new(200);
        for page in [199, 3, 64, 63, 3, 200, 5000] {
            set.insert(page);
        }
        set.set(64, false);
        assert!(set.contains(63) && !set.contains(64) && !set.contains(5000));
        assert_eq!(set.take().collect::<Vec<_>>(), [3, 63, 199]);
        assert_eq!(set.take().count(), 0);
    }

    #[test]
    fn a_set_that_shrinks_loses_what_is_past_its_bound_for_good() {
        let mut set = PageSet::new(200);
        for page in [1, 64, 69, 70, 199] {
            set.insert(page);
        }
        set.resize(70);
        set.insert(70);
        set.resize(300);
        set.insert(299);
        assert_eq!(set.take().collect::<Vec<_>>(), [1, 64, 69, 299]);
        set.resize(0);
        assert_eq!(set.take().count(), 0);
    }
}
