//! A source of choices that a seed repeats.

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub struct Dice {
    state: u64,
    nasty: bool,
}

impl Dice {
    /// From seed 1000 on what is rare in a real cluster is common.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, nasty: seed >= 1000 }
    }

    fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 to `end` - 1.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % u64::try_from(end).unwrap()).unwrap()
    }

    /// In so many of 100 cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// In so many of 100 cases: `nasty` for a seed from 1000 on.
    pub fn rarely(&mut self, percent: usize, nasty: usize) -> bool {
        self.chance(if self.nasty { nasty } else { percent })
    }

    pub fn is_nasty(&self) -> bool {
        self.nasty
    }

    /// One of `all`, which is not empty; what stands there twice has twice the chance.
    pub fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    /// `count` of `all`, or all of them, in their order.
    pub fn some_of<T: Clone>(&mut self, all: &[T], count: usize) -> Vec<T> {
        let mut left: Vec<usize> = (0..all.len()).collect();
        while left.len() > count {
            left.remove(self.below(left.len()));
        }
        left.into_iter().map(|nth| all[nth].clone()).collect()
    }
}
